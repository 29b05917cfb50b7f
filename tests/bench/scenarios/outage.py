"""The broker goes while everybody publishes, and comes back: stopped, killed, or frozen.

The subscriber has a session, which the broker keeps, so whatever it acknowledged to a peer after
its return arrives. All peers run at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from contest import Contest, Workshop, open_contest
from counters import FIRST
from ledger import account
from process_meter import read_counters
from window import Figures

__all__ = ["figures_of", "measure", "numbers", "wait_for_readings"]

_Act = Callable[[Contest], None]
_KINDS: dict[str, tuple[_Act, _Act]] = {
    "down": (lambda c: c.broker.stop(), lambda c: c.broker.start()),
    "killed": (lambda c: c.broker.kill(), lambda c: c.broker.start()),
    "frozen": (lambda c: c.broker.freeze(), lambda c: c.broker.thaw()),
}


def measure(
    workshop: Workshop, *, kind: str, before_s: float, away_s: float, after_s: float
) -> dict[str, Figures]:
    go, come_back = _KINDS[kind]
    with open_contest(workshop, 10, 1.0, session=True) as contest:
        contest.start_all()
        contest.drop_the_late(15)
        time.sleep(before_s)
        began, memory_mb = numbers(contest), _memory_mb(contest)
        go(contest)
        time.sleep(away_s)
        grown_mb = _memory_mb(contest)
        # Whoever is back may publish before the broker's process is known to listen.
        returned_s = time.monotonic()
        over = numbers(contest)
        come_back(contest)
        ended = wait_for_readings(contest, over, after_s)
        figures = {
            name: figures_of(contest, name, ended[name], returned_s, began[name], over[name])
            for name in contest.peers
        }
    for name, measured in figures.items():
        alive = name in memory_mb and name in grown_mb
        measured["grown_mb"] = [grown_mb[name] - memory_mb[name] if alive else math.nan]
    return figures


def numbers(contest: Contest) -> dict[str, list[int]]:
    """The next number of each sensor of each peer."""
    return {name: files.numbers for name, files in contest.files.items()}


def wait_for_readings(
    contest: Contest, over: dict[str, list[int]], patience_s: float
) -> dict[str, list[int]]:
    """Until each peer is back, and has sent what it has: nothing is missing any more, or what is
    has been so for the peer's `late_s`. At most `patience_s`.

    Returns:
        the numbers to count up to: those of three seconds after a peer was back.
    """
    began_s = time.monotonic()
    back_s: dict[str, float] = {}
    ended: dict[str, list[int]] = {}
    lost: dict[str, tuple[int, float]] = {}
    waiting = set(contest.processes)
    while waiting and time.monotonic() - began_s < patience_s:
        time.sleep(1)
        for name in sorted(waiting):
            now_s = time.monotonic()
            arrivals = contest.arrivals(name)
            if any(a.at_s > began_s and a.number >= over[name][a.sensor] for a in arrivals):
                back_s.setdefault(name, now_s)
            if now_s < back_s.get(name, math.inf) + 3:
                continue
            if name not in ended:
                ended[name] = contest.files[name].numbers
                continue
            missing = account(arrivals, [FIRST] * contest.sensors, ended[name]).lost
            if missing != lost.get(name, (-1, 0.0))[0]:
                lost[name] = (missing, now_s)
            if not missing or now_s - lost[name][1] > contest.peers[name].late_s:
                waiting.discard(name)
    return {name: ended.get(name, over[name]) for name in contest.peers}


def figures_of(
    contest: Contest,
    name: str,
    ended: list[int],
    returned_s: float,
    began: list[int],
    over: list[int],
) -> Figures:
    """`began` and `over`: the numbers when the broker went and when it came back."""
    arrivals = contest.arrivals(name)
    total = account(arrivals, [FIRST] * contest.sensors, ended)
    first_s = next((a.at_s for a in arrivals if a.at_s >= returned_s), math.nan)
    caught_up = [a.at_s for a in arrivals if began[a.sensor] <= a.number < over[a.sensor]]
    return {
        "made": [account(arrivals, began, over).made],
        "lost": [total.lost],
        "repeated": [total.repeated],
        "went_back": [total.went_back],
        "recovered_s": [first_s - returned_s],
        "caught_up_s": [max(max(caught_up) - returned_s, 0.0) if caught_up else math.nan],
    }


def _memory_mb(contest: Contest) -> dict[str, float]:
    return {name: read_counters(pid).rss_kb / 1024 for name, pid in contest.running().items()}
