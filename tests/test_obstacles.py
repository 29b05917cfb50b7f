"""What `check` notes of this computer, and what the doctor says of each sensor."""

from __future__ import annotations

import json
import struct
import subprocess
from pathlib import Path

import msgspec
import pytest
from doctor_run import Report, doctor
from support import SENSOR_NODE, NodeProcess, sysfs_config, wait_until
from test_doctor_board import RootedBoard, a_pi, configured, sensor, write

from drivers import packages
from node.doctor.our_node import OurNode
from node.doctor.report import Step
from node.doctor.sensor_checks import check_sensors
from node.health import SensorHealth
from node.sensors.obstacles import obstacles, one_wire_pins
from node.system.clock import SystemClock

DHT = sensor("air", "dht22", "pin = 4")
PROBE = sensor("tank", "ds18b20", 'address = "28-0316a2795bff"')


ALARM = "[[sensor.channel.temperature.alarm]]\nabove = 50\n{}\n"


@pytest.fixture
def board(tmp_path: Path) -> RootedBoard:
    """A Pi with I2C, SPI and 1-Wire switched on."""
    made = a_pi(tmp_path / "pi")
    for name in ("i2c-1", "spidev0.0", "gpiochip0"):
        write(made, f"/dev/{name}")
    made.path("/sys/bus/w1/devices/w1_bus_master1").mkdir(parents=True)
    write(made, "/boot/firmware/config.txt", "dtoverlay=w1-gpio\n")
    return made


def noted(folder: Path, text: str, board: RootedBoard) -> list[str]:
    return [str(obstacle) for obstacle in obstacles(configured(folder, text), board)]


# -- check -----------------------------------------------------------------------------------------


def test_what_will_work_is_not_noted(tmp_path, board):
    text = sensor("air", "dht22", "pin = 17") + PROBE + sensor("box", "bme280")
    text += sensor("k", "max31855") + sensor("cpu", "cpu") + "[status_led]\npin = 27\n"
    assert noted(tmp_path, text, board) == []


MODBUS = sensor("barn", "modbus", 'port = "/dev/ttyUSB0"\nmodel = "xy-md02"')


def test_a_serial_port_that_is_not_there_is_noted(tmp_path, board):
    assert noted(tmp_path, MODBUS, board) == [
        "[[sensor]] barn: /dev/ttyUSB0 does not exist; plug its adapter in; ls /dev/serial/by-id "
        "shows the names of adapters, which stay"
    ]
    write(board, "/dev/ttyUSB0")
    assert noted(tmp_path, MODBUS, board) == []


def test_a_program_that_is_not_there_is_noted(tmp_path, board):
    """Without its name, which may be a secret in the wrong place."""
    text = sensor("cpu", "cpu") + ALARM.format('exec = ["/opt/on-alarm"]')
    assert noted(tmp_path, text, board) == [
        "[[sensor]] cpu: the program of its alarm temperature_above is missing, or may not be run; "
        "give its whole path in exec, and make it executable"
    ]
    write(board, "/opt/on-alarm", "#!/bin/sh\n").chmod(0o755)
    assert noted(tmp_path, text, board) == []


@pytest.mark.parametrize(
    ("wired", "who"),
    [
        (DHT, "[[sensor]] air"),
        ("[status_led]\npin = 4\n", "[status_led]"),
        ("[button]\npin = 4\n", "[button]"),
        (sensor("cpu", "cpu") + ALARM.format("gpio = 4"), "[[sensor]] cpu alarm temperature_above"),
        (sensor("cpu", "cpu", "power_pin = 4"), "[[sensor]] cpu power_pin"),
        (sensor("ntc", "mcp3008", "select_pin = 4"), "[[sensor]] ntc"),
        (sensor("ntc", "mcp3008", "clock_pin = 4"), "[[sensor]] ntc"),
    ],
)
def test_what_is_wired_to_the_pin_of_1_wire_is_noted(tmp_path, board, wired, who):
    (note,) = noted(tmp_path, wired + PROBE, board)
    assert note.startswith(f"{who}: GPIO 4 is the data wire of 1-Wire, which tank needs; ")
    assert "(pin = 17)" in note
    assert "dtoverlay=w1-gpio,gpiopin=17" in note


