"""A node that boots without the time, as every Pi does, and is given it later."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from ports import free_port
from support import (
    PATIENCE_S,
    Mosquitto,
    Subscriber,
    sysfs_config,
    taken_s,
    wait_until,
)

from drivers.hardware import HardwareBoard
from node.config.load import load
from node.config.schema import OutboxTable
from node.loop import Node
from node.outbox.outbox import Outbox
from node.reading import Reading
from node.report import history
from node.system import clock as clock_module
from node.system.clock import SystemClock

YEAR_S = 365 * 86400


class BootClock(SystemClock):
    """The computer's clock, `behind_s` seconds late until it is set; booted when it was made."""

    def __init__(self, behind_s: float, boot_id: str = "this-boot") -> None:
        super().__init__()
        self.boot_id = boot_id
        self._behind_s = behind_s
        self._in_sync = False
        self._booted_s = time.monotonic() - 5

    def boot_s(self) -> float:
        return time.monotonic() - self._booted_s

    def utc_s(self) -> float:
        return time.time() - self._behind_s

    def synced(self) -> bool:
        return self._in_sync

    def set(self) -> None:
        self._behind_s, self._in_sync = 0.0, True


def log_of(folder: Path) -> list[Reading]:
    """What a node of ours has committed, after its end."""
    outbox = Outbox(folder / "state", OutboxTable(), BootClock(0))
    try:
        return outbox.read(0, 999)
    finally:
        outbox.close()


class ClockedNode:
    """A node in this process, on a clock of ours."""

    def __init__(
        self,
        folder: Path,
        port: int,
        files: Path | dict[str, Path],
        clock: BootClock,
        *,
        interval: str = "0.5s",
        outbox: str = '[outbox]\nhistory_interval = "0.5s"\n',
    ) -> None:
        config = folder / "node.toml"
        by_name = files if isinstance(files, dict) else {"s": files}
        config.write_text(sysfs_config(port, by_name, interval=interval) + outbox)
        self._node = Node(
            load(config), HardwareBoard(), clock, client_id="clocked", state_dir=folder / "state"
        )
        self._thread = threading.Thread(target=self._node.run)

    def __enter__(self) -> ClockedNode:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._node.stop("the test ends")
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("behind_s", [YEAR_S, 1.79e9], ids=["a year", "since 1970"])
def test_a_step_of_the_clock_gives_queued_readings_their_true_times(
    tmp_path, temperature_file, behind_s
):
    """Readings of two lives of the process and one boot, queued without a broker."""
    port = free_port()
    clock = BootClock(behind_s)
    began_s, ended_s = time.time(), []
    for _ in range(2):
        with ClockedNode(tmp_path, port, temperature_file, clock):
            time.sleep(2)
        ended_s.append(time.time())
    taken_ms = {reading.seq: reading.boot_ms for reading in log_of(tmp_path)}
    mosquitto = Mosquitto(tmp_path, port=port).start()
    subscriber = Subscriber(port)
    try:
        with ClockedNode(tmp_path, port, temperature_file, clock):
            wait_until(lambda: subscriber.states("s"))
            assert subscriber.states("s")[-1]["clock"] == "unsynced"
            time.sleep(1.5)
            assert subscriber.history() == [], "they wait for their time"
            clock.set()
            wait_until(lambda: len(subscriber.history()) >= len(taken_ms) + 2)
            wait_until(lambda: subscriber.states("s")[-1]["clock"] == "synced")
    finally:
        subscriber.close()
        mosquitto.stop()
    readings = subscriber.history()
    assert {reading["clock"] for reading in readings} == {"synced"}
    times = [taken_s(reading) for reading in readings]
    assert times == sorted(times)
    assert began_s - 0.1 <= times[0] <= ended_s[0] + 0.1, "right to the moment"
    assert [r["seq"] for r in readings] == list(range(1, len(readings) + 1))
    apart_s = [time_s - times[0] for time_s in times[: len(taken_ms)]]
    were_s = [(at_ms - taken_ms[1]) / 1000 for at_ms in taken_ms.values()]
    assert len(were_s) >= 2
    assert apart_s == pytest.approx(were_s, abs=0.01), "as far apart as they were taken"
    by_seq = {reading["seq"]: reading["time"] for reading in readings}
    retimed = [s for s in subscriber.states("s") if s["clock"] == "synced" and s["seq"] in by_seq]
    assert all(by_seq[state["seq"]] == state["time"] for state in retimed)
    first_synced = next(s for s in subscriber.states("s") if s["clock"] == "synced")
    unsynced = [s["seq"] for s in subscriber.states("s") if s["clock"] == "unsynced"]
    assert first_synced["seq"] in (unsynced[-1], unsynced[-1] + 1)


def test_without_the_time_readings_are_sent_as_unsynced_in_the_end(
    tmp_path, broker, subscribe, temperature_file, monkeypatch
):
    """Two minutes after boot, shortened here."""
    monkeypatch.setattr(history, "WAIT_FOR_CLOCK_S", 8.0)
    subscriber = subscribe(broker.port)
    clock = BootClock(1.79e9)
    with ClockedNode(tmp_path, broker.port, temperature_file, clock):
        wait_until(lambda: len(subscriber.states("s")) >= 2)
        assert not subscriber.history() or clock.boot_s() >= 8
        wait_until(subscriber.history)
        assert clock.boot_s() >= 8
        assert {r["clock"] for r in subscriber.history()} == {"unsynced"}
        assert all(r["time"] < "1990" for r in subscriber.history())
        for topic, payload, _ in subscriber.messages:
            if '"time":"19' in payload and not topic.endswith("health"):
                decoded = json.loads(payload)
                states = decoded.get("readings", [decoded])
                assert all(state["clock"] == "unsynced" for state in states)


