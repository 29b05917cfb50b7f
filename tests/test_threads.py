"""The inbox and the workers: real threads, real drivers, sensors that block."""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from pathlib import Path

import pytest

from drivers.sim.board import SimulatedBoard
from drivers.sysfs import SYSFS, SysfsOptions
from node.config.schema import SensorTable
from node.event_queue import MAX_AT_ONCE, EventQueue
from node.sensors.port import SensorPort
from node.sensors.workers import PATIENCE_S, ReadDone, Workers
from node.system.clock import SystemClock

pytestmark = pytest.mark.real_time


def test_events_come_in_the_order_in_which_they_were_put():
    inbox: EventQueue[int] = EventQueue()
    inbox.put(1)
    inbox.put_quietly(2)
    inbox.put(3)
    assert inbox.wait(0) == [1, 2, 3]
    assert inbox.wait(0) == []


def test_a_quiet_event_wakes_nobody_unless_asked():
    inbox: EventQueue[int] = EventQueue()
    for ring_at in (0, 2, 1):
        inbox.ring_at = ring_at
        timer = threading.Timer(0.05, inbox.put_quietly, [7])
        timer.start()
        start_s = time.monotonic()
        assert inbox.wait(1.0) == [7]
        assert (time.monotonic() - start_s < 0.9) == (ring_at == 1)
        timer.join()


def test_a_flood_is_dealt_with_in_turns_that_follow_at_once():
    """So that what is due in between is done."""
    inbox: EventQueue[int] = EventQueue()
    flood = list(range(2 * MAX_AT_ONCE + 1))
    for number in flood:
        inbox.put_quietly(number)
    start_s = time.monotonic()
    turns = [inbox.wait(0), inbox.wait(60), inbox.wait(60)]
    assert time.monotonic() - start_s < 30
    assert [len(turn) for turn in turns] == [MAX_AT_ONCE, MAX_AT_ONCE, 1]
    assert list(itertools.chain.from_iterable(turns)) == flood


def test_no_wake_up_is_lost_between_two_threads():
    """Every event of a fast producer arrives without waiting for a time-out."""
    inbox: EventQueue[int] = EventQueue()
    inbox.ring_at = 1

    def produce() -> None:
        for number in range(20_000):
            (inbox.put if number % 3 else inbox.put_quietly)(number)

    thread = threading.Thread(target=produce)
    thread.start()
    taken: list[int] = []
    start_s = time.monotonic()
    while len(taken) < 20_000 and time.monotonic() - start_s < 20:
        taken += inbox.wait(5)
    thread.join()
    assert taken == list(range(20_000))
    assert time.monotonic() - start_s < 5


class Bench:
    """Workers over simulated files, each its own bus; `block(name)` makes one sensor hang."""

    def __init__(self) -> None:
        self.done: queue.SimpleQueue[ReadDone] = queue.SimpleQueue()
        self.workers = Workers(self.done.put, self.done.put)
        self.board = SimulatedBoard()
        self.blocked: dict[str, threading.Event] = {}
        self.ports: dict[str, SensorPort] = {}

    def add(self, name: str) -> None:
        options = SysfsOptions(path=f"/{name}")
        self.board.attach("sysfs", options)
        plain = self.board.files[f"/{name}"]

        def content() -> str | Path | None:
            if name in self.blocked:
                self.blocked[name].wait()
            return plain()

        self.board.files[f"/{name}"] = content
        table = SensorTable(id=name, driver="sysfs", info=SYSFS, options=options)
        self.ports[name] = SensorPort(table, self.board, SystemClock())

    def tick(self, names: list[str]) -> None:
        for name in names:
            self.workers.submit(self.ports[name])
        self.workers.dispatch(time.monotonic())
        self.workers.begin()

    def collect(self, seconds: float, count: int = 999, *, helping: bool = True) -> list[str]:
        """The sensors that answer within `seconds`, helping out as the loop does."""
        answered: list[str] = []
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and len(answered) < count:
            if helping:
                self.workers.help_out(time.monotonic())
            try:
                done = self.done.get(timeout=0.005)
            except queue.Empty:
                continue
            assert done.outcome.error is None, done.outcome.error
            answered.append(done.outcome.sensor)
            if done.bus_free:
                self.workers.bus_free(done.bus)
        return answered


