"""Bytes that a broker might send: MQTT's grammar (3.1.1 and 5), and what breaks it."""

from __future__ import annotations

import random

from node.mqtt.packets import binary, framed, length, text

__all__ = ["Grammar"]

_TOPICS = (
    "sensors/test/cmd/read",
    "sensors/test/cmd/identify",
    "sensors/test/cmd/fly",
    "sensors/test/cmd/doctor",
    "homeassistant/status",
    "sensors/test/s/state",
    "",
    "a\ufeff",
    "a/" * 300,
    "$SYS/x",
)
_PAYLOADS = (b"", b"s", b"s,s s", b"online", b"{", b'{"cmps":' * 50, b"\xff" * 40, bytes(70_000))
_NUMBERS = {1: 1, 2: 4, 17: 4, 19: 2, 23: 1, 24: 4, 25: 1, 33: 2, 34: 2, 35: 2, 36: 1, 37: 1}
_NUMBERS |= {39: 4, 40: 1, 41: 1, 42: 1}
_FATAL = (1, 2, 5, 6, 7, 8, 10, 12, 14, 15)


class Grammar:
    """Packets of one version, drawn from `draw`."""

    def __init__(self, draw: random.Random, *, mqtt_5: bool) -> None:
        self._draw = draw
        self._mqtt_5 = mqtt_5

    def stream(self, *, fatal: bool) -> bytes:
        """Some packets; `fatal`: those too over which a connection is to be ended."""
        packets = [self._packet(fatal=fatal) for _ in range(self._draw.randint(1, 12))]
        content = b"".join(packets)
        if fatal and self._draw.random() < 0.5:
            content = self._mutated(content)
        return content

    def _packet(self, *, fatal: bool) -> bytes:
        kind = self._draw.choices(
            ["publish", "puback", "suback", "unsuback", "pingresp", "any"],
            [8, 3, 2, 1, 1, 2 if fatal else 0],
        )[0]
        some_id = self._draw.randrange(65_536).to_bytes(2, "big")
        if kind == "publish":
            return self._publish(some_id)
        if kind == "puback":
            return framed(0x40, some_id + self._bytes(4))
        if kind == "suback":
            return framed(
                0x90, some_id + self._properties() + bytes(self._draw.choices(range(256)))
            )
        if kind == "unsuback":
            return framed(0xB0, some_id + self._properties())
        if kind == "pingresp":
            return b"\xd0\x00"
        return framed(self._draw.choice(_FATAL) << 4 | self._draw.randrange(16), self._bytes(20))

    def _publish(self, message_id: bytes) -> bytes:
        qos = self._draw.choice((0, 1, 1, 2))
        first = 0x30 | qos << 1 | self._draw.choice((0, 1, 8, 9))
        topic = text(self._draw.choice(_TOPICS))
        if self._draw.random() < 0.1:
            topic = binary(self._bytes(10))
        payload = self._draw.choice(_PAYLOADS)
        body = topic + (message_id if qos else b"") + self._properties() + payload
        return framed(first, body)

    def _properties(self) -> bytes:
        if not self._mqtt_5:
            return b""
        number = self._draw.choice((0, 1, 2, 5, 40, 3000))
        section = b"".join(self._property() for _ in range(number))
        return length(len(section)) + section

    def _property(self) -> bytes:
        identifier = self._draw.choice((8, 9, 38, 38, 3, 11, 31, *_NUMBERS))
        if identifier in _NUMBERS:
            value = self._draw.randbytes(_NUMBERS[identifier])
        elif identifier == 11:
            value = length(self._draw.randrange(2**28))
        elif identifier == 9:
            value = binary(self._bytes(20))
        else:
            words = ("", "a", "answers/x", "\ufeff", "\x01", "x/" * 100, "ä")
            value = text(self._draw.choice(words))
            value += text(self._draw.choice(words)) if identifier == 38 else b""
        return bytes((identifier,)) + value

    def _mutated(self, content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(self._draw.randint(1, 4)):
            at = self._draw.randrange(len(changed) + 1)
            how = self._draw.randrange(3)
            if how == 0:
                changed[at : at + 1] = self._draw.randbytes(1)
            elif how == 1:
                del changed[at : at + self._draw.randint(1, 9)]
            else:
                changed[at:at] = self._draw.randbytes(self._draw.randint(1, 9))
        return bytes(changed)

    def _bytes(self, most: int) -> bytes:
        return self._draw.randbytes(self._draw.randrange(most + 1))
