"""MCP3008: gpiozero's own driver on mock pins, with a chip that answers bit by bit."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.errors import ImplausibleValue
from drivers.mcp3008 import MCP3008, Mcp3008Options, lm35_celsius, thermistor_celsius, tmp36_celsius


def read_at(board, volts: float, **options) -> float:
    """The temperature read while the input is at `volts`."""
    chosen = Mcp3008Options(**options)
    board.attach("mcp3008", chosen)
    chip = board.analog_chips[chosen.select_pin]
    chip.volts[chosen.channel_number] = lambda: volts
    sensor = MCP3008.open(chosen, board)
    try:
        return sensor.read()["temperature"]
    finally:
        sensor.close()
        sensor.close()


@pytest.mark.parametrize(
    ("volts", "celsius"), [(0.75, 25.0), (0.5, 0.0), (0.25, -25.0), (1.5, 100.0)]
)
def test_tmp36_reads_the_voltages_of_its_datasheet(board, volts, celsius):
    """750 mV at 25 °C, 10 mV/°C; one step of the converter is 0.32 °C."""
    assert read_at(board, volts) == pytest.approx(celsius, abs=0.33)


def test_each_input_is_read_by_its_number(board):
    assert read_at(board, 0.7, channel_number=7) == pytest.approx(20, abs=0.33)
    assert read_at(board, 0.8, channel_number=3) == pytest.approx(30, abs=0.33)


def test_lm35_reads_its_voltage(board):
    assert read_at(board, 0.25, sensor="lm35") == pytest.approx(25, abs=0.33)


def test_thermistor_reads_25_degrees_at_its_nominal_resistance(board):
    assert read_at(board, 1.65, sensor="thermistor") == pytest.approx(25, abs=0.1)


@given(st.floats(-40, 120), st.floats(2000, 5000), st.floats(1e3, 1e5), st.floats(1e3, 1e5))
def test_thermistor_equation_makes_the_round_trip(celsius, beta, nominal_ohms, series_ohms):
    """Beta equation forwards, then ours backwards."""
    ohms = nominal_ohms * math.exp(beta * (1 / (celsius + 273.15) - 1 / 298.15))
    fraction = ohms / (ohms + series_ohms)
    if 1e-9 < fraction < 1 - 1e-9:
        back = thermistor_celsius(
            fraction, beta=beta, nominal_ohms=nominal_ohms, series_ohms=series_ohms
        )
        assert back == pytest.approx(celsius, abs=0.01)


def test_conversions_of_the_datasheets():
    assert tmp36_celsius(0.75) == pytest.approx(25)
    assert lm35_celsius(0.25) == pytest.approx(25)


@pytest.mark.parametrize("sensor", ["tmp36", "lm35", "thermistor"])
@pytest.mark.parametrize("volts", [0.0, 3.3])
def test_an_input_at_a_rail_is_a_short_or_an_open_wire(board, sensor, volts):
    """A chip without power reads 0 V too."""
    with pytest.raises(ImplausibleValue, match="short or an open wire"):
        read_at(board, volts, sensor=sensor)


def test_a_voltage_the_sensor_cannot_have_is_refused(board):
    with pytest.raises(ImplausibleValue, match="is a tmp36 wired"):
        read_at(board, 2.5)
