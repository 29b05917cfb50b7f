"""One sensor of ten lets its reader wait for 5 s, every time; how long the others wait then.

It is a named pipe in place of the file: `open` or `read` blocks, as with a driver that hangs.
"""

from __future__ import annotations

import itertools
import statistics
import time

from contest import Workshop, open_contest
from counters import BlockingSensor
from timing import live_times
from window import Figures

__all__ = ["measure"]


def measure(
    workshop: Workshop, *, blocks_s: float, settle_s: float, seconds: float
) -> dict[str, Figures]:
    """Periods of the other nine, of which 1 s is wanted."""
    with open_contest(workshop, 10, 1.0) as contest:
        blocking = [BlockingSensor(files, blocks_s) for files in contest.files.values()]
        contest.start_all()
        time.sleep(settle_s)
        begin_s = time.monotonic()
        time.sleep(seconds)
        figures: dict[str, Figures] = {}
        for name in contest.peers:
            times = live_times(contest.arrivals(name, begin_s))
            times.pop(0, None)
            periods = [
                later - earlier
                for one in times.values()
                for earlier, later in itertools.pairwise(one)
            ]
            if periods:
                figures[name] = {
                    "period_s": [statistics.median(periods)],
                    "longest_s": [max(periods)],
                }
        for name in list(contest.processes):
            contest.stop(name)
        for sensor in blocking:
            sensor.end()
    return figures
