"""Chips that never come to an end: the real libraries poll them for ever, our bus does not.

Each chip is simulated at its registers, works until it is made `busy`, and works again after.
"""

from __future__ import annotations

from typing import Any

import pytest
from support import FakeClock, TickingClock
from test_catalogue import driver_on_fake_time, library_class

from drivers.catalogue import CATALOGUE
from drivers.errors import BadFrame, SensorNotFound, SensorTimeout
from drivers.sim.board import SimulatedBoard

FOR_EVER = 20_000
"""Transactions; at some 0.3 ms each on a real bus, a library that made these would go on."""

STUCK = (
    "ads1115",
    "ahtx0",
    "bme280",
    "bmp280",
    "htu21d",
    "max31856",
    "max31865",
    "scd4x",
    "si7021",
)


class StillAtIt(Exception):
    """The library has made `FOR_EVER` transactions."""


@pytest.fixture
def clock() -> FakeClock:
    return TickingClock()


def chip_of(board: SimulatedBoard) -> tuple[Any, Any]:
    """The one chip on the board, and the port it is on."""
    if board.spi_ports:
        (spi,) = board.spi_ports.values()
        return spi.chip, spi
    (i2c,) = board.i2c_ports.values()
    (chip,) = i2c.chips.values()
    return chip, i2c


@pytest.mark.parametrize("name", STUCK)
def test_a_stuck_chip_ends_at_the_deadline_and_the_bus_is_free(name, board, clock, monkeypatch):
    info = driver_on_fake_time(name, clock, monkeypatch)
    row = next(row for row in CATALOGUE if row.name == name)
    board.attach(name, info.options())
    sensor = info.open(info.options(), board)
    assert sensor.read()
    chip, _ = chip_of(board)
    chip.busy = True
    start_s = clock.now_s
    # A chip that answers no read at all is not there, as far as SCD4x's library can tell.
    with pytest.raises((SensorTimeout, SensorNotFound)):
        sensor.read()
    assert clock.now_s - start_s < row.budget_s + 0.2
    chip.busy = False
    assert info.open(info.options(), board).read(), "the bus was left locked"


@pytest.mark.parametrize("name", ["ads1115", "ahtx0", "bme280", "bmp280", "htu21d", "si7021"])
def test_the_library_alone_polls_a_stuck_chip_for_ever(name, board, clock, monkeypatch):
    """Negative control, on the same bus object without a deadline."""
    info = driver_on_fake_time(name, clock, monkeypatch)
    row = next(row for row in CATALOGUE if row.name == name)
    options: Any = info.options()
    board.attach(name, options)
    bus = board.i2c(1)
    library = library_class(row)(bus, address=row.addresses[0])
    if row.prepare is not None:
        library = row.prepare(library, bus, options.given())
    chip, port = chip_of(board)
    chip.busy = True
    count = 0

    def counting(_address: int) -> None:
        nonlocal count
        count += 1
        if count > FOR_EVER:
            raise StillAtIt

    port.before_answer = counting
    with pytest.raises(StillAtIt):
        getattr(library, row.reads[0].attribute)


def test_a_chip_that_is_stuck_while_it_is_set_up_ends_too(board, clock, monkeypatch):
    """TMP117: the library waits for the first conversion in its constructor."""
    info = driver_on_fake_time("tmp117", clock, monkeypatch)
    board.attach("tmp117", info.options())
    chip, _ = chip_of(board)
    chip.busy = True
    start_s = clock.now_s
    with pytest.raises(SensorTimeout, match="no result within 3 s"):
        info.open(info.options(), board)
    assert clock.now_s - start_s < 3.2
    chip.busy = False
    assert info.open(info.options(), board).read()


@pytest.mark.parametrize("name", ["sht31d", "sht4x", "htu21d", "si7021", "scd4x"])
def test_a_damaged_frame_is_refused(name, board, clock, monkeypatch):
    """Each of these libraries checks a CRC, and has an error type of its own for it."""
    info = driver_on_fake_time(name, clock, monkeypatch)
    board.attach(name, info.options())
    sensor = info.open(info.options(), board)
    assert sensor.read()
    chip, _ = chip_of(board)
    chip.damage = lambda sent: bytes([sent[0] ^ 0x10]) + sent[1:]
    with pytest.raises(BadFrame, match="CRC"):
        sensor.read()
    chip.damage = lambda sent: sent
    assert sensor.read()


def test_a_scd4x_is_read_when_it_has_something_new(board, clock, monkeypatch):
    """The library gives None, and then old values, to who does not ask for readiness."""
    info = driver_on_fake_time("scd4x", clock, monkeypatch)
    board.attach("scd4x", info.options())
    sensor = info.open(info.options(), board)
    start_s = clock.now_s
    assert sensor.read()["co2"] == 620
    assert 4.9 < clock.now_s - start_s < 5.3
    chip, _ = chip_of(board)
    chip.ppm = 900
    assert sensor.read()["co2"] == 900


def test_the_library_alone_repeats_the_old_value_of_a_scd4x(board, clock, monkeypatch):
    """Negative control."""
    info = driver_on_fake_time("scd4x", clock, monkeypatch)
    board.attach("scd4x", info.options())
    library = library_class(next(row for row in CATALOGUE if row.name == "scd4x"))(board.i2c(1))
    library.start_periodic_measurement()
    assert library.CO2 is None
    clock.sleep(5.1)
    assert library.CO2 == 620
    chip, _ = chip_of(board)
    chip.ppm = 900
    assert library.CO2 == 620