def test_the_pin_of_1_wire_is_that_of_the_overlay(tmp_path, board):
    """In config.txt, and in the device tree that the kernel was started with."""
    write(board, "/boot/firmware/config.txt", "# dtoverlay=w1-gpio\n")
    assert one_wire_pins(board) == set()
    write(board, "/boot/firmware/config.txt", "[all]\ndtoverlay=w1-gpio,gpiopin=17,pullup=1\n")
    assert one_wire_pins(board) == {17}
    assert noted(tmp_path, DHT + PROBE, board) == []
    on_17 = sensor("air", "dht22", "pin = 17")
    (note,) = noted(tmp_path, on_17 + PROBE, board)
    assert "GPIO 17 is the data wire" in note
    assert "(pin = 27)" in note
    # Also without a sensor on it: the kernel holds the pin all the same.
    (note,) = noted(tmp_path, on_17, board)
    assert "which config.txt switches on" in note
    write(board, "/boot/firmware/config.txt", "")
    # A master on USB or I2C (DS9490R, DS2482) has no pin.
    assert noted(tmp_path, DHT + PROBE, board) == []
    write(board, "/boot/firmware/config.txt", "dtoverlay=w1-gpio,gpiopin=17\n")
    gpios = board.path("/proc/device-tree/onewire@16")
    gpios.mkdir(parents=True)
    (gpios / "gpios").write_bytes(struct.pack(">III", 7, 22, 0))
    assert one_wire_pins(board) == {17, 22}


def test_a_bus_that_is_off_is_noted_with_the_line_that_switches_it_on(tmp_path):
    bare = a_pi(tmp_path / "bare")
    text = PROBE + sensor("box", "bme280") + sensor("attic", "sht31d") + sensor("k", "max31855")
    notes = noted(tmp_path, text, bare)
    assert len(notes) == 3
    assert notes[0].startswith(
        "[[sensor]] tank: a bus master is missing, because 1-Wire is switched off"
    )
    assert "dtoverlay=w1-gpio" in notes[0]
    assert notes[1].startswith(
        "[[sensor]] box, attic: /dev/i2c-1 is missing, because I2C is switched"
    )
    assert "dtparam=i2c_arm=on" in notes[1]
    assert "dtparam=spi=on" in notes[2]


def test_a_computer_that_is_no_pi_is_noted_once(tmp_path):
    laptop = RootedBoard(tmp_path / "laptop")
    (note,) = noted(tmp_path, PROBE + sensor("box", "bme280") + DHT.replace("4", "17"), laptop)
    assert note == (
        "[[sensor]] tank, box, air: this computer is not a Raspberry Pi, and has no 1-Wire, I2C, "
        "GPIO; on this computer they can only be simulated, with --simulate"
    )


def test_a_missing_package_is_noted_once_with_its_sensors_and_the_command(
    tmp_path, board, monkeypatch
):
    monkeypatch.setattr(packages, "is_installed", lambda module: "sht4x" not in module)
    text = sensor("roof", "sht4x") + sensor("box", "bme280")
    text += sensor("attic", "SHT45", "address = 0x45")
    (note,) = noted(tmp_path, text, board)
    assert note == (
        "[[sensor]] roof, attic: the package adafruit-circuitpython-sht4x is missing; "
        + packages.install_command("sht4x")
    )


@pytest.mark.parametrize("folder", ["/sys/class/hwmon/hwmon3", "/sys/bus/iio/devices/iio:device0"])
def test_a_path_with_a_number_that_changes_is_noted_with_the_name(tmp_path, board, folder):
    for path in (folder, f"{folder}/temp1_input"):
        (note,) = noted(tmp_path, sensor("x", "sysfs", f'path = "{path}"'), board)
        assert f"replace path by name, with the content of {folder}/name" in note
    write(board, f"{folder}/name", "lm75\n")
    (note,) = noted(tmp_path, sensor("x", "sysfs", f'path = "{folder}"'), board)
    assert "may be another device after a boot" in note
    assert note.endswith('in place of path put name = "lm75"')
    stable = "/sys/class/thermal/thermal_zone0/temp"
    assert noted(tmp_path, sensor("x", "sysfs", f'path = "{stable}"'), board) == []


