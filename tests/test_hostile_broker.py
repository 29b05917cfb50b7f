"""What a hostile broker may send, from a raw socket to the real node, in MQTT 5 and 3.1.1.

No packet, sequence or flood costs a reading, a thread, more than 8 MB, or the answer to SIGTERM.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from hostile_broker import (
    MAX_GROWTH_KIB,
    HostileBroker,
    connack,
    peak_kib,
    publish,
    threads,
)
from support import ledger_in, sysfs_config, wait_until

from node.mqtt.packets import framed

INTERVAL_S = 0.2
LASTS_S = 3.0
MAX_LINES = 60


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
            [b"\x31\xff\xff\xff\x7f\x00\x05abcde"], itertools.repeat(bytes(1000))
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


@pytest.mark.real_time(seconds=15)
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
