"""What travels from a bus worker to the broker."""

from __future__ import annotations

import msgspec

from drivers.base import Channel, Measurement
from drivers.errors import SensorError

__all__ = ["ReadOutcome", "Reading"]


class ReadOutcome(msgspec.Struct, frozen=True):
    """The end of one read, as its worker saw it: a measurement or an error."""

    sensor: str
    started_s: float
    """Monotonic time at which the read began."""
    ended_s: float
    """Monotonic time at which it ended."""
    utc_s: float
    """Wall-clock time at which it ended."""
    synced: bool
    measurement: Measurement | None
    channels: tuple[Channel, ...] = ()
    error: SensorError | None = None


class Reading(msgspec.Struct, frozen=True):
    """Values that passed the pipeline, ready to be published."""

    sensor: str
    seq: int
    utc_s: float
    synced: bool
    values: dict[str, float]
    """Channel -> value in the configured unit, rounded to its decimals."""
