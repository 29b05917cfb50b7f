"""The data that travel from a bus worker to the broker."""

from __future__ import annotations

import msgspec

from drivers.base import Channel, Measurement
from drivers.errors import SensorError

__all__ = ["TAKEN_NAMES", "Layout", "ReadOutcome", "Reading"]

TAKEN_NAMES = frozenset({"time", "clock", "seq", "stream", "sensor", "state", "availability"})
"""What no channel may be named, because its topics and payloads have something else there."""


class ReadOutcome(msgspec.Struct, frozen=True):
    """The end of one read, as its worker saw it: a measurement or an error."""

    sensor: str
    started_s: float
    """Monotonic time at which the read began."""
    ended_s: float
    """Monotonic time at which it ended."""
    boot_s: float
    """Time since boot at which it ended."""
    utc_s: float
    """Wall-clock time at which it ended."""
    synced: bool
    measurement: Measurement | None
    channels: tuple[Channel, ...] = ()
    error: SensorError | None = None
    again_s: float = 0.0
    """Above 0: the sensor was only asked; its answer is to be read so much later."""


class Layout(msgspec.Struct, frozen=True):
    """The sensor, channels and units of a reading's numbers; most readings of a sensor share it."""

    sensor: str
    channels: tuple[str, ...]
    units: tuple[str, ...]


class Reading(msgspec.Struct, frozen=True):
    """Values that passed the filters, in the order in which they passed."""

    seq: int
    layout: Layout
    numbers: tuple[float, ...]
    """A value per channel of the layout, in its unit and rounded to its decimals."""
    boot_id: str
    boot_ms: int
    """When it was taken, in time since the boot `boot_id`."""
    utc_ms: int
    """When it was taken, in time since 1970, to this computer's best knowledge then or later."""
    synced: bool
    """Whether `utc_ms` can be trusted."""

    @property
    def sensor(self) -> str:
        return self.layout.sensor

    @property
    def values(self) -> dict[str, float]:
        """Channel -> value."""
        return dict(zip(self.layout.channels, self.numbers, strict=True))
