"""Analog sensors at an ADS1115: the real Adafruit library on a simulated chip, and voltages."""

from __future__ import annotations

from typing import Any

import pytest

from drivers.ads1115 import ADS1015, ADS1115
from drivers.analog import AnalogOptions, divider_ohms
from drivers.base import Driver
from drivers.errors import ImplausibleValue
from drivers.sim.board import SimulatedBoard
from drivers.sim.thermometers import SimulatedAds1015, SimulatedAds1115
from node.config import load as configuration
from node.report.topic_list import published_topics


@pytest.fixture
def board() -> SimulatedBoard:
    return SimulatedBoard()


def opened(board: SimulatedBoard, volts: float | None = None, **given: Any) -> Driver:
    """A sensor whose input is at `volts`; None: at what the sensor gives in the room."""
    options: Any = ADS1115.options(**given)
    board.attach("ads1115", options)
    if volts is not None:
        chip = board.i2c_ports[1].chips[options.address]
        assert isinstance(chip, SimulatedAds1115)
        chip.volts[options.input] = lambda: volts
    return ADS1115.open(options, board)


@pytest.mark.parametrize(
    ("sensor", "volts", "celsius"),
    [
        ("tmp35", 0.25, 25),
        ("tmp36", 0.75, 25),
        ("tmp36", 0.1, -40),
        ("tmp37", 0.5, 25),
        ("lm35", 0.02, 2),
        ("lm35", 1.5, 150),
        ("thermistor", 1.65, 25),
    ],
)
def test_each_sensor_gives_a_temperature(board, sensor, volts, celsius):
    """TMP35/36/37 datasheet, table 4; LM35: 10 mV/°C; a thermistor is its 10 kΩ at 25 °C."""
    driver = opened(board, volts + 1e-5, sensor=sensor)
    assert [channel.name for channel in driver.channels] == ["temperature"]
    assert driver.read() == {"temperature": pytest.approx(celsius, abs=0.03)}


def test_a_thermistor_by_its_coefficients(board):
    """Campbell Scientific 109SS manual, table C-1: 32650.9 Ω at 0 °C."""
    volts = 3.3 * 32650.9 / (32650.9 + 10_000)
    driver = opened(
        board, volts, sensor="thermistor", steinhart_hart=(1.129241e-3, 2.341077e-4, 8.775468e-8)
    )
    assert driver.read()["temperature"] == pytest.approx(0, abs=0.05)


def test_the_voltage_is_still_what_comes_without_a_sensor(board):
    driver = opened(board, 2.5)
    assert driver.read() == {"voltage": pytest.approx(2.5, abs=1e-3)}
    assert ADS1115.channels_with(ADS1115.options()) == ADS1115.channels


@pytest.mark.parametrize("sensor", ["tmp36", "lm35", "thermistor"])
@pytest.mark.parametrize("volts", [0.0, -0.002, 0.005, 3.3, 3.25, 3.14])
def test_a_short_and_an_open_wire_are_refused(board, sensor, volts):
    """3.14 V: an open thermistor at a 3V3 that is 5 % low."""
    with pytest.raises(ImplausibleValue, match=r"is at .* V; look for a short or an open wire"):
        opened(board, volts, sensor=sensor).read()


def test_without_the_tolerance_an_open_thermistor_would_be_a_frost():
    """The negative control of the above: 3.2 V of 3.3 is -37 °C, which a thermistor can mean."""
    from drivers.analog import celsius_of

    class AtTheInput(AnalogOptions, frozen=True, kw_only=True):
        def where(self) -> str:
            return "here"

    assert divider_ohms(3.2 / 3.3, 10_000) == pytest.approx(320_000)
    assert celsius_of(AtTheInput(sensor="thermistor"), 3.2) == pytest.approx(-36.8, abs=0.1)


def test_a_temperature_that_the_part_cannot_mean_is_refused(board):
    with pytest.raises(ImplausibleValue, match=r"input 0: temperature 150 .* is a tmp36 wired"):
        opened(board, 2.0, sensor="tmp36").read()


def test_a_range_that_is_too_small_for_the_sensor_is_refused(board):
    with pytest.raises(ImplausibleValue, match="set a higher full_scale"):
        opened(board, 1.2, sensor="tmp36", full_scale="1.024 V").read()


