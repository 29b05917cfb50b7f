"""What the times of arrival say: how regular, how late, how many are missing. All pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence

from contest import Arrival

__all__ = ["drift_ms", "errors_ms", "latenesses_ms", "live_times", "missed", "percentile"]

_JITTER = 0.25  # of an interval


def live_times(arrivals: Iterable[Arrival]) -> dict[int, list[float]]:
    """Sensor -> times of its readings, those of a history left out."""
    times: dict[int, list[float]] = {}
    for arrival in arrivals:
        if not arrival.topic.endswith("/history"):
            times.setdefault(arrival.sensor, []).append(arrival.at_s)
    return times


def percentile(values: Sequence[float], percent: float) -> float:
    """By the nearest rank; nan for no values."""
    if not values:
        return math.nan
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


def errors_ms(times: dict[int, list[float]], interval_s: float) -> list[float]:
    """How far each time from one reading of a sensor to its next is from the interval."""
    return [
        abs(later - earlier - interval_s) * 1000
        for one in times.values()
        for earlier, later in itertools.pairwise(one)
    ]


def drift_ms(times: dict[int, list[float]], interval_s: float) -> float:
    """By how much the mean period is longer than the interval: the slope of a straight line."""
    slopes = [line[1] for one in times.values() if (line := _line(one, interval_s))]
    return (statistics.fmean(slopes) - interval_s) * 1000 if slopes else math.nan


def latenesses_ms(times: dict[int, list[float]], interval_s: float) -> list[float]:
    """How far each reading is from where most of its sensor's are, whatever the period is.

    That is a straight line through the times, moved to the median of what is left.
    """
    latenesses = []
    for one in times.values():
        if line := _line(one, interval_s):
            begin, slope = line
            left = [
                at_s - begin - slope * slot
                for at_s, slot in zip(one, _slots(one, interval_s), strict=True)
            ]
            middle = statistics.median(left)
            latenesses += [abs(each - middle) * 1000 for each in left]
    return latenesses


def missed(
    times: dict[int, list[float]], sensors: int, interval_s: float, begin_s: float, end_s: float
) -> int:
    """How many readings less there are between two times than the interval promises.

    Counted from one arrival to another, so that it does not matter where the times fall within
    an interval; a silence at the beginning or the end counts from its second interval on. A loop
    that is too slow misses a part of a reading in every interval: those add up, once they are more
    than jitter.
    """
    total = 0.0
    for sensor in range(sensors):
        one = times.get(sensor, [])
        if not one:
            total += math.floor((end_s - begin_s) / interval_s)
            continue
        short = (one[-1] - one[0]) / interval_s - (len(one) - 1)
        total += short if short > _JITTER else 0
        for silence_s in (one[0] - begin_s, end_s - one[-1]):
            total += max(0, math.floor(silence_s / interval_s - 0.5))
    return round(total)


def _slots(times: list[float], interval_s: float) -> list[int]:
    """0, 1, 2 ..., with gaps where readings are missing."""
    slots = [0]
    for earlier, later in itertools.pairwise(times):
        slots.append(slots[-1] + max(1, round((later - earlier) / interval_s)))
    return slots


def _line(times: list[float], interval_s: float) -> tuple[float, float] | None:
    """(begin, slope) in seconds; None for fewer than three times."""
    if len(times) < 3:
        return None
    slope, begin = statistics.linear_regression(_slots(times, interval_s), times)
    return begin, slope
