"""sysfs by name: devices found, told apart and watched, on a simulated /sys."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from drivers.base import HUMIDITY
from drivers.errors import (
    BadFrame,
    ImplausibleValue,
    SensorError,
    SensorFault,
    SensorNotFound,
    WrongDriver,
)
from drivers.sim.board import SimulatedBoard
from drivers.sim.kernel_tree import EIO, SimulatedDevice
from drivers.sysfs import SYSFS, SysfsOptions


def showing(value: object) -> Callable[[], str]:
    return lambda: f"{value}\n"


def plug(board: SimulatedBoard, kind: str, name: str, parent: str, **files: object):
    device = SimulatedDevice(
        kind, name, parent, {file: showing(value) for file, value in files.items()}
    )
    board.kernel.devices.append(device)
    return device


def open_named(board: SimulatedBoard, name: str, device: str | None = None):
    return SYSFS.open(SysfsOptions(name=name, device=device), board)


def test_a_device_is_found_by_its_name_in_either_class(board):
    plug(board, "hwmon", "cpu_thermal", "thermal_zone0", temp1_input=48312)
    plug(board, "iio", "bmp280", "1-0076", in_temp_input=21500, in_pressure_input=101.325)
    assert open_named(board, "cpu_thermal").read() == {"temperature": 48.312}
    assert open_named(board, "bmp280").read() == {"temperature": 21.5, "pressure": 1013.25}


def test_the_number_of_a_device_does_not_matter(board):
    """The same configuration after a boot that found the devices in another order."""
    first = plug(board, "iio", "tmp117", "1-0048", in_temp_input=1000)
    second = plug(board, "iio", "sht4x", "1-0044", in_temp_input=2000)
    for number, order in ((0, [first, second]), (0, [second, first]), (5, [first, second])):
        board.kernel.number, board.kernel.devices = number, order
        assert open_named(board, "tmp117").read() == {"temperature": 1.0}
        assert open_named(board, "sht4x").read() == {"temperature": 2.0}


def test_a_number_that_is_given_to_another_device_is_noticed(board):
    """Both go away and come back the other way round: never the other one's value."""
    first = plug(board, "hwmon", "tmp102", "1-0048", temp1_input=1000)
    second = plug(board, "hwmon", "tmp102", "1-0049", temp1_input=2000)
    sensor = open_named(board, "tmp102", "1-0048")
    assert sensor.read() == {"temperature": 1.0}
    board.kernel.devices = [second, first]
    with pytest.raises(SensorNotFound, match="tmp102 on 1-0048, is tmp102 on 1-0049 now"):
        sensor.read()
    assert open_named(board, "tmp102", "1-0048").read() == {"temperature": 1.0}


def test_a_path_is_refused_with_the_keys_that_find_the_device(board):
    """By it, the other device's value would be taken: here the two have one name."""
    plug(board, "hwmon", "tmp102", "1-0048", temp1_input=1000)
    plug(board, "hwmon", "tmp102", "1-0049", temp1_input=2000)
    board.path("/sys/class/hwmon")
    with pytest.raises(WrongDriver, match=r'put name = "tmp102" and device = "1-0049"'):
        SYSFS.open(SysfsOptions(path="/sys/class/hwmon/hwmon1"), board)


def test_a_scale_beside_a_name_is_obeyed(board):
    """For a kernel whose driver keeps to neither the ABI nor our table."""
    plug(board, "iio", "odd", "1-0048", in_temp_raw=215, in_humidityrelative_input=50000)
    sensor = SYSFS.open(SysfsOptions(name="odd", scale=0.1), board)
    assert sensor.read() == {"temperature": 21.5, "humidity": 50.0}


def test_a_scale_beside_the_name_of_a_dht_is_refused(board):
    dht(board)
    with pytest.raises(WrongDriver, match="leave scale out"):
        SYSFS.open(SysfsOptions(name="dht11", scale=0.1), board)


