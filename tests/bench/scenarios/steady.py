"""All peers at once for some minutes, at the same pace, so that they share what the machine does.

The system calls are counted afterwards, for strace slows down whom it looks at.
"""

from __future__ import annotations

import time

from contest import Workshop, open_contest
from process_meter import count_system_calls
from timing import live_times
from window import Figures, observe

__all__ = ["measure"]


def measure(
    workshop: Workshop, *, interval_s: float, slices: int, slice_s: float, traced_s: float
) -> dict[str, Figures]:
    with open_contest(workshop, 10, interval_s) as contest:
        contest.start_all()
        contest.drop_the_late(10 + 2 * interval_s)
        time.sleep(interval_s)
        figures = observe(contest, slices, slice_s)
        if traced_s:
            begun_s = time.monotonic()
            calls = count_system_calls(contest.running(), traced_s, workshop.memory)
            for name, count in calls.items():
                arrived = contest.arrivals(name, begun_s, begun_s + traced_s)
                readings = sum(map(len, live_times(arrived).values()))
                if name in figures and readings:
                    figures[name]["system_calls_per_reading"] = [count / readings]
    return figures