def test_an_ads1015_is_the_same_with_12_bits(board):
    """3 mV a step at 6.144 V (TI SBAS473, table 3), and its own end of the scale."""
    options: Any = ADS1015.options(full_scale="6.144 V", sensor="tmp36")
    board.attach("ads1015", options)
    chip = board.i2c_ports[1].chips[options.address]
    assert isinstance(chip, SimulatedAds1015)
    chip.volts[0] = lambda: 0.7501
    assert ADS1015.open(options, board).read() == {"temperature": pytest.approx(25.0, abs=0.01)}
    chip.volts[0] = lambda: 0.7531  # the next step
    assert ADS1015.open(options, board).read() == {"temperature": pytest.approx(25.3, abs=0.01)}
    chip.volts[0] = lambda: 9.9
    with pytest.raises(ImplausibleValue, match="set a higher full_scale"):
        ADS1015.open(options, board).read()


def test_one_address_is_not_two_chips(tmp_path):
    file = tmp_path / "node.toml"
    tables = [
        f'[[sensor]]\nid = "{name}"\ndriver = "{name}"\ninput = {number}\n'
        for number, name in enumerate(("ads1115", "ads1015"))
    ]
    file.write_text('[mqtt]\nhost = "h"\n' + "".join(tables))
    with pytest.raises(configuration.ConfigError) as caught:
        configuration.load(file)
    assert "address 0x48 is used by sensor" in caught.value.report()


def test_four_inputs_are_four_sensors(board, tmp_path):
    """They share the chip and no input; each reads its own, whichever was read before."""
    wired = [(0, "tmp36", 0.75), (1, "lm35", 0.21), (2, "thermistor", 1.65), (3, "voltage", 1.1)]
    drivers = [opened(board, volts, input=i, sensor=sensor) for i, sensor, volts in wired]
    for _ in range(2):
        values = [value for driver in drivers for value in driver.read().values()]
        assert values == [
            pytest.approx(25, abs=0.05),
            pytest.approx(21, abs=0.05),
            pytest.approx(25, abs=0.05),
            pytest.approx(1.1, abs=1e-3),
        ]
    file = tmp_path / "node.toml"
    tables = [
        f'[[sensor]]\nid = "s{i}"\ndriver = "ads1115"\ninput = {i}\nsensor = "{sensor}"\n'
        for i, sensor, _ in wired
    ]
    file.write_text('[mqtt]\nhost = "h"\n' + "".join(tables))
    contents = dict(published_topics(configuration.load(file), "sn0"))
    states = [text for topic, text in contents.items() if topic.endswith("/state")]
    assert [text.split(",")[0] for text in states] == ["temperature °C"] * 3 + ["voltage V"]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("input = 0\n[[sensor]]\nid = 'b'\ndriver = 'ads1115'", "input 0 is used by"),
        ("sensor = 'tmp36'\nsteinhart_hart = [1.0, 1.0, 1.0]", "steinhart_hart is for a therm"),
        ("steinhart_hart = [1.0, 1.0, 1.0]", "steinhart_hart is for sensor"),
        ("sensor = 'tmp40'", "tmp40"),
        ("sensor = 'tmp36'\n[sensor.channel.voltage]\ndecimals = 1", "does not have this channel"),
        ("input = 1\n[[sensor]]\nid = 'b'\ndriver = 'tmp117'", "address 0x48 is used by"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path, keys, says):
    file = tmp_path / "node.toml"
    file.write_text(f"[mqtt]\nhost = 'h'\n[[sensor]]\nid = 'a'\ndriver = 'ads1115'\n{keys}\n")
    with pytest.raises(configuration.ConfigError) as raised:
        configuration.load(file)
    assert says in raised.value.report()


@pytest.mark.parametrize("sensor", ["tmp36", "lm35", "thermistor"])
def test_the_simulated_room_is_read_through_each(board, sensor):
    driver = opened(board, sensor=sensor, input=1)
    options = ADS1115.options()
    air = board.room.at(f"ads1115 {options.where()}")
    assert driver.read()["temperature"] == pytest.approx(air.temperature, abs=0.3)
