"""The records that the log keeps in addition to the readings."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from node.reading import Reading

__all__ = ["Batch", "DeadLetter", "Event", "Ledger", "Retiming"]


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that the broker rejected."""

    utc_ms: int
    topic: str
    payload: bytes
    reason: str


class Event(msgspec.Struct, frozen=True):
    """A line of the program's log."""

    utc_ms: int
    level: str
    message: str


class Retiming(msgspec.Struct, frozen=True):
    """How a boot's clock was set: readings of it up to `set_at_ms` get `boot_ms + offset_ms`."""

    set_at_ms: int
    offset_ms: int

    def apply(self, reading: Reading) -> Reading:
        """Return the reading with its true time, if this setting of the clock applies to it."""
        if reading.synced or reading.boot_ms > self.set_at_ms:
            return reading
        utc_ms = reading.boot_ms + self.offset_ms
        return msgspec.structs.replace(reading, utc_ms=utc_ms, synced=True)


class Ledger(msgspec.Struct):
    """The facts that must outlive the ticks."""

    last_seq: int = 0
    cursor: int = 0
    """Everything up to here was acknowledged, or dropped."""
    dropped: int = 0
    """Readings that were dropped because of the bound."""
    dead_letters: int = 0
    """Messages that the broker rejected."""
    health: str = ""
    """The node's last health, as JSON."""


class Batch(msgspec.Struct):
    """The content of one commit."""

    readings: Sequence[Reading] = ()
    retimings: dict[str, Retiming] = {}
    """Boot id -> how its clock was set."""
    dead_letters: Sequence[DeadLetter] = ()
    events: Sequence[Event] = ()
    alarms: dict[str, str] = {}
    """Alarm -> its state, as `report.alarms` writes it; "" for one that is gone."""
