"""What arrives at the broker: every message with the time at which it came.

A subscriber of MQTT 3.1.1 on a raw socket, for paho would take more of the processor than the
peers that are measured. With `session` it takes part with QoS 1 in a session that the broker keeps
across its own restarts, so that no message is missed while the subscriber is not connected;
without, with QoS 0.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Message", "Subscriber"]

_CLIENT_ID = b"subscriber-of-the-bench"
_PUBLISH = 3
_SUBACK = 9


class Message(NamedTuple):
    at_s: float
    topic: str
    payload: bytes


class Subscriber:
    """Connected to `port` on a thread of its own until `close`, again and again if need be."""

    def __init__(self, port: int, topic: str, *, session: bool) -> None:
        self.messages: list[Message] = []
        self.on_message: Callable[[Message], None] | None = None
        """Called on the subscriber's thread."""
        self._port = port
        self._topic = topic.encode()
        self._qos = 1 if session else 0
        self._closed = False
        self._socket: socket.socket | None = None
        self._subscribed = threading.Event()
        threading.Thread(target=self._run, name="subscriber", daemon=True).start()
        if not self._subscribed.wait(10):
            raise RuntimeError(f"the broker on port {port} takes no subscription")

    def close(self) -> None:
        self._closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._closed:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self._port), 5) as connection,
            ):
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket = connection
                connection.sendall(_connect(clean=self._qos == 0))
                connection.sendall(_subscribe(self._topic, self._qos))
                self._receive(connection)
            time.sleep(0.02)

    def _receive(self, connection: socket.socket) -> None:
        buffer = b""
        while received := connection.recv(1 << 18):
            now_s = time.monotonic()
            buffer += received
            at = 0
            acknowledgements = bytearray()
            while (packet := _packet(buffer, at)) is not None:
                first, begin, end = packet
                if first >> 4 == _PUBLISH:
                    acknowledgements += self._take(first, buffer[begin:end], now_s)
                elif first >> 4 == _SUBACK:
                    self._subscribed.set()
                at = end
            buffer = buffer[at:]
            if acknowledgements:
                connection.sendall(acknowledgements)

    def _take(self, first: int, body: bytes, now_s: float) -> bytes:
        """Keep the message, unless it was retained from before; its PUBACK."""
        (length,) = struct.unpack_from(">H", body)
        topic, rest = body[2 : 2 + length], body[2 + length :]
        acknowledgement = b""
        if first & 6:
            acknowledgement, rest = b"\x40\x02" + rest[:2], rest[2:]
        if not first & 1:
            message = Message(now_s, topic.decode(), rest)
            self.messages.append(message)
            if self.on_message is not None:
                self.on_message(message)
        return acknowledgement


def _packet(buffer: bytes, at: int) -> tuple[int, int, int] | None:
    """(first byte, begin and end of the body) of the packet at `at`, if it is all there."""
    length = shift = 0
    for index in range(at + 1, min(at + 5, len(buffer))):
        length |= (buffer[index] & 0x7F) << shift
        shift += 7
        if buffer[index] < 0x80:
            end = index + 1 + length
            return (buffer[at], index + 1, end) if end <= len(buffer) else None
    return None


def _connect(*, clean: bool) -> bytes:
    """CONNECT without a keep-alive; all lengths here are below 128."""
    flags = 2 if clean else 0
    body = b"\0\x04MQTT\x04" + bytes([flags]) + b"\0\0"
    body += struct.pack(">H", len(_CLIENT_ID)) + _CLIENT_ID
    return b"\x10" + bytes([len(body)]) + body


def _subscribe(topic: bytes, qos: int) -> bytes:
    body = b"\0\x01" + struct.pack(">H", len(topic)) + topic + bytes([qos])
    return b"\x82" + bytes([len(body)]) + body
