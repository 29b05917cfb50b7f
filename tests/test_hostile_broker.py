"""What a hostile broker may send, from a raw socket to the real node, in MQTT 5 and 3.1.1.

No packet, sequence or flood costs a reading, a thread, more than 8 MB, or the answer to SIGTERM.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import (
    CONNECT,
    PINGREQ,
    PUBLISH,
    NodeProcess,
    ScriptedBroker,
    ledger_in,
    puback,
    published_topic,
    sysfs_config,
    wait_until,
)

from node.mqtt.packets import framed, length, text

INTERVAL_S = 0.2
LASTS_S = 3.0
MAX_GROWTH_KIB = 8 * 1024
MAX_LINES = 60
SUBSCRIBE = 8
OURS = "sensors/test/cmd/fly"


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
                self.newest_seq = int(body.partition(b'"seq":')[2].partition(b"}")[0])
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


def numbered(version: str, **options: object) -> Iterator[bytes]:
    """PUBLISH after PUBLISH, forty in one piece, with all the message ids there are."""
    numbers = itertools.cycle(range(1, 65_536))
    while True:
        some = itertools.islice(numbers, 40)
        yield b"".join(publish(version, number=n, **options) for n in some)  # type: ignore[arg-type]


def attack(name: str, version: str) -> Iterator[bytes]:
    user_properties = b"\x26\x00\x00\x00\x00"
    its_discovery = "homeassistant/device/sn/config"
    attacks: dict[str, Iterator[bytes]] = {
        "20 MB in a message": itertools.repeat(publish(version, bytes(20_000_000))),
        "60 kB in messages": numbered(version, payload=bytes(60_000)),
        "200,000 properties": itertools.repeat(
            publish(version, properties=user_properties * 200_000)
        ),
        "12,000 properties": itertools.repeat(
            publish(version, properties=user_properties * 12_000)
        ),
        "QoS 2 without an end": numbered(version, qos=2, payload=bytes(1000)),
        "QoS 1": numbered(version),
        "QoS 0": numbered(version, qos=0),
        "its own discovery": numbered(version, topic=its_discovery, payload=bytes(2000)),
        "CONNACK": itertools.repeat(connack(version) * 1000),
        "SUBACK": itertools.repeat(
            framed(0x90, b"\x00\x01" + (b"\x00" if version == "5" else b"") + b"\x80" * 500) * 10
        ),
        "PUBACK": itertools.repeat(b"\x40\x02\x00\x01\x40\x02\xff\xff" * 500),
        "PINGREQ": itertools.repeat(b"\xc0\x00" * 1000),
        "PINGRESP": itertools.repeat(b"\xd0\x00" * 1000),
        "PUBREL": itertools.repeat(b"\x62\x02\x00\x01" * 1000),
        "a packet without an end": itertools.chain(
            [b"\x31\xff\xff\xff\x7f\x00\x05abcde"], itertools.repeat(bytes(100_000))
        ),
        "noise": (
            bytes((n * 167 + n // 7) & 0xFF for n in range(m, m + 500)) for m in range(10**9)
        ),
    }
    return attacks[name]


ATTACKS_OF_5 = {"200,000 properties", "12,000 properties"}
CASES = [
    (name, version)
    for name in ("20 MB in a message", "60 kB in messages", "200,000 properties",
                 "12,000 properties", "QoS 2 without an end", "QoS 1", "QoS 0",
                 "its own discovery", "CONNACK", "SUBACK", "PUBACK", "PINGREQ", "PINGRESP",
                 "PUBREL", "a packet without an end", "noise")
    for version in ("5", "3.1.1")
    if version == "5" or name not in ATTACKS_OF_5
]  # fmt: skip


@pytest.mark.parametrize(("name", "version"), CASES)
def test_nothing_that_a_broker_sends_costs_a_reading_memory_or_the_end(
    start_node, temperature_file, name, version
):
    broker = HostileBroker(version, attack(name, version))
    node = start_node(
        sysfs_config(
            broker.port,
            {"s": temperature_file},
            interval=f"{INTERVAL_S}s",
            mqtt=f'protocol = "{version}"',
        )
    )
    try:
        node.wait_for_log("connected to")
        node.wait_for_log("s (sysfs): online")
        wait_until(lambda: ledger_in(node.state_dir).last_seq >= 5)
        before, memory_kib, tasks = (
            ledger_in(node.state_dir).last_seq,
            peak_kib(node),
            threads(node),
        )
        begin_s = time.monotonic()
        broker.begin()
        wait_until(lambda: time.monotonic() >= begin_s + LASTS_S)
        lasted_s = time.monotonic() - begin_s
        taken = ledger_in(node.state_dir).last_seq
        assert broker.sent, "the attack takes place"
        assert taken - before >= lasted_s / INTERVAL_S / 2
        assert peak_kib(node) - memory_kib < MAX_GROWTH_KIB
        assert threads(node) <= tasks
        broker.pause()
        wait_until(lambda: broker.newest_seq > taken, what="the node is heard again")
        sent = broker.sent
        broker.begin()
        wait_until(lambda: broker.sent > sent)
        asked_s = time.monotonic()
        assert node.terminate() == 0
        assert time.monotonic() - asked_s < 5.0
        assert len(node.log.splitlines()) < MAX_LINES, node.log[:3000]
    finally:
        broker.close()
