"""Finds what keeps a configured sensor from being read on this computer, as far as files show it.

`check` prints the obstacles as notes. The doctor has separate steps for buses and pins, and uses
the rest. Nothing is opened, and no pin is moved.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator

import msgspec

from drivers.bus import Board
from drivers.chip_options import I2CChipOptions, SPIChipOptions
from drivers.errors import WrongDriver
from drivers.kernel_devices import refuse_unstable
from drivers.packages import install_command, missing_package
from drivers.scan_buses import how_to_switch_on, model_of
from node.config.schema import Config, SensorTable

__all__ = ["Obstacle", "obstacles", "one_wire_pins", "pins_on_one_wire"]

_ONE_WIRE_PIN = 4
"""The pin of `dtoverlay=w1-gpio` without gpiopin (boot/overlays/README of raspberrypi/firmware)."""
_GPIO = re.compile(r"GPIO (\d+)")
_OVERLAY = re.compile(r"\s*dtoverlay\s*=\s*w1-gpio(?:-pi5|-pullup)?\b(.*)")
_NUMBERED = re.compile(r"(.*/(?:hwmon|iio:device)\d+)(/.*)?")
_USUALLY_FREE = (17, 27, 22, 23, 24, 25, 5, 6, 16, 26)


class Obstacle(msgspec.Struct, frozen=True):
    """One obstacle, and its remedy."""

    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"


def obstacles(config: Config, board: Board) -> list[Obstacle]:
    """Return all obstacles to reading the sensors of `config` on this computer."""
    return [
        *_missing_packages(config),
        *_missing_buses(config, board),
        *_missing_adapters(config, board),
        *_missing_ports(config, board),
        *pins_on_one_wire(config, board),
        *_passing_paths(config, board),
        *_missing_programs(config, board),
    ]


def _missing_programs(config: Config, board: Board) -> Iterator[Obstacle]:
    """Yield the programs of alarms that this computer does not have."""
    for sensor in config.sensors:
        for channel, alarm in sensor.alarms:
            if alarm.exec_ is not None and not os.access(board.path(alarm.exec_[0]), os.X_OK):
                yield Obstacle(
                    f"[[sensor]] {sensor.id}: the program of its alarm {alarm.called(channel)} is "
                    "missing, or may not be run",
                    "give its whole path in exec, and make it executable",
                )


def _missing_packages(config: Config) -> Iterator[Obstacle]:
    """Yield the missing packages of drivers, each with its sensors."""
    missing: dict[tuple[str, str], list[SensorTable]] = {}
    for sensor in config.sensors:
        if package := missing_package(sensor.info):
            missing.setdefault((package, sensor.info.extra), []).append(sensor)
    for (package, extra), sensors in missing.items():
        message = f"{_named(sensors)}: the package {package} is missing"
        yield Obstacle(message, install_command(extra))


def _named(sensors: Iterable[SensorTable]) -> str:
    return "[[sensor]] " + ", ".join(sensor.id for sensor in sensors)


# -- buses -----------------------------------------------------------------------------------------


def _missing_buses(config: Config, board: Board) -> Iterator[Obstacle]:
    missing: dict[tuple[str, str], list[SensorTable]] = {}
    for sensor in config.sensors:
        kind, device = _bus_of(sensor)
        if kind and not _is_there(board, kind, device):
            missing.setdefault((kind, device), []).append(sensor)
    if missing and not model_of(board):
        kinds = ", ".join(dict.fromkeys(kind for kind, _ in missing))
        sensors = dict.fromkeys(sensor.id for those in missing.values() for sensor in those)
        yield Obstacle(
            f"[[sensor]] {', '.join(sensors)}: this computer is not a Raspberry Pi, and has no "
            f"{kinds}",
            "on this computer they can only be simulated, with --simulate",
        )
        return
    for (kind, device), sensors_of_bus in missing.items():
        yield Obstacle(
            f"{_named(sensors_of_bus)}: {device} is missing, because {kind} is switched off",
            how_to_switch_on(board, kind),
        )


def _missing_adapters(config: Config, board: Board) -> Iterator[Obstacle]:
    """Yield the Bluetooth adapters that the kernel does not have, each with its sensors."""
    missing: dict[str, list[SensorTable]] = {}
    for sensor in config.sensors:
        kind, _, adapter = sensor.options.bus().partition(" ")
        if kind == "ble" and not board.path("/sys/class/bluetooth").joinpath(adapter).exists():
            missing.setdefault(adapter, []).append(sensor)
    for adapter, sensors in missing.items():
        yield Obstacle(
            f"{_named(sensors)}: there is no Bluetooth adapter {adapter}",
            "on a Pi: is dtoverlay=disable-bt in config.txt? Other computers need a USB adapter, "
            "or --simulate",
        )


def _missing_ports(config: Config, board: Board) -> Iterator[Obstacle]:
    """Yield the serial ports that do not exist, each with its sensors."""
    missing: dict[str, list[SensorTable]] = {}
    for sensor in config.sensors:
        for claim in sensor.options.claims():
            if claim.resource.startswith("/dev/") and not board.path(claim.resource).exists():
                missing.setdefault(claim.resource, []).append(sensor)
    for port, sensors in missing.items():
        yield Obstacle(
            f"{_named(sensors)}: {port} does not exist",
            "plug its adapter in; ls /dev/serial/by-id shows the names of adapters, which stay",
        )


def _bus_of(sensor: SensorTable) -> tuple[str, str]:
    """Return the kind of its bus, and the device file in words; empty if it needs none."""
    options = sensor.options
    if isinstance(options, I2CChipOptions):
        return "I2C", f"/dev/i2c-{options.bus_number}"
    if isinstance(options, SPIChipOptions):
        return "SPI", f"/dev/spidev{options.bus_number}.{options.select}"
    if options.bus() == "w1":
        return "1-Wire", "a bus master"
    if any(_GPIO.fullmatch(claim.resource) for claim in options.claims()):
        return "GPIO", "/dev/gpiochip0"
    return "", ""


def _is_there(board: Board, kind: str, device: str) -> bool:
    if kind == "1-Wire":
        return any(board.path("/sys/bus/w1/devices").glob("w1_bus_master*"))
    if kind == "GPIO":  # every Pi has it
        return bool(model_of(board)) or any(board.path("/dev").glob("gpiochip*"))
    return (board.path("/dev") / device.rpartition("/")[2]).exists()


# -- pins ------------------------------------------------------------------------------------------


def one_wire_pins(board: Board) -> set[int]:
    """Return the GPIOs that 1-Wire uses on this computer; empty if it is off or not known.

    The source is the device tree that the kernel was started with, else the overlays in config.txt.
    """
    pins = set()
    for gpios in board.path("/proc/device-tree").glob("onewire*/gpios"):
        try:
            pins.add(struct.unpack_from(">II", gpios.read_bytes())[1])  # <&gpio PIN FLAGS>
        except (OSError, struct.error):
            continue
    for name in ("/boot/firmware/config.txt", "/boot/config.txt"):
        try:
            text = board.path(name).read_text(errors="replace")
        except OSError:
            continue
        for match in filter(None, map(_OVERLAY.match, text.splitlines())):
            pin = re.search(r"gpiopin\s*=\s*(\d+)", match[1])
            pins.add(int(pin[1]) if pin else _ONE_WIRE_PIN)
        break
    return pins


def pins_on_one_wire(config: Config, board: Board) -> Iterator[Obstacle]:
    """Yield the sensors on the data wire of 1-Wire: the kernel owns that pin exclusively."""
    pins = one_wire_pins(board)
    sensors = [sensor.id for sensor in config.sensors if sensor.options.bus() == "w1"]
    whose = f"which {', '.join(sensors)} needs" if sensors else "which config.txt switches on"
    if sensors and not pins and not _is_there(board, "1-Wire", ""):
        pins = {_ONE_WIRE_PIN}  # once it is switched on; a master that is there needs no GPIO
    used = list(_pins(config))
    free = next(pin for pin in _USUALLY_FREE if pin not in {*pins, *(p for p, _ in used)})
    for pin, who in used:
        if pin in pins:
            yield Obstacle(
                f"{who}: GPIO {pin} is the data wire of 1-Wire, {whose}",
                f"wire it to another pin (pin = {free}), or move 1-Wire: "
                f"dtoverlay=w1-gpio,gpiopin={free} in config.txt",
            )


def _pins(config: Config) -> Iterator[tuple[int, str]]:
    """Yield every GPIO that the node uses itself, and its purpose."""
    if config.status_led is not None:
        yield config.status_led.pin, "[status_led]"
    if config.button is not None:
        yield config.button.pin, "[button]"
    for sensor in config.sensors:
        if sensor.power_pin is not None:
            yield sensor.power_pin, f"[[sensor]] {sensor.id} power_pin"
        for channel, alarm in sensor.alarms:
            if alarm.gpio is not None:
                yield alarm.gpio, f"[[sensor]] {sensor.id} alarm {alarm.called(channel)}"
        for claim in sensor.options.claims():
            if match := _GPIO.fullmatch(claim.resource):
                yield int(match[1]), f"[[sensor]] {sensor.id}"


# -- paths -----------------------------------------------------------------------------------------


def _passing_paths(config: Config, board: Board) -> Iterator[Obstacle]:
    """Yield paths that the driver refuses: they contain a number that may change at a boot."""
    for sensor in config.sensors:
        path = getattr(sensor.options, "path", None)
        if not isinstance(path, str):
            continue
        try:
            refuse_unstable(board, path)
        except WrongDriver as error:
            yield Obstacle(f"{_named([sensor])}: {error.what}", error.hint)
            continue
        match = _NUMBERED.fullmatch(path)
        if match is not None:  # written for another computer
            number = match[1].rpartition("/")[2]
            yield Obstacle(
                f"{_named([sensor])}: {path} goes through {number}, which may be another device "
                "after a boot",
                f"replace path by name, with the content of {match[1]}/name",
            )
