"""sysfs: trees as the kernel makes them, by its ABI documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drivers.errors import BadFrame, SensorFault, SensorNotFound
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
    sensor = open_at(folder(tmp_path / "iio:device0", name=name, **files))
    assert sensor.read() == pytest.approx(expected, abs=0.01)
    assert {channel.name for channel in sensor.channels} == set(expected)


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
        open_at(folder(tmp_path / "hwmon4", name="fan", fan1_input=1200))
