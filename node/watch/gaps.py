"""The readings in batches of history, and which of them are missing or duplicates. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec

from node.system.terminal import count, visible
from node.watch.payloads import from_json, value_text, values_in

__all__ = ["HistoryBatch", "HistoryLine", "HistoryLog", "PastReading", "Remark", "batch_in"]

_MAX_STREAMS = 200
_MAX_SPANS = 200


class PastReading(msgspec.Struct, frozen=True):
    """One reading of a batch, as the node sent it."""

    seq: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    sensor: str
    time: str
    clock: str
    values: dict[str, object]


class HistoryBatch(msgspec.Struct, frozen=True):
    """A batch of readings. `misshapen` counts the items that are not readings."""

    stream: str
    readings: list[PastReading]
    misshapen: int
    simulated: bool = False


def batch_in(payload: bytes) -> HistoryBatch | None:
    """Return the readings in a history payload; None if the payload is not a batch."""
    content = from_json(payload)
    if not isinstance(content, dict):
        return None
    stream, things = content.get("stream"), content.get("readings")
    if not isinstance(stream, str) or not isinstance(things, list):
        return None
    readings = [reading for thing in things if (reading := _reading(thing)) is not None]
    simulated = content.get("simulated") is True
    return HistoryBatch(stream, readings, len(things) - len(readings), simulated)


def _reading(thing: object) -> PastReading | None:
    if not isinstance(thing, dict):
        return None
    values = dict(thing)
    known = {key: values.pop(key, None) for key in ("seq", "sensor", "time", "clock")}
    try:
        return msgspec.convert({**known, "values": values}, PastReading)
    except msgspec.ValidationError:
        return None


class _Spans:
    """The numbers seen so far, as spans of consecutive numbers."""

    def __init__(self) -> None:
        self.spans: list[list[int]] = []
        self.given_up = 0
        """Count of missing numbers that are no longer expected."""

    def add(self, number: int) -> bool:
        """Add a number. Return False if it was seen before."""
        spans = self.spans
        after = len(spans)
        while after and spans[after - 1][0] > number:
            after -= 1
        if after and number <= spans[after - 1][1]:
            return False
        joins_before = after > 0 and spans[after - 1][1] == number - 1
        joins_next = after < len(spans) and spans[after][0] == number + 1
        if joins_before and joins_next:
            spans[after - 1][1] = spans.pop(after)[1]
        elif joins_before:
            spans[after - 1][1] = number
        elif joins_next:
            spans[after][0] = number
        else:
            spans.insert(after, [number, number])
        if len(spans) > _MAX_SPANS:
            self.given_up += spans[1][0] - spans[0][1] - 1
            spans[0:2] = [[spans[0][0], spans[1][1]]]
        return True

    @property
    def missing(self) -> int:
        holes = zip(self.spans, self.spans[1:], strict=False)
        return self.given_up + sum(after[0] - before[1] - 1 for before, after in holes)


class Remark(msgspec.Struct, frozen=True):
    """What a view says about a reading in addition to its values."""

    again: bool = False
    missing: tuple[int, int] | None = None
    """The first and the last seq missing before this reading."""
    late: bool = False
    """The reading was missing until now."""
    new_stream: bool = False
    """The node has restarted its numbering."""
    unconnected: bool = False
    """The link was down since the previous reading, so missing ones may have been sent then."""

    @property
    def missing_count(self) -> int:
        return self.missing[1] - self.missing[0] + 1 if self.missing else 0

    def lines(self, stream: str) -> Iterator[str]:
        """Yield the lines to print before the reading."""
        if self.new_stream:
            yield f"a new stream, {visible(stream, 32)}: the node restarted its numbering"
        if self.missing is not None:
            first, last = self.missing
            which = f"{first}" if first == last else f"{first} to {last}"
            why = ", after a loss of the link here" if self.unconnected else ""
            yield f"seq {which} missing, {count(range(self.missing_count), 'reading')}{why}"


class HistoryLine(msgspec.Struct, frozen=True):
    """A line for people; `odd` marks an irregularity."""

    text: str
    odd: bool


class HistoryLog:
    """The sequence numbers seen from each (node, stream)."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str], _Spans] = OrderedDict()
        self._stream: OrderedDict[str, str] = OrderedDict()
        self.readings = 0
        self.again = 0
        self._given_up = 0
        self._interrupted: set[tuple[str, str]] = set()

    @property
    def missing(self) -> int:
        return self._given_up + sum(spans.missing for spans in self._seen.values())

    def interrupted(self) -> None:
        """Note that the link was down. History is not retained, so some readings may be lost."""
        self._interrupted = set(self._seen)

    def remark_on(self, node: str, stream: str, seq: int) -> Remark:
        """Note a reading. A consumer recognizes a duplicate by (node, stream, seq)."""
        new_stream = self._stream.get(node, stream) != stream
        self._stream[node] = stream
        self._stream.move_to_end(node)
        spans = self._seen.setdefault((node, stream), _Spans())
        self._seen.move_to_end((node, stream))
        self._forget_oldest()
        highest = spans.spans[-1][1] if spans.spans else seq - 1
        lowest = spans.spans[0][0] if spans.spans else seq
        self.readings += 1
        if not spans.add(seq):
            self.again += 1
            return Remark(again=True, new_stream=new_stream)
        unconnected = (node, stream) in self._interrupted
        self._interrupted.discard((node, stream))
        return Remark(
            missing=(highest + 1, seq - 1) if seq > highest + 1 else None,
            late=lowest < seq < highest,
            new_stream=new_stream,
            unconnected=unconnected,
        )

    def lines(
        self, node: str, batch: HistoryBatch, unit: Callable[[str, str], str]
    ) -> Iterator[HistoryLine]:
        """Note a batch. Yield a line per reading and per gap; `unit` maps (sensor, path)."""
        for reading in batch.readings:
            remark = self.remark_on(node, batch.stream, reading.seq)
            for text in remark.lines(batch.stream):
                yield HistoryLine(text, odd=True)
            note = "  (duplicate)" if remark.again else "  (late)" if remark.late else ""
            yield HistoryLine(_reading_text(reading, unit) + note, odd=bool(note))
        if batch.misshapen:
            yield HistoryLine(f"not readings: {batch.misshapen} items in this batch", odd=True)

    def _forget_oldest(self) -> None:
        while len(self._seen) > _MAX_STREAMS:
            _, spans = self._seen.popitem(last=False)
            self._given_up += spans.missing
        while len(self._stream) > _MAX_STREAMS:
            self._stream.popitem(last=False)


def _reading_text(reading: PastReading, unit: Callable[[str, str], str]) -> str:
    """Return `seq 1041  air  2026-11-24 03:13:00?  temperature 21.5 °C`; `?`: clock not set."""
    if isinstance(alarm := reading.values.get("alarm"), dict):
        said = "acknowledged" if alarm.get("acknowledged") is True else alarm.get("state")
        value = alarm.get("value")
        shown = f" at {value_text(value)}" if isinstance(value, int | float) else ""
        values = visible(f"alarm {alarm.get('name')}: {said}{shown}", 200)
    else:
        values = _values_text(reading, unit)
    when = visible(reading.time[:19]).replace("T", " ")
    unset = "" if reading.clock == "synced" else "?"
    return f"seq {reading.seq}  {visible(reading.sensor, 64)}  {when}{unset}  {values}"


def _values_text(reading: PastReading, unit: Callable[[str, str], str]) -> str:
    return ", ".join(
        " ".join(filter(None, (visible(path), value_text(value), unit(reading.sensor, path))))
        for path, value in values_in(reading.values).items()
    )
