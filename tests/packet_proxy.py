"""A link to a broker that looks into the client's packets, and may change what comes of them."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

CONNECT, PUBLISH, SUBSCRIBE, DISCONNECT = 1, 3, 8, 14


class Link:
    """One connection through the proxy."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.version = 0
        self.hears = True
        """Whether what the broker says reaches the client."""

    def reply(self, packet: bytes) -> None:
        self.near.sendall(packet)

    def close(self) -> None:
        for end in (self.near, self.far):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


Hook = Callable[[Link, int, bytes], bytes | None]
"""Gets a link, and a packet's first byte and body; what is passed on instead, None: the packet."""


def head(body: bytes) -> tuple[str, int]:
    """The topic of a PUBLISH, and where its packet id begins."""
    (size,) = struct.unpack_from(">H", body)
    return body[2 : 2 + size].decode(), 2 + size


class PacketProxy:
    """Listens on a free port; `closes_along` False: the broker is not told that a client left."""

    def __init__(
        self, to_port: int, hook: Hook = lambda *_: None, *, closes_along: bool = True
    ) -> None:
        self._to_port = to_port
        self._hook = hook
        self._closes_along = closes_along
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._links: list[Link] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                link = Link(near, socket.create_connection(("127.0.0.1", self._to_port)))
                self._links.append(link)
                for work in (self._upwards, self._downwards):
                    threading.Thread(target=work, args=(link,), daemon=True).start()

    def _upwards(self, link: Link) -> None:
        with contextlib.suppress(OSError, IndexError):
            stream = link.near.makefile("rb")
            while first := stream.read(1):
                length, shift, raw = 0, 0, b""
                while not raw or raw[-1] & 0x80:
                    raw += stream.read(1)
                    length |= (raw[-1] & 0x7F) << shift
                    shift += 7
                body = stream.read(length)
                if first[0] >> 4 == CONNECT:
                    link.version = body[6]
                instead = self._hook(link, first[0], body)
                link.far.sendall(first + raw + body if instead is None else instead)
        if self._closes_along:
            link.close()

    def _downwards(self, link: Link) -> None:
        with contextlib.suppress(OSError):
            while content := link.far.recv(65536):
                if link.hears:
                    link.near.sendall(content)
        link.close()

    def close(self) -> None:
        self._server.close()
        for link in self._links:
            link.close()


def knows_3_1_1_alone(link: Link, first: int, body: bytes) -> bytes | None:
    """A broker that refuses MQTT 5, with the reason code for that."""
    if first >> 4 == CONNECT and body[6] == 5:
        link.reply(b"\x20\x03\x00\x84\x00")
        link.close()
        return b""
    return None


def passes_qos_2_on_at_once(link: Link, first: int, body: bytes) -> bytes | None:
    """A broker of method B: a message at QoS 2 is delivered before its PUBREL (MQTT 5, §4.3.3)."""
    if first >> 4 != PUBLISH or first & 0x06 != 0x04:
        return None
    _, at = head(body)
    link.reply(b"\x50\x02" + body[at : at + 2])
    body = body[:at] + body[at + 2 :]  # QoS 0 has no packet id
    assert len(body) < 128
    return bytes((first & ~0x06, len(body))) + body
