"""What the node says of itself: the payload of the health topic, and of `sensor-node status`."""

from __future__ import annotations

import msgspec

from node.reading import Reading
from node.system.clock import Clock

__all__ = ["Health", "SensorHealth", "age_of"]


class SensorHealth(msgspec.Struct, frozen=True):
    """One sensor; the counts are since the node was started."""

    online: bool
    ok: int
    """Reads that gave a value."""
    failed: int
    """Reads that gave none."""
    rejected: int
    """Values that did not pass a filter."""
    rejected_for: dict[str, int]
    """The same by reason."""
    last_error: str | None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of `B/N/health`."""

    node: str
    process: int
    version: str
    config: str
    """The digest of the configuration file it was started with, see `schema.Config`."""
    time: str
    clock: str
    uptime_s: int
    cpu_temperature: float | None
    """°C."""
    wifi_dbm: int | None
    under_voltage: bool | None
    throttled: bool | None
    broker: str
    outbox_readings: int
    """Readings that the broker has not acknowledged."""
    outbox_oldest_s: float | None
    """The age of the oldest of them; 0 without any, null where nobody knows."""
    read: int
    """Reads that gave a value, of all sensors."""
    rejected: int
    """Values that did not pass a filter, of all sensors."""
    committed: int
    """Readings written to the log."""
    sent: int
    """Readings that the broker has acknowledged."""
    dropped_readings: int
    """Readings lost to the bound of the log, in its life."""
    dead_letters: int
    """Messages that the broker would not take, in the life of the log."""
    problems: list[str]
    """What is wrong with the node itself."""
    sensors: dict[str, SensorHealth]


def age_of(reading: Reading, clock: Clock) -> float | None:
    """How long ago it was taken, in seconds: by the time since boot, else by the date.

    None where neither is known.
    """
    if reading.boot_id == clock.boot_id:
        return round(max(0.0, clock.boot_s() - reading.boot_ms / 1000), 1)
    if reading.synced and clock.synced():
        return round(max(0.0, clock.utc_s() - reading.utc_ms / 1000), 1)
    return None
