"""Which buses this computer has, and how to switch on the missing ones.

All facts come from files: `/dev`, `/sys`, and the model in the device tree. Overlays and
parameters are those of `/boot/firmware/overlays/README` on a Pi.
"""

from __future__ import annotations

import os
import re

import msgspec

from drivers.bus import Board
from drivers.errors import MissingSupport, permission_hint

__all__ = [
    "I2CAdapter",
    "forbidden",
    "how_to_switch_on",
    "i2c_adapters",
    "model_of",
    "switched_off",
]

# Displays (their DDC wires, as named by the drivers of the Pi and of graphics cards) and a PC's
# SMBus with the memory modules' EEPROMs. These buses do not have our sensors, and a call to a wrong
# address would reach the display or the modules.
_NOT_FOR_SENSORS = re.compile(
    r"7e805000|fef0[49]500|107d5082[08]0|hdmi|ddc|gmbus|\baux\b|i915|nvidia|amdgpu|radeon|smbus",
    re.IGNORECASE,
)
_GROUPS = (("spidev*", "spi"), ("gpiochip0", "gpio"))


class I2CAdapter(msgspec.Struct, frozen=True):
    """A bus, `/dev/i2c-<number>`, and the kernel's name for it."""

    number: int
    name: str

    @property
    def for_sensors(self) -> bool:
        return not _NOT_FOR_SENSORS.search(self.name)


def i2c_adapters(board: Board) -> list[I2CAdapter]:
    """Return every bus with a device file, by number."""
    numbers = (file.name.removeprefix("i2c-") for file in board.path("/dev").glob("i2c-*"))
    return [
        I2CAdapter(number, _text(board, f"/sys/class/i2c-dev/i2c-{number}/name"))
        for number in sorted(int(text) for text in numbers if text.isdecimal())
    ]


def model_of(board: Board) -> str:
    """Return "Raspberry Pi 4 Model B Rev 1.4"; "" on a computer without a device tree."""
    return _text(board, "/proc/device-tree/model").rstrip("\0")


def switched_off(board: Board) -> list[str]:
    """Return a sentence or two for each missing kind of bus: what is missing, what to do."""
    off = []
    if not any(adapter.for_sensors for adapter in i2c_adapters(board)):
        if any(board.path("/sys/bus/i2c/devices").glob("i2c-*")):
            off.append(f"I2C: no /dev/i2c-N for sensors. {_switch_on(board, 'dtparam=i2c_arm=on')}")
            off[-1] += (
                " If it is on already, the module i2c-dev is not loaded: sudo modprobe i2c-dev, "
                "and for each boot: echo i2c-dev | sudo tee /etc/modules-load.d/i2c-dev.conf"
            )
        else:
            off.append(f"I2C: no /dev/i2c-N. {_switch_on(board, 'dtparam=i2c_arm=on')}")
    if not any(board.path("/dev").glob("spidev*")):
        off.append(f"SPI: no /dev/spidevN.M. {_switch_on(board, 'dtparam=spi=on')}")
    if not any(board.path("/sys/bus/w1/devices").glob("w1_bus_master*")):
        off.append(f"1-Wire: no bus master. {_switch_on(board, 'dtoverlay=w1-gpio')}")
    return off


def how_to_switch_on(board: Board, kind: str) -> str:
    """Return the remedy for "I2C", "SPI" or "1-Wire" that is off, worded as in `switched_off`."""
    for text in switched_off(board):
        name, _, rest = text.partition(": ")
        if name == kind:
            return rest.partition(". ")[2]
    return f"other buses of the kind are there: has the configuration the right number for {kind}?"


def _switch_on(board: Board, line: str) -> str:
    model = model_of(board)
    if model.startswith("Raspberry Pi"):
        newer = board.path("/boot/firmware/config.txt").exists()
        file = "/boot/firmware/config.txt" if newer else "/boot/config.txt"
        where = ", data on GPIO 4 (pin 7)" if "w1" in line else ""
        return f"On this {model}: put {line} into {file}, and reboot{where}."
    kind = line.partition("=")[2].partition("=")[0]
    if model:
        return (
            f"This is a {model} and no Raspberry Pi: switch it on by its own device-tree overlay "
            f"(what a Pi calls {line})."
        )
    adapter = {
        "i2c_arm": "such as an MCP2221A or CH341 (then: sudo modprobe i2c-dev)",
        "spi": "that brings a spidev",
        "w1-gpio": "such as a DS9490R (then: sudo modprobe ds2490 w1-therm)",
    }[kind]
    return f"This computer is not a Raspberry Pi, so it needs a USB adapter {adapter}."


def forbidden(board: Board) -> list[MissingSupport]:
    """Return errors for devices that this user may not open; I2C is tried by scanning it.

    A PC's GPIOs are ignored, because sensors are not wired to them.
    """
    found = []
    for pattern, group in _GROUPS:
        devices = sorted(board.path("/dev").glob(pattern)) if model_of(board) else []
        if devices and not os.access(devices[0], os.R_OK | os.W_OK):
            what = f"/dev/{devices[0].name}: permission denied"
            found.append(MissingSupport(what, permission_hint(group)))
    return found


def _text(board: Board, path: str) -> str:
    try:
        return board.path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
