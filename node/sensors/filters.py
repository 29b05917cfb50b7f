"""From a raw measurement to values worth publishing, channel by channel, in a fixed order:

1. plausibility  what the sensor can mean at all (the driver's range, in the driver's unit)
2. unit          into the configured unit; every number below is in that unit
3. calibration   `offset`, or piecewise linear through the points of `calibrate`
4. range         outside: rejected
5. max_rate      a faster change is rejected until it repeats
6. median        of the last n accepted values (of an even number, the upper middle)
7. average       mean of the last n values of step 6
8. decimals      rounding
9. delta         whether the value is worth publishing, with `heartbeat`

Steps 1 to 8 are pure functions of what went through; nothing here knows the time but by what it
is given. A rejected value never reaches a later step.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import deque

from drivers.base import Channel
from node.config.schema import ChannelTable
from node.units import convert, convertible, decimals_in

__all__ = ["ChannelFilters", "Rejected", "calibrated"]


class Rejected(Exception):
    """A value that must not be published; `reason` is one word to count by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def calibrated(value: float, points: list[tuple[float, float]]) -> float:
    """Piecewise linear through (measured, true) points, extended beyond the outermost two.

    Two points, in ice water and in boiling water, correct a sensor's offset and its slope.
    """
    points = sorted(points)
    index = min(max(bisect([measured for measured, _ in points], value), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    return y0 + (value - x0) * (y1 - y0) / (x1 - x0)


class ChannelFilters:
    """The filters of one channel, and the little that they remember."""

    def __init__(self, channel: Channel, table: ChannelTable) -> None:
        self.channel = channel
        self.unit = table.unit or channel.unit
        usual = decimals_in(self.unit, channel.unit, channel.decimals)
        self.decimals = usual if table.decimals is None else table.decimals
        self._table = table
        self._recent: deque[float] = deque(maxlen=table.median)
        self._medians: deque[float] = deque(maxlen=table.average)
        self._accepted: tuple[float, float] | None = None
        """The last value that passed the rate check, and its time."""
        self._suspect: tuple[float, float] | None = None
        """The last value that was rejected for its rate, and its time."""
        self._published: tuple[float, float] | None = None

    def accept(self, raw: float, at_s: float) -> float:
        """The value to publish for `raw`, measured at monotonic time `at_s`.

        Raises:
            Rejected: it must not be published.
        """
        self._check_plausible(raw)
        if self.unit not in convertible(self.channel.unit):
            units = ", ".join(convertible(self.channel.unit))
            raise Rejected("unit", f"{self.channel.name} cannot be {self.unit}; one of {units}")
        value = convert(raw, self.channel.unit, self.unit)
        if self._table.offset is not None:
            value += self._table.offset
        elif self._table.calibrate is not None:
            value = calibrated(value, self._table.calibrate)
        self._check_range(value)
        self._check_rate(value, at_s)
        self._recent.append(value)
        self._medians.append(sorted(self._recent)[len(self._recent) // 2])
        smooth = math.fsum(self._medians) / len(self._medians)
        if self.decimals == 0:
            return round(smooth)  # 21, not 21.0
        return round(smooth, self.decimals) + 0.0  # no -0.0

    def worth_publishing(self, value: float, at_s: float) -> bool:
        """Whether `value` has changed by `delta`, or the heartbeat is due."""
        if self._table.delta is None or self._published is None:
            return True
        published, published_s = self._published
        # Half a step of the rounding more than the difference, for the sake of 0.1 + 0.2.
        changed = abs(value - published) + 1e-9 >= max(self._table.delta, 1e-9)
        return changed or at_s - published_s >= self._table.heartbeat_s

    def forget(self) -> None:
        """Begin afresh after an outage: what was measured before it says nothing of now."""
        self._begin_afresh()
        self._suspect = None

    def _begin_afresh(self) -> None:
        self._recent.clear()
        self._medians.clear()

    def published(self, value: float, at_s: float) -> None:
        """Remember what subscribers have now."""
        self._published = (value, at_s)

    def _check_plausible(self, raw: float) -> None:
        low, high = self.channel.plausible
        if not (math.isfinite(raw) and low <= raw <= high):
            raise Rejected(
                "implausible",
                f"{self.channel.name} {raw:g} {self.channel.unit} is outside "
                f"{low:g} to {high:g}, which the sensor cannot mean",
            )

    def _check_range(self, value: float) -> None:
        if self._table.range is not None:
            low, high = self._table.range
            if not low <= value <= high:
                raise Rejected(
                    "range",
                    f"{self.channel.name} {value:g} {self.unit} is outside the configured "
                    f"range {low:g} to {high:g}",
                )

    def _check_rate(self, value: float, at_s: float) -> None:
        if self._table.max_rate is None:
            return
        if self._accepted is None or self._reachable(self._accepted, value, at_s):
            self._accepted, self._suspect = (value, at_s), None
            return
        if self._suspect is not None and self._reachable(self._suspect, value, at_s):
            # The jump has repeated, so it is real: begin afresh from it.
            self._accepted, self._suspect = (value, at_s), None
            self._begin_afresh()
            return
        before = self._accepted[0]
        self._suspect = (value, at_s)
        raise Rejected(
            "rate",
            f"{self.channel.name} jumped from {before:g} to {value:g} {self.unit}, "
            "faster than max_rate; waiting for it to repeat",
        )

    def _reachable(self, earlier: tuple[float, float], value: float, at_s: float) -> bool:
        """Whether `value` can follow `earlier` without exceeding the rate."""
        assert self._table.max_rate is not None
        value_then, then_s = earlier
        return abs(value - value_then) <= self._table.max_rate * max(at_s - then_s, 0.0) + 1e-9
