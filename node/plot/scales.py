"""Axes: round numbers for values, round times for time. Pure."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, tzinfo

__all__ = ["Scale", "time_text", "time_ticks", "value_scale"]

_MINUTE_MS = 60_000
_STEPS_MIN = (1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 480, 720, 1440, 2880, 10080)


class Scale:
    """From the values `low` to `high`, with a line at each of `ticks`."""

    def __init__(self, low: float, high: float, ticks: list[float], decimals: int) -> None:
        self.low = low
        self.high = high
        self.ticks = ticks
        self.decimals = decimals


def value_scale(low: float, high: float, *, most_ticks: int = 4, resolution: float = 0.0) -> Scale:
    """Return an axis that holds `low` to `high` and does not make noise look like weather.

    `resolution`: the smallest step of the values; the axis is at least four of them high.
    """
    middle = (low + high) / 2
    height = max(high - low, 4 * resolution, abs(middle) * 1e-6, 1e-9)
    low, high = middle - height / 2 * 1.08, middle + height / 2 * 1.08
    step = _round_step((high - low) / most_ticks)
    while len(ticks := _multiples(step, low, high)) < 2:
        step = _round_step(step / 2.5)
    return Scale(low, high, ticks, max(0, -math.floor(math.log10(step) + 1e-9)))


def _multiples(step: float, low: float, high: float) -> list[float]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, ... and their tenths that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    for factor in (1, 2, 5):
        if factor * power >= least * (1 - 1e-9):
            return factor * power
    return 10 * power


def time_ticks(start_ms: int, end_ms: int, zone: tzinfo | None, most: int = 7) -> list[int]:
    """Return round times from start to end, in the time of `zone`; about `most` at the most."""
    least_min = (end_ms - start_ms) / _MINUTE_MS / most
    step_min = next((step for step in _STEPS_MIN if step >= least_min), _STEPS_MIN[-1])
    while step_min < least_min:
        step_min *= 2
    step_ms = step_min * _MINUTE_MS
    # Counted from midnight there, with each tick's own offset: the clocks may change between.
    first = (start_ms + _offset_ms(start_ms, zone)) // step_ms
    last = -(-(end_ms + _offset_ms(end_ms, zone)) // step_ms)
    ticks = {_utc_ms(n * step_ms, zone) for n in range(first, last + 1)}
    return sorted(at_ms for at_ms in ticks if start_ms <= at_ms <= end_ms)


def _utc_ms(local_ms: int, zone: tzinfo | None) -> int:
    """Convert a local time in `zone` to UTC; a time that the clocks skip becomes a later one."""
    guess_ms = local_ms - _offset_ms(local_ms, zone)
    return local_ms - _offset_ms(guess_ms, zone)


def _offset_ms(at_ms: int, zone: tzinfo | None) -> int:
    """Return how far the clocks of `zone` are ahead of UTC at a time."""
    if zone is None:
        return 0
    there = datetime.fromtimestamp(at_ms / 1000, zone).replace(tzinfo=UTC)
    return round(there.timestamp() * 1000) - at_ms


def time_text(at_ms: int, zone: tzinfo | None, *, long_ms: int) -> str:
    """Return a time for an axis `long_ms` long: `14:30`; `24 Nov` at midnight or on long axes."""
    if zone is None:
        at = time.gmtime(at_ms / 1000)
        day, hour, minute = f"{at.tm_mday} {_MONTHS[at.tm_mon - 1]}", at.tm_hour, at.tm_min
    else:
        moment = datetime.fromtimestamp(at_ms / 1000, zone)
        day = f"{moment.day} {_MONTHS[moment.month - 1]}"
        hour, minute = moment.hour, moment.minute
    if (hour, minute) == (0, 0) or long_ms > 14 * 86_400_000:
        return day
    return f"{hour:02d}:{minute:02d}"


_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