def test_a_thermometer_of_1_wire_is_refused_by_its_name(board):
    plug(board, "hwmon", "w1_slave_temp", "28-0316a2795bff", temp1_input=85000)
    with pytest.raises(WrongDriver, match=r'"ds18b20" and address = "28-0316a2795bff"'):
        open_named(board, "w1_slave_temp")


def test_a_device_that_goes_away_says_so_and_is_found_when_it_is_back(board):
    device = plug(board, "iio", "bmp280", "1-0076", in_temp_input=21500)
    sensor = open_named(board, "bmp280")
    board.kernel.devices.remove(device)
    with pytest.raises(SensorNotFound, match="bmp280 on 1-0076, has gone"):
        sensor.read()
    with pytest.raises(SensorNotFound, match="no IIO or hwmon device bmp280"):
        open_named(board, "bmp280")
    board.kernel.devices.append(device)
    assert open_named(board, "bmp280").read()


def test_an_absent_name_lists_what_there_is(board):
    plug(board, "iio", "bme280", "1-0076", in_temp_input=21500)
    plug(board, "hwmon", "cpu_thermal", "thermal_zone0", temp1_input=48312)
    plug(board, "hwmon", "pwmfan", "cooling_fan", fan1_input=1200)
    with pytest.raises(SensorNotFound) as caught:
        open_named(board, "bmp280")
    assert "bme280 on 1-0076, cpu_thermal on thermal_zone0" in str(caught.value)
    assert "pwmfan" not in str(caught.value)
    assert r"overlay in config.txt" in str(caught.value)


def test_without_any_device_the_hint_says_so(board):
    with pytest.raises(SensorNotFound, match="there is none of any name"):
        open_named(board, "bmp280")


def test_two_of_one_name_are_told_apart_by_what_they_sit_on_or_by_label(board):
    plug(board, "iio", "tmp117", "1-0048", in_temp_input=1000)
    plug(board, "iio", "tmp117", "1-0049", in_temp_input=2000, label="attic")
    with pytest.raises(SensorNotFound, match='set device = "1-0048" or "attic"') as caught:
        open_named(board, "tmp117")
    assert "2 devices are named tmp117" in str(caught.value)
    assert open_named(board, "tmp117", "1-0048").read() == {"temperature": 1.0}
    assert open_named(board, "tmp117", "1-0049").read() == {"temperature": 2.0}
    assert open_named(board, "tmp117", "attic").read() == {"temperature": 2.0}
    with pytest.raises(SensorNotFound, match=r"tmp117 on 1-004a .* there is tmp117 on 1-0048"):
        open_named(board, "tmp117", "1-004a")


def test_one_chip_in_both_classes_is_one_device(board):
    plug(board, "hwmon", "adt7410", "1-0048", temp1_input=20000)
    plug(board, "iio", "adt7410", "1-0048", in_temp_input=21000)
    assert open_named(board, "adt7410").read() == {"temperature": 21.0}


def test_attributes_that_channels_share_count_for_each(board):
    """drivers/iio/industrialio-core.c: shared by type, by direction, or by the whole device."""
    plug(board, "iio", "by_type", "1-0010", in_temp0_raw=100, in_temp1_raw=200, in_temp_scale=50)
    plug(board, "iio", "by_direction", "1-0011", in_temp_raw=100, in_scale=50, in_offset=-20)
    plug(board, "iio", "by_all", "1-0012", in_temp_raw=100, scale=50, offset=20)
    plug(board, "iio", "own", "1-0013", in_temp0_raw=100, in_temp0_scale=10, in_temp_scale=50)
    assert open_named(board, "by_type").read() == {"temperature0": 5.0, "temperature1": 10.0}
    assert open_named(board, "by_direction").read() == {"temperature": 4.0}
    assert open_named(board, "by_all").read() == {"temperature": 6.0}
    assert open_named(board, "own").read() == {"temperature0": 1.0}


