"""The data that travel from a bus worker to the broker."""

from __future__ import annotations

import msgspec

from drivers.base import Channel, Measurement
from drivers.errors import SensorError

__all__ = [
    "ALARM_ACKNOWLEDGED",
    "ALARM_OFF",
    "ALARM_ON",
    "TAKEN_NAMES",
    "AlarmOf",
    "Layout",
    "ReadOutcome",
    "Reading",
]


ALARM_OFF, ALARM_ON, ALARM_ACKNOWLEDGED = range(3)

TAKEN_NAMES = frozenset(
    {"time", "clock", "seq", "stream", "sensor", "state", "availability", "alarm", "hash"}
)
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
    age_s: float = 0.0
    """How long before `ended_s` the sensor sent the measurement by itself; 0: it was read then."""


class AlarmOf(msgspec.Struct, frozen=True):
    """The alarm that a record is of: its name, its channel, and the condition that it is about."""

    name: str
    channel: str
    condition: str


class Layout(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sensor, channels and units of a reading's numbers; most readings of a sensor share it."""

    sensor: str
    channels: tuple[str, ...]
    units: tuple[str, ...]
    alarm: AlarmOf | None = None
    """Of a record of an alarm. An earlier version of this program ignores it, and takes the record
    for a reading of the channels, which are named for that."""


class Reading(msgspec.Struct, frozen=True):
    """Values that passed the filters, in the order in which they passed; or a record of an alarm.

    The numbers of a record are `ALARM_OFF`, `ALARM_ON` or `ALARM_ACKNOWLEDGED`, the limit, and the
    value that decided, if there was one.
    """

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
    hash: bytes = b""
    """The hash in the chain of the log, of the last reading of a row that was read with it."""

    @property
    def sensor(self) -> str:
        return self.layout.sensor

    @property
    def values(self) -> dict[str, float]:
        """Channel -> value."""
        return dict(zip(self.layout.channels, self.numbers, strict=True))
