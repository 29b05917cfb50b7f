"""A broker on a raw socket that attacks, and what an attack may cost: for tests and tests/fuzz."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

from support import CONNECT, PINGREQ, PUBLISH, NodeProcess, ScriptedBroker, puback, published_topic

from node.mqtt.packets import framed, length, text

SUBSCRIBE = 8
OURS = "sensors/test/cmd/fly"
MAX_GROWTH_KIB = 8 * 1024


def publish(
    version: str,
    payload: bytes = b"",
    *,
    topic: str = OURS,
    qos: int = 1,
    properties: bytes = b"",
    number: int = 1,
) -> bytes:
    """A retained PUBLISH."""
    head = text(topic) + (number.to_bytes(2, "big") if qos else b"")
    if version == "5":
        head += length(len(properties)) + properties
    return framed(0x31 | qos << 1, head + payload)


def connack(version: str) -> bytes:
    return b"\x20\x03\x00\x00\x00" if version == "5" else b"\x20\x02\x00\x00"


class HostileBroker(ScriptedBroker):
    """Answers as it should, and sends an attack besides, once told to; again and again."""

    def __init__(self, version: str, attack: Iterator[bytes]) -> None:
        super().__init__(self._as_it_should)
        self._version = version
        self._attack = attack
        self._sending = threading.Lock()
        self._under_way = threading.Event()
        self._over = False
        self.newest_seq = self.sent = 0
        threading.Thread(target=self._send, daemon=True).start()

    def _as_it_should(self, kind: int, body: bytes) -> None:
        answer = b""
        if kind == CONNECT:
            answer = connack(self._version)
        elif kind == PUBLISH:
            answer = puback(body)
            if published_topic(body).endswith("/state"):
                found = re.search(rb'"seq":(\d+)', body)
                self.newest_seq = int(found[1]) if found else 0
        elif kind == SUBSCRIBE:
            property_length = b"\x00" if self._version == "5" else b""
            answer = framed(0x90, body[:2] + property_length + b"\x01")
        elif kind == PINGREQ:
            answer = b"\xd0\x00"
        with self._sending:  # never into the middle of a packet of the attack
            assert self.newest is not None
            self.newest.sendall(answer)

    def begin(self) -> None:
        self._under_way.set()

    def pause(self) -> None:
        self._under_way.clear()

    def _send(self) -> None:
        for packets in self._attack:
            self._under_way.wait()
            if self._over:
                return
            with contextlib.suppress(OSError), self._sending:
                assert self.newest is not None
                self.newest.sendall(packets)
                self.sent += 1

    def close(self) -> None:
        self._over = True
        self._under_way.set()
        super().close()


def peak_kib(node: NodeProcess) -> int:
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def threads(node: NodeProcess) -> int:
    return len(list(Path(f"/proc/{node.process.pid}/task").iterdir()))