def test_co2_is_ppm_whichever_way_the_kernel_writes_it(board):
    """ABI/testing/sysfs-bus-iio: in_concentration_co2_raw, in_concentrationX_co2_raw, in %."""
    plug(board, "iio", "scd30", "1-0061", in_concentration_co2_input=0.065)
    plug(
        board,
        "iio",
        "sunrise",
        "1-0068",
        in_concentration0_co2_raw=650,
        in_concentration_co2_scale=0.0001,
        in_concentration_voc_raw=3,
    )
    assert open_named(board, "scd30").read() == {"co2": pytest.approx(650)}
    assert open_named(board, "sunrise").read() == {"co20": pytest.approx(650)}


def test_voltages_are_not_taken_for_anything(board):
    plug(board, "iio", "ads1015", "1-0049", in_voltage0_raw=1000, in_voltage0_scale=3)
    with pytest.raises(SensorNotFound, match="none of any name"):
        open_named(board, "ads1015")


def test_labels_name_channels_and_two_alike_lose_neither(board):
    plug(board, "iio", "probes", "1-0010", in_temp0_input=1000, in_temp0_label="Tank (top)")
    plug(
        board,
        "hwmon",
        "twins",
        "1-0011",
        temp1_input=1000,
        temp1_label="Core",
        temp2_input=2000,
        temp2_label="core",
        temp3_input=3000,
        temp3_label="°",
    )
    assert open_named(board, "probes").read() == {"temperature_tank_top": 1.0}
    assert open_named(board, "twins").read() == {
        "temperature_core": 1.0,
        "temperature_core_temp2": 2.0,
        "temperature3": 3.0,
    }


@pytest.mark.parametrize("fault", ["fault_oc", "fault_ovuv"])
def test_a_broken_thermocouple_costs_its_own_channel_alone(board, fault):
    """ABI/testing/sysfs-bus-iio-temperature-max31856; the cold junction goes on."""
    device = plug(
        board,
        "iio",
        "max31856",
        "spi0.0",
        in_temp_raw=3200,
        in_temp_scale=7.8125,
        in_temp_ambient_raw=6400,
        in_temp_ambient_scale=3.90625,
        fault_oc=0,
        fault_ovuv=0,
    )
    sensor = open_named(board, "max31856")
    assert sensor.read() == {"temperature": 25.0, "temperature_ambient": 25.0}
    device.files[fault] = lambda: "1\n"
    assert sensor.read() == {"temperature_ambient": 25.0}
    plug(board, "iio", "max31865", "spi0.1", in_temp_input=25000, fault_ovuv=1)
    with pytest.raises(SensorFault, match="fault_ovuv is 1"):
        open_named(board, "max31865").read()


