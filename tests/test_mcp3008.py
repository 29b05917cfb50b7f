"""MCP3004 to MCP3208: gpiozero's own drivers on mock pins, with chips that answer bit by bit."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.analog import (
    AnalogOptions,
    beta_celsius,
    celsius_of,
    divider_ohms,
    lm35_celsius,
    steinhart_hart_celsius,
    tmp35_celsius,
    tmp36_celsius,
    tmp37_celsius,
)
from drivers.errors import ImplausibleValue, SensorError
from drivers.registry import find_driver
from drivers.sim.adc import steinhart_hart_ohms
from drivers.sim.board import SimulatedBoard

CHIPS = {"mcp3004": (4, 10), "mcp3008": (8, 10), "mcp3204": (4, 12), "mcp3208": (8, 12)}
THERMISTOR_109 = (1.129241e-3, 2.341077e-4, 8.775468e-8)
"""Campbell Scientific 109SS manual, appendix C: the coefficients of a 10K3MCD1."""


def read_at(board, volts: float, driver: str = "mcp3008", **options) -> float:
    """The temperature read while the input is at `volts`."""
    info = find_driver(driver)
    chosen: Any = info.options(**options)
    board.attach(driver, chosen)
    chip = board.analog_chips[chosen.select_pin]
    chip.volts[chosen.channel_number] = lambda: volts
    sensor = info.open(chosen, board)
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
def test_beta_equation_makes_the_round_trip(celsius, beta, nominal_ohms, series_ohms):
    """Beta equation and divider forwards, then ours backwards."""
    ohms = nominal_ohms * math.exp(beta * (1 / (celsius + 273.15) - 1 / 298.15))
    fraction = ohms / (ohms + series_ohms)
    if 1e-9 < fraction < 1 - 1e-9:
        back = beta_celsius(
            divider_ohms(fraction, series_ohms), beta=beta, nominal_ohms=nominal_ohms
        )
        assert back == pytest.approx(celsius, abs=0.01)


@pytest.mark.parametrize(
    ("ohms", "celsius"), [(336103.2, -40), (97006.9, -20), (32650.9, 0), (10000, 25)]
)
def test_steinhart_hart_reads_the_table_of_a_thermistor(ohms, celsius):
    """Campbell Scientific 109SS manual, table C-1."""
    assert steinhart_hart_celsius(ohms, *THERMISTOR_109) == pytest.approx(celsius, abs=0.01)


def test_coefficients_that_give_no_temperature_give_none():
    """1/T = 0, or less."""
    assert steinhart_hart_celsius(1.0, 0, 0, 0) == math.inf
    assert steinhart_hart_celsius(1.0, -1, 0, 0) == math.inf


@given(
    st.floats(-50, 145),
    st.floats(0.8e-3, 1.5e-3),
    st.floats(2e-4, 3e-4),
    st.one_of(st.just(0.0), st.floats(5e-8, 3e-7)),
)
def test_steinhart_hart_makes_the_round_trip(celsius, a, b, c):
    """Solved for the resistance by Cardano's formula, then ours backwards."""
    ohms = steinhart_hart_ohms(celsius, a, b, c)
    assert steinhart_hart_celsius(ohms, a, b, c) == pytest.approx(celsius, abs=0.01)


def test_conversions_of_the_datasheets():
    """TMP35/TMP36/TMP37: 250, 750 and 500 mV at 25 °C, 10, 10 and 20 mV/°C; LM35: 10 mV/°C."""
    assert tmp35_celsius(0.25) == pytest.approx(25)
    assert tmp35_celsius(1.25) == pytest.approx(125)
    assert tmp36_celsius(0.75) == pytest.approx(25)
    assert tmp36_celsius(0.1) == pytest.approx(-40)
    assert tmp37_celsius(0.5) == pytest.approx(25)
    assert tmp37_celsius(2.0) == pytest.approx(100)
    assert lm35_celsius(0.25) == pytest.approx(25)


@pytest.mark.parametrize("driver", CHIPS)
def test_every_chip_reads_each_of_its_inputs_to_its_resolution(board, driver):
    """A step of 10 bits is 0.32 °C, one of 12 bits 0.08 °C."""
    inputs, bits = CHIPS[driver]
    for number in range(inputs):
        celsius = read_at(board, 0.7 + number / 50, driver, channel_number=number)
        assert celsius == pytest.approx(20 + 2 * number, abs=330 / 2**bits)


