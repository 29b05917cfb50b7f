"""sysfs: trees as the kernel makes them, by its ABI documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    SensorFault,
    SensorNotFound,
    WrongDriver,
)
from drivers.hardware import HardwareBoard
from drivers.sysfs import SYSFS, SysfsOptions

BOARD = HardwareBoard()


def folder(root: Path, **files: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / name).write_text(f"{content}\n")
    return root


def open_at(path: Path, **options: Any):
    return SYSFS.open(SysfsOptions(path=str(path), **options), BOARD)


def test_an_attribute_file_is_millidegrees(temperature_file):
    assert open_at(temperature_file).read() == {"temperature": 21.5}


def test_a_scale_turns_the_number_into_degrees(tmp_path):
    (tmp_path / "raw").write_text("430\n")
    assert open_at(tmp_path / "raw", scale=0.05).read()["temperature"] == pytest.approx(21.5)


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "is empty"), ("garbage\n", "reads 'garbage'"), ("2_1000\n", "reads '2_1000'")],
)
def test_a_file_without_a_number_is_an_error(tmp_path, content, says):
    (tmp_path / "temp").write_text(content)
    with pytest.raises(BadFrame, match=says):
        open_at(tmp_path / "temp").read()


def test_an_absent_file_names_the_overlay(tmp_path):
    with pytest.raises(SensorNotFound, match=r"overlay in config\.txt"):
        open_at(tmp_path / "nothing").read()


IIO: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "dht11": (
        {"in_temp_input": -7300, "in_humidityrelative_input": 55500},
        {"temperature": -7.3, "humidity": 55.5},
    ),
    "bme280": (
        {"in_temp_input": 23410, "in_humidityrelative_input": 45123, "in_pressure_input": 101.325},
        {"temperature": 23.41, "humidity": 45.123, "pressure": 1013.25},
    ),
    "si7020": (
        {
            "in_temp_raw": 6572,
            "in_temp_scale": 10.725097656,
            "in_temp_offset": -4368,
            "in_humidityrelative_raw": 7000,
            "in_humidityrelative_scale": 7.629394531,
            "in_humidityrelative_offset": -786,
        },
        {"temperature": 23.638, "humidity": 47.409},
    ),
    "mlx90614": (
        {
            "in_temp_ambient_raw": 14958,
            "in_temp_object_raw": 15100,
            "in_temp_scale": 20,
            "in_temp_offset": -13657.5,
        },
        {"temperature_ambient": 26.01, "temperature_object": 28.85},
    ),
    "scd4x": (
        {
            "in_temp_raw": 26667,
            "in_temp_scale": 2.670288085,
            "in_temp_offset": -16852,
            "in_concentration_co2_raw": 650,
            "in_concentration_co2_scale": 0.0001,
        },
        {"temperature": 26.209, "co2": 650.0},
    ),
}


@pytest.mark.parametrize("name", IIO)
def test_an_iio_folder_has_a_channel_per_quantity(tmp_path, name):
    """testing/sysfs-bus-iio: m°C, m%, kPa, % of CO2; raw values with offset and scale."""
    files, expected = IIO[name]
    sensor = open_at(folder(tmp_path / "device", name=name, **files))
    assert sensor.read() == pytest.approx(expected, abs=0.01)
    assert {channel.name for channel in sensor.channels} == set(expected)


@pytest.mark.parametrize("number", ["hwmon3", "iio:device0"])
@pytest.mark.parametrize("file", ["", "in_temp_input"])
def test_a_number_of_the_kernels_is_refused_with_the_line_to_use(tmp_path, number, file):
    """After a boot it may be another chip: a pond of 8 °C was published as the CPU's 52."""
    path = folder(tmp_path / number, name="tmp117", in_temp_input=8250)
    with pytest.raises(WrongDriver, match=r'place of path put name = "tmp117"'):
        open_at(path / file)
    (path / "name").unlink()
    assert open_at(path / file).read() == {"temperature": 8.25}, "no device of the kernel's"


@pytest.mark.parametrize(
    "path",
    [
        "sys/bus/w1/devices/28-0316a2795bff/temperature",
        "sys/bus/w1/devices/28-0316a2795bff/hwmon/hwmon0/temp1_input",
        "sys/bus/w1/devices/28-0316a2795bff/hwmon/hwmon0",
        "sys/class/hwmon/hwmon0/temp1_input",
    ],
)
def test_a_file_of_1_wire_is_refused_and_names_ds18b20(tmp_path, path):
    """It may say 85000 because nothing was measured."""
    sensor = folder(tmp_path / "sys/devices/w1_bus_master1/28-0316a2795bff", temperature=85000)
    hwmon = folder(sensor / "hwmon/hwmon0", name="w1_slave_temp", temp1_input=85000)
    (hwmon / "device").symlink_to("../../../28-0316a2795bff")
    for listed_in, what in (("bus/w1/devices", sensor), ("class/hwmon", hwmon)):
        (tmp_path / "sys" / listed_in).mkdir(parents=True)
        (tmp_path / "sys" / listed_in / what.name).symlink_to(what)
    with pytest.raises(WrongDriver, match=r'"ds18b20" and address = "28-0316a2795bff"'):
        open_at(tmp_path / path)


