"""Whatever the kernel drives already: an attribute file, or an IIO or hwmon device folder.

Units are those of the kernel's ABI documents, testing/sysfs-bus-iio and hwmon/sysfs-interface:
temperature in m°C, relative humidity in m%, pressure in kPa, CO2 in %. An `_input` file is a
finished value; a `_raw` one becomes `(raw + offset) * scale`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from drivers.base import (
    CO2,
    HUMIDITY,
    PRESSURE,
    Channel,
    Claim,
    DriverInfo,
    Measurement,
    Options,
)
from drivers.bus import Board
from drivers.errors import BadFrame, SensorError, SensorFault, SensorNotFound, as_sensor_error

__all__ = ["SYSFS", "Sysfs", "SysfsOptions"]

# Anything the kernel may drive, a thermocouple in a kiln included.
_TEMPERATURE = Channel("temperature", "°C", (-273.15, 2000.0), 2)

_IIO_FILE = (
    r"in_(?P<kind>temp|humidityrelative|pressure|concentration_co2)"
    r"(?P<index>\d*)(?P<modifier>_ambient|_object)?_(?P<form>input|raw)"
)
_HWMON_FILE = r"(?P<kind>temp|humidity)(?P<index>\d+)_input"
# Kind -> (channel, factor from the ABI's unit to the channel's).
_KINDS = {
    "temp": (_TEMPERATURE, 1e-3),
    "humidity": (HUMIDITY, 1e-3),
    "humidityrelative": (HUMIDITY, 1e-3),
    "pressure": (PRESSURE, 10.0),
    "concentration_co2": (CO2, 1e4),
}


_DEFAULT_SCALE = 0.001


class SysfsOptions(Options, frozen=True, kw_only=True):
    """`path` of a file or a device folder; `scale` turns the number of a file into °C."""

    path: Annotated[str, msgspec.Meta(pattern="^/", description="an absolute path")]
    scale: Annotated[float, msgspec.Meta(gt=0)] = _DEFAULT_SCALE

    def bus(self) -> str:
        return f"sysfs {self.path}"

    def where(self) -> str:
        return self.path

    def claims(self) -> tuple[Claim, ...]:
        return (Claim(os.path.normpath(self.path)),)


class _Quantity(msgspec.Struct, frozen=True):
    """One channel of a folder: the file, and how its number becomes the channel's value."""

    channel: Channel
    file: Path
    factor: float
    scale_file: Path | None = None
    offset_file: Path | None = None
    fault_file: Path | None = None

    def value(self) -> float:
        """The channel's value in its unit.

        Raises:
            SensorFault: the device's `_fault` file says 1.
            OSError, BadFrame: a file cannot be read as a number.
        """
        if self.fault_file is not None and _number(self.fault_file) != 0:
            raise SensorFault(f"{self.fault_file} is 1", "the probe is open or short-circuited")
        value = _number(self.file)
        if self.offset_file is not None:
            value += _number(self.offset_file)
        if self.scale_file is not None:
            value *= _number(self.scale_file)
        return value * self.factor


def _number(file: Path) -> float:
    # A text stream would take five system calls more, and twice the time of all the rest.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, 64)
    finally:
        os.close(descriptor)
    try:
        if b"_" in content:  # Python's 21_500 is no number of the kernel's
            raise ValueError
        return float(content)
    except ValueError:
        text = content.decode("ascii", "replace").strip()
        seen = f"reads {text[:40]!r}" if text else "is empty"
        raise BadFrame(f"{file} {seen}", "a number was expected") from None


def _if_there(*candidates: Path) -> Path | None:
    return next((file for file in candidates if file.exists()), None)


def _quantities(folder: Path) -> Iterator[_Quantity]:
    """What an IIO or hwmon folder measures, finished values before raw ones."""
    for file in sorted(folder.glob("*_input")) + sorted(folder.glob("in_*_raw")):
        if match := re.fullmatch(_IIO_FILE, file.name):
            yield _iio_quantity(folder, file, match)
        elif match := re.fullmatch(_HWMON_FILE, file.name):
            yield _hwmon_quantity(folder, file, match)


