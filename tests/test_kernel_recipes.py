"""Chips that Linux drives: each recipe on a file tree as the kernel's driver makes it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from support import FakeClock

from drivers.base import Measurement
from drivers.errors import SensorError
from drivers.hardware import HardwareBoard
from drivers.kernel_recipes import RECIPES
from drivers.name_sentences import about
from drivers.registry import find_driver
from drivers.sim.board import SimulatedBoard
from drivers.sim.kernel_tree import EIO, Content, SimulatedDevice
from drivers.sysfs import SYSFS, SysfsOptions

BY_NAME = {recipe.name: recipe for recipe in RECIPES}

# What the drivers' sources make of -10.5 or 21.5 °C, 45 % and 1013.25 hPa.
_PRESSURE = {"in_temp_input": "21500", "in_pressure_input": "101.325000000"}
_HDC = {
    "in_temp_raw": "11717",
    "in_temp_scale": "2.517700195",
    "in_temp_offset": "-15887.515151",
    "in_temp_peak_raw": "65535",
    "in_humidityrelative_raw": "29491",
    "in_humidityrelative_scale": "1.525878906",
}
_WEATHER: Measurement = {"temperature": 21.5, "pressure": 1013.25}
TREES: dict[str, tuple[str, dict[str, str], Measurement]] = {
    **dict.fromkeys(
        ("bmp085", "bmp180", "ms5607", "ms5611", "ms5637", "ms5803", "ms5805", "ms5837"),
        ("iio", _PRESSURE, _WEATHER),
    ),
    **dict.fromkeys(("1-0040", "hdc2010"), ("iio", _HDC, {"temperature": -10.5, "humidity": 45.0})),
    "maxim_thermocouple": (
        "iio",
        {"in_temp_raw": "86", "in_temp_scale": "250"},
        {"temperature": 21.5},
    ),
    "tsys01": ("iio", {"in_temp_input": "-10500"}, {"temperature": -10.5}),
    **dict.fromkeys(
        ("sts3x", "ds1621", "ds1631", "ds1721", "ds1731"),
        ("hwmon", {"temp1_input": "-10500", "temp1_max": "125000"}, {"temperature": -10.5}),
    ),
}


def opened(board: SimulatedBoard | HardwareBoard, name: str):
    return SYSFS.open(SysfsOptions(name=name), board)


@pytest.mark.parametrize("name", BY_NAME)
def test_each_recipe_is_read_right_by_its_name(name):
    kind, files, expected = TREES[name]
    board = SimulatedBoard(FakeClock())
    contents: dict[str, Content] = {f: partial(str, f"{text}\n") for f, text in files.items()}
    board.kernel.devices.append(SimulatedDevice(kind, name, "1-0040", contents))
    sensor = opened(board, name)
    assert sensor.read() == pytest.approx(expected, abs=0.01)
    assert {channel.name for channel in sensor.channels} == set(BY_NAME[name].channels.split(", "))
    assert SYSFS.scan is not None
    assert {"name": name} in SYSFS.scan(board), "scan prints what the recipe says"


def test_an_open_thermocouple_is_an_error():
    """maxim_thermocouple.c gives an error of the file for the chip's bit, and not a number."""
    board = SimulatedBoard(FakeClock())
    files: dict[str, Content] = {"in_temp_raw": lambda: EIO, "in_temp_scale": lambda: "250\n"}
    board.kernel.devices.append(SimulatedDevice("iio", "maxim_thermocouple", "spi0.0", files))
    with pytest.raises(SensorError) as caught:
        opened(board, "maxim_thermocouple").read()
    assert caught.value.hint


@pytest.mark.parametrize("name", BY_NAME)
def test_each_recipe_can_be_simulated(name):
    board = SimulatedBoard(FakeClock())
    options = SysfsOptions(name=name)
    board.attach("sysfs", options)
    sensor = SYSFS.open(options, board)
    air = board.room.at(f"sysfs {options.where()}")
    read = sensor.read()
    assert read["temperature"] == pytest.approx(air.temperature, abs=0.3)
    assert set(read) == set(BY_NAME[name].channels.split(", "))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.chips)
def test_every_name_of_a_recipe_leads_to_it(recipe):
    for chip in recipe.chips.split(", "):
        sentence = about(chip)
        assert f'name = "{recipe.name}"' in sentence
        assert (recipe.overlay or recipe.device) in sentence


@pytest.mark.parametrize("master", ["platform/i2c-1/1-0018", "usb1/1-1/1-1:1.0"])
def test_sensors_of_a_1_wire_master_on_i2c_or_usb_are_read_like_those_on_a_gpio(tmp_path, master):
    """DS2482 and DS9490R: the kernel lists their sensors with all others."""
    devices = tmp_path / "sys/bus/w1/devices"
    devices.mkdir(parents=True)
    address = "28-0316a2795bff"
    bus = tmp_path / "sys/devices" / master / "w1_bus_master2"
    sensor = bus / address
    sensor.mkdir(parents=True)
    (sensor / "w1_slave").write_text(
        "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n"
    )
    (sensor / "name").write_text(f"{address}\n")
    for folder in (bus, sensor):
        (devices / folder.name).symlink_to(folder)

    class Rooted(HardwareBoard):
        def path(self, absolute: str) -> Path:
            return Path(tmp_path, absolute.lstrip("/"))

    info = find_driver("ds18b20")
    board = Rooted()
    assert info.scan is not None
    assert list(info.scan(board)) == [{"address": address}]
    assert info.open(info.options(), board).read() == {"temperature": 23.125}