@pytest.mark.parametrize("driver", CHIPS)
def test_every_chip_is_simulated_with_every_sensor(board, driver):
    sensors: list[dict[str, Any]] = [
        {"sensor": name} for name in ("tmp35", "tmp36", "tmp37", "lm35", "thermistor")
    ]
    info = find_driver(driver)
    for given_options in (
        *sensors,
        {"sensor": "thermistor", "steinhart_hart": THERMISTOR_109, "channel_number": 3},
    ):
        options = info.options(**given_options)
        board.attach(driver, options)
        sensor = info.open(options, board)
        assert 15 < sensor.read()["temperature"] < 27, given_options
        sensor.close()


def test_a_converter_that_was_left_open_on_another_board_does_not_answer(board, clock):
    """gpiozero shares an interface by its pins' numbers; the boards are two."""
    options = find_driver("mcp3004").options(sensor="thermistor")
    other = SimulatedBoard(clock)
    other.attach("mcp3004", options)
    left_open = find_driver("mcp3004").open(options, other)
    truth = left_open.read()
    with pytest.raises(ImplausibleValue, match="short or an open wire"):
        read_at(board, 0.0, "mcp3004", sensor="thermistor")
    assert read_at(board, 1.0, "mcp3004", sensor="thermistor") == pytest.approx(45, abs=0.5)
    assert left_open.read()["temperature"] == pytest.approx(truth["temperature"], abs=1)
    second = find_driver("mcp3004").options(sensor="thermistor", channel_number=1)
    other.attach("mcp3004", second)
    assert find_driver("mcp3004").open(second, other).read(), "which shares it with the first"
    left_open.close()


@pytest.mark.parametrize("driver", CHIPS)
@pytest.mark.parametrize("sensor", ["tmp35", "tmp36", "tmp37", "lm35", "thermistor"])
@pytest.mark.parametrize("volts", [0.0, 0.003, 3.297, 3.3])
def test_an_input_at_a_rail_is_a_short_or_an_open_wire(board, driver, sensor, volts):
    """A chip without power reads 0 V too; an open thermistor leaves the input at the reference."""
    with pytest.raises(ImplausibleValue, match="short or an open wire"):
        read_at(board, volts, driver, sensor=sensor)


@pytest.mark.parametrize(
    ("sensor", "volts"),
    [("tmp35", 0.05), ("tmp36", 2.5), ("tmp37", 0.05), ("lm35", 2.5), ("thermistor", 0.02)],
)
def test_a_voltage_the_sensor_cannot_have_is_refused(board, sensor, volts):
    with pytest.raises(ImplausibleValue, match=f"is a {sensor} wired"):
        read_at(board, volts, sensor=sensor)


def test_the_lowest_temperature_of_an_lm35_is_no_rail(board):
    """Negative control of the rails: 2 °C are 20 mV."""
    assert read_at(board, 0.022, "mcp3208", sensor="lm35") == pytest.approx(2.2, abs=0.09)


@given(
    st.floats(-1, 6),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1)),
    st.floats(1e-3, 1e9),
)
def test_no_voltage_and_no_coefficients_raise_anything_else(volts, coefficients, series_ohms):
    """Nor give what no thermistor has."""
    options = AnchoredOptions(
        sensor="thermistor", steinhart_hart=coefficients, series_ohms=series_ohms
    )
    with contextlib.suppress(SensorError):
        assert -55 <= celsius_of(options, volts) <= 150


class AnchoredOptions(AnalogOptions, frozen=True, kw_only=True):
    """As a converter's driver derives its own."""

    def where(self) -> str:
        return "input 0"


def test_another_reference_is_taken_into_account(board):
    """The converter sees a part of it, and TMP36 gives volts."""
    chip_volts = 0.75 * 3.3 / 5  # the simulated chip has 3.3 V
    assert read_at(board, chip_volts, "mcp3208", reference_volts=5.0) == pytest.approx(25, abs=0.1)


def test_four_inputs_have_no_fifth_and_coefficients_no_meaning_for_others():
    for driver in ("mcp3004", "mcp3204"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"channel_number": 4}, find_driver(driver).options)
    with pytest.raises(ValueError, match="this is a tmp36"):
        AnchoredOptions(steinhart_hart=THERMISTOR_109)
