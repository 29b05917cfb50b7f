"""MQTT packets as bytes: those that the node itself builds and decodes. Pure.

Clauses refer to MQTT 5.
"""

from __future__ import annotations

import functools

from node.mqtt.events import Outgoing

__all__ = ["binary", "framed", "length", "publish_packet", "text"]

_MAX_LENGTH = 268_435_455  # §1.5.5
_PUBLISH_AT_QOS_1, _RETAIN = 0x32, 0x01  # §3.3.1
# §3.3.2.3
_MESSAGE_EXPIRY_INTERVAL, _RESPONSE_TOPIC, _CORRELATION_DATA = b"\x02", b"\x08", b"\x09"


def binary(content: bytes) -> bytes:
    """Encode binary data (§1.5.6)."""
    return len(content).to_bytes(2, "big") + content


def text(content: str) -> bytes:
    """Encode a string as UTF-8 (§1.5.4)."""
    return binary(content.encode())


def length(size: int) -> bytes:
    """Encode a variable byte integer (§1.5.5)."""
    if size > _MAX_LENGTH:
        raise ValueError(f"{size} bytes are too many for a packet")
    if size < 0x80:
        return bytes((size,))
    if size < 0x4000:  # as most messages of the node
        return bytes((size & 0x7F | 0x80, size >> 7))
    encoded = bytearray()
    while size > 127:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    encoded.append(size)
    return bytes(encoded)


def framed(first: int, body: bytes) -> bytes:
    """Return a whole packet: its first byte, its length, its body."""
    return bytes((first,)) + length(len(body)) + body


def publish_packet(message: Outgoing, message_id: int, *, mqtt_5: bool) -> bytes:
    """Return a PUBLISH at QoS 1 (§3.3); in 3.1.1 without its properties."""
    first = _PUBLISH_AT_QOS_1 | (_RETAIN if message.retain else 0)
    properties = _properties(message) if mqtt_5 else b""
    topic = message.topic.encode()
    size = 2 + len(topic) + 2 + len(properties) + len(message.payload)
    return b"".join(
        (
            bytes((first,)),
            length(size),
            len(topic).to_bytes(2, "big"),
            topic,
            message_id.to_bytes(2, "big"),
            properties,
            message.payload,
        )
    )


def _properties(message: Outgoing) -> bytes:
    if not message.correlation:
        return _only_expiry(message.expiry_s)
    properties = _expiry(message.expiry_s)
    if message.response_topic:
        properties += _RESPONSE_TOPIC + text(message.response_topic)
    properties += _CORRELATION_DATA + binary(message.correlation)
    return length(len(properties)) + properties


@functools.lru_cache(maxsize=64)  # one for each interval of the sensors
def _only_expiry(expiry_s: int) -> bytes:
    properties = _expiry(expiry_s)
    return length(len(properties)) + properties


def _expiry(expiry_s: int) -> bytes:
    return _MESSAGE_EXPIRY_INTERVAL + expiry_s.to_bytes(4, "big") if expiry_s else b""
