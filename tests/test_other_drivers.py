"""cpu, the registry, third-party drivers, and what the real board says on a laptop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gpiozero
import pytest

from drivers.cpu import CPU, CpuOptions
from drivers.errors import (
    ImplausibleValue,
    MissingSupport,
    SensorError,
    SensorNotFound,
    as_sensor_error,
)
from drivers.hardware import HardwareBoard
from drivers.registry import UnknownDriver, find_driver
from drivers.sim.board import SimulatedBoard

THERMAL = "/sys/class/thermal/thermal_zone0/temp"


def cpu_reading(board: SimulatedBoard, content: str) -> float:
    board.files[THERMAL] = lambda: "48312\n"
    sensor = CPU.open(CpuOptions(), board)
    board.files[THERMAL] = lambda: content
    try:
        return sensor.read()["temperature"]
    finally:
        sensor.close()


@pytest.mark.parametrize(("content", "celsius"), [("48312\n", 48.312), ("-1250\n", -1.25)])
def test_cpu_is_read_through_gpiozero(board, content, celsius):
    assert cpu_reading(board, content) == celsius


@pytest.mark.parametrize("content", ["", "garbage\n", "0\n", "999999\n"])
def test_cpu_refuses_what_it_cannot_mean(board, content):
    with pytest.raises(SensorError):
        cpu_reading(board, content)


def test_a_computer_without_thermal_zone_says_so(board):
    with pytest.raises(SensorNotFound, match="no thermal zone"):
        CPU.open(CpuOptions(), board)


def test_an_unknown_driver_is_unknown():
    with pytest.raises(UnknownDriver):
        find_driver("dht23")


def test_a_driver_is_loaded_with_what_it_needs_and_no_more():
    """One cpu sensor imports no Adafruit module; nothing imports the command line or rich."""
    script = (
        "import sys, node.commands.run, drivers.hardware\n"
        "from drivers.registry import find_driver\n"
        "find_driver('cpu'); find_driver('sysfs')\n"
        "heavy = ('adafruit', 'board', 'busio', 'rich', 'amqtt', 'asyncio', 'gpiozero')\n"
        "print([m for m in sys.modules if m.split('.')[0].startswith(heavy)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def driver_of_the_readme() -> str:
    """The example in drivers/README.md, as it stands there."""
    text = (Path(__file__).parent.parent / "drivers" / "README.md").read_text()
    return text.split("```python\n")[1].split("```")[0]


@pytest.fixture
def third_party(tmp_path: Path) -> dict[str, str]:
    """An installed package with two entry points; the environment to see it."""
    site = tmp_path / "site"
    info = site / "pond-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "pond_driver.py").write_text(driver_of_the_readme() + "\nBROKEN = 7\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pond\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[sensor_node.drivers]\npond = pond_driver:POND\nbroken = pond_driver:BROKEN\n"
        "absent = no_such_module:X\n"
    )
    return {**os.environ, "PYTHONPATH": str(site)}


@pytest.mark.parametrize(("name", "says"), [("broken", "not a DriverInfo"), ("absent", "no_such")])
def test_a_broken_driver_of_another_package_is_named(third_party, name, says):
    command = [sys.executable, "-m", "node", "drivers", name]
    done = subprocess.run(command, env=third_party, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("dht22", {"pin": 4}, "--simulate"),
        ("bme280", {"bus_number": 9}, "dtparam=i2c_arm=on"),
        ("max31855", {"bus_number": 9, "select": 1}, "/dev/spidev9.1 .*dtparam=spi=on"),
        ("mcp3008", {}, "--simulate"),
        ("ds18b20", {}, "dtoverlay=w1-gpio"),
    ],
)
def test_the_real_board_on_a_laptop_names_the_remedy(name, options, says, monkeypatch):
    """Whatever is missing is said by the reading itself; nothing crashes, nothing hangs."""
    monkeypatch.setattr(gpiozero.Device, "pin_factory", None)  # simulated boards set it
    info = find_driver(name)
    with pytest.raises(SensorError, match=says):
        info.open(info.options(**options), HardwareBoard()).read()


def test_errors_of_the_kernel_are_sorted_by_their_number():
    """kernel i2c/fault-codes.rst: ENXIO and EREMOTEIO for a NACK, ETIMEDOUT for a held bus."""
    assert isinstance(as_sensor_error(OSError(6, "x"), "w"), SensorNotFound)
    assert isinstance(as_sensor_error(OSError(121, "x"), "w"), SensorNotFound)
    assert isinstance(as_sensor_error(PermissionError(13, "x"), "w"), MissingSupport)
    original = ImplausibleValue("a", "b")
    assert as_sensor_error(original, "w") is original