def test_a_file_that_fails_with_eio_is_an_error_and_no_value(board):
    device = plug(board, "iio", "bmp280", "1-0076", in_temp_input=21500)
    device.files["in_temp_input"] = lambda: EIO
    with pytest.raises(BadFrame, match=r"Input/output error; look for .* dmesg"):
        open_named(board, "bmp280").read()
    device.files["in_temp_input"] = lambda: "21500\n"
    assert open_named(board, "bmp280").read() == {"temperature": 21.5}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give the path of a file or folder, or the name of a device"),
        ({"path": "/x", "name": "bmp280"}, "give the path"),
        ({"path": "/x", "device": "1-0076"}, "only applies together with name"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        SysfsOptions(**options)


def test_two_tables_may_not_name_one_device():
    assert SysfsOptions(name="a").claims() == SysfsOptions(name="a").claims()
    assert SysfsOptions(name="a", device="1").claims() != SysfsOptions(name="a").claims()


@pytest.mark.parametrize("name", ["bmp280", "bme280", "scd4x", "dht11", "lm75"])
def test_simulated_devices_read_like_the_air_around_them(board, name):
    board.attach("sysfs", SysfsOptions(name=name))
    measurement = open_named(board, name).read()
    assert 15 < measurement["temperature"] < 27
    assert 5 < measurement.get("humidity", 50) < 95
    assert 1000 < measurement.get("pressure", 1013) < 1020
    assert 400 < measurement.get("co2", 500) < 1000


def test_devices_by_name_and_by_path_are_simulated_side_by_side(board):
    path = SysfsOptions(path="/sys/class/hwmon/hwmon0/temp1_input")
    board.attach("sysfs", path)
    for name in ("lm75", "bmp280"):
        board.attach("sysfs", SysfsOptions(name=name))
    sensors = [SYSFS.open(path, board), open_named(board, "lm75"), open_named(board, "bmp280")]
    values = [sensor.read()["temperature"] for sensor in sensors + sensors]
    assert len(set(values[:3])) == 3, "three places"


def dht(board: SimulatedBoard, millidegrees: int = -7300, millipercent: int = 55500):
    """The device of dtoverlay=dht11, named with the node of its device tree."""
    return plug(
        board,
        "iio",
        "dht11@4",
        "dht11@4",
        in_temp_input=millidegrees,
        in_humidityrelative_input=millipercent,
    )


def test_a_dht_of_the_kernels_is_found_without_the_address_of_its_node(board):
    dht(board)
    sensor = open_named(board, "dht11")
    assert sensor.read() == {"temperature": -7.3, "humidity": 55.5}
    assert sensor.channels[1] == HUMIDITY


def test_a_dht_of_the_kernels_is_asked_every_two_seconds_at_most(board, clock):
    """An answer of the last 2 s is the kernel's old one, and would be measured before the call."""
    dht(board)
    sensor = open_named(board, "dht11")
    start_s = clock.now_s
    for _ in range(3):
        sensor.read()
    # The first reading asks twice: what it was asked before, it would answer with.
    assert 3 * 2.0 < clock.now_s - start_s < 3 * 2.2


def test_a_dht_that_fails_is_not_asked_for_its_humidity(board, monkeypatch):
    """The kernel would trigger it again at once; one reading is one attempt."""
    device = dht(board)
    device.files["in_temp_input"] = lambda: EIO
    opened: list[str] = []
    real = os.open

    def remembering(path, *rest):
        opened.append(str(path))
        return real(path, *rest)

    monkeypatch.setattr("os.open", remembering)
    with pytest.raises(BadFrame, match="damaged frame"):
        open_named(board, "dht11").read()
    assert [path for path in opened if path.endswith("_input")] == [opened[-1]]


def test_every_dht_error_of_the_kernel_has_its_remedy(board, monkeypatch):
    """ETIMEDOUT: too few edges; EIO: no frame; EAGAIN: a clock too coarse (dht11.c)."""
    dht(board)
    sensor = open_named(board, "dht11")
    failure = [0]

    def read(_file: object) -> float:
        raise OSError(failure[0], os.strerror(failure[0]))

    monkeypatch.setattr("drivers.kernel_dht.read_number", read)
    for number, kind in ((errno.ETIMEDOUT, SensorNotFound), (errno.EIO, BadFrame)):
        failure[0] = number
        with pytest.raises(kind, match="gpiopin"):
            sensor.read()
    failure[0] = errno.EAGAIN
    with pytest.raises(SensorError, match="temporarily unavailable"):
        sensor.read()


def test_a_frame_of_zeros_is_not_0_degrees(board):
    """The kernel takes a line that is held low for a DHT22 at 0.0 °C and 0.0 %."""
    dht(board, 0, 0)
    with pytest.raises(ImplausibleValue, match="held low"):
        open_named(board, "dht11").read()
    board.kernel.devices.clear()
    dht(board, 0, 12300)
    assert open_named(board, "dht11").read() == {"temperature": 0.0, "humidity": 12.3}


def test_a_dht_outside_its_range_is_refused(board):
    dht(board, 150000, 50000)
    with pytest.raises(ImplausibleValue, match="outside -40 to 80"):
        open_named(board, "dht11").read()
