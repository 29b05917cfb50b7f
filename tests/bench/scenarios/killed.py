"""Every peer is killed (SIGKILL) during an outage of the broker, and started again after it.

Each is killed at a moment when it has read nothing for a while, so that every reading that was made
could have been kept.
"""

from __future__ import annotations

import time

from contest import Contest, Workshop, open_contest
from window import Figures

from scenarios.outage import figures_of, numbers, wait_for_readings

__all__ = ["measure"]

_QUIET_S = 0.3


def measure(
    workshop: Workshop, *, before_s: float, away_s: float, after_s: float
) -> dict[str, Figures]:
    with open_contest(workshop, 10, 1.0, session=True) as contest:
        contest.start_all()
        contest.drop_the_late(15)
        time.sleep(before_s)
        began = numbers(contest)
        contest.broker.stop()
        time.sleep(away_s)
        for name in list(contest.processes):
            _wait_until_quiet(contest, name)
            contest.stop(name)
        over = numbers(contest)
        returned_s = time.monotonic()
        contest.broker.start()
        contest.start_all()
        ended = wait_for_readings(contest, over, after_s)
        return {
            name: figures_of(contest, name, ended[name], returned_s, began[name], over[name])
            for name in contest.peers
        }


def _wait_until_quiet(contest: Contest, name: str) -> None:
    files = contest.files[name]
    deadline_s = time.monotonic() + 5
    made, since_s = files.made(), time.monotonic()
    while time.monotonic() < deadline_s and time.monotonic() - since_s < _QUIET_S:
        time.sleep(0.01)
        if files.made() != made:
            made, since_s = files.made(), time.monotonic()
