"""What clients might say in a node's own topics: JSON of the right shape with odd values."""

from __future__ import annotations

import json
import random

from support import FakeClock

from node.config.schema import OutboxTable
from node.homeassistant.discovery import announced_status, components_of
from node.mqtt.events import Arrived
from node.outbox.outbox import Outbox
from node.reading import Layout
from node.report.own_topics import OwnTopics
from node.topics import Topics
from node.watch.payloads import from_json, measured_at_s

__all__ = ["TOPICS", "hear_everywhere", "payload"]

TOPICS = ("sensors/test/status", "sensors/test/health", "sensors/test/s/state")
_KEYS = ("stream", "seq", "time", "clock", "process", "temperature", "cmps", "avty", "sensors", "t")
_NUMBERS = (0, 1, 2, 3, -1, 1000, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 1e308, 0.5)
_TIMES = (
    "2026-11-29T12:00:00.000Z",
    "0001-01-01",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-W48-7",
    "20261129T12",
    "2026-11-29T12:00:00.123456789+00:00",
    "1969-12-31T23:59:59Z",
)
_TEXTS = ("", "synced", "unsynced", "sensors/x/status", "\ud800", "a" * 3000, "\u202e\x1b", "true")


def payload(draw: random.Random, stream: str) -> bytes:
    """Return a message; `stream` is a name that the node knows as its own."""
    if draw.random() < 0.05:
        bracket = draw.choice(("[", '{"x":', '{"cmps":{"s.t":'))
        return f'{{"stream": "{stream}", "x": {bracket * draw.randrange(60_000)}'.encode()
    content = _table(draw, stream, depth=0)
    if draw.random() < 0.6:  # of the node's own log, as far as one can see
        content |= {"stream": stream, "clock": "synced"}
        content.setdefault("time", draw.choice(_TIMES))
        content.setdefault("seq", draw.choice(_NUMBERS))
    written = json.dumps(content, ensure_ascii=draw.random() < 0.5)
    said = bytearray(written.encode("utf-8", "surrogatepass"))
    if draw.random() < 0.2:
        said[draw.randrange(len(said))] = draw.randrange(256)
    return bytes(said)


def _table(draw: random.Random, stream: str, depth: int) -> dict[str, object]:
    keys = draw.sample(_KEYS, draw.randint(1, 6))
    return {key: _value(draw, key, stream, depth) for key in keys}


def _value(draw: random.Random, key: str, stream: str, depth: int) -> object:
    own = {"stream": stream, "clock": "synced", "time": draw.choice(_TIMES), "seq": 1}
    if key in own and draw.random() < 0.6:
        return own[key]
    kind = draw.randrange(7 if depth < 3 else 4)
    if kind == 0:
        return draw.choice(_NUMBERS)
    if kind == 1:
        return draw.choice(_TEXTS + _TIMES)
    if kind == 2:
        return draw.choice((None, True, False))
    if kind == 3:
        return stream
    if kind == 4:
        return [_value(draw, key, stream, depth + 1) for _ in range(draw.randrange(4))]
    if kind == 5:
        return {"s.t": {"p": "sensor", "uniq_id": "sn1.s.t", "x": draw.choice(_NUMBERS)}}
    return _table(draw, stream, depth + 1)


def hear_everywhere(case: bytes) -> str:
    """Give a message to all that reads it in a node, or looks at one; return what is wrong.

    The case is a topic's number, whether the message is retained, and the payload, in which
    `STREAM` stands for the name of the node's stream.
    """
    clock = FakeClock()
    outbox = Outbox(None, OutboxTable(), clock)
    for _ in range(3):
        outbox.append(
            Layout("s", ("temperature",), ("°C",)), (1.0,), boot_s=1.0, utc_s=1.8e9, synced=True
        )
    outbox.commit()
    own = OwnTopics(Topics("sensors", "test"), outbox, clock)
    retained, said = bool(case[1]), case[2:].replace(b"STREAM", outbox.stream.encode())
    message = Arrived(1, TOPICS[case[0] % len(TOPICS)], said, retained)
    streams = {outbox.stream}
    for _ in range(3):
        own.hear(message, opening=retained)
        own.opened()
        own.contradicts(clock.monotonic())
        streams.add(outbox.stream)
    components_of(said, "sn1")
    announced_status(said)
    measured_at_s(from_json(said))
    if len(streams) > 2 and not retained:
        return f"{len(streams)} streams"
    return "" if len(outbox.read(0, 10)) == 3 else "readings are gone"
