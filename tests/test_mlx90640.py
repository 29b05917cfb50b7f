"""The infrared camera: the real library on a simulated chip, and what the library does not see."""

from __future__ import annotations

import pytest
from support import FakeClock, TickingClock
from test_catalogue import driver_on_fake_time

from drivers.base import Driver
from drivers.errors import BadFrame, SensorError
from drivers.sim.board import SimulatedBoard
from drivers.sim.camera import SimulatedMlx90640
from drivers.sim.dead import ConstantChip
from drivers.sim.room import Air

ADDRESS = 0x33


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


@pytest.fixture
def opened(board, clock, monkeypatch):
    """Opens the driver for a chip in air of so many °C; the calibration may be changed before."""
    info = driver_on_fake_time("mlx90640", clock, monkeypatch)
    options = info.options()

    def open_at(celsius: float = 21.5, **words: int) -> Driver:
        monkeypatch.setattr(board.room, "at", lambda *_: Air(celsius, 50.0, 1000.0))
        board.attach("mlx90640", options)
        chip_of(board).words |= {int(name[1:], 16): word for name, word in words.items()}
        return info.open(options, board)

    return open_at


def chip_of(board: SimulatedBoard) -> SimulatedMlx90640:
    chip = board.i2c_ports[1].chips[ADDRESS]
    assert isinstance(chip, SimulatedMlx90640)
    return chip


@pytest.mark.parametrize("celsius", [-30.0, -0.5, 21.5, 100.0])
def test_mean_lowest_and_highest_of_a_picture(opened, celsius):
    """The picture goes from 1 °C below the air at its left to 1 °C above at its right."""
    read = opened(celsius).read()
    assert read == {
        "temperature": pytest.approx(celsius, abs=0.1),
        "temperature_min": pytest.approx(celsius - 1, abs=0.1),
        "temperature_max": pytest.approx(celsius + 1, abs=0.1),
    }


def test_a_bad_pixel_does_not_count_however_often_the_driver_is_opened(opened):
    """The library gives -273.15 °C for it, and counts it once more for each object."""
    for _ in range(6):
        assert opened(x2440=0).read()["temperature_min"] == pytest.approx(20.5, abs=0.1)


def test_a_picture_of_which_one_half_never_comes_is_refused(opened, board):
    sensor = opened()
    chip_of(board).half = lambda _halves: 1
    with pytest.raises(BadFrame, match="half of the picture is missing"):
        sensor.read()
    chip_of(board).half = lambda halves: halves // 2 % 2  # each half twice: some are missed
    assert sensor.read()["temperature"] == pytest.approx(21.5, abs=0.1)


@pytest.mark.parametrize("word", [0x0000, 0xFFFF])
@pytest.mark.parametrize("register", ["x2407", "x2421", "x2430", "x2433", "x2434"])
def test_a_calibration_that_cannot_be_is_refused_before_the_library_computes(
    opened, register, word
):
    """It would never come to an end: with a sensitivity below 0, or no change with the voltage."""
    with pytest.raises(
        BadFrame, match=f"reads 0x{word:04x}|every byte read was 0x{word % 256:02x}"
    ):
        opened(**{register: word})


@pytest.mark.parametrize("byte", [0x00, 0xFF])
@pytest.mark.parametrize("left", [0, 1, 2, 3, 20, 56, 80])
def test_a_bus_that_dies_in_the_middle_gives_it_right_or_not_at_all(opened, board, byte, left):
    sensor = opened()
    truth = sensor.read()
    port, seen = board.i2c_ports[1], [0]

    def count(_address: int) -> None:
        seen[0] += 1
        if seen[0] > left:
            port.chips = {ADDRESS: ConstantChip(byte)}

    port.before_answer = count
    try:
        outcome = sensor.read()
    except SensorError:
        return
    assert outcome == pytest.approx(truth)