@pytest.fixture
def bench():
    made = Bench()
    for number in range(10):
        made.add(f"s{number}")
    yield made
    for event in made.blocked.values():
        event.set()


def worker_threads() -> int:
    return sum(t.name.startswith("bus-worker") for t in threading.enumerate())


def test_quick_sensors_share_one_thread(bench):
    """On a busy machine they may outlast the patience, and be helped; that is left out here."""
    before = worker_threads()
    bench.tick(list(bench.ports))
    assert sorted(bench.collect(20, 10, helping=False)) == sorted(bench.ports)
    assert worker_threads() - before == 1


def test_a_blocked_sensor_delays_the_others_by_no_more_than_the_patience(bench):
    """The best of three: a machine that is held up once is another matter."""
    took_s = []
    for _ in range(3):
        bench.blocked["s0"] = threading.Event()
        start_s = time.monotonic()
        bench.tick(list(bench.ports))
        others = bench.collect(20, 9)
        took_s.append(time.monotonic() - start_s)
        assert sorted(others) == sorted(name for name in bench.ports if name != "s0")
        bench.blocked["s0"].set()
        assert bench.collect(20, 1) == ["s0"], "it comes back by itself"
    assert min(took_s) < 1.0


def test_every_sensor_but_one_may_block_for_ever(bench):
    for name in list(bench.ports)[:9]:
        bench.blocked[name] = threading.Event()
    bench.tick(list(bench.ports))
    assert bench.collect(20, 1) == ["s9"]
    for _ in range(20):
        bench.tick(["s9"])
        assert bench.collect(20, 1) == ["s9"]


def test_a_blocked_sensor_holds_nobody_up_where_something_comes_due_all_the_time(bench):
    """The look for those that wait is not begun anew with each."""
    names = [f"n{number}" for number in range(600)]
    for name in names:
        bench.add(name)
    bench.blocked["s0"] = threading.Event()
    bench.tick(["s0"])
    assert bench.collect(0.1) == []
    answered: list[str] = []
    for name in names:
        bench.tick([name])
        answered = bench.collect(0.005)
        if answered:
            break
    assert answered, "none of 600 sensors was read in 3 s"


def test_an_outcome_is_seen_though_the_next_sensor_on_the_bus_blocks(bench: Bench):
    """It is not left for the next turn of a loop that has no reason for one."""
    inbox: EventQueue[ReadDone] = EventQueue()
    bench.workers = Workers(inbox.put, inbox.put_quietly)
    plain = bench.board.files["/s0"]

    def after(seconds: float) -> str | Path | None:
        time.sleep(seconds)
        return plain()

    bench.board.files["/s0"] = lambda: after(3 * PATIENCE_S)
    bench.board.files["/s1"] = lambda: after(PATIENCE_S / 4)  # when the loop sleeps again
    bench.blocked["s2"] = threading.Event()
    names = ["s0", "s1", "s2"]
    for name in names:
        bench.ports[name].bus = "shared"
    bench.tick(names)
    seen: list[str] = []
    start_s = now_s = time.monotonic()
    while len(seen) < 2 and now_s < start_s + 5:
        bench.workers.help_out(now_s)
        until_s = min(bench.workers.next_look_s, start_s + 5)
        seen += [done.outcome.sensor for done in inbox.wait(until_s - now_s)]
        now_s = time.monotonic()
    assert seen == ["s0", "s1"]
    assert now_s - start_s < 4


def test_a_blocked_bus_gets_no_second_thread(bench):
    """Its later reads wait; no thread is lost to each of them."""
    bench.blocked["s0"] = threading.Event()
    before = worker_threads()
    for _ in range(5):
        bench.tick(["s0"])
        bench.collect(0.1)
    assert worker_threads() - before <= 1