def test_check_prints_the_notes_and_the_configuration_stays_valid(tmp_path):
    file = tmp_path / "node.toml"
    file.write_text(f'[mqtt]\nhost = "h"\n{DHT}{PROBE}')
    command = [SENSOR_NODE, "check", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "note: [[sensor]] air: GPIO 4 is the data wire of 1-Wire" in done.stdout
    command.append("--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout)
    assert found["ok"]
    assert any("GPIO 4 is the data wire" in note for note in found["notes"])


# -- the doctor ------------------------------------------------------------------------------------


def steps(folder: Path, text: str, board: RootedBoard, node: OurNode | None = None) -> list[Step]:
    node = node or OurNode(folder, "id")
    return list(check_sensors(configured(folder, text), board, node, SystemClock()))


def test_a_sensor_whose_package_is_missing_fails_with_the_command(tmp_path, board, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda module: "sht4x" not in module)
    (step,) = steps(tmp_path, sensor("roof", "sht4x"), board)
    assert step.status == "failed"
    assert step.message == (
        "roof (sht4x, I2C bus 1 address 0x44): the package adafruit-circuitpython-sht4x is missing"
    )
    assert step.remedy == f"{packages.install_command('sht4x')}, and restart the node"


def test_a_probe_that_is_not_on_the_bus_fails_also_without_a_node(tmp_path, board):
    (step,) = steps(tmp_path, PROBE, board)
    assert step.status == "failed"
    assert "not found on the bus; present: none" in step.message
    assert "4.7 kΩ pull-up" in step.remedy
    board.path("/sys/bus/w1/devices/28-000000000001").mkdir()
    (step,) = steps(tmp_path, PROBE, board)
    assert "present: 28-000000000001" in step.message
    board.path("/sys/bus/w1/devices/28-0316a2795bff").mkdir()
    (step,) = steps(tmp_path, PROBE, board)
    assert (step.status, step.remedy) == ("skipped", "sudo sensor-node read tank")


def test_a_sensor_on_the_pin_of_1_wire_fails(tmp_path, board):
    board.path("/sys/bus/w1/devices/28-0316a2795bff").mkdir()
    first, *_ = steps(tmp_path, DHT + PROBE, board)
    assert first.status == "failed"
    assert "GPIO 4 is the data wire of 1-Wire" in first.message


@pytest.mark.parametrize(
    ("known", "status", "says", "remedy"),
    [
        ({"online": True, "ok": 3}, "ok", "online", ""),
        ({}, "skipped", "not read yet, because the node has just started", "try again"),
        (
            {"failed": 4, "last_error": "GPIO 17: no answer; check the pull-up"},
            "failed",
            "offline: no answer (4 of 4 reads failed)",
            "check the pull-up",
        ),
        (
            {"ok": 9, "rejected": 9, "last_error": "temperature 60 °C is outside -10 to 50"},
            "failed",
            "(0 of 9 reads failed, 9 values were rejected)",
            "check range and max_rate in [sensor.channel] of air",
        ),
        ({"ok": 1, "failed": 1}, "failed", "no plausible reading", "sensor-node read"),
    ],
)
def test_what_the_running_node_last_heard_of_a_sensor(
    tmp_path, board, broker, start_node, known, status, says, remedy
):
    """Health as a real node has it, with what is known of one sensor put in its place."""
    node = start_node(sysfs_config(broker.port, {}))
    node.wait_for_log("connected to")
    from node.doctor.our_node import find_our_node

    ours = find_our_node(node.state_dir, "id")
    assert ours.health is not None
    nothing = {"online": False, "ok": 0, "failed": 0, "rejected": 0, "rejected_for": {}}
    heard = msgspec.convert({**nothing, "last_error": None, **known}, SensorHealth)
    health = msgspec.structs.replace(ours.health, sensors={"air": heard})
    ours = msgspec.structs.replace(ours, health=health)
    (step,) = steps(tmp_path / "state", sensor("air", "dht22", "pin = 17"), board, ours)
    assert step.status == status
    assert says in step.message
    assert remedy in step.remedy
    (step,) = steps(tmp_path / "state", sensor("new", "dht22", "pin = 17"), board, ours)
    assert (step.status, step.remedy) == ("skipped", "sudo systemctl restart sensor-node")


def test_the_doctor_names_the_sensor_that_a_running_node_has_lost(broker, start_node, tmp_path):
    """Exit code 1, while every other step is well; 0 again once it is back."""
    files = {"good": tmp_path / "good", "gone": tmp_path / "gone"}
    files["good"].write_text("21500\n")
    config = sysfs_config(broker.port, files, interval="0.2s")
    node: NodeProcess = start_node(config)
    node.wait_for_log("gone (sysfs): offline")

    def looked() -> Report:
        return doctor(tmp_path, config, file_name="node.toml")

    report = looked()
    assert report.code == 1
    good, gone = report.all("sensors")
    assert good["status"] == "ok"
    assert "online, temperature 21.5 °C, " in good["message"]
    assert gone["status"] == "failed"
    assert gone["message"].startswith(f"gone (sysfs, {files['gone']}): offline: ")
    assert gone["remedy"]
    assert set(report.failed) == {"sensors"}
    files["gone"].write_text("8000\n")
    node.wait_for_log("gone (sysfs): online")
    wait_until(lambda: looked().code == 0)
