"""A clean stop loses no reading that can be written or sent, whatever the disk does."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from packet_proxy import PUBLISH, Link, PacketProxy, head
from support import NodeProcess, Subscriber, small_disk_at, sysfs_config, wait_until


@pytest.fixture
def small_state_dir(tmp_path: Path) -> Iterator[Path]:
    """The state directory of the nodes that a test starts, on a disk of half a megabyte."""
    with small_disk_at(tmp_path / "state") as folder:
        yield folder


def fill(disk: Path, node: NodeProcess) -> Path:
    """Fill the disk until the node can write no more; return the file that fills it."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free))
    node.wait_for_log("cannot be written", seconds=60)
    return ballast


def config_of(port: int, folder: Path) -> str:
    """Twenty sensors, so that the disk is soon full, and history once a minute."""
    files = {f"s{number}": folder / f"t{number}" for number in range(20)}
    for file in files.values():
        file.write_text("21500\n")
    return sysfs_config(port, files, interval="0.1s")


def published(subscriber: Subscriber) -> set[int]:
    return {state["seq"] for n in range(20) for state in subscriber.states(f"s{n}")}


def test_what_cannot_be_written_is_sent_before_the_end(
    broker, subscribe, start_node, small_state_dir, tmp_path
):
    subscriber = subscribe(broker.port)
    node = start_node(config_of(broker.port, tmp_path))
    subscriber.wait_for_states("s19", 1)
    fill(small_state_dir, node)
    seen = max(published(subscriber))
    wait_until(lambda: max(published(subscriber)) > seen + 100)
    assert node.terminate() == 0
    assert "readings are lost" not in node.log
    wait_until(lambda: published(subscriber) <= {r["seq"] for r in subscriber.history()})


def test_a_slow_broker_is_waited_for_while_it_acknowledges(
    broker, subscribe, start_node, small_state_dir, tmp_path
):
    """It takes longer for them than the node waits for a single acknowledgement."""
    delays_s: list[float] = []

    def delay(_link: Link, first: int, body: bytes) -> None:
        if first >> 4 == PUBLISH and head(body)[0].endswith("/history") and delays_s:
            time.sleep(delays_s.pop())

    subscriber = subscribe(broker.port)
    with contextlib.closing(PacketProxy(broker.port, delay)) as proxy:
        node = start_node(config_of(proxy.port, tmp_path))
        subscriber.wait_for_states("s19", 1)
        fill(small_state_dir, node)
        seen = max(published(subscriber))
        wait_until(lambda: max(published(subscriber)) > seen + 100)
        delays_s += [0.7, 0.7]
        assert node.terminate() == 0
    assert not delays_s
    assert "readings are lost" not in node.log
    wait_until(lambda: published(subscriber) <= {r["seq"] for r in subscriber.history()})


def test_what_can_be_neither_written_nor_sent_is_counted(
    broker, subscribe, start_node, small_state_dir, tmp_path
):
    subscriber = subscribe(broker.port)
    node = start_node(config_of(broker.port, tmp_path))
    subscriber.wait_for_states("s19", 1)
    fill(small_state_dir, node)
    broker.stop()
    node.wait_for_log("no broker: lost")
    assert node.terminate() == 0
    assert "readings are lost: they could be neither written" in node.log


@pytest.mark.parametrize("broker_is", ["silent", "away"])
def test_what_can_be_written_again_is_written(
    broker, subscribe, start_node, small_state_dir, tmp_path, broker_is
):
    subscriber = subscribe(broker.port)
    config = config_of(broker.port, tmp_path)
    node = start_node(config)
    subscriber.wait_for_states("s19", 1)
    ballast = fill(small_state_dir, node)
    seen = max(published(subscriber))
    wait_until(lambda: max(published(subscriber)) > seen + 100)
    before = published(subscriber)
    if broker_is == "silent":
        broker.freeze()  # so that nothing can be sent either
    else:
        broker.stop()
        node.wait_for_log("no broker: lost")
    ballast.unlink()
    assert node.terminate() == 0
    assert "readings are lost" not in node.log
    if broker_is == "silent":
        broker.thaw()
        before = published(subscriber)
    subscribers = [subscriber]
    if broker_is == "away":
        broker.start()
        subscribers.append(subscribe(broker.port))
    start_node(config)
    wait_until(lambda: before <= {r["seq"] for s in subscribers for r in s.history()})
