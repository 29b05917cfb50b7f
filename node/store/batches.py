"""What is stored: readings of a message of `history`, checked. Pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import msgspec

from node.watch.gaps import batch_in

__all__ = ["Batch", "StoredReading", "Unusable", "parse_batch"]

_LONGEST_NAME = 128


class Unusable(Exception):
    """A message is not a batch of readings; the text says why."""


class StoredReading(msgspec.Struct, frozen=True):
    """One numbered item of history."""

    seq: int
    sensor: str
    time: datetime
    """UTC, with milliseconds."""
    synced: bool
    """Whether the node's clock was right then."""
    values: dict[str, float]
    """Channel -> value, in the unit of the channel."""
    other: dict[str, object]
    """What is not a number: the item is an event."""


class Batch(msgspec.Struct, frozen=True):
    """The readings of one message."""

    node: str
    stream: str
    simulated: bool
    readings: list[StoredReading]


def parse_batch(topic: str, payload: bytes, base_topic: str) -> Batch:
    """Return the readings of a message on `BASE/NODE/history`.

    Raises:
        Unusable: it is not a batch of readings, or one of them cannot be read.
    """
    node = topic.removeprefix(f"{base_topic}/").removesuffix("/history")
    found = batch_in(payload)
    if found is None:
        raise Unusable("it is not a JSON object with a stream and readings")
    if found.misshapen:
        raise Unusable(f"{found.misshapen} of its items have no seq, sensor, time and clock")
    _check_names(node, found.stream)
    readings = []
    for reading in found.readings:
        _check_names(reading.sensor, *reading.values)
        values: dict[str, float] = {}
        other: dict[str, object] = {}
        for name, written in reading.values.items():
            number = _number(written)
            if number is None:
                other[name] = written
            else:
                values[name] = number
        time = _utc(reading.time)
        synced = reading.clock == "synced"
        readings.append(StoredReading(reading.seq, reading.sensor, time, synced, values, other))
    return Batch(node, found.stream, found.simulated, readings)


def _number(written: object) -> float | None:
    """Return a finite number; None for anything else."""
    if isinstance(written, bool) or not isinstance(written, int | float):
        return None
    try:
        return float(written) if math.isfinite(written) else None
    except OverflowError:  # JSON has integers of any size
        return None


def _check_names(*names: str) -> None:
    for name in names:
        if not name or len(name) > _LONGEST_NAME or not name.isprintable():
            raise Unusable(f"the name {name[:40]!a} is not usable")


def _utc(written: str) -> datetime:
    try:
        time = datetime.fromisoformat(written)
        return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Unusable(f"{written[:40]!a} is not a time") from None
