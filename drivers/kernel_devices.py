"""Finds an IIO or hwmon device by its name: the index in its path changes from boot to boot.

What distinguishes two devices of one name is what they sit on, the kernel's parent device:
"1-0076" is address 0x76 of I2C bus 1, "spi0.1" the second chip of an SPI bus, "dht11@4" the node
of a device tree. Or a `label` that the device tree gives it (ABI/testing/sysfs-bus-iio and
sysfs-class-hwmon).
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
"""What the kernel calls the thermometers of 1-Wire among the others (w1_therm.c)."""

_LOAD_IT = "is the kernel's driver loaded, and the overlay in config.txt?"


class KernelDevice(msgspec.Struct, frozen=True):
    """A device folder, and what it was when it was found."""

    name: str
    device: str
    """The parent device: "1-0076"."""
    label: str
    path: str
    """As the kernel lists it: "/sys/bus/iio/devices/iio:device0"."""
    folder: Path
    """Where that is on this board."""

    @property
    def kind(self) -> str:
        """The name without the address that a device tree appends: "dht11" of "dht11@4"."""
        return self.name.partition("@")[0]

    def check(self) -> None:
        """See that the folder is the same device still: numbers are given away again.

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
    """Every IIO and hwmon device that measures something known here, IIO first."""
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
    """The one device of that name; `device` is its parent or its label, where there are more.

    Raises:
        SensorNotFound: there is none, or more than one; the hint lists what there is.
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
    """Why a thermometer on 1-Wire is not read through such files.

    The kernel shows there whatever the sensor holds: 85 °C that it has at power-on too.
    """
    return WrongDriver(
        f"{address} is on 1-Wire, and these files tell no power-on value from a measured one",
        f'use driver = "ds18b20" and address = "{address}"',
    )


def refuse_unstable(board: Board, path: str) -> None:
    """Refuse a path that may be another device's after a boot, or that another driver reads.

    Raises:
        WrongDriver: it goes through a numbered folder whose device has a name; or is on 1-Wire.
    """
    real = Path(os.path.realpath(board.path(path)))
    for part in (*Path(path).parts, *real.parts):
        if _ONE_WIRE.match(part):
            raise one_wire_refusal(part)
    for folder in (board.path(path), *board.path(path).parents):
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
    """The keys that find a device whatever its number is."""
    alone = sum(device.name == name for device in kernel_devices(board)) <= 1
    return f'name = "{name}"' + ("" if alone else f' and device = "{parent}"')


def _listed(devices: list[KernelDevice]) -> str:
    return ", ".join(map(str, devices))


def _text(file: Path) -> str:
    """The one line of an attribute; empty if it is not there."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _parent(folder: Path) -> str:
    """The device that a listed one sits on: hwmon has a link to it, IIO is a folder inside it."""
    try:
        return os.path.basename(os.readlink(folder / "device"))
    except OSError:
        return os.path.basename(os.path.dirname(os.path.realpath(folder)))