def test_reads_on_one_bus_never_overlap():
    """Two sensors on one 1-Wire bus, read by a pool that has threads to spare."""
    from drivers.ds18b20 import DS18B20, Ds18b20Options

    bench = Bench()
    under_way: list[int] = []
    most = 0

    def answer() -> None:
        nonlocal most
        under_way.append(1)
        most = max(most, len(under_way))
        time.sleep(0.02)
        under_way.pop()

    bench.board.one_wire.before_answer = answer
    for number in range(4):
        options = Ds18b20Options(address=f"28-00000000000{number}")
        bench.board.attach("ds18b20", options)
        table = SensorTable(id=f"w{number}", driver="ds18b20", info=DS18B20, options=options)
        bench.ports[f"w{number}"] = SensorPort(table, bench.board, SystemClock())
    bench.tick(list(bench.ports))
    for _ in range(3):
        bench.workers.add_thread()
    assert len(bench.collect(20, 4)) == 4
    assert most == 1


def test_a_driver_is_opened_again_after_a_failure(bench):
    """A chip that lost its power is set up afresh."""
    opened = []
    info = SYSFS

    def counting(options, board):
        opened.append(1)
        return info.open(options, board)

    import msgspec

    port = bench.ports["s1"]
    table = SensorTable(
        id="s1",
        driver="sysfs",
        info=msgspec.structs.replace(info, open=counting),
        options=SysfsOptions(path="/s1"),
    )
    port = SensorPort(table, bench.board, SystemClock())
    good, bad = bench.board.files["/s1"], lambda: "garbage"
    for content, failed in ((good, False), (bad, True), (good, False), (good, False)):
        bench.board.files["/s1"] = content
        assert (port.read().error is not None) == failed
    assert len(opened) == 2


def test_an_unforeseen_exception_of_a_driver_becomes_an_outcome(bench):
    import msgspec

    def explodes(_options, _board):
        raise ZeroDivisionError("of all things")

    table = SensorTable(
        id="x",
        driver="sysfs",
        info=msgspec.structs.replace(SYSFS, open=explodes),
        options=SysfsOptions(path="/x"),
    )
    outcome = SensorPort(table, bench.board, SystemClock()).read()
    assert "ZeroDivisionError: of all things" in str(outcome.error)


@pytest.mark.parametrize(
    "measurement",
    [
        {},
        {"pressure": 1.0},
        {"temperature": None},
        {"temperature": "21"},
        {"temperature": math.nan},
    ],
)
def test_a_driver_that_breaks_its_contract_gives_no_measurement(bench, measurement):
    import msgspec

    class Liar:
        channels = SYSFS.channels

        def read(self):
            return measurement

        def close(self):
            raise RuntimeError("nor does it close")

    table = SensorTable(
        id="x",
        driver="sysfs",
        info=msgspec.structs.replace(SYSFS, open=lambda options, board: Liar()),
        options=SysfsOptions(path="/x"),
    )
    outcome = SensorPort(table, bench.board, SystemClock()).read()
    assert outcome.measurement is None
    assert "the driver returned" in str(outcome.error)


@pytest.mark.parametrize("name", ["a/b", "a#", "", "seq", "state"])
def test_a_channel_that_cannot_be_part_of_a_topic_is_refused(bench, name):
    import msgspec

    class Misnamed:
        channels = (msgspec.structs.replace(SYSFS.channels[0], name=name),)

        def read(self):
            return {name: 1.0}

        def close(self):
            pass

    table = SensorTable(
        id="x",
        driver="sysfs",
        info=msgspec.structs.replace(SYSFS, open=lambda options, board: Misnamed()),
        options=SysfsOptions(path="/x"),
    )
    outcome = SensorPort(table, bench.board, SystemClock()).read()
    assert "not a valid name" in str(outcome.error)


def test_the_spacing_of_a_dht_survives_a_failed_read():
    """Two reads 0.2 s apart, the first in vain: the sensor is not asked within 2.1 s."""
    import adafruit_dht
    from support import FakeClock

    from drivers.dht import DHT22, DhtOptions

    clock = FakeClock()
    board = SimulatedBoard(clock)
    options = DhtOptions(pin=4)
    board.attach("dht22", options)
    asked_s: list[float] = []
    board.dht_lines[4].frame = lambda: asked_s.append(clock.now_s)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adafruit_dht, "time", clock)
        port = SensorPort(
            SensorTable(id="x", driver="dht22", info=DHT22, options=options), board, clock
        )
        for _ in range(2):
            assert port.read().error is not None
            clock.sleep(0.2)
    assert min(b - a for a, b in itertools.pairwise(asked_s)) >= 2.1
