"""Readings of one channel as buckets of time: lowest, highest, mean, count. Pure.

The buckets form a ring and have a fixed width. The memory and the cost of a plot depend on its
pixels, not on the number of readings. Numbers are kept in single precision: seven digits, in 15
bytes a bucket.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import msgspec

__all__ = ["SPANS", "Bucket", "Buckets", "ChannelBuckets", "Span", "merged"]

_MAX_COUNTED = 65_535
"""A count stops here, and the mean then follows the newest readings slowly."""
_LARGEST = 3.4e38
"""The limit of single precision: larger values become infinity, which cannot be plotted."""


class Span(msgspec.Struct, frozen=True):
    """How far back a plot reaches, and how wide its buckets are."""

    name: str
    label: str
    long_ms: int
    width_ms: int

    @property
    def count(self) -> int:
        return self.long_ms // self.width_ms


SPANS = {
    span.name: span
    for span in (
        Span("hour", "Hour", 3_600_000, 15_000),
        Span("day", "Day", 86_400_000, 360_000),
        Span("2days", "2 days", 172_800_000, 720_000),
    )
}


class Bucket(msgspec.Struct, frozen=True):
    """The readings from `start_ms` on, for the width of a bucket."""

    start_ms: int
    low: float
    high: float
    mean: float
    count: int
    unsynced: bool
    """Some of the readings were taken while the clock was not set."""


class Buckets:
    """The newest `count` buckets of `width_ms`; older ones are forgotten."""

    __slots__ = (
        "_counts",
        "_highs",
        "_lows",
        "_means",
        "_newest",
        "_unsynced",
        "count",
        "width_ms",
    )

    def __init__(self, width_ms: int, count: int) -> None:
        self.width_ms = width_ms
        self.count = count
        self._lows = array("f", bytes(4 * count))
        self._highs = array("f", self._lows)
        self._means = array("f", self._lows)
        self._counts = array("H", bytes(2 * count))
        self._unsynced = bytearray(count)
        self._newest: int | None = None
        """The number of the newest bucket: its start, in widths since 1970."""

    def add(self, at_ms: int, value: float, *, unsynced: bool = False) -> None:
        """Add a reading, in any order; a reading before the oldest bucket is ignored."""
        value = min(max(value, -_LARGEST), _LARGEST)
        number = at_ms // self.width_ms
        if self._newest is None:
            self._newest = number
        elif number > self._newest:
            self._advance(number)
        elif number <= self._newest - self.count:
            return
        slot = number % self.count
        before = self._counts[slot]
        if not before:
            self._lows[slot] = self._highs[slot] = self._means[slot] = value
            self._counts[slot] = 1
            self._unsynced[slot] = unsynced
            return
        if value < self._lows[slot]:
            self._lows[slot] = value
        if value > self._highs[slot]:
            self._highs[slot] = value
        self._means[slot] += (value - self._means[slot]) / (before + 1)
        if before < _MAX_COUNTED:
            self._counts[slot] = before + 1
        if unsynced:
            self._unsynced[slot] = True

    def _advance(self, number: int) -> None:
        assert self._newest is not None
        for passed in range(max(self._newest + 1, number - self.count + 1), number + 1):
            self._counts[passed % self.count] = 0
        self._newest = number

    def between(self, start_ms: int, end_ms: int) -> list[Bucket]:
        """Return the buckets with readings that begin in this time, oldest first."""
        return list(self._between(start_ms, end_ms))

    def _between(self, start_ms: int, end_ms: int) -> Iterator[Bucket]:
        if self._newest is None:
            return
        first = max(-(-start_ms // self.width_ms), self._newest - self.count + 1)
        last = min(self._newest, (end_ms - 1) // self.width_ms)
        for number in range(first, last + 1):
            slot = number % self.count
            if self._counts[slot]:
                yield Bucket(
                    start_ms=number * self.width_ms,
                    low=_single(self._lows[slot]),
                    high=_single(self._highs[slot]),
                    mean=_single(self._means[slot]),
                    count=self._counts[slot],
                    unsynced=bool(self._unsynced[slot]),
                )


class ChannelBuckets:
    """The data for a channel's plots: fine buckets for an hour, coarse ones for two days."""

    __slots__ = ("days", "hour")

    def __init__(self) -> None:
        hour, day, days = SPANS["hour"], SPANS["day"], SPANS["2days"]
        # One more than a plot shows, because the plot's edge cuts the oldest.
        self.hour = Buckets(hour.width_ms, hour.count + 1)
        self.days = Buckets(day.width_ms, days.long_ms // day.width_ms + 1)

    def of(self, span: Span, end_ms: int) -> list[Bucket]:
        """Return the buckets of a span that ends at `end_ms`."""
        buckets = self.hour if span.name == "hour" else self.days
        found = buckets.between(end_ms - span.long_ms, end_ms)
        return found if span.width_ms == buckets.width_ms else merged(found, span.width_ms)


def merged(buckets: list[Bucket], width_ms: int) -> list[Bucket]:
    """Merge buckets into fewer, wider ones."""
    merged: list[Bucket] = []
    for bucket in buckets:
        start_ms = bucket.start_ms // width_ms * width_ms
        if merged and merged[-1].start_ms == start_ms:
            last = merged[-1]
            total = last.count + bucket.count
            merged[-1] = Bucket(
                start_ms=start_ms,
                low=min(last.low, bucket.low),
                high=max(last.high, bucket.high),
                mean=_single((last.mean * last.count + bucket.mean * bucket.count) / total),
                count=total,
                unsynced=last.unsynced or bucket.unsynced,
            )
        else:
            merged.append(msgspec.structs.replace(bucket, start_ms=start_ms))
    return merged


def _single(number: float) -> float:
    """Round a single-precision number to the digits that it really has."""
    return float(f"{number:.7g}")
