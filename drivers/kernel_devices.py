"""Finds an IIO or hwmon device by its name, because the index in its path changes at each boot.

Two devices of one name are distinguished by the kernel's parent device: "1-0076" is address 0x76 of
I2C bus 1, "spi0.1" the second chip of an SPI bus, "dht11@4" the node of a device tree. They may
also have a `label` from the device tree (ABI/testing/sysfs-bus-iio and sysfs-class-hwmon).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from drivers.bus import Board
from drivers.errors import SensorNotFound, WrongDriver
from drivers.kernel_values import quantities_of

__all__ = [
    "W1_NAME",
    "KernelDevice",
    "find_device",
    "kernel_devices",
    "one_wire_refusal",
    "refuse_unstable",
]

_CLASSES = (("/sys/bus/iio/devices", "iio:device*"), ("/sys/class/hwmon", "hwmon*"))
_NUMBERED = re.compile(r"(iio:device|hwmon)\d+\Z")
_ONE_WIRE = re.compile(r"(10|22|28|3b|42)-[0-9a-f]{12}\Z")

W1_NAME = "w1_slave_temp"
"""The kernel's hwmon name for 1-Wire thermometers (w1_therm.c)."""

_LOAD_IT = "is the kernel's driver loaded, and the overlay in config.txt?"


class KernelDevice(msgspec.Struct, frozen=True):
    """A device folder, and its identity when it was found."""

    name: str
    device: str
    """The parent device: "1-0076"."""
    label: str
    path: str
    """As the kernel lists it: "/sys/bus/iio/devices/iio:device0"."""
    folder: Path
    """The path of this folder on this board."""

    @property
    def kind(self) -> str:
        """The name without the address that a device tree appends: "dht11" of "dht11@4"."""
        return self.name.partition("@")[0]

    def check(self) -> None:
        """Check that the folder is still the same device, because numbers are reused.

        Raises:
            SensorNotFound: the device has gone, or another one has taken its number.
        """
        name = _text(self.folder / "name")
        if name != self.name or _parent(self.folder) != self.device:
            there = f"is {name} on {_parent(self.folder)} now" if name else "has gone"
            raise SensorNotFound(f"{self.path}, {self.name} on {self.device}, {there}", _LOAD_IT)

    def __str__(self) -> str:
        label = f', label "{self.label}"' if self.label else ""
        return f"{self.name} on {self.device}{label}"


def kernel_devices(board: Board) -> list[KernelDevice]:
    """Return every IIO and hwmon device that measures a known quantity, IIO first."""
    found: dict[tuple[str, str], KernelDevice] = {}
    for listed_in, pattern in _CLASSES:
        for folder in sorted(board.path(listed_in).glob(pattern)):
            name = _text(folder / "name")
            if name and quantities_of(folder):
                device = KernelDevice(
                    name,
                    _parent(folder),
                    _text(folder / "label"),
                    f"{listed_in}/{folder.name}",
                    folder,
                )
                # Some drivers show one chip in both classes.
                found.setdefault((name, device.device), device)
    return list(found.values())


def find_device(board: Board, name: str, device: str | None) -> KernelDevice:
    """Return the device of that name; `device`, its parent or label, selects one of several.

    Raises:
        SensorNotFound: zero or several devices match; the hint lists the existing ones.
    """
    there = kernel_devices(board)
    named = [d for d in there if name in (d.name, d.kind)]
    found = [d for d in named if device is None or device in (d.device, d.label)]
    if len(found) == 1:
        return found[0]
    if found:
        one_of = " or ".join(f'"{d.label or d.device}"' for d in found)
        raise SensorNotFound(
            f"{len(found)} devices are named {name}: {_listed(found)}", f"set device = {one_of}"
        )
    wanted = name if device is None else f"{name} on {device}"
    others = f"there is {_listed(named or there)}" if there else "there is none of any name"
    raise SensorNotFound(
        f"no IIO or hwmon device {wanted} with a value that is known here", f"{others}; {_LOAD_IT}"
    )


def one_wire_refusal(address: str) -> WrongDriver:
    """Return why a thermometer on 1-Wire is not read through these files.

    There the kernel shows everything that the sensor holds, including its power-on value of 85 °C.
    """
    return WrongDriver(
        f"{address} is on 1-Wire, and these files do not tell a power-on value from a measured one",
        f'use driver = "ds18b20" and address = "{address}"',
    )


def refuse_unstable(board: Board, path: str) -> None:
    """Refuse a path that may belong to another device after a boot, or that another driver reads.

    Raises:
        WrongDriver: the path has a numbered folder whose device has a name; or is on 1-Wire.
    """
    file = board.path(path)
    parts = path.split("/")
    for part in (*parts, *os.path.realpath(file).split("/")):
        if _ONE_WIRE.match(part):
            raise one_wire_refusal(part)
    if not any(map(_NUMBERED.match, parts)):
        return
    for folder in (file, *file.parents):
        if not _NUMBERED.match(folder.name):
            continue
        name = _text(folder / "name")
        if name == W1_NAME:
            raise one_wire_refusal(_parent(folder))
        if name:
            raise WrongDriver(
                f"{path} goes through {folder.name}, which may be another device after a boot",
                f"in place of path put {_line_for(board, name, _parent(folder))}",
            )


def _line_for(board: Board, name: str, parent: str) -> str:
    """Return the configuration keys that find a device independently of its number."""
    alone = sum(device.name == name for device in kernel_devices(board)) <= 1
    return f'name = "{name}"' + ("" if alone else f' and device = "{parent}"')


def _listed(devices: list[KernelDevice]) -> str:
    return ", ".join(map(str, devices))


def _text(file: Path) -> str:
    """Return the one line of an attribute; "" if the file is missing."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _parent(folder: Path) -> str:
    """Return a listed device's parent: hwmon has a link to it, an IIO folder is inside it."""
    try:
        return os.path.basename(os.readlink(folder / "device"))
    except OSError:
        return os.path.basename(os.path.dirname(os.path.realpath(folder)))
