"""What peers cost while they publish at their pace: counters at both ends of each slice of time."""

from __future__ import annotations

import itertools
import math
import time
from typing import NamedTuple

from contest import Arrival, Contest
from process_meter import Counters, read_counters
from timing import drift_ms, errors_ms, latenesses_ms, live_times, missed, percentile

__all__ = ["Figures", "observe"]

Figures = dict[str, list[float]]
"""Metric -> what was measured, once or several times."""


class _Slice(NamedTuple):
    begin: Counters
    end: Counters


def observe(contest: Contest, slices: int, slice_s: float) -> dict[str, Figures]:
    """The figures of every running peer, for `slices` times `slice_s`; one by one where that
    makes sense."""
    counters: dict[str, list[Counters]] = {name: [] for name in contest.running()}
    begin_s = time.monotonic()
    for number in range(slices + 1):
        time.sleep(max(0.0, begin_s + number * slice_s - time.monotonic()))
        for name, taken in counters.items():
            try:
                taken.append(read_counters(contest.processes[name].pid))
            except ProcessLookupError:
                continue
    end_s = time.monotonic()
    time.sleep(min(1.0, contest.interval_s))  # what is on its way
    return {
        name: _figures(contest, contest.arrivals(name, begin_s, end_s), taken, begin_s, end_s)
        for name, taken in counters.items()
        if len(taken) == slices + 1
    }


def _figures(
    contest: Contest, arrivals: list[Arrival], taken: list[Counters], begin_s: float, end_s: float
) -> Figures:
    slices = [_Slice(*pair) for pair in itertools.pairwise(taken)]
    interval_s = contest.interval_s
    times = live_times(arrivals)
    figures: Figures = {
        "cpu_ms_per_reading": [],
        "cpu_percent": [],
        "wakeups_per_s": [],
        "rss_mb": [taken[-1].rss_kb / 1024],
        "pss_mb": [taken[-1].pss_kb / 1024],
    }
    for begin, end in slices:
        seconds = end.at_s - begin.at_s
        readings = sum(begin.at_s <= at_s < end.at_s for one in times.values() for at_s in one)
        cpu_s = end.cpu_s - begin.cpu_s
        figures["cpu_ms_per_reading"].append(cpu_s * 1000 / readings if readings else math.nan)
        figures["cpu_percent"].append(cpu_s * 100 / seconds)
        figures["wakeups_per_s"].append((end.wakeups - begin.wakeups) / seconds)
    total = sum(len(one) for one in times.values())
    errors = errors_ms(times, interval_s)
    figures["error_p50_ms"] = [percentile(errors, 50)]
    figures["error_p99_ms"] = [percentile(errors, 99)]
    figures["late_p99_ms"] = [percentile(latenesses_ms(times, interval_s), 99)]
    figures["drift_ms"] = [drift_ms(times, interval_s)]
    figures["abs_drift_ms"] = [abs(figures["drift_ms"][0])]
    figures["missed"] = [missed(times, contest.sensors, interval_s, begin_s, end_s)]
    figures["missed_percent"] = [
        figures["missed"][0] * 100 / (contest.sensors * (end_s - begin_s) / interval_s)
    ]
    figures["readings"] = [total]
    return figures
