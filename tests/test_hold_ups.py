"""A node that was held up blames no sensor: slow disk, stopped process, too little processor."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path

import pytest
from support import FakeClock, NodeProcess, running, sysfs_config, wait_until

from node.config.load import load
from node.sensors.board import bare_board
from node.sensors.scheduler import AvailabilityChanged, Scheduler, SensorEvent
from node.sensors.sensor import Sensor
from node.sensors.workers import ReadDone, Workers

INTERVAL_S = 0.5


class Bench:
    """A scheduler on a test's clock, with a sensor that a real thread reads."""

    def __init__(self, folder: Path) -> None:
        file = folder / "water"
        file.write_text("21500\n")
        config = folder / "node.toml"
        config.write_text(sysfs_config(1883, {"water": file}, interval=f"{INTERVAL_S}s"))
        (table,) = load(config).sensors
        self.clock = FakeClock()
        self.said: list[str] = []
        self.done: list[ReadDone] = []
        self.sensor = Sensor(table, bare_board(simulate=False), self.clock)
        workers = Workers(self.done.append, self.done.append)
        sensors = {"water": self.sensor}
        self.scheduler = Scheduler(sensors, self.clock, workers=workers)
        self.scheduler.start(self.clock.now_s)

    def read(self) -> ReadDone:
        """Let the read that is due happen; its outcome, which nobody has taken yet."""
        self.run_due()
        self.scheduler.begin()
        wait_until(lambda: self.done, what="the read ends")
        return self.done.pop()

    def run_due(self) -> None:
        self._keep(self.scheduler.run_due())

    def read_ended(self, done: ReadDone) -> None:
        self._keep(self.scheduler.read_ended(done))

    def _keep(self, events: list[SensorEvent]) -> None:
        for event in events:
            if isinstance(event, AvailabilityChanged):
                self.said.append("online" if event.sensor.state.online else "offline")
            else:
                self.said.append(type(event).__name__)


@pytest.fixture
def bench(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    bench = Bench(tmp_path)
    bench.read_ended(bench.read())
    assert bench.said == ["online", "Measured", "ChannelsFound"]
    return bench


def test_a_reading_that_ends_while_the_loop_is_held_up_counts_from_when_it_is_taken(bench):
    """Nobody could ask the sensor again in between, however long that was."""
    bench.clock.now_s += INTERVAL_S
    done = bench.read()
    bench.clock.now_s += 2.0  # the disk takes its time
    bench.scheduler.excuse(2.0)
    bench.read_ended(done)
    bench.clock.now_s += 3 * INTERVAL_S
    bench.run_due()
    assert "offline" not in bench.said


def test_a_sensor_that_is_silent_after_a_hold_up_is_offline(bench):
    """Negative control: the excuse is for the hold-up, and for nothing else."""
    bench.clock.now_s += 2.0
    bench.scheduler.excuse(2.0)
    bench.clock.now_s += 3 * INTERVAL_S + 0.1
    bench.run_due()
    assert bench.said[-1] == "offline"


def test_a_loop_that_is_always_late_keeps_no_dead_sensor_online(bench):
    began_s = bench.clock.now_s
    while "offline" not in bench.said:
        bench.clock.now_s += 0.2
        bench.scheduler.excuse(0.2)
        bench.run_due()
        assert bench.clock.now_s < began_s + 60
    assert bench.clock.now_s > began_s + 30


def test_a_read_that_no_thread_has_begun_is_not_blamed_on_the_bus(bench, caplog):
    """A machine with too much to do: for some time that is excused, and then it is said."""
    bench.clock.now_s += INTERVAL_S
    bench.run_due()  # and no `begin`: the thread gets no processor
    bench.clock.now_s += 3 * INTERVAL_S
    bench.run_due()
    assert "offline" not in bench.said
    for _ in range(40):
        bench.clock.now_s += 1.0
        bench.run_due()
    assert bench.said[-1] == "offline"
    assert "this computer did not get to read it" in caplog.text
    assert "held up by other sensors" not in caplog.text


def test_a_channel_is_not_missing_because_the_node_was_held_up(bench):
    state = bench.sensor.state
    bench.clock.now_s += 5.0
    bench.scheduler.excuse(5.0)
    assert state.note_missing(bench.clock.now_s + 1.0) == []
    assert state.note_missing(bench.clock.now_s + 2.0) == ["temperature"]


@pytest.mark.real_time(seconds=10)
def test_a_process_that_was_stopped_says_of_no_sensor_that_it_is_offline(
    broker, subscribe, tmp_path
):
    """SIGSTOP, for longer than three intervals and more than once."""
    files = {name: tmp_path / name for name in ("air", "water", "box")}
    for file in files.values():
        file.write_text("21500\n")
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, files, interval=f"{INTERVAL_S}s")
    with running(NodeProcess(tmp_path, config)) as node:
        subscriber.wait_for_states("box", 3)
        seen = len(subscriber.messages)
        for _ in range(3):
            node.freeze()
            time.sleep(2.3)
            node.process.send_signal(signal.SIGCONT)
            subscriber.wait_for_states("box", len(subscriber.states("box")) + 3)
        said = [payload for topic, payload, _ in subscriber.messages[seen:] if "avail" in topic]
        assert "offline" not in said
        assert "offline" not in node.log
