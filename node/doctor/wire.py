"""A connection to the broker at the level of packets: one socket, without threads or retries.

paho hides things that the doctor has to see and do: a CONNACK that does not arrive, a PUBREC that
is not answered, a socket that is closed without DISCONNECT.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable

from paho.mqtt.packettypes import PacketTypes

from node.doctor.packets import (
    Connack,
    NotMqtt,
    Received,
    Will,
    WireError,
    connack_of,
    cut_packet,
    message_of,
    shown,
)
from node.mqtt.packets import binary, framed, text
from node.mqtt.reasons import failure

__all__ = ["Closed", "Connection", "NoAnswer"]

ANSWER_S = 3.0
"""How long the broker may take to answer one packet."""
_KEEPALIVE_S = 60
_CONNECT, _CONNACK, _PUBACK, _SUBSCRIBE, _DISCONNECT = 0x10, 0x20, 0x40, 0x82, 0xE0
_MESSAGE_EXPIRY = 0x02  # MQTT 5, §3.3.2.3.3
_REFUSED_3_1_1 = 0x80  # MQTT 3.1.1, §3.9.3
_BREAKS = (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The errors of a connection that the other end has closed."""


class NoAnswer(WireError):
    """The broker does not answer in time."""


class Closed(WireError):
    """The broker has ended the connection; the text is its reason, or empty."""


class Connection:
    """One connection; every method may raise WireError, or OSError of the socket."""

    def __init__(self, sock: socket.socket, *, version: int) -> None:
        """`version` is the protocol level: 4 for MQTT 3.1.1, 5 for MQTT 5."""
        self.version = version
        self.arrived: list[Received] = []
        """Every message that has arrived, in order."""
        self._socket = sock
        self._received = bytearray()
        self._is_mqtt = False
        """Whether the first received byte was that of a CONNACK."""
        self._last_id = 0

    # -- what can be said

    def log_in(
        self,
        client_id: str,
        username: str | None = None,
        password: str | None = None,
        will: Will | None = None,
    ) -> Connack:
        """Send CONNECT (§3.1) with a clean start, so that the session leaves nothing behind."""
        flags = 0x02
        fields = text(client_id)
        if will is not None:
            flags |= 0x04 | 1 << 3  # QoS 1
            fields += self._no_properties + text(will.topic) + binary(will.payload)
        if username is not None:
            flags |= 0x80
            fields += text(username)
            if password is not None:
                flags |= 0x40
                fields += text(password)
        head = text("MQTT") + struct.pack(">BBH", self.version, flags, _KEEPALIVE_S)
        self._send(_CONNECT, head + self._no_properties + fields)
        return connack_of(self._answer(PacketTypes.CONNACK), version=self.version)

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int = 0
    ) -> str:
        """Send PUBLISH (§3.3); return why it was refused, "" if the broker does not say so.

        At QoS 2 the broker's PUBREC is not answered with PUBREL.
        """
        message_id = self._next_id()
        properties = self._no_properties
        if expiry_s and self.version == 5:
            properties = bytes((5, _MESSAGE_EXPIRY)) + struct.pack(">I", expiry_s)
        first = 0x30 | qos << 1 | retain
        head = text(topic) + struct.pack(">H", message_id)
        self._send(first, head + properties + payload)
        kind = PacketTypes.PUBACK if qos == 1 else PacketTypes.PUBREC
        body = self._answer(kind, message_id)
        return _why(kind, body[2:])

    def subscribe(self, topic_filter: str) -> str:
        """Send SUBSCRIBE (§3.8) at QoS 1, as the node does; return why it was refused, or ""."""
        message_id = self._next_id()
        head = struct.pack(">H", message_id) + self._no_properties
        self._send(_SUBSCRIBE, head + text(topic_filter) + b"\x01")
        codes = self._answer(PacketTypes.SUBACK, message_id)[-1:]
        if self.version == 4 and codes[0] == _REFUSED_3_1_1:
            return "refused"
        return _why(PacketTypes.SUBACK, codes)

    def wait_for(self, wanted: Callable[[Received], bool], within_s: float) -> Received | None:
        """Return the first wanted message, among those received and to come; None if too late."""
        deadline_s = time.monotonic() + within_s
        looked_at = 0
        while True:
            while looked_at < len(self.arrived):
                message = self.arrived[looked_at]
                looked_at += 1
                if wanted(message):
                    return message
            if not self._next_packet(deadline_s):
                return None

    def watch(self, seconds: float) -> None:
        """Receive messages for `seconds`.

        Raises:
            Closed: the broker ends the connection meanwhile.
        """
        self.wait_for(lambda _: False, seconds)

    def leave(self) -> None:
        """Send DISCONNECT (§3.14), so that the broker discards the will, and close the socket."""
        with contextlib.suppress(OSError, WireError):
            self._send(_DISCONNECT, b"")
        self.drop()

    def drop(self) -> None:
        """Close the socket without DISCONNECT: for the broker, the connection breaks."""
        with contextlib.suppress(OSError):
            self._socket.close()

    # -- packets

    @property
    def _no_properties(self) -> bytes:
        return b"\x00" if self.version == 5 else b""

    def _next_id(self) -> int:
        self._last_id = self._last_id % 65_535 + 1
        return self._last_id

    def _send(self, first: int, body: bytes) -> None:
        self._socket.settimeout(ANSWER_S)
        try:
            self._socket.sendall(framed(first, body))
        except TimeoutError:
            raise NoAnswer from None
        except _BREAKS:
            # The broker may have sent the reason before: read that first.
            self._next_packet(time.monotonic() + ANSWER_S)
            raise Closed from None

    def _answer(self, kind: int, message_id: int | None = None) -> bytes:
        """Return the body of the expected answer; keep messages that come before it."""
        deadline_s = time.monotonic() + ANSWER_S
        while packet := self._next_packet(deadline_s):
            first, body = packet
            if first >> 4 == kind and message_id in (None, int.from_bytes(body[:2], "big")):
                if len(body) < 2:
                    raise NotMqtt(shown(body))
                return body
        raise NoAnswer

    def _next_packet(self, deadline_s: float) -> tuple[int, bytes] | None:
        """Return the next packet, after storing it if it is a message; None if time is up."""
        while (packet := self._cut_packet()) is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            self._socket.settimeout(left_s)
            try:
                received = self._socket.recv(65_536)
            except TimeoutError:
                return None
            except _BREAKS:
                raise Closed from None
            if not received:
                raise Closed
            self._received += received
        first, body = packet
        if first >> 4 == PacketTypes.PUBLISH:
            message, packet_id = message_of(first, body, version=self.version)
            if packet_id:
                self._send(_PUBACK, packet_id)
            self.arrived.append(message)
        elif first >> 4 == PacketTypes.DISCONNECT:
            raise Closed(_why(PacketTypes.DISCONNECT, body))
        return packet

    def _cut_packet(self) -> tuple[int, bytes] | None:
        if self._received and not self._is_mqtt:
            if self._received[0] != _CONNACK:
                raise NotMqtt(shown(self._received))
            self._is_mqtt = True
        return cut_packet(self._received)


def _why(kind: int, codes: bytes) -> str:
    """Return the name of the first reason code, if there is one and it is a failure; else ""."""
    return str(failure(kind, codes[0]) or "") if codes else ""
