"""Who gets an event of the loop: its owner, by its type; and what a mistake of an owner costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import FakeClock, sysfs_config

from node.config.load import load
from node.loop import Node
from node.mqtt.events import Acknowledged, Arrived, Connected
from node.reading import ReadOutcome
from node.sensors.board import bare_board
from node.sensors.scheduler import ReadRequest
from node.sensors.workers import ReadDone


class Bench:
    """A node whose loop does not run, and whose client is not connected."""

    def __init__(self, folder: Path) -> None:
        config = folder / "node.toml"
        config.write_text(sysfs_config(1883, {"water": folder / "water"}))
        self.clock = FakeClock()
        self.node = Node(
            load(config),
            bare_board(simulate=False),
            self.clock,
            client_id="sn1",
            state_dir=folder / "state",
        )
        self.node._link._client = self.node._link._new_client()
        self.node._scheduler.start(self.clock.monotonic())

    def reads(self, value: float) -> None:
        """A read of the sensor ends with this value."""
        table = self.node._scheduler._sensors["water"].table
        channels = table.info.channels_with(table.options)
        now_s = self.clock.monotonic()
        outcome = ReadOutcome(
            sensor="water",
            started_s=now_s,
            ended_s=now_s,
            boot_s=self.clock.boot_s(),
            utc_s=self.clock.utc_s(),
            synced=True,
            measurement={"temperature": value},
            channels=channels,
        )
        self.node._dispatch(ReadDone(outcome, "files", bus_free=True))
        self.node._reporter.save(now_s)

    @property
    def committed(self) -> int:
        return self.node._reporter._outbox.committed


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


def fails(*_: object) -> None:
    raise RuntimeError("a mistake of ours")


def noted(calls: list[object]) -> Callable[..., None]:
    return lambda *arguments: calls.append(arguments)


def test_a_reading_is_committed_whatever_else_its_read_has_set_off(bench, monkeypatch, caplog):
    """The sensor comes online, which fails; and somebody waits for it, whose answer fails."""
    monkeypatch.setattr(bench.node._reporter, "availability_changed", fails)
    bench.node._scheduler.read_now(ReadRequest(["water"], fails))
    bench.reads(21.5)
    assert bench.committed == 1
    assert caplog.text.count("failed to handle the outcome of a read") == 2


def test_the_topics_of_all_sensors_are_noted_before_the_first_reading(bench, monkeypatch):
    """With each reading the whole list was written again: 224 times for a thousand sensors."""
    written: list[bytes] = []
    monkeypatch.setattr(
        "node.mqtt.retained_topics.write_file", lambda _file, content: written.append(content)
    )
    bench.node._dispatch(Connected(0, refused=None, window=20, max_packet_bytes=1 << 20))
    bench.node._publisher.flush()
    noted = bench.node._publisher._retained.own
    assert {topic.rpartition("/water/")[2] for topic in noted} >= {"availability", "state"}
    assert len(written) == 1


def test_an_acknowledgement_goes_to_the_publisher_alone(bench, monkeypatch):
    bench.node._dispatch(Connected(0, refused=None, window=20, max_packet_bytes=1 << 20))
    bench.node._publisher.flush()
    in_flight = list(bench.node._publisher._message_of)
    assert in_flight
    visits: list[object] = []
    monkeypatch.setattr(bench.node._link, "follow", noted(visits))
    monkeypatch.setattr(bench.node._reporter, "link_changed", noted(visits))
    for message_id in in_flight:
        bench.node._dispatch(Acknowledged(0, message_id, refused=None))
    assert visits == []
    assert not set(in_flight) & set(bench.node._publisher._message_of)


@pytest.mark.parametrize(("generation", "obeyed"), [(0, 1), (7, 0)])
def test_a_message_to_a_client_that_has_been_replaced_is_not_obeyed(
    bench, monkeypatch, generation, obeyed
):
    calls: list[object] = []
    monkeypatch.setattr(bench.node._commands, "hear", noted(calls))
    bench.node._dispatch(Arrived(generation, "sensors/test/cmd/read", b"", retained=False))
    assert len(calls) == obeyed


def test_an_acknowledgement_of_a_client_that_has_been_replaced_settles_nothing(bench):
    bench.node._dispatch(Connected(0, refused=None, window=20, max_packet_bytes=1 << 20))
    bench.node._publisher.flush()
    in_flight = list(bench.node._publisher._message_of)
    for message_id in in_flight:
        bench.node._dispatch(Acknowledged(7, message_id, refused=None))
    assert list(bench.node._publisher._message_of) == in_flight
