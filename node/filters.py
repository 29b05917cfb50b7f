"""The filters between a raw measurement and the published value: one object each, in order.

A filter is a class, and a field of `ChannelTable` that names it. The field is its key in
`[sensor.channel.NAME]`. The class checks the key, has its text in node/config/README.md, changes a
value, and keeps the filter's memory. The order of the fields is the order of the filters. A value
that a filter rejects never reaches a later one.

Pure except for the memory of a filter; the time is always passed in.
"""

from __future__ import annotations

import functools
import itertools
import math
from bisect import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Annotated, ClassVar

import msgspec

from drivers.base import Channel
from node.alarms.table import AlarmTable
from node.units import (
    Rate,
    Seconds,
    all_units,
    convert,
    convert_back,
    convertible,
    decimals_in,
)

__all__ = [
    "ChannelFilters",
    "ChannelTable",
    "Filter",
    "Rejected",
    "calibrated",
    "channel_problems",
    "filters_by_key",
]

DEFAULT_HEARTBEAT_S = 300.0
"""How often a value is published although it has not changed by `delta`."""

_STEP = 1e-3
"""To find the slope of the filters, in the unit of the driver."""

Problems = Iterator[tuple[str, str]]
"""(key, problem); the key is "" for the table as a whole."""


class Rejected(Exception):
    """A value must not be published; `reason` is one word, by which rejections are counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Filter:
    """One filter of one channel; this base class lets everything pass."""

    help: ClassVar[str]
    """The text of the key in the table of node/config/README.md."""
    always: ClassVar[bool] = False
    """Whether the filter is present without its key."""

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        self.later: Sequence[Filter] = ()
        """The filters after it."""

    @classmethod
    def problems(cls, table: ChannelTable, channel: Channel | None) -> Problems:
        """Yield the problems of its key beyond the type; the key is present.

        `channel` is None if only the sensor knows its channels.
        """
        return iter(())

    def apply(self, value: float, at_s: float) -> float:
        """Return the value for the next filter, for one measured at monotonic time `at_s`.

        Raises:
            Rejected: it must not be published.
        """
        return value

    def through(self, value: float) -> float:
        """Return what it makes of any value, without memory and limits; for uncertainties."""
        return value

    def uncorrected(self, value: float) -> float:
        """Return what a value was before it was corrected by `offset` or `calibrate`."""
        return value

    def worth_publishing(self, value: float, at_s: float) -> bool:
        """Return whether a value that has passed all filters is worth a message."""
        return True

    def published(self, value: float, at_s: float) -> None:
        """Remember the value that subscribers have now."""

    def forget(self) -> None:
        """Start over after an outage: older values say nothing about the present one."""


class Plausible(Filter):
    """Rejects values outside the driver's range, in the driver's unit. It has no key.

    A humidity slightly beyond its ends is clipped.
    """

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        self._channel = channel
        self._low, self._high = channel.plausible

    def apply(self, value: float, at_s: float) -> float:
        if self._low <= value <= self._high:
            return value
        value = self._channel.cut_off(value)
        if math.isfinite(value) and self._low <= value <= self._high:
            return value
        channel = self._channel
        raise Rejected(
            "implausible",
            f"{channel.name} {value:g} {channel.unit} is outside "
            f"{self._low:g} to {self._high:g}, the limits of the sensor",
        )


class InUnit(Filter):
    """Converts into the configured unit."""

    help = "°C, °F, K; hPa, kPa, Pa, mbar, mmHg, inHg. Every number below is in this unit"

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        self._channel = channel
        self._unit = _unit_of(table, channel)

    @classmethod
    def problems(cls, table: ChannelTable, channel: Channel | None) -> Problems:
        units = convertible(channel.unit) if channel is not None else all_units()
        if table.unit not in units:
            yield "unit", "expected one of " + ", ".join(units)

    def apply(self, value: float, at_s: float) -> float:
        native = self._channel.unit
        if self._unit not in convertible(native):  # for a channel that only the sensor knows
            units = ", ".join(convertible(native))
            raise Rejected("unit", f"{self._channel.name} cannot be {self._unit}; one of {units}")
        return self.through(value)

    def through(self, value: float) -> float:
        return convert(value, self._channel.unit, self._unit)


class Offset(Filter):
    """Adds a number."""

    help = "added to the value"

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        assert table.offset is not None
        self._offset = table.offset
        self._channel = channel

    def apply(self, value: float, at_s: float) -> float:
        return _up_to_its_ends(self.through(value), self._channel)

    def through(self, value: float) -> float:
        return value + self._offset

    def uncorrected(self, value: float) -> float:
        return value - self._offset


class Calibrate(Filter):
    """Maps values piecewise linearly through (measured, true) points."""

    help = "or two or more points `[measured, true]`; a straight line through each two of them"

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        assert table.calibrate is not None
        self._points = table.calibrate
        self._channel = channel

    @classmethod
    def problems(cls, table: ChannelTable, channel: Channel | None) -> Problems:
        assert table.calibrate is not None
        if table.offset is not None:
            yield "", "offset and calibrate are mutually exclusive"
        measured = [point[0] for point in table.calibrate]
        if len(set(measured)) < len(measured):
            yield "calibrate", "two points have the same measured value"
        rising = [true for _, true in sorted(table.calibrate)]
        if any(after <= before for before, after in itertools.pairwise(rising)):
            yield "calibrate", "the true values must rise with the measured ones"

    def apply(self, value: float, at_s: float) -> float:
        return _up_to_its_ends(self.through(value), self._channel)

    def through(self, value: float) -> float:
        return calibrated(value, self._points)

    def uncorrected(self, value: float) -> float:
        return calibrated(value, [(true, measured) for measured, true in self._points])


class Calibrated(Filter):
    """Says when the calibration was made; does nothing itself."""

    help = "the day of it, `2026-11-30`; `check` and `doctor` say when that is a year ago"

    @classmethod
    def problems(cls, table: ChannelTable, channel: Channel | None) -> Problems:
        if table.offset is None and table.calibrate is None:
            yield "calibrated", "only applies together with offset or calibrate"


def _up_to_its_ends(value: float, channel: Channel) -> float:
    """Clip a calibrated value: a humidity of 102 % is 100 %."""
    if not channel.overshoot:
        return value
    low, high = channel.plausible
    return min(max(value, low), high)


class Range(Filter):
    """Rejects values outside the configured range."""

    help = "`[lowest, highest]`: a value outside it is rejected"

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        assert table.range is not None
        self._low, self._high = table.range
        self._name, self._unit = channel.name, _unit_of(table, channel)

    @classmethod
    def problems(cls, table: ChannelTable, channel: Channel | None) -> Problems:
        assert table.range is not None
        lowest, highest = table.range
        if not lowest < highest:
            yield "range", "expected [lowest, highest]"
        if channel is None or (unit := _unit_of(table, channel)) not in convertible(channel.unit):
            return
        low, high = (convert(bound, channel.unit, unit) for bound in channel.plausible)
        if lowest > high or highest < low:
            yield (
                "range",
                f"is out of reach: the sensor measures {low:g} to {high:g} {unit}",
            )

    def apply(self, value: float, at_s: float) -> float:
        if self._low <= value <= self._high:
            return value
        raise Rejected(
            "range",
            f"{self._name} {value:g} {self._unit} is outside the configured "
            f"range {self._low:g} to {self._high:g}",
        )


class MaxRate(Filter):
    """Rejects a change that is too fast, until it repeats."""

    help = '`"5/min"`: a faster change is rejected until it repeats'

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        assert table.max_rate is not None
        self._per_s = table.max_rate
        self._name, self._unit = channel.name, _unit_of(table, channel)
        self._accepted: tuple[float, float] | None = None
        """The last value that passed, and its time."""
        self._suspect: tuple[float, float] | None = None
        """The last value that was rejected, and its time."""

    def apply(self, value: float, at_s: float) -> float:
        accepted, suspect = self._accepted, self._suspect
        if accepted is None or self._reachable(accepted, value, at_s):
            self._accepted, self._suspect = (value, at_s), None
            return value
        if suspect is not None and self._reachable(suspect, value, at_s):
            # The jump has repeated, so it is real.
            self._accepted, self._suspect = (value, at_s), None
            for one in self.later:
                one.forget()
            return value
        self._suspect = (value, at_s)
        raise Rejected(
            "rate",
            f"{self._name} jumped from {accepted[0]:g} to {value:g} {self._unit}, "
            "faster than max_rate; waiting for it to repeat",
        )

    def _reachable(self, earlier: tuple[float, float], value: float, at_s: float) -> bool:
        """Return whether `value` can follow `earlier` without exceeding the rate."""
        value_then, then_s = earlier
        return abs(value - value_then) <= self._per_s * max(at_s - then_s, 0.0) + 1e-9

    def forget(self) -> None:
        self._suspect = None


class Median(Filter):
    """The median of the last values."""

    help = "of the last n values, n odd"

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        self._recent: deque[float] = deque(maxlen=table.median)

    @classmethod
    def problems(cls, table: ChannelTable, channel: Channel | None) -> Problems:
        if table.median % 2 == 0:
            yield "median", "must be odd: 3, 5, 7"

    def apply(self, value: float, at_s: float) -> float:
        """Return the median; of an even number, soon after the start, the upper middle one."""
        self._recent.append(value)
        return sorted(self._recent)[len(self._recent) // 2]

    def forget(self) -> None:
        self._recent.clear()


class Average(Filter):
    """The mean of the last values."""

    help = "mean of the last n values, after the median"

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        self._recent: deque[float] = deque(maxlen=table.average)

    def apply(self, value: float, at_s: float) -> float:
        self._recent.append(value)
        return math.fsum(self._recent) / len(self._recent)

    def forget(self) -> None:
        self._recent.clear()


class Decimals(Filter):
    """Rounds to the configured decimals, by default as many as are meaningful in the unit."""

    help = ""
    always = True

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        self._decimals = _decimals_of(table, channel)
        self.exact = math.nan
        """The last value before it was rounded, for what is derived from it."""

    def apply(self, value: float, at_s: float) -> float:
        self.exact = value
        if self._decimals == 0:
            return round(value)  # 21, not 21.0
        return round(value, self._decimals) + 0.0  # no -0.0


class Delta(Filter):
    """Thins out messages: a value is published on a change, or when the heartbeat is due."""

    help = "publish on a change of at least this much ..."

    def __init__(self, table: ChannelTable, channel: Channel) -> None:
        super().__init__(table, channel)
        assert table.delta is not None
        self._delta = max(table.delta, 1e-9)
        self._heartbeat_s = table.heartbeat_s
        self._published: tuple[float, float] | None = None

    def worth_publishing(self, value: float, at_s: float) -> bool:
        if self._published is None:
            return True
        published, published_s = self._published
        # The tolerance makes up for rounding errors such as that of 0.1 + 0.2.
        changed = abs(value - published) + 1e-9 >= self._delta
        return changed or at_s - published_s >= self._heartbeat_s

    def published(self, value: float, at_s: float) -> None:
        self._published = (value, at_s)


class Heartbeat(Filter):
    """Sets how often `Delta` lets an unchanged value pass; does nothing itself."""

    help = "... and at least this often"

    @classmethod
    def problems(cls, table: ChannelTable, channel: Channel | None) -> Problems:
        if table.delta is None:
            yield "heartbeat", "only applies together with delta"


class Alarm(Filter):
    """Watches the values that all filters have let pass; see `alarms.rule`. Changes none."""

    help = "tables of their own, `[[sensor.channel.NAME.alarm]]`"


class ChannelTable(msgspec.Struct, frozen=True, kw_only=True):
    """`[sensor.channel.<name>]`; every number is in `unit`. The filters come in this order."""

    unit: Annotated[str | None, InUnit] = None
    offset: Annotated[float | None, Offset] = None
    calibrate: Annotated[
        Annotated[list[tuple[float, float]], msgspec.Meta(min_length=2)] | None, Calibrate
    ] = None
    calibrated: Annotated[date | None, Calibrated] = None
    range: Annotated[tuple[float, float] | None, Range] = None
    max_rate: Annotated[Rate | None, MaxRate] = None
    median: Annotated[int, msgspec.Meta(ge=1, le=99), Median] = 1
    average: Annotated[int, msgspec.Meta(ge=1, le=999), Average] = 1
    decimals: Annotated[Annotated[int, msgspec.Meta(ge=0, le=6)] | None, Decimals] = None
    delta: Annotated[Annotated[float, msgspec.Meta(ge=0)] | None, Delta] = None
    heartbeat: Annotated[Seconds | None, Heartbeat] = None
    alarm: Annotated[tuple[AlarmTable, ...], Alarm] = ()

    @property
    def heartbeat_s(self) -> float:
        """Return how often a value is published that does not change by `delta`, in seconds."""
        return DEFAULT_HEARTBEAT_S if self.heartbeat is None else self.heartbeat

    def longest_gap_s(self, interval_s: float) -> float:
        """Return how long a healthy channel that is read every `interval_s` may be silent."""
        return interval_s if self.delta is None else self.heartbeat_s + interval_s


_NO_KEYS = ChannelTable()


@functools.cache
def filters_by_key() -> dict[str, type[Filter]]:
    """Return every filter that has a key, in the order of application."""
    return {
        field.name: found
        for field in msgspec.structs.fields(ChannelTable)
        for found in getattr(field.type, "__metadata__", ())
        if isinstance(found, type) and issubclass(found, Filter)
    }


def _has_key(table: ChannelTable, key: str) -> bool:
    return bool(getattr(table, key) != getattr(_NO_KEYS, key))


def channel_problems(table: ChannelTable, channel: Channel | None) -> Problems:
    """Yield the problems, by key, of a table whose values are each of the right type.

    `channel` is None if only the sensor knows its channels.
    """
    for key, kind in filters_by_key().items():
        if _has_key(table, key):
            yield from kind.problems(table, channel)


class ChannelFilters:
    """The filters of one channel, in their order."""

    def __init__(self, channel: Channel, table: ChannelTable) -> None:
        self.channel = channel
        self.unit = _unit_of(table, channel)
        self.decimals = _decimals_of(table, channel)
        self._filters: list[Filter] = [Plausible(table, channel)]
        self._filters += [
            kind(table, channel)
            for key, kind in filters_by_key().items()
            if kind.always or _has_key(table, key)
        ]
        for index, one in enumerate(self._filters, start=1):
            one.later = self._filters[index:]
        # Most filters do one of two things. A reading does not pay for calls without effect.
        self._changing = [f for f in self._filters if type(f).apply is not Filter.apply]
        self._rounding = next(f for f in self._filters if isinstance(f, Decimals))
        self._thinning = [
            f for f in self._filters if type(f).worth_publishing is not Filter.worth_publishing
        ]
        self.thins = bool(self._thinning)
        """Whether some accepted values are not worth a message."""

    def accept(self, raw: float, at_s: float) -> float:
        """Return the value to publish for `raw`, measured at monotonic time `at_s`.

        Raises:
            Rejected: it must not be published.
        """
        value = raw
        for one in self._changing:
            value = one.apply(value, at_s)
        return value

    @property
    def exact(self) -> float:
        """Return the last accepted value before it was rounded, in the unit of the driver."""
        return convert_back(self._rounding.exact, self.channel.unit, self.unit)

    def through(self, raw: float) -> float:
        """Return a raw value as calibrated, in the unit of the channel; no memory, no limits."""
        for one in self._filters:
            raw = one.through(raw)
        return raw

    def uncorrected(self, value: float) -> float:
        """Return a published value as it was before `offset` or `calibrate`, in the same unit."""
        for one in reversed(self._filters):
            value = one.uncorrected(value)
        return value

    def slope_at(self, raw: float) -> float:
        """Return by how much a published value changes with a raw one, in their units."""
        return (self.through(raw + _STEP) - self.through(raw - _STEP)) / (2 * _STEP)

    def worth_publishing(self, value: float, at_s: float) -> bool:
        """Return whether all filters consider a value worth a message."""
        return all(f.worth_publishing(value, at_s) for f in self._thinning)

    def published(self, value: float, at_s: float) -> None:
        """Remember what subscribers have now."""
        for one in self._thinning:
            one.published(value, at_s)

    def forget(self) -> None:
        """Begin afresh after an outage: what was measured before it says nothing of now."""
        for one in self._filters:
            one.forget()


def _unit_of(table: ChannelTable, channel: Channel) -> str:
    return table.unit or channel.unit


def _decimals_of(table: ChannelTable, channel: Channel) -> int:
    usual = decimals_in(_unit_of(table, channel), channel.unit, channel.decimals)
    return usual if table.decimals is None else table.decimals


def calibrated(value: float, points: list[tuple[float, float]]) -> float:
    """Map a value piecewise linearly through (measured, true) points, extended at both ends.

    Two points, in ice water and in boiling water, correct a sensor's offset and its slope.
    """
    points = sorted(points)
    index = min(max(bisect([measured for measured, _ in points], value), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[index - 1], points[index]
    return y0 + (value - x0) * (y1 - y0) / (x1 - x0)
