"""Sensors that the kernel already reads: an attribute file, or an IIO or hwmon device.

A device is given by its folder, or better by its name, which does not change from boot to boot
(`drivers.kernel_devices`). `drivers.kernel_values` has the meaning of its files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec

from drivers.base import Claim, Driver, DriverInfo, Options
from drivers.bus import Board
from drivers.errors import SensorNotFound
from drivers.kernel_devices import refuse_unstable
from drivers.kernel_files import Sysfs
from drivers.kernel_values import KERNEL_TEMPERATURE, Quantity, quantities_of, scaled

__all__ = ["SYSFS", "SysfsOptions"]

_MILLI = 0.001

_Path = Annotated[str, msgspec.Meta(pattern="^/", description="an absolute path")]
_Name = Annotated[str, msgspec.Meta(min_length=1, description='a name such as "bmp280"')]
_Device = Annotated[str, msgspec.Meta(min_length=1, description='as in "1-0076", or a label')]


class SysfsOptions(Options, frozen=True, kw_only=True):
    """`path` of a file or a device folder, or `name` of a device with its parent `device`.

    `scale` is the °C of one count in a file; by the kernel's documents 0.001, with few exceptions.
    """

    path: _Path | None = None
    name: _Name | None = None
    device: _Device | None = None
    scale: Annotated[float, msgspec.Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.name is None):
            raise ValueError("give the path of a file or folder, or the name of a device")
        if self.device is not None and self.name is None:
            raise ValueError("device only applies together with name")

    def bus(self) -> str:
        return f"sysfs {self.where()}"

    def where(self) -> str:
        if self.path is not None:
            return self.path
        return f"device {self.name}" + (f" on {self.device}" if self.device else "")

    def claims(self) -> tuple[Claim, ...]:
        return (Claim(self.where() if self.path is None else os.path.normpath(self.path)),)


def _attribute(file: Path, scale: float | None) -> Quantity:
    """Return the quantity of a single file: as in its folder if the kernel's ABI names it."""
    known = next((q for q in quantities_of(file.parent) if q.file == file), None)
    if known is None:
        return Quantity(KERNEL_TEMPERATURE, file, _MILLI if scale is None else scale)
    return scaled((known,), scale)[0]


def _open(options: SysfsOptions, board: Board) -> Driver:
    if options.path is None:
        from drivers.kernel_named import open_named

        assert options.name is not None
        return open_named(options.name, options.device, board, scale=options.scale)
    refuse_unstable(board, options.path)
    path = board.path(options.path)
    if not path.is_dir():
        return Sysfs(options.path, (_attribute(path, options.scale),), board)
    quantities = scaled(quantities_of(path), options.scale)
    if not quantities:
        raise SensorNotFound(
            f"{options.path} has no IIO or hwmon value that is known here",
            "give the path of the attribute file itself",
        )
    return Sysfs(options.path, quantities, board)


def _scan(board: Board) -> list[dict[str, str | int]]:
    from drivers.kernel_named import named_devices

    return named_devices(board)


SYSFS = DriverInfo(
    name="sysfs",
    summary="Whatever Linux drives: a file, or an IIO or hwmon device by its name",
    aliases=("iio", "hwmon"),
    options=SysfsOptions,
    channels=(KERNEL_TEMPERATURE,),
    open=_open,
    example='driver = "sysfs"\nname = "bmp280"',
    accuracy="that of the chip",
    source="its datasheet",
    more_channels=True,
    scan=_scan,
)
