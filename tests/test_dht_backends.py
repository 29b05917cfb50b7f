"""The ways to a DHT's frame, and what `auto` takes: the kernel's driver, the library, edges."""

from __future__ import annotations

import itertools
from typing import Any

import adafruit_dht
import pytest
from support import FakeClock

from drivers.dht import DHT22, DhtOptions
from drivers.dht_frame import NotAsked
from drivers.errors import (
    BadFrame,
    MissingSupport,
    PinInUse,
    SensorError,
    SensorNotFound,
)
from drivers.gpio_chip import pin_in_use
from drivers.sim.board import SimulatedBoard
from drivers.sim.dht_line import DhtLine
from drivers.sim.kernel_tree import EIO
from drivers.sim.room import Air


def dht22(board: SimulatedBoard, backend: Any):
    options = DhtOptions(pin=4, backend=backend)
    board.attach("dht22", options)
    return DHT22.open(options, board)


@pytest.fixture(autouse=True)
def library_on_fake_time(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    class LibraryTime:
        monotonic = staticmethod(clock.monotonic)
        sleep = staticmethod(clock.sleep)

    monkeypatch.setattr(adafruit_dht, "time", LibraryTime)


@pytest.mark.parametrize("backend", ["auto", "kernel", "pulseio", "edges"])
def test_every_backend_is_simulated(board, backend):
    for _ in range(3):
        assert 15 < dht22(board, backend).read()["temperature"] < 27


def test_the_kernels_driver_is_retried_after_two_seconds(board, clock):
    """EIO twice, then a value."""
    sensor = dht22(board, "kernel")
    files = board.kernel.devices[0].files
    good = files["in_temp_input"]
    asked_s: list[float] = []

    def answer():
        asked_s.append(clock.now_s)
        return good() if len(asked_s) >= 4 else EIO

    files["in_temp_input"] = answer
    assert sensor.read()
    asked_s = asked_s[1:]  # the first is the file's making
    assert len(asked_s) == 3
    assert min(b - a for a, b in itertools.pairwise(asked_s)) >= 2.1


def test_without_the_overlay_the_kernel_backend_names_it(board):
    with pytest.raises(MissingSupport, match="dtoverlay=dht11,gpiopin=17"):
        DHT22.open(DhtOptions(pin=17, backend="kernel"), board).read()


@pytest.mark.parametrize("backend", ["kernel", "auto"])
def test_the_kernels_dht_of_another_pin_is_not_taken(board, caplog, backend):
    """Its value would be that of another room."""
    caplog.set_level("INFO")
    other = DhtOptions(pin=17, backend="kernel")
    board.attach("dht22", other)
    if backend == "kernel":
        with pytest.raises(MissingSupport, match=r"on GPIO 4; there is dht11@11 .* on GPIO 17;"):
            DHT22.open(DhtOptions(pin=4, backend="kernel"), board).read()
    else:
        assert dht22(board, "auto").read()
        assert settled_on(caplog) == ["pulseio"]
    assert DHT22.open(other, board).read()


def test_two_dhts_of_the_kernels_are_told_apart_by_their_pins(board):
    sensors = []
    for pin in (4, 17):
        options = DhtOptions(pin=pin, backend="kernel")
        board.attach("dht22", options)
        sensors.append(DHT22.open(options, board))
    for device, millidegrees in zip(board.kernel.devices, ("10000", "20000"), strict=True):
        device.files["in_temp_input"] = lambda text=millidegrees: f"{text}\n"
    assert [sensor.read()["temperature"] for sensor in sensors] == [10, 20]


@pytest.mark.parametrize("backend", ["kernel", "auto"])
def test_a_dht_of_the_kernels_that_comes_back_under_another_number_is_found(board, backend):
    """The overlay was loaded again: the next reading but one has it."""
    board.attach("dht22", DhtOptions(pin=4, backend="kernel"))
    sensor = DHT22.open(DhtOptions(pin=4, backend=backend), board)
    sensor.read()
    board.kernel.number = 3
    with pytest.raises(SensorNotFound, match="has gone"):
        sensor.read()
    assert sensor.read()


class OccupiedSensor:
    """A sensor whose pin is taken, or whose child is not ready."""

    frame = bytearray()

    def __init__(self, error: SensorError) -> None:
        self._error = error

    def measure(self) -> float:
        raise self._error

    def exit(self) -> None:
        """Nothing is held open."""


class PartialBoard(SimulatedBoard):
    """A board on which some backends are absent, and some are deaf."""

    absent: tuple[str, ...] = ()
    deaf: tuple[str, ...] = ()

    def dht(self, model: str, pin: int, backend: str):
        if backend in self.absent:
            raise MissingSupport(f"no {backend}", "hint")
        if backend in self.deaf:
            self.dht_lines[99] = DhtLine(model, lambda: Air(20, 50, 1000))
            self.dht_lines[99].frame = lambda: None
            return super().dht(model, 99, backend)
        return super().dht(model, pin, backend)


def settled_on(caplog) -> list[str]:
    return [
        record.message.split()[-1] for record in caplog.records if "read through" in record.message
    ]


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (PinInUse('GPIO 4 is in use: ... "lirc"', "stop it"), 3),
        (NotAsked("not started", "wait"), 1),
    ],
)
def test_a_backend_that_cannot_ask_yet_is_no_reason_to_take_another(
    board, caplog, monkeypatch, error, attempts
):
    """The program that has the pin may end, and the computer may have time later."""
    caplog.set_level("INFO")
    sensor, tried = dht22(board, "auto"), []
    real = board.dht

    def dht(model: str, pin: int, backend: str):
        tried.append(backend)
        return OccupiedSensor(error) if occupied else real(model, pin, backend)

    monkeypatch.setattr(board, "dht", dht)
    occupied = True
    before_s = board.clock.monotonic()
    with pytest.raises(type(error), match=f"DHT22 through pulseio: {error.what}"):
        sensor.read()
    assert board.clock.monotonic() - before_s == pytest.approx(2.1 * (attempts - 1))
    sensor.close()
    occupied = False
    assert sensor.read()
    assert set(tried) == {"pulseio"}


