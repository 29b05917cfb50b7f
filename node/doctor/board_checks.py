"""Checks the hardware that the configuration uses: buses, pins, and the permission to use them.

Nothing is opened that would move a pin. Buses that are switched off and not used are ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from drivers.bus import Board
from drivers.chip_options import I2CChipOptions, SPIChipOptions
from drivers.errors import MissingSupport, SensorError
from drivers.gpio_chip import is_kernels, remedy_for
from drivers.one_wire_bus import one_wire_trouble
from drivers.scan_buses import how_to_switch_on, i2c_adapters
from node.config.schema import Config
from node.doctor.report import Step
from node.doctor.users import User, group_of

__all__ = ["check_board"]

_W1_DEVICES = "/sys/bus/w1/devices"
_GPIO = re.compile(r"GPIO (\d+)")


def check_board(config: Config, board: Board, user: User, *, node_runs: bool) -> Iterator[Step]:
    """Yield a step for each bus that is used, and for the pins."""
    options = [sensor.options for sensor in config.sensors]
    i2c = sorted({o.bus_number for o in options if isinstance(o, I2CChipOptions)})
    spi = sorted({(o.bus_number, o.select) for o in options if isinstance(o, SPIChipOptions)})
    for bus in i2c:
        yield _i2c(board, user, bus)
    for bus, select in spi:
        yield _device(board, user, "SPI", f"/dev/spidev{bus}.{select}")
    resources = {claim.resource for o in options for claim in o.claims()}
    for port in sorted(name for name in resources if name.startswith("/dev/")):
        yield _serial(board, user, port)
    if any(o.bus() == "w1" for o in options):
        yield _one_wire(board)
    buses = {o.bus().partition(" ") for o in options}
    for adapter in sorted(number for kind, _, number in buses if kind == "ble"):
        yield _bluetooth(board, adapter)
    yield from _pins(config, board, user, node_runs=node_runs)


def _i2c(board: Board, user: User, bus: int) -> Step:
    step = _device(board, user, "I2C", f"/dev/i2c-{bus}")
    adapters = i2c_adapters(board)
    if step.status == "failed" and adapters and all(a.number != bus for a in adapters):
        there = ", ".join(f'/dev/i2c-{a.number} ("{a.name}")' for a in adapters)
        return Step("I2C", "failed", f"{step.message}; present: {there}", step.remedy)
    return step


def _device(board: Board, user: User, kind: str, name: str) -> Step:
    """Check that a device file exists, and may be used."""
    file = board.path("/dev") / name.rpartition("/")[2]
    if not file.exists():
        return Step(
            kind, "failed", f"{name} does not exist: {kind} is off", how_to_switch_on(board, kind)
        )
    if not user.may(file, os.R_OK | os.W_OK):
        return _forbidden(kind, name, file, user)
    return Step(kind, "ok", f"{name} may be used by {user.name}")


def _serial(board: Board, user: User, name: str) -> Step:
    file = board.path(name)
    if not file.exists():
        return Step(
            "serial",
            "failed",
            f"{name} does not exist",
            "plug its adapter in; ls /dev/serial/by-id shows the names of adapters, which stay",
        )
    if not user.may(file, os.R_OK | os.W_OK):
        return _forbidden("serial", name, file, user)
    return Step("serial", "ok", f"{name} may be used by {user.name}")


def _bluetooth(board: Board, adapter: str) -> Step:
    try:
        return Step("Bluetooth", "ok", board.radio(adapter).describe())
    except SensorError as error:
        return Step("Bluetooth", "failed", error.what, error.hint)


def _forbidden(kind: str, name: str, file: Path, user: User) -> Step:
    group = group_of(file)
    message = f"{name} may not be used by {user.name}, which the node runs as"
    if group:
        remedy = f"it is for the group {group}: sudo usermod -aG {group} {user.name}, then log in "
        remedy += "again, or restart the service"
    else:
        remedy = "only root may use it: a udev rule must give it to a group, such as " + (
            "the one in the package raspberrypi-sys-mods, or in deploy/README.md"
        )
    return Step(kind, "failed", message, remedy)


def _one_wire(board: Board) -> Step:
    masters = sorted(board.path(_W1_DEVICES).glob("w1_bus_master*"))
    if not masters:
        return Step(
            "1-Wire", "failed", "no bus master: 1-Wire is off", how_to_switch_on(board, "1-Wire")
        )
    if trouble := one_wire_trouble(board):
        return Step("1-Wire", "failed", trouble.what, trouble.hint)
    return Step("1-Wire", "ok", f"{', '.join(master.name for master in masters)} is present")


# -- pins ------------------------------------------------------------------------------------------


def _pins(config: Config, board: Board, user: User, *, node_runs: bool) -> Iterator[Step]:
    pins = _used_pins(config)
    if not pins:
        return
    chips = sorted(board.path("/dev").glob("gpiochip*"))
    if chips and not any(user.may(chip, os.R_OK | os.W_OK) for chip in chips):
        yield _forbidden("GPIO", f"/dev/{chips[0].name}", chips[0], user)
    if _wants_pin_factory(config):
        yield _pin_factory(board)
    for pin, who in pins.items():
        yield _pin(board, pin, who, node_runs=node_runs)


def _pin(board: Board, pin: int, who: str, *, node_runs: bool) -> Step:
    what = f"GPIO {pin}, for {who},"
    taken_by = board.pin_user(pin)
    if taken_by is None:
        return Step("pins", "skipped", f"{what} cannot be checked: no GPIO chip may be opened")
    if not taken_by:
        return Step("pins", "ok", f"{what} is free")
    by_its_driver = who.startswith("dht") and "dht11" in taken_by
    if by_its_driver or (node_runs and not is_kernels(taken_by)):
        return Step("pins", "ok", f"{what} is in use, as expected: {taken_by}")
    return Step("pins", "failed", f"{what} is taken: {taken_by}", remedy_for(taken_by))


def _used_pins(config: Config) -> dict[int, str]:
    """Return the GPIOs that the node uses exclusively, and their purpose."""
    pins = {}
    if config.status_led is not None:
        pins[config.status_led.pin] = "[status_led]"
    if config.button is not None:
        pins[config.button.pin] = "[button]"
    for sensor in config.sensors:
        if sensor.power_pin is not None:
            pins[sensor.power_pin] = f"power_pin of {sensor.id}"
        for channel, alarm in sensor.alarms:
            if alarm.gpio is not None:
                pins[alarm.gpio] = f"alarm {sensor.id}/{alarm.called(channel)}"
        if isinstance(sensor.options, I2CChipOptions | SPIChipOptions):
            continue  # the kernel owns those pins
        for claim in sensor.options.claims():
            if (match := _GPIO.fullmatch(claim.resource)) and not claim.shared_as:
                pins[int(match[1])] = f"{sensor.driver} {sensor.id}"
    return pins


def _wants_pin_factory(config: Config) -> bool:
    """Return whether anything uses gpiozero."""
    return (
        config.status_led is not None
        or config.button is not None
        or any(s.power_pin is not None or s.driver.startswith("mcp3") for s in config.sensors)
        or any(alarm.gpio is not None for sensor in config.sensors for _, alarm in sensor.alarms)
    )


def _pin_factory(board: Board) -> Step:
    try:
        factory = board.pin_factory()
    except MissingSupport as error:
        return Step("pin factory", "failed", error.what, error.hint)
    name = type(factory).__name__
    if name == "NativeFactory":
        return Step(
            "pin factory",
            "warning",
            "gpiozero falls back to its experimental native factory",
            "sudo apt install python3-lgpio",
        )
    return Step("pin factory", "ok", f"gpiozero uses {name}")
