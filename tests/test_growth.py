"""Work that grows with the sensors, not with their square: counted in instructions, not in time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support import FakeClock, sysfs_config

from drivers.errors import SensorError
from node.config.load import load
from node.reading import ReadOutcome
from node.sensors.board import bare_board
from node.sensors.scheduler import ReadRequest, Scheduler
from node.sensors.sensor import Sensor
from node.sensors.workers import ReadDone, Workers

FEW, MANY = 20, 160
INTERVAL_S = 10.0


def steps_of(action: Callable[[], object]) -> int:
    """How many of Python's instructions it takes, in functions that it calls."""
    steps = 0

    def count(frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
        nonlocal steps
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        steps += event == "opcode"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        action()
    finally:
        sys.settrace(before)
    return steps


class Bench:
    """A scheduler of some sensors of which none is read by itself."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir()
        config = folder / "node.toml"
        files = {f"s{n}": folder / f"s{n}" for n in range(count)}
        config.write_text(sysfs_config(1883, files, interval=f"{INTERVAL_S}s"))
        self.clock = FakeClock()
        board = bare_board(simulate=False)
        self.sensors = {t.id: Sensor(t, board, self.clock) for t in load(config).sensors}
        workers = Workers(lambda _done: None, lambda _done: None)
        self.scheduler = Scheduler(self.sensors, self.clock, workers=workers)
        self.scheduler.start(self.clock.now_s + INTERVAL_S)

    def ends_each(self, error: SensorError | None) -> None:
        for name, sensor in self.sensors.items():
            now_s = self.clock.now_s
            value = None if error else {"temperature": 21.0}
            channels = sensor.table.info.channels_with(sensor.table.options)
            outcome = ReadOutcome(name, now_s, now_s, now_s, now_s, True, value, channels, error)
            self.scheduler.read_ended(ReadDone(outcome, sensor.port.bus, bus_free=True))


def all_are_asked(bench: Bench) -> int:
    return steps_of(lambda: bench.scheduler.read_now(ReadRequest(list(bench.sensors))))


def all_answer(bench: Bench) -> int:
    request = ReadRequest(list(bench.sensors))
    bench.scheduler.read_now(request)
    bench.scheduler.run_due()
    counted = steps_of(lambda: bench.ends_each(SensorError("no answer")))
    assert len(request.errors) == len(bench.sensors)
    assert not request.waiting
    return counted


def all_fall_silent(bench: Bench) -> int:
    bench.ends_each(None)
    assert bench.scheduler.online == len(bench.sensors)
    bench.clock.now_s += 10 * INTERVAL_S
    counted = steps_of(bench.scheduler.run_due)
    assert bench.scheduler.online == 0
    return counted


@pytest.mark.parametrize("work", [all_are_asked, all_answer, all_fall_silent])
def test_what_is_done_for_all_sensors_grows_with_their_number(tmp_path, work):
    """Negative control: what looked through all sensors for each took five times as many."""
    few, many = (work(Bench(tmp_path / str(count), count)) for count in (FEW, MANY))
    assert few >= FEW
    assert many / MANY < 1.5 * few / FEW