@pytest.mark.parametrize(
    ("absent", "deaf", "chosen", "reads"),
    [
        ((), (), "pulseio", 1),
        (("pulseio",), (), "edges", 1),
        ((), ("pulseio",), "edges", 2),
        (("edges",), (), "pulseio", 1),
    ],
)
def test_auto_takes_what_works_and_says_which(clock, caplog, absent, deaf, chosen, reads):
    """What is absent is passed over at once, what stays silent at the next reading."""
    caplog.set_level("INFO")
    board = PartialBoard(clock)
    board.absent, board.deaf = absent, deaf
    sensor = dht22(board, "auto")
    for _ in range(reads - 1):
        with pytest.raises(SensorNotFound):
            sensor.read()
    assert sensor.read()
    assert sensor.read()
    assert settled_on(caplog) == [chosen]


def test_auto_takes_the_kernels_driver_where_it_is_there(board, caplog):
    """It holds the pin; the others would find it busy."""
    caplog.set_level("INFO")
    sensor = dht22(board, "auto")
    dht22(board, "kernel")
    assert sensor.read()
    assert settled_on(caplog) == ["kernel"]
    assert board.dht_lines[4].triggers == 0


def test_auto_stays_with_the_kernels_driver_although_the_sensor_is_silent(board):
    """The pin is the kernel's: whatever else is tried would say that, and not what is wrong."""
    sensor = dht22(board, "auto")
    dht22(board, "kernel")
    board.kernel.devices[0].files["in_temp_input"] = lambda: EIO
    for _ in range(3):
        with pytest.raises(BadFrame, match=r"DHT22 through kernel: .* a damaged frame"):
            sensor.read()


def test_auto_without_the_overlay_goes_on_after_it_was_there(board):
    """`dtoverlay -r dht11` while the node runs: the next reading but one looks at all again."""
    sensor = dht22(board, "auto")
    dht22(board, "kernel")
    assert sensor.read()
    board.kernel.devices.clear()
    for _ in range(2):
        with pytest.raises(SensorError):
            sensor.read()
    assert sensor.read()
    assert board.dht_lines[4].triggers > 0


def test_a_kernel_s_driver_that_comes_late_is_taken_when_it_has_the_pin(board, caplog, monkeypatch):
    """Its module was loaded after the node had begun to read the sensor in another way."""
    caplog.set_level("INFO")
    sensor = dht22(board, "auto")
    assert sensor.read()
    dht22(board, "kernel")
    busy = OccupiedSensor(pin_in_use(4, "dht11@4"))
    sensor.close()
    monkeypatch.setattr(board, "dht", lambda *_: busy)
    assert sensor.read()
    assert settled_on(caplog) == ["pulseio", "kernel"]


def test_the_kernel_backend_names_who_has_the_pin(board, monkeypatch):
    monkeypatch.setattr(board, "pin_user", lambda _pin: 'the kernel knows its user as "onewire@4"')
    sensor = DHT22.open(DhtOptions(pin=4, backend="kernel"), board)
    with pytest.raises(
        MissingSupport, match=r'no dht11 on GPIO 4; GPIO 4 is in use: .*"onewire@4"'
    ):
        sensor.read()


@pytest.mark.parametrize(
    ("user", "remedy"),
    [
        ("dht11@4", 'set backend = "kernel"'),
        ("onewire@4", "dtoverlay=w1-gpio,gpiopin=N"),
        ("onewire", "dtoverlay=sensor-node,onewire_pin=N"),
        ("sensor-node", "give each sensor a pin of its own"),
        ("lirc", "stop the program"),
    ],
)
def test_each_user_of_a_pin_has_a_remedy(user, remedy):
    assert remedy in str(pin_in_use(4, user))
    assert f'GPIO 4 is in use: the kernel knows its user as "{user}"' in str(pin_in_use(4, user))


def test_auto_stays_with_what_has_worked(board, caplog):
    """A sensor that is unplugged afterwards is no reason to look for another way."""
    caplog.set_level("INFO")
    sensor = dht22(board, "auto")
    sensor.read()
    good = board.dht_lines[4].frame
    board.dht_lines[4].frame = lambda: None
    for _ in range(3):
        with pytest.raises(SensorNotFound, match="through pulseio"):
            sensor.read()
    board.dht_lines[4].frame = good
    assert sensor.read()
    assert settled_on(caplog) == ["pulseio"]


def test_auto_never_asks_more_often_than_every_two_seconds(clock):
    """Nor when it goes from one backend to the next."""
    board = PartialBoard(clock)
    asked_s: list[float] = []
    sensor = dht22(board, "auto")
    board.dht_lines[4].frame = lambda: asked_s.append(clock.now_s)
    for _ in range(4):
        with pytest.raises(SensorNotFound):
            sensor.read()
    assert len(asked_s) == 12
    assert min(b - a for a, b in itertools.pairwise(asked_s)) >= 1.84, "2.1 s less the capture"


def test_auto_where_nothing_is_there_says_all_of_it_and_looks_again(clock):
    board = PartialBoard(clock)
    board.absent = ("pulseio", "edges")
    sensor = dht22(board, "auto")
    with pytest.raises(MissingSupport, match=r"dht11.*no pulseio.*no edges"):
        sensor.read()
    assert clock.slept == [], "there is nothing to wait for"
    board.absent = ()
    assert sensor.read()
