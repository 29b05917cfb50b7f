"""A day's readings of ten sensors at 10 s, 86,400, made while the broker is away.

They are made faster, so that it takes minutes: by 100 sensors ten times a second, and, where a peer
knows no interval below a second, by 1,000 sensors every second. The broker comes back when each
peer has made them, or after `longest_s`. Those of
either kind run at once.
"""

from __future__ import annotations

import math
import time

from contest import Contest, Workshop, open_contest
from process_meter import read_counters
from window import Figures

from scenarios.outage import figures_of, numbers, wait_for_readings

__all__ = ["measure"]

_GROUPS = (
    (("tutorial", "node", "collectd", "paho", "c"), 100, 0.1),
    (("mqtt-io", "schedule"), 1000, 1.0),
)
_START_S = 0.15


def measure(
    workshop: Workshop, *, readings: int, longest_s: float, after_s: float
) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    for names, sensors, interval_s in _GROUPS:
        group = workshop.only(names)
        if group.peers:
            with open_contest(group, sensors, interval_s, session=True) as contest:
                figures |= _one(contest, readings, longest_s, after_s)
    return figures


def _one(contest: Contest, readings: int, longest_s: float, after_s: float) -> dict[str, Figures]:
    contest.start_all()
    contest.drop_the_late(15 + contest.sensors * _START_S)
    time.sleep(1)
    began, memory_mb = numbers(contest), _memory_mb(contest)
    made = {name: contest.files[name].made() for name in contest.processes}
    contest.broker.stop()
    began_s = time.monotonic()
    while time.monotonic() - began_s < longest_s:
        if all(contest.files[name].made() >= before + readings for name, before in made.items()):
            break
        time.sleep(0.1)
    grown_mb = _memory_mb(contest)
    over, returned_s = numbers(contest), time.monotonic()
    contest.broker.start()
    ended = wait_for_readings(contest, over, after_s)
    figures = {}
    for name in contest.processes:
        measured = figures_of(contest, name, ended[name], returned_s, began[name], over[name])
        grown = grown_mb.get(name, math.nan) - memory_mb[name]
        figures[name] = {**measured, "grown_mb": [grown]}
        figures[name]["lost_percent"] = [measured["lost"][0] * 100 / max(1, measured["made"][0])]
    return figures


def _memory_mb(contest: Contest) -> dict[str, float]:
    return {name: read_counters(pid).rss_kb / 1024 for name, pid in contest.running().items()}
