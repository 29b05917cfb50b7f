"""MQTT packets as bytes: the few that the doctor sends, and those that it receives. Pure.

Names of reasons and properties are paho's, as everywhere. Clauses refer to MQTT 5.
"""

from __future__ import annotations

import struct

import msgspec
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node.mqtt.reasons import UNSUPPORTED_VERSION, Reason, failure

__all__ = [
    "Connack",
    "NotMqtt",
    "Received",
    "Will",
    "WireError",
    "connack_of",
    "cut_packet",
    "message_of",
    "shown",
]

MAX_PACKET_BYTES = 1024 * 1024
"""Far above all that is asked for here: what is retained on the topics of one node."""
_FAILURE = 0x80
# Return codes of a CONNACK of 3.1.1 (§3.2.2.3 there) -> the reason codes of MQTT 5.
_RETURN_CODES = {1: 132, 2: 133, 3: 136, 4: 134, 5: 135}
# Packets that a broker never sends (§2.1.2).
_OF_CLIENTS = (
    PacketTypes.CONNECT,
    PacketTypes.SUBSCRIBE,
    PacketTypes.UNSUBSCRIBE,
    PacketTypes.PINGREQ,
)


class WireError(Exception):
    """The conversation cannot go on."""


class NotMqtt(WireError):
    """The received bytes are not MQTT; the text is their beginning."""


class Received(msgspec.Struct, frozen=True):
    """A message that arrived."""

    topic: str
    payload: bytes
    retained: bool


class Will(msgspec.Struct, frozen=True):
    """A message for the broker to publish, not retained, when the connection breaks."""

    topic: str
    payload: bytes


class Connack(msgspec.Struct, frozen=True):
    """The broker's answer to CONNECT; `refused` is None for success."""

    refused: Reason | None = None
    server_reference: str = ""
    """The other servers that a refusal names (§3.2.2.3.16)."""
    keeps_retained: bool = True
    maximum_qos: int = 2
    receive_maximum: int = 65_535


def cut_packet(received: bytearray) -> tuple[int, bytes] | None:
    """Remove the first packet from the received bytes; return its first byte and its body.

    None if the packet is not complete.

    Raises:
        NotMqtt: a broker does not send such a packet, or it is above `MAX_PACKET_BYTES`.
    """
    if received and received[0] >> 4 in (0, *_OF_CLIENTS):
        raise NotMqtt(shown(received))
    sized = _integer(received[1:5])
    if sized is None:
        if len(received) >= 5:
            raise NotMqtt(shown(received))
        return None
    length, taken = sized
    if length > MAX_PACKET_BYTES:
        raise NotMqtt(shown(received))
    end = 1 + taken + length
    if len(received) < end:
        return None
    packet = received[0], bytes(received[1 + taken : end])
    del received[:end]
    return packet


def _integer(encoded: bytes | bytearray) -> tuple[int, int] | None:
    """Decode a variable byte integer (§1.5.5); return it and its length, or None if incomplete."""
    value = 0
    for index, byte in enumerate(encoded[:4]):
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return value, index + 1
    return None


def message_of(first: int, body: bytes, *, version: int) -> tuple[Received, bytes]:
    """Return the message of a PUBLISH (§3.3), and its packet id, empty at QoS 0.

    Raises:
        NotMqtt: it is malformed.
    """
    try:
        (size,) = struct.unpack_from(">H", body)
        topic = body[2 : 2 + size].decode()
    except (struct.error, UnicodeDecodeError):
        raise NotMqtt(shown(bytes((first,)) + body)) from None
    rest = body[2 + size :]
    packet_id = rest[:2] if first & 0x06 else b""
    rest = rest[len(packet_id) :]
    if version == 5:
        sized = _integer(rest)
        if sized is None:
            raise NotMqtt(shown(bytes((first,)) + body))
        rest = rest[sum(sized) :]
    return Received(topic, rest, retained=bool(first & 1)), packet_id


def connack_of(body: bytes, *, version: int) -> Connack:
    """Decode a CONNACK (§3.2).

    One without properties is from MQTT 3.1.1. Such an answer to MQTT 5 is a refusal, even if it
    reports success, as amqtt 0.12 does, which treats the rest as 3.1.1.

    Raises:
        NotMqtt: it is malformed.
    """
    code = body[1]
    if len(body) < 3:
        code = _RETURN_CODES.get(code, code | _FAILURE if code or version == 5 else 0)
        if version == 5 and code == _FAILURE:
            code = UNSUPPORTED_VERSION
        return Connack(failure(PacketTypes.CONNACK, code))
    refused = failure(PacketTypes.CONNACK, code)
    properties = Properties(PacketTypes.CONNACK)
    try:
        properties.unpack(body[2:])
    except Exception:  # noqa: BLE001, paho raises whatever its indexing does
        if refused:
            return Connack(refused)
        raise NotMqtt(shown(body)) from None
    return Connack(
        refused,
        server_reference=getattr(properties, "ServerReference", ""),
        keeps_retained=bool(getattr(properties, "RetainAvailable", 1)),
        maximum_qos=getattr(properties, "MaximumQoS", 2),
        receive_maximum=getattr(properties, "ReceiveMaximum", 65_535),
    )


def shown(received: bytes | bytearray) -> str:
    """Return the beginning of the received bytes, for people."""
    return ascii(bytes(received[:24]).decode("latin-1"))
