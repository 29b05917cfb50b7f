"""Modbus devices of the tests' own, on a pty and on TCP: what they answer is up to each test."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import threading
import tty
from collections.abc import Callable, Iterator

from drivers.modbus_frame import TCP_HEADER, tcp_message, with_crc

Answer = Callable[[bytes], bytes]
"""Gives the bytes to send for a request (unit, function, ...) without its checksum."""

REQUEST = 8


def values(*words: int, unit: int | None = None) -> Answer:
    """Answer every request with these registers, as `unit`, or as the one that is asked."""

    def answer(request: bytes) -> bytes:
        content = b"".join((word & 0xFFFF).to_bytes(2, "big") for word in words)
        asked = request[0] if unit is None else unit
        return with_crc(bytes([asked, request[1], len(content)]) + content)

    return answer


def refuse(code: int) -> Answer:
    """Answer every request with an exception."""
    return lambda request: with_crc(bytes([request[0], request[1] | 0x80, code]))


def silence(_request: bytes) -> bytes:
    return b""


class PtySlave:
    """A serial port whose other end answers; `port` is its name, `asked` every request."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._end, self._end_now = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        received = b""
        with contextlib.suppress(OSError):
            while self._end not in select.select([self._master, self._end], [], [])[0]:
                received += os.read(self._master, 256)
                while len(received) >= REQUEST:
                    request, received = received[:REQUEST], received[REQUEST:]
                    self.asked.append(request)
                    if sent := self.answer(request[:-2]):
                        os.write(self._master, sent)

    def unplug(self) -> None:
        """Close the pty, after the thread has ended: the next pty may have its descriptor."""
        if self._master < 0:
            return
        os.write(self._end_now, b"x")
        self._thread.join()
        for end in (self._slave, self._master, self._end, self._end_now):
            os.close(end)
        self._master = -1


@contextlib.contextmanager
def on_pty(answer: Answer) -> Iterator[PtySlave]:
    slave = PtySlave(answer)
    try:
        yield slave
    finally:
        slave.unplug()


class TcpSlave:
    """A gateway on `port` of 127.0.0.1; with `delay_answers`, each comes one request too late."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[bytes] = []
        self.connections: list[socket.socket] = []
        self.delay_answers = False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        kept = b""
        with contextlib.suppress(OSError):
            while message := connection.recv(256):
                self.asked.append(message)
                answer = self.answer(message[TCP_HEADER - 1 :])[:-2]
                sent = tcp_message(int.from_bytes(message[:2], "big"), answer) if answer else b""
                if self.delay_answers:
                    kept, sent = sent, kept
                if sent:
                    connection.sendall(sent)

    def hang_up(self) -> None:
        while self.connections:
            connection = self.connections.pop()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        self.hang_up()
        self._server.close()


@contextlib.contextmanager
def on_tcp(answer: Answer) -> Iterator[TcpSlave]:
    slave = TcpSlave(answer)
    try:
        yield slave
    finally:
        slave.close()
