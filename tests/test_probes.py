"""Thermocouples and RTDs: a fault that a chip reports is an error with a remedy, not a value."""

from __future__ import annotations

import pytest
from support import FakeClock, TickingClock
from test_catalogue import driver_on_fake_time, library_class
from test_chip_vectors import driver_options

from drivers.catalogue import CATALOGUE
from drivers.chip_checks import mcp9600_faults
from drivers.errors import ImplausibleValue, SensorFault
from drivers.owned_bus import I2CBus
from drivers.sim.board import SimulatedBoard
from drivers.sim.i2c import RegisterChip, SimulatedI2C


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


@pytest.fixture
def opened(board: SimulatedBoard, clock: FakeClock, monkeypatch: pytest.MonkeyPatch):
    """Opens a driver, and returns its sensor and its simulated chip."""

    def open_driver(name: str, **given: object):
        info = driver_on_fake_time(name, clock, monkeypatch)
        options = driver_options(name, **given)
        board.attach(name, options)
        return info.open(options, board), board.spi_ports[0, 0].chip

    return open_driver


def refused(sensor) -> SensorFault:
    with pytest.raises(SensorFault) as raised:
        sensor.read()
    error = raised.value
    assert error.what.startswith("SPI bus 0 CE0: ")
    assert error.hint
    return error


@pytest.mark.parametrize(
    ("fault", "what", "remedy"),
    [
        (1, "thermocouple not connected", "open"),
        (2, "short circuit to ground", "insulated junction"),
        (4, "short circuit to power", "wet terminals"),
        (0, "faulty reading", "switch the power"),
    ],
)
def test_max31855_faults(opened, fault, what, remedy):
    """19-5793, table 2: D0 open, D1 short to GND, D2 short to VCC, D16 any."""
    sensor, chip = opened("max31855")
    good = sensor.read()
    chip.fault = fault or 0x10000  # D16 alone
    error = refused(sensor)
    assert what in error.what
    assert remedy in error.hint
    chip.fault = 0
    assert sensor.read() == good or sensor.read()


@pytest.mark.parametrize(
    ("fault", "what", "remedy"),
    [
        (0x01, "thermocouple is open", "screws"),
        (0x02, "above the supply or below ground", "bare wire"),
        (0x40, "outside the range of its type", "set to the type"),
        (0x80, "chip itself is outside -55 to 125", "away from the heat"),
        (0x41, "thermocouple is open", "screws"),
    ],
)
def test_max31856_faults(opened, fault, what, remedy):
    """19-7534, fault status register (0Fh)."""
    sensor, chip = opened("max31856")
    assert sensor.read()
    chip.fault = fault
    error = refused(sensor)
    assert what in error.what
    assert remedy in error.hint
    chip.fault = 0
    assert sensor.read()


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (0x04, "above the supply or below ground"),
        (0x08, "RTDIN+ or RTDIN- is shorted to ground"),
        (0x10, "RTDIN- is shorted to ground"),
        (0x20, "the sensor or a wire to it is open"),
        (0x24, "above the supply or below ground"),
    ],
)
def test_max31865_wiring_faults(opened, fault, what):
    """19-6478, fault status register (07h): found by the fault-detection cycle alone."""
    sensor, chip = opened("max31865")
    assert sensor.read()
    chip.wiring_fault = fault
    assert what in refused(sensor).what
    chip.wiring_fault = 0
    assert sensor.read()


@pytest.mark.parametrize("nominal", [100.0, 1000.0])
@pytest.mark.parametrize(
    ("ohms", "what"), [(1e6, "the sensor is open"), (0.5, "the sensor is shorted")]
)
def test_max31865_with_an_open_and_a_shorted_sensor(opened, nominal, ohms, what):
    given = {"nominal_ohms": nominal, "reference_ohms": nominal * 4.3}
    sensor, chip = opened("max31865", **given)
    good = chip.ohms
    chip.ohms = lambda: ohms
    assert what in refused(sensor).what
    chip.ohms = good
    assert sensor.read()


def test_a_wrong_reference_resistor_is_refused_as_a_short(opened):
    """A Pt100 on a board for Pt1000 seems ten times smaller."""
    sensor, chip = opened("max31865", nominal_ohms=1000.0, reference_ohms=4300.0)
    chip.ohms = lambda: 107.79
    assert "nominal_ohms and reference_ohms" in refused(sensor).hint


@pytest.mark.parametrize(
    ("name", "damage", "celsius"),
    [
        ("max31856", lambda chip: setattr(chip, "fault", 0x01), 21.0),
        ("max31865", lambda chip: setattr(chip, "wiring_fault", 0x08), 21.0),
        ("max31865", lambda chip: setattr(chip, "ohms", lambda: 1e6), 988.8),
        ("max31865", lambda chip: setattr(chip, "ohms", lambda: 0.0), -242.0),
    ],
)
def test_the_library_alone_reads_a_value_from_a_faulty_sensor(opened, board, name, damage, celsius):
    """Negative control: no error, whatever the chip reports."""
    _, chip = opened(name)
    damage(chip)
    bus = board.spi(0, 0)
    row = next(row for row in CATALOGUE if row.name == name)
    assert library_class(row)(bus, bus.chip_select).temperature == pytest.approx(celsius, abs=4)


def test_the_type_of_the_thermocouple_reaches_the_chip(opened):
    """19-7534, table 9: type K is 3, type T is 7."""
    for letter, bits in (("K", 3), ("T", 7), ("B", 0)):
        _, chip = opened("max31856", thermocouple=letter)
        assert chip.registers[1] & 0x0F == bits


def test_a_thermocouple_beyond_the_range_is_refused(opened):
    sensor, chip = opened("max31855")
    chip.hot = lambda: 1950.0
    with pytest.raises(ImplausibleValue, match="1950"):
        sensor.read()


@pytest.mark.parametrize(
    ("status", "what"),
    [(0x10, "open, or outside the range"), (0x20, "shorted"), (0x30, "shorted"), (0x40, None)],
)
def test_mcp9600_faults(clock, status, what):
    """DS20005426, status register; a new value (bit 6) is no fault."""
    port = SimulatedI2C()
    port.chips[0x67] = chip = RegisterChip()
    chip.registers[0x04] = status
    bus = I2CBus(port, clock)
    if what is None:
        mcp9600_faults(None, bus, 0x67)
        return
    with pytest.raises(SensorFault, match=what):
        mcp9600_faults(None, bus, 0x67)


def test_a_fault_bit_of_the_mcp9600_that_flickers_is_no_fault(clock):
    port = SimulatedI2C()
    port.chips[0x67] = chip = RegisterChip()
    states = [0x20, 0x40, 0x20]

    def flicker(_address: int) -> None:
        if states:
            chip.registers[0x04] = states.pop(0)

    port.before_answer = flicker
    mcp9600_faults(None, I2CBus(port, clock), 0x67)
