"""Prints messages as lines: JSON for programs, or text if the output is not a terminal.

Every line is flushed, so that a reader gets it at once.
"""

from __future__ import annotations

import base64
import contextlib
import re
import select
import sys
import time

import msgspec

from node.system.clock import utc_text
from node.system.terminal import visible
from node.units import duration_text
from node.watch.gaps import HistoryBatch, HistoryLog, batch_in
from node.watch.model import LiveModel
from node.watch.payloads import (
    Message,
    described,
    from_json,
    measured_at_s,
    value_text,
    values_in,
)
from node.watch.rows import WatchTime

__all__ = ["JsonLines", "TextLines"]

# ruff: noqa: T201

_DEEPEST_JSON = 200
"""jq 1.6 fails on JSON that is nested more than 256 levels deep."""


class _LineView:
    """The common part of both views. A printed line is never taken back."""

    def __init__(self, model: LiveModel, history: HistoryLog | None) -> None:
        self._model = model
        self._history = history
        self._reader = select.poll()
        with contextlib.suppress(OSError, ValueError):  # no file behind standard output
            self._reader.register(sys.stdout.fileno(), 0)

    def tick(self, connected: bool, link: str, now: WatchTime, remark: str) -> None:
        """Check that the output still has a reader, even if no message arrives.

        Raises:
            BrokenPipeError: the reader has gone.
        """
        if any(flags & (select.POLLERR | select.POLLNVAL) for _, flags in self._reader.poll(0)):
            raise BrokenPipeError

    def _history_in(self, message: Message) -> tuple[str, HistoryBatch] | None:
        """Return the node and its readings; None without --history or in other messages."""
        match self._model.below_base(message.topic):
            case (node, "history") if self._history is not None:
                batch = batch_in(message.payload)
                return (node, batch) if batch is not None else None
        return None


class JsonLines(_LineView):
    """Prints a JSON object per message; with `history`, one per reading of a batch instead."""

    def show(self, message: Message, now: WatchTime) -> None:
        received = utc_text(round(now.utc_s * 1000))
        past = self._history_in(message)
        if past is None or past[1].misshapen or not past[1].readings:
            _print_json(self._as_json(message, received))
            return
        assert self._history is not None
        node, batch = past
        for reading in batch.readings:
            remark = self._history.remark_on(node, batch.stream, reading.seq)
            _print_json(
                {
                    "time": reading.time,
                    "topic": message.topic,
                    "node": node,
                    "sensor": reading.sensor,
                    "retained": message.retained,
                    "stream": batch.stream,
                    "seq": reading.seq,
                    "clock": reading.clock,
                    "values": reading.values,
                    "again": remark.again,
                    "missing": remark.missing_count,
                    "received": received,
                }
            )

    def _as_json(self, message: Message, received: str) -> dict[str, object]:
        levels = self._model.below_base(message.topic)
        of_a_sensor = len(levels) == 3 and levels[1] != "cmd"
        utf8, payload = _json_payload(message.payload)
        return {
            "time": received,
            "topic": message.topic,
            "node": levels[0] if levels else None,
            "sensor": levels[1] if of_a_sensor else None,
            "retained": message.retained,
            "utf8": utf8,
            "payload": payload,
        }


def _json_payload(payload: bytes) -> tuple[bool, object]:
    """Return (is UTF-8, payload): JSON unchanged, other text as a string, bytes as base64."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return False, {"base64": base64.b64encode(payload).decode()}
    try:
        compact = msgspec.json.format(payload, indent=-1)
    except (msgspec.DecodeError, RecursionError):
        return True, text
    # Numbers keep their notation: 21.50, or an integer too large for a float.
    return True, text if _depth(compact) > _DEEPEST_JSON else msgspec.Raw(compact)


def _depth(compact: bytes) -> int:
    """Return the nesting depth of valid JSON; 0 if it is certainly not too deep."""
    if compact.count(b"[") + compact.count(b"{") <= _DEEPEST_JSON:
        return 0
    depth = deepest = 0
    for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', compact):
        if token[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in (b"]", b"}"):
            depth -= 1
    return deepest


def _print_json(line: dict[str, object]) -> None:
    """Print JSON with every control character for terminals escaped; its meaning is the same."""
    text = msgspec.json.encode(line).decode()
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    print(text, flush=True)


def _escaped(character: str) -> str:
    """Return the JSON escape of a character: one or two UTF-16 units."""
    units = character.encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


class TextLines(_LineView):
    """Prints a line of text per message; with `history`, one per reading of a batch."""

    _remark = ""

    def tick(self, connected: bool, link: str, now: WatchTime, remark: str) -> None:
        super().tick(connected, link, now, remark)
        if remark != self._remark:
            self._remark = remark
            if remark:
                print(f"-- {remark}", flush=True)

    def show(self, message: Message, now: WatchTime) -> None:
        past = self._history_in(message)
        if past is not None:
            assert self._history is not None
            for line in self._history.lines(*past, self._model.history_unit(message.topic)):
                self._print(visible(message.topic), line.text)
            return
        topic = visible(message.topic)
        match self._model.below_base(message.topic):
            case (_, "history") if (batch := batch_in(message.payload)) and batch.readings:
                first, last = batch.readings[0].seq, batch.readings[-1].seq
                self._print(topic, f"seq {first} to {last} (--history shows them)")
            case _:
                self._print(topic, self._content(message, now))

    def _print(self, topic: str, line: str) -> None:
        print(time.strftime("%H:%M:%S"), topic, line, flush=True)

    def _content(self, message: Message, now: WatchTime) -> str:
        content = from_json(message.payload)
        values = ", ".join(
            " ".join(filter(None, (visible(path), value_text(value), self._unit(message, path))))
            for path, value in values_in(content).items()
        )
        of_a_sensor = len(self._model.below_base(message.topic)) == 3
        said = visible(values, 2000 if of_a_sensor else 120) or described(message.payload)
        if not message.retained:
            return said
        measured_utc_s = measured_at_s(content)
        if measured_utc_s is None or measured_utc_s > now.utc_s:
            return f"{said}  (retained)"
        return f"{said}  (retained, {duration_text(round(now.utc_s - measured_utc_s))} old)"

    def _unit(self, message: Message, path: str) -> str:
        return self._model.unit(message.topic, path)
