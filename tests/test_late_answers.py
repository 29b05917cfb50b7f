"""Sensors that answer with what they measured when they were asked before: DHTs and the AM2320.

AM2302 datasheet, "Single-bus"; ASAIR DHT11 1.3, "Precautions"; Aosong AM2320, §8.3.3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import adafruit_dht  # noqa: F401, so that it is put on the fake clock
import pytest
from support import FakeClock, TickingClock, put_libraries_on, wait_until
from test_catalogue import driver_on_fake_time

from drivers.base import Driver
from drivers.dht import DhtOptions
from drivers.dht_frame import decode_frame
from drivers.kernel_dht import MEMORY_S
from drivers.registry import find_driver
from drivers.sim.board import SimulatedBoard
from drivers.sim.commands import crc16
from drivers.sim.dht_line import DhtLine
from drivers.sim.room import Air
from node.config.schema import SensorTable
from node.sensors.port import SensorPort
from node.units import Seconds

SENSORS: dict[str, tuple[str, dict[str, object]]] = {
    **{
        f"{driver} {backend}": (driver, {"pin": 4, "backend": backend})
        for driver in ("dht22", "dht11")
        for backend in ("auto", "pulseio", "edges", "kernel")
    },
    "sysfs dht11": ("sysfs", {"name": "dht11"}),
    "am2320": ("am2320", {}),
}


class Weather:
    """A room whose temperature the test sets, or lets depend on the time."""

    celsius: float | Callable[[], float] = 20.0

    def at(self, _spot: str, _elapsed_s: float | None = None) -> Air:
        return Air(self.celsius() if callable(self.celsius) else self.celsius, 50.0, 1000.0)


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


@pytest.fixture
def weather(board: SimulatedBoard, monkeypatch: pytest.MonkeyPatch) -> Weather:
    weather = Weather()
    monkeypatch.setattr(board.room, "at", weather.at)
    return weather


class Bench:
    """A sensor on the board, and a way to open it."""

    def __init__(self, board: SimulatedBoard, sensor: str, clock, monkeypatch) -> None:
        name, given = SENSORS[sensor]
        self._board = board
        self._info = find_driver(name)
        if name == "am2320":
            self._info = driver_on_fake_time(name, clock, monkeypatch)
        put_libraries_on(clock, monkeypatch)
        self._options = self._info.options(**given)
        board.attach(name, self._options)

    def open(self) -> Driver:
        return self._info.open(self._options, self._board)


@pytest.fixture(params=SENSORS)
def bench(request, board, clock, monkeypatch, weather) -> Bench:  # noqa: ARG001
    return Bench(board, request.param, clock, monkeypatch)


def test_a_reading_is_of_its_own_time_and_not_of_the_last_one(bench, weather, clock):
    """A room from 20 to 35 °C, read every ten minutes."""
    driver = bench.open()
    for celsius in (20.0, 25.0, 30.0, 35.0):
        weather.celsius = celsius
        assert driver.read()["temperature"] == celsius
        clock.now_s += 600


def test_the_first_value_is_not_from_before_the_start(bench, weather, clock):
    """The node was off for eight hours, the sensor was not; 3 °C then, 22 °C now."""
    weather.celsius = 3.0
    bench.open().read()
    clock.now_s += 8 * 3600
    weather.celsius = 22.0
    assert bench.open().read()["temperature"] == 22.0


def test_an_answer_is_never_older_than_twice_the_period_of_the_sensor(bench, weather, clock):
    """Whatever the interval: it warms up by 0.1 °C a second, so that the value tells its age."""
    driver = bench.open()
    for interval_s in (2.0, 2.5, 3.0, 3.9, 4.1, 5.0, 7.0, 30.0):
        start_s = clock.now_s
        weather.celsius = lambda start_s=start_s: 15 + (clock.now_s - start_s) / 10
        for _ in range(4):
            clock.now_s += interval_s
            celsius = driver.read()["temperature"]
            age_s = clock.now_s - start_s - (celsius - 15) * 10
            assert age_s <= MEMORY_S + 1.0, "the reading itself takes some time"


@pytest.mark.parametrize("model", ["DHT22", "DHT11"])
def test_the_sensor_alone_is_a_measurement_late(model, weather):
    """Negative control: what one trigger gives."""
    line = DhtLine(model, lambda: weather.at(""))
    weather.celsius = 35.0
    seen = [decode_frame(model, frame)[0] for frame in (line.frame(), line.frame()) if frame]
    assert seen == [20.0, 35.0]


def test_a_trigger_that_was_not_heard_is_no_measurement(board, weather, clock, monkeypatch):
    """Silence, and then an answer: it is as old as what was asked for before."""
    put_libraries_on(clock, monkeypatch)
    options = DhtOptions(pin=4)
    board.attach("dht22", options)
    driver = find_driver("dht22").open(options, board)
    driver.read()
    clock.now_s += 3600
    weather.celsius = 30.0
    line = board.dht_lines[4]
    healthy, silent = line.frame, [True]
    line.frame = lambda: None if silent and silent.pop() else healthy()
    assert driver.read()["temperature"] == 30.0


@pytest.mark.usefixtures("weather")
@pytest.mark.parametrize("celsius", [-0.1, -18.0, -40.0])
def test_an_am2320_that_sends_twos_complement_is_read_below_zero(
    board, clock, monkeypatch, celsius
):
    """As some DHT22 do; the library takes it for -3275.9 °C."""
    bench = Bench(board, "am2320", clock, monkeypatch)
    chip = board.i2c_ports[1].chips[0x5C]

    def complement(frame: bytes) -> bytes:
        if frame[1:2] != b"\x02" or frame[2:4] == b"\x01\xf4":  # 50.0 % stays
            return frame
        body: bytes = frame[:2] + (round(celsius * 10) & 0xFFFF).to_bytes(2, "big")
        checksum: bytes = struct.pack("<H", crc16(body))
        return body + checksum

    chip.damage = complement
    assert bench.open().read()["temperature"] == celsius


@pytest.mark.parametrize("millidegrees", [-900, -18000, -40000])
def test_the_kernels_driver_too_is_read_below_zero(board, millidegrees):
    """It takes sign and magnitude, and shows -3275900 for -0.9 °C (dht11.c, `dht11_decode`)."""
    options = DhtOptions(pin=4, backend="kernel")
    board.attach("dht22", options)
    shown = -100 * ((millidegrees // 100 & 0xFFFF) & 0x7FFF)
    board.kernel.devices[0].files["in_temp_input"] = lambda: f"{shown}\n"
    for driver in (
        find_driver("dht22").open(options, board),
        find_driver("sysfs").open(find_driver("sysfs").options(name="dht11"), board),
    ):
        assert driver.read()["temperature"] == millidegrees / 1000


def test_a_bus_does_not_wait_for_a_chip_to_measure(board, clock, monkeypatch, weather):
    """The node asks an AM2320, reads its neighbours, and comes back for the answer."""
    bench = Bench(board, "am2320", clock, monkeypatch)
    table = SensorTable(
        id="air", driver="am2320", interval=Seconds(10), info=bench._info, options=bench._options
    )
    port = SensorPort(table, board, clock)
    port.read()
    clock.now_s += 3600
    weather.celsius = 33.0
    first = port.read()
    assert first.again_s >= 2.0
    assert first.ended_s - first.started_s < 1.0
    assert first.measurement is None
    assert first.error is None
    clock.now_s += first.again_s
    second = port.read()
    assert second.measurement is not None
    assert second.measurement["temperature"] == 33.0
    assert second.ended_s - second.started_s < 1.0


@pytest.mark.real_time(seconds=15)
def test_the_neighbours_of_an_am2320_stay_online(broker, subscribe, start_node):
    """A thermometer on its bus that is read every second; each reading of it took 2.6 s before."""
    subscriber = subscribe(broker.port)
    node = start_node(
        f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        '[[sensor]]\nid = "air"\ndriver = "am2320"\ninterval = "4.5s"\n'
        '[[sensor]]\nid = "wall"\ndriver = "pct2075"\ninterval = "1s"\n',
        "--simulate",
    )
    wait_until(lambda: len(subscriber.on("sensors/test/air/state")) >= 3)
    assert "offline:" not in node.log
    assert "offline" not in subscriber.on("sensors/test/wall/availability")[1:]