def test_readings_of_an_earlier_boot_do_not_wait(tmp_path, broker, subscribe, temperature_file):
    """Their time will never be known; those of this boot behind them wait all the same."""
    first = BootClock(1.79e9, "first-boot")
    with ClockedNode(tmp_path, free_port(), temperature_file, first):
        time.sleep(1.2)
    committed = len(log_of(tmp_path))
    assert committed >= 1
    subscriber = subscribe(broker.port)
    second = BootClock(1.79e9, "second-boot")
    with ClockedNode(tmp_path, broker.port, temperature_file, second):
        wait_until(subscriber.history)
        time.sleep(1.5)
        assert {r["clock"] for r in subscriber.history()} == {"unsynced"}
        sent = len(subscriber.history())
        assert sent == committed
        second.set()
        wait_until(lambda: len(subscriber.history()) > sent)
        assert {r["clock"] for r in subscriber.history()[sent:]} == {"synced"}


def test_without_an_interval_history_waits_for_the_clock_without_spinning(
    tmp_path, broker, subscribe, temperature_file, monkeypatch
):
    turns = 0
    turn = Node._turn

    def counted(self: Node) -> None:
        nonlocal turns
        turns += 1
        turn(self)

    monkeypatch.setattr(Node, "_turn", counted)
    subscriber = subscribe(broker.port)
    clock = BootClock(1.79e9)
    config = "[outbox]\nhistory_interval = 0\n"
    with ClockedNode(tmp_path, broker.port, temperature_file, clock, outbox=config):
        wait_until(lambda: len(subscriber.states("s")) >= 2)
        turns = 0
        time.sleep(3)
        assert turns < 60
        clock.set()
        wait_until(subscriber.history)
        sent = len(subscriber.history())
        wait_until(lambda: len(subscriber.history()) > sent)


def test_a_clock_that_is_set_between_two_sensors_of_a_tick_corrects_the_first(
    tmp_path, broker, subscribe
):
    """The first one's state is published once, and with its true time."""

    class SetWhileReading(BootClock):
        asked = 0

        def synced(self) -> bool:
            self.asked += 1
            if self.asked == 3:
                self.set()
            return super().synced()

    subscriber = subscribe(broker.port)
    clock = SetWhileReading(1.79e9)
    files = {f"s{n}": tmp_path / f"temp{n}" for n in range(4)}
    for file in files.values():
        file.write_text("21500\n")
    with ClockedNode(tmp_path, broker.port, files, clock, interval="1h"):
        for name in files:
            subscriber.wait_for_states(name, 1)
        for name in files:
            wait_until(
                partial(lambda name: subscriber.states(name)[-1]["clock"] == "synced", name),
                what=name,
            )
            assert subscriber.states(name)[-1]["time"] > "2025"


def test_a_clock_in_the_past_is_not_synced_whatever_the_kernel_says(monkeypatch):
    clock = SystemClock()
    clock._adjtimex = lambda: 0
    assert clock.synced()
    later_s = clock.monotonic() + 1.0
    monkeypatch.setattr(clock, "monotonic", lambda: later_s)
    monkeypatch.setattr(clock, "utc_s", lambda: 5.0)
    assert not clock.synced()


def test_the_readings_of_a_tick_share_a_look_at_the_clock(monkeypatch):
    """Not more: a clock that is set counts for the readings of a tenth of a second later."""
    now_s, looks = 1000.0, iter([5, 0])
    clock = SystemClock()
    clock._adjtimex = lambda: next(looks)
    monkeypatch.setattr(clock_module, "_HARDWARE_CLOCKS", Path("/nonexistent"))
    monkeypatch.setattr(clock, "monotonic", lambda: now_s)
    assert not any(clock.synced() for _ in range(10))
    now_s += 0.1
    assert all(clock.synced() for _ in range(10))


@pytest.fixture
def unkept(monkeypatch, tmp_path) -> SystemClock:
    """A clock that NTP does not keep, on a computer without a hardware clock."""
    monkeypatch.setattr(clock_module, "_HARDWARE_CLOCKS", tmp_path)
    clock = SystemClock()
    clock._adjtimex = lambda: 5
    return clock


@pytest.mark.parametrize(
    ("ahead_s", "synced"), [(0, True), (1, True), (-1, True), (5, False), (-86_400, False)]
)
def test_a_hardware_clock_that_agrees_makes_it_synced(unkept, tmp_path, ahead_s, synced):
    """An RTC with a battery, and no network."""
    folder = tmp_path / "rtc0"
    folder.mkdir()
    (folder / "since_epoch").write_text(f"{int(time.time()) + ahead_s}\n")
    assert unkept.synced() is synced


@pytest.mark.parametrize("content", [None, "", "no time\n", "0\n"])
def test_without_a_hardware_clock_that_runs_it_is_not_synced(unkept, tmp_path, content):
    if content is not None:
        (tmp_path / "rtc0").mkdir()
        (tmp_path / "rtc0" / "since_epoch").write_text(content)
    assert not unkept.synced()


def test_a_hardware_clock_is_looked_at_once_a_minute(unkept, tmp_path, monkeypatch):
    """It may be on the bus of the sensors; and what it says first is not for ever."""
    now_s = 1000.0
    monkeypatch.setattr(unkept, "monotonic", lambda: now_s)
    (tmp_path / "rtc0").mkdir()
    file = tmp_path / "rtc0" / "since_epoch"
    file.write_text(f"{int(time.time())}\n")
    assert unkept.synced()
    file.unlink()
    assert unkept.synced()
    now_s += 60.0
    assert not unkept.synced()
