"""What is kept in the log beside the readings themselves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from node.reading import Reading

__all__ = ["Batch", "DeadLetter", "Event", "Ledger", "Retiming"]


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that the broker would not take."""

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
        """The reading with its true time, if this tells it."""
        if reading.synced or reading.boot_ms > self.set_at_ms:
            return reading
        utc_ms = reading.boot_ms + self.offset_ms
        return msgspec.structs.replace(reading, utc_ms=utc_ms, synced=True)


class Ledger(msgspec.Struct):
    """What must be known when all ticks are gone."""

    last_seq: int = 0
    cursor: int = 0
    """Everything up to here was acknowledged, or dropped."""
    dropped: int = 0
    """Readings that were lost to the bound."""
    dead_letters: int = 0
    """Messages that the broker would not take."""
    health: str = ""
    """What the node knew of itself last, as JSON."""


class Batch(msgspec.Struct):
    """What is written in one commit."""

    readings: Sequence[Reading] = ()
    retimings: dict[str, Retiming] = {}
    """Boot id -> how its clock was set."""
    dead_letters: Sequence[DeadLetter] = ()
    events: Sequence[Event] = ()