def _iio_quantity(folder: Path, file: Path, match: re.Match[str]) -> _Quantity:
    base, factor = _KINDS[match["kind"]]
    index, modifier = match["index"], match["modifier"] or ""
    channel = _named(base, base.name + index + modifier)
    if match["form"] == "input":
        return _Quantity(channel, file, factor)
    own, kind = f"in_{match['kind']}{index}{modifier}", f"in_{match['kind']}"
    return _Quantity(
        channel,
        file,
        factor,
        scale_file=_if_there(folder / f"{own}_scale", folder / f"{kind}_scale"),
        offset_file=_if_there(folder / f"{own}_offset", folder / f"{kind}_offset"),
    )


def _hwmon_quantity(folder: Path, file: Path, match: re.Match[str]) -> _Quantity:
    base, factor = _KINDS[match["kind"]]
    stem = match["kind"] + match["index"]
    label_file = _if_there(folder / f"{stem}_label")
    if label_file is not None:
        label = re.sub(r"[^a-z0-9]+", "_", label_file.read_text(encoding="utf-8").lower())
        name = f"{base.name}_{label.strip('_')}"
    else:
        name = base.name if match["index"] == "1" else base.name + match["index"]
    return _Quantity(
        _named(base, name), file, factor, fault_file=_if_there(folder / f"{stem}_fault")
    )


def _attribute(file: Path, scale: float) -> _Quantity:
    """The quantity of a single file: as in its folder where the kernel's ABI names it."""
    known = next((q for q in _quantities(file.parent) if q.file == file), None)
    if known is None:
        return _Quantity(_TEMPERATURE, file, scale)
    # A scale of the user's own is for the number in the file, and goes before the ABI's.
    factor = known.factor if scale == _DEFAULT_SCALE else scale
    return msgspec.structs.replace(known, factor=factor)


def _named(channel: Channel, name: str) -> Channel:
    return channel if channel.name == name else msgspec.structs.replace(channel, name=name)


class Sysfs:
    """A file, or a device folder with one channel per quantity."""

    def __init__(self, options: SysfsOptions, board: Board) -> None:
        self._options = options
        self._board = board
        path = board.path(options.path)
        if path.is_dir():
            by_name: dict[str, _Quantity] = {}
            for quantity in _quantities(path):
                by_name.setdefault(quantity.channel.name, quantity)
            self._quantities = tuple(by_name.values())
            if not self._quantities:
                raise SensorNotFound(
                    f"{options.path} has no IIO or hwmon value that is known here",
                    "give the path of the attribute file itself",
                )
        else:
            self._quantities = (_attribute(path, options.scale),)
        self.channels = tuple(quantity.channel for quantity in self._quantities)

    def read(self) -> Measurement:
        """Read every file; humidity in %, pressure in hPa, CO2 in ppm.

        A channel whose own probe is broken is left out, as long as another one is not.
        """
        self._board.path(self._options.path)
        measurement: Measurement = {}
        failure: SensorError | None = None
        for quantity in self._quantities:
            try:
                measurement[quantity.channel.name] = quantity.value()
            except FileNotFoundError:
                failure = SensorNotFound(
                    f"{quantity.file} does not exist",
                    "is the kernel's driver loaded, and the overlay in config.txt?",
                )
            except (OSError, SensorError) as error:
                failure = as_sensor_error(error, str(quantity.file))
        if not measurement and failure is not None:
            raise failure
        return measurement

    def close(self) -> None:
        """Nothing stays open between readings."""


SYSFS = DriverInfo(
    name="sysfs",
    summary="Whatever Linux drives: an attribute file, or an IIO or hwmon folder",
    options=SysfsOptions,
    channels=(_TEMPERATURE,),
    open=Sysfs,
    example='driver = "sysfs"\npath = "/sys/bus/iio/devices/iio:device0"',
    more_channels=True,
)
