"""BME280: the real Adafruit driver on simulated registers, through the catalogue's mechanism."""

from __future__ import annotations

import errno

import adafruit_bme280.basic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import FakeClock

from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    SensorError,
    SensorNotFound,
    SensorTimeout,
    WrongDriver,
)
from drivers.registry import find_driver
from drivers.sim.board import SimulatedBoard
from drivers.sim.chips import SimulatedBme280
from drivers.sim.dead import ConstantChip
from drivers.sim.room import Air

BME280 = find_driver("bme280")


@pytest.fixture(autouse=True)
def library_on_fake_time(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adafruit_bme280.basic, "sleep", clock.sleep)


def options(address: int = 0x76):
    return BME280.options(address=address)


@pytest.fixture
def chip(board: SimulatedBoard) -> SimulatedBme280:
    board.attach("bme280", options())
    chip = board.i2c_ports[1].chips[0x76]
    assert isinstance(chip, SimulatedBme280)
    return chip


def test_the_example_of_the_datasheet_is_computed(board, chip):
    """BST-BMP280-DS001, §3.12: with these words, 519888 and 415148 are 25.08 °C, 1006.53 hPa."""
    sensor = BME280.open(options(), board)
    chip.convert = lambda: None
    chip.registers[0xF7:0xFD] = (415148 << 4).to_bytes(3, "big") + (519888 << 4).to_bytes(3, "big")
    chip.registers[0xFD:0xFF] = b"\x60\x00"
    measurement = sensor.read()
    assert measurement["temperature"] == pytest.approx(25.08, abs=0.005)
    assert measurement["pressure"] == pytest.approx(1006.53, abs=0.01)


@settings(deadline=None, max_examples=60)
@given(celsius=st.floats(-40, 85), humidity=st.floats(1, 99), pressure=st.floats(300, 1100))
@example(celsius=78.25, humidity=69.1328125, pressure=301.0)  # its raw humidity is 0x8000
def test_the_librarys_arithmetic_agrees_with_a_second_one(celsius, humidity, pressure):
    """Property: whatever air the simulated chip measures, the real driver reads it back."""
    board = SimulatedBoard(FakeClock())
    board.attach("bme280", options())
    board.i2c_ports[1].chips[0x76] = SimulatedBme280(lambda: Air(celsius, humidity, pressure))
    try:
        measurement = BME280.open(options(), board).read()
    except ImplausibleValue:
        # Rounding in the chip may cross the very end of the range.
        assert celsius < -39.9 or celsius > 84.9 or pressure < 300.1 or pressure > 1099.9
        return
    assert measurement["temperature"] == pytest.approx(celsius, abs=0.02)
    assert measurement["pressure"] == pytest.approx(pressure, abs=0.3)
    assert measurement["humidity"] == pytest.approx(humidity, abs=0.2)


def test_an_absent_chip_names_the_other_address(board):
    with pytest.raises(SensorNotFound, match="0x77"):
        BME280.open(options(0x76), board)


def test_another_chip_at_the_address_is_refused(board, chip):
    """A BMP280 has the id 0x58, and its driver is named; nothing known has 0x59."""
    chip.registers[0xD0] = 0x58
    with pytest.raises(WrongDriver, match='driver = "bmp280"'):
        BME280.open(options(), board)
    chip.registers[0xD0] = 0x59
    with pytest.raises(BadFrame, match="0x59"):
        BME280.open(options(), board)


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_a_bus_dead_from_the_start_gives_no_reading(board, byte):
    board.i2c(1)
    board.attach("bme280", options())
    board.i2c_ports[1].chips[0x76] = ConstantChip(byte)
    with pytest.raises(SensorError):
        BME280.open(options(), board).read()


@pytest.mark.parametrize("byte", [0x00, 0xFF])
@pytest.mark.usefixtures("chip")
def test_a_bus_that_dies_later_gives_no_reading(board, byte):
    sensor = BME280.open(options(), board)
    sensor.read()
    board.i2c_ports[1].chips[0x76] = ConstantChip(byte)
    with pytest.raises(SensorError):
        sensor.read()


def test_power_on_values_are_refused(board, chip):
    """0x80000 decodes to a plausible room: the chip has to have converted."""
    sensor = BME280.open(options(), board)
    chip.convert = lambda: None
    with pytest.raises(ImplausibleValue, match="power-on values"):
        sensor.read()


def test_power_on_values_look_plausible_to_the_library(board, chip):
    """Negative control: the library alone reads a temperature from them."""
    from adafruit_bme280.basic import Adafruit_BME280_I2C

    library = Adafruit_BME280_I2C(board.i2c(1), address=0x76)
    chip.convert = lambda: None
    assert 0 < library.temperature < 40


@pytest.mark.usefixtures("chip")
def test_a_nack_is_not_found_and_the_next_reading_succeeds(board):
    sensor = BME280.open(options(), board)
    port = board.i2c_ports[1]

    def nack(_address: int) -> None:
        raise OSError(errno.EREMOTEIO, "Remote I/O error")

    port.before_answer = nack
    with pytest.raises(SensorNotFound, match="no acknowledgement"):
        sensor.read()
    port.before_answer = lambda address: None
    assert sensor.read()


@pytest.mark.usefixtures("chip")
def test_a_held_bus_is_a_timeout(board):
    sensor = BME280.open(options(), board)

    def held(_address: int) -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    board.i2c_ports[1].before_answer = held
    with pytest.raises(SensorTimeout, match="SDA or SCL"):
        sensor.read()


def test_a_chip_that_is_busy_for_ever_ends_at_the_deadline(board, chip, clock):
    """The library polls status without end; the bus object ends it."""
    sensor = BME280.open(options(), board)
    chip.busy = True
    start_s = clock.now_s
    with pytest.raises(SensorTimeout, match="no result within 3 s"):
        sensor.read()
    assert clock.now_s - start_s < 3.1
    chip.busy = False
    assert sensor.read(), "the bus was left locked"