CELSIUS = {
    "mpl3115": {"in_temp_raw": 344, "in_temp_scale": 0.0625},
    "sca3000_e05": {"in_temp_raw": 252.7, "in_temp_scale": 0.555556, "in_temp_offset": -214},
    "ism330dhcx_temp": {"in_temp_raw": -896, "in_temp_scale": 0.00390625, "in_temp_offset": 6400},
}


@pytest.mark.parametrize("name", CELSIUS)
def test_a_driver_of_the_kernels_that_scales_to_celsius_is_read_right(tmp_path, name):
    """mpl3115.c, sca3000.c, and ST's own: 21.5 °C, and not 0.02."""
    sensor = open_at(folder(tmp_path / "device", name=name, **CELSIUS[name]))
    assert sensor.read()["temperature"] == pytest.approx(21.5, abs=0.01)


def test_the_same_driver_once_it_keeps_the_abi_is_read_right_too(tmp_path):
    files = {"in_temp_raw": 344, "in_temp_scale": 62.5}
    sensor = open_at(folder(tmp_path / "device", name="mpl3115", **files))
    assert sensor.read()["temperature"] == pytest.approx(21.5)


def test_a_unit_that_cannot_be_told_is_asked_for(tmp_path):
    """A driver that nobody knows, with a scale that fits °C and no thermometer's m°C."""
    path = folder(tmp_path / "device", name="unheard_of", in_temp_raw=344, in_temp_scale=0.0625)
    with pytest.raises(SensorFault, match=r"scale = 1\.0 if it is °C"):
        open_at(path).read()
    assert open_at(path, scale=1.0).read() == {"temperature": 21.5}
    assert open_at(path / "in_temp_raw", scale=1.0).read() == {"temperature": 21.5}
    assert open_at(path, scale=0.001).read() == {"temperature": pytest.approx(0.0215)}


@pytest.mark.parametrize("millidegrees", [-273150, -273150.0, -273151, -400000, -2147483648])
def test_absolute_zero_is_no_temperature(tmp_path, millidegrees):
    """What some drivers say for "unknown" (propolis 1213)."""
    path = folder(tmp_path / "device", temp1_input=millidegrees, temp2_input=20000)
    assert open_at(path).read() == {"temperature2": 20.0}
    with pytest.raises(ImplausibleValue, match="absolute zero"):
        open_at(path / "temp1_input").read()
    (path / "temp1_input").write_text("-269000\n")
    assert open_at(path / "temp1_input").read() == {"temperature": -269.0}, "liquid helium"


@pytest.mark.parametrize(
    ("millipercent", "percent"), [(100400, 100.0), (-1500, 0.0), (45000, 45.0), (104999, 100.0)]
)
def test_a_humidity_a_little_beyond_its_ends_is_cut_off(tmp_path, millipercent, percent):
    path = folder(tmp_path / "device", humidity1_input=millipercent)
    assert open_at(path).read() == {"humidity": percent}


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("humidity1_input", 118500),
        ("humidity1_input", -6000),
        ("in_humidityrelative_input", 119000),
        ("in_concentration_co2_raw", 0),
        ("in_pressure_input", 0),
    ],
)
def test_what_a_quantity_cannot_be_is_refused(tmp_path, file, number):
    with pytest.raises(ImplausibleValue, match="is outside"):
        open_at(folder(tmp_path / "device", **{file: number})).read()


def test_a_finished_value_goes_before_a_raw_one(tmp_path):
    path = folder(tmp_path / "d", in_temp_input=21000, in_temp_raw=5, in_temp_scale=1)
    assert open_at(path).read() == {"temperature": 21.0}


def test_an_hwmon_folder_is_read_with_its_labels(tmp_path):
    path = folder(
        tmp_path / "hwmon1",
        temp1_input=30000,
        temp2_input=41500,
        temp2_label="GPU / Core 0",
        humidity1_input=44100,
    )
    assert open_at(path).read() == {
        "temperature": 30.0,
        "temperature_gpu_core_0": 41.5,
        "humidity": 44.1,
    }


def test_a_broken_probe_costs_its_own_channel_alone(tmp_path):
    """hwmon/sysfs-interface: tempN_fault is 1 for an open diode."""
    path = folder(tmp_path / "hwmon2", temp1_input=30000, temp2_input=0, temp2_fault=1)
    sensor = open_at(path)
    assert sensor.read() == {"temperature": 30.0}
    (path / "temp2_fault").write_text("0\n")
    assert sensor.read() == {"temperature": 30.0, "temperature2": 0.0}


def test_a_file_of_a_folder_is_read_as_the_folder_would(tmp_path):
    """Its fault file counts, and a file of humidity is no temperature."""
    path = folder(
        tmp_path / "hwmon5",
        temp1_input=30000,
        temp1_fault=1,
        humidity1_input=44100,
        in_pressure_input=101.325,
    )
    with pytest.raises(SensorFault):
        open_at(path / "temp1_input").read()
    assert open_at(path / "humidity1_input").read() == {"humidity": 44.1}
    assert open_at(path / "in_pressure_input").read() == {"pressure": 1013.25}


def test_a_folder_with_nothing_but_broken_probes_is_a_fault(tmp_path):
    path = folder(tmp_path / "hwmon3", temp1_input=0, temp1_fault=1)
    with pytest.raises(SensorFault, match="open or short-circuited"):
        open_at(path).read()


def test_a_folder_without_values_says_so(tmp_path):
    with pytest.raises(SensorNotFound, match="no IIO or hwmon value"):
        open_at(folder(tmp_path / "fan", name="fan", fan1_input=1200))
