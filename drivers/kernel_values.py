"""The meaning of the files in an IIO or hwmon device folder, by the kernel's ABI documents.

Documentation/ABI/testing/sysfs-bus-iio: temperature in m°C, relative humidity in m%, pressure in
kPa, concentration in %. An `_input` file is a finished value; a `_raw` one becomes
`(raw + offset) * scale`, with attributes of the channel, of all channels of its type, or of the
device. Documentation/hwmon/sysfs-interface.rst: temperature in m°C, humidity in m%, and a value may
have `_fault` (1: open or shorted) and `_label`. Some drivers scale to °C against these documents.

Used by `drivers.sysfs` and by scans; does not keep any state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from drivers.base import CO2, HUMIDITY, PRESSURE, Channel
from drivers.errors import BadFrame, SensorFault

__all__ = ["KERNEL_TEMPERATURE", "Quantity", "quantities_of", "read_number", "scaled"]

# Anything that the kernel may drive, a thermocouple in a kiln included.
KERNEL_TEMPERATURE = Channel("temperature", "°C", (-273.15, 2000.0), 2)

_IIO_FILE = (
    r"in_(?P<kind>temp|humidityrelative|pressure|concentration)"
    r"(?P<index>\d*)(?P<modifier>_ambient|_object|_co2)?_(?P<form>input|raw)"
)
_HWMON_FILE = r"(?P<kind>temp|humidity)(?P<index>\d+)_input"
# Kind -> (channel, factor from the ABI's unit to the channel's).
_KINDS = {
    "temp": (KERNEL_TEMPERATURE, 1e-3),
    "humidity": (HUMIDITY, 1e-3),
    "humidityrelative": (HUMIDITY, 1e-3),
    "pressure": (PRESSURE, 10.0),
    "concentration": (CO2, 1e4),
}
# Drivers that scale a raw temperature to °C, not to m°C, unless their scale is a thousand times as
# large: drivers/iio/pressure/mpl3115.c, drivers/iio/accel/sca3000.c, and ST's drivers for motion
# sensors (STMems_Linux_IIO_drivers issue 10).
_SCALES_TO_CELSIUS = r"mpl3115|sca3000_|[ai]sm330|lsm6d|iis3d"
# With this step in m°C, 16 bits would only cover 16 °C: thermometers have larger steps.
_TOO_FINE_FOR_MILLIDEGREES = 0.25
# Faults of a thermocouple or RTD: ABI/testing/sysfs-bus-iio-temperature-max31856, -max31865.
_PROBE_FAULTS = ("fault_oc", "fault_ovuv")


class Quantity(msgspec.Struct, frozen=True):
    """One channel of a folder: the file, and how to convert its number to the channel's value."""

    channel: Channel
    file: Path
    factor: float
    scale_file: Path | None = None
    offset_file: Path | None = None
    fault_files: tuple[Path, ...] = ()
    in_doubt: bool = False
    """Whether `factor` may be wrong: the scale suggests °C, but the ABI says m°C."""

    def value(self) -> float:
        """Return the channel's value in its unit.

        Raises:
            SensorFault: a fault file of the device says 1, or its unit is unknown.
            OSError, BadFrame: a file cannot be read as a number.
        """
        for fault_file in self.fault_files:
            if read_number(fault_file) != 0:
                raise SensorFault(f"{fault_file} is 1", "the probe is open or short-circuited")
        if self.in_doubt:
            raise SensorFault(
                f"{self.file} is in m°C by the kernel's documents, and by its scale in °C",
                "add scale = 1.0 if it is °C, scale = 0.001 if it is m°C",
            )
        value = read_number(self.file)
        if self.offset_file is not None:
            value += read_number(self.offset_file)
        if self.scale_file is not None:
            value *= read_number(self.scale_file)
        return value * self.factor


def read_number(file: Path) -> float:
    """Return the number in an attribute file.

    Raises:
        OSError: the file cannot be read.
        BadFrame: the content is not a number.
    """
    # A text stream would need five more system calls, and twice the time of all the rest.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, 64)
    finally:
        os.close(descriptor)
    try:
        if b"_" in content:  # the kernel does not write 21_500, which Python would accept
            raise ValueError
        return float(content)
    except ValueError:
        text = content.decode("ascii", "replace").strip()
        seen = f"reads {text[:40]!r}" if text else "is empty"
        raise BadFrame(f"{file} {seen}", "a number was expected") from None


def quantities_of(folder: Path) -> tuple[Quantity, ...]:
    """Return the quantities of an IIO or hwmon folder, each channel with a unique name."""
    named: dict[str, Quantity] = {}
    for place, quantity in _finished_first(folder).items():
        name = quantity.channel.name
        if name in named:  # two labels are alike
            name = f"{name}_{place}"
            channel = msgspec.structs.replace(quantity.channel, name=name)
            quantity = msgspec.structs.replace(quantity, channel=channel)
        named[name] = quantity
    return tuple(named.values())


def scaled(quantities: tuple[Quantity, ...], scale: float | None) -> tuple[Quantity, ...]:
    """Return the quantities; `scale`, if the user gives it, is the °C of one temperature count."""
    if scale is None:
        return quantities
    return tuple(
        msgspec.structs.replace(quantity, factor=scale, in_doubt=False)
        if quantity.channel.unit == "°C"
        else quantity
        for quantity in quantities
    )


def _finished_first(folder: Path) -> dict[str, Quantity]:
    """Map each channel's kind, index and modifier to its finished value, else to its raw one."""
    quantities: dict[str, Quantity] = {}
    for file in sorted(folder.glob("*_input")) + sorted(folder.glob("in_*_raw")):
        if match := re.fullmatch(_IIO_FILE, file.name):
            modifier = match["modifier"] or ""
            if (match["kind"] == "concentration") == (modifier == "_co2"):
                place = match["kind"] + match["index"] + modifier
                quantities.setdefault(place, _iio_quantity(folder, file, match))
        elif match := re.fullmatch(_HWMON_FILE, file.name):
            place = match["kind"] + match["index"]
            quantities.setdefault(place, _hwmon_quantity(folder, file, match))
    return quantities


def _iio_quantity(folder: Path, file: Path, match: re.Match[str]) -> Quantity:
    base, factor = _KINDS[match["kind"]]
    kind, index, modifier = f"in_{match['kind']}", match["index"], match["modifier"] or ""
    own = f"{kind}{index}{modifier}"
    name = base.name + index + ("" if modifier == "_co2" else modifier)
    channel = _labelled(base, folder / f"{own}_label", otherwise=name)
    faults: Iterable[str] = _PROBE_FAULTS if own == "in_temp" else ()
    fault_files = tuple(_those_there(folder, faults))
    if match["form"] == "input":
        return Quantity(channel, file, factor, fault_files=fault_files)
    # From the channel's own to the shared ones (naming: drivers/iio/industrialio-core.c).
    prefixes = (f"{own}_", f"{kind}{modifier}_", f"{kind}_", "in_", "")
    scale_file = next(_those_there(folder, (f"{prefix}scale" for prefix in prefixes)), None)
    in_doubt = False
    if match["kind"] == "temp" and scale_file is not None:
        factor, in_doubt = _temperature_factor(folder, scale_file)
    return Quantity(
        channel,
        file,
        factor,
        in_doubt=in_doubt,
        scale_file=scale_file,
        offset_file=next(_those_there(folder, (f"{prefix}offset" for prefix in prefixes)), None),
        fault_files=fault_files,
    )


def _temperature_factor(folder: Path, scale_file: Path) -> tuple[float, bool]:
    """Return the factor from a scaled number to °C, and whether the factor is in doubt."""
    usual = _KINDS["temp"][1]
    try:
        scale = abs(read_number(scale_file))
        name = (folder / "name").read_text(encoding="utf-8", errors="replace")
    except (OSError, BadFrame):  # the reading will report it
        return usual, False
    if scale < 1 and re.match(_SCALES_TO_CELSIUS, name):
        return 1.0, False
    return usual, scale <= _TOO_FINE_FOR_MILLIDEGREES


def _hwmon_quantity(folder: Path, file: Path, match: re.Match[str]) -> Quantity:
    base, factor = _KINDS[match["kind"]]
    stem = match["kind"] + match["index"]
    name = base.name if match["index"] == "1" else base.name + match["index"]
    return Quantity(
        _labelled(base, folder / f"{stem}_label", otherwise=name),
        file,
        factor,
        fault_files=tuple(_those_there(folder, (f"{stem}_fault",))),
    )


def _those_there(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    return (folder / name for name in names if (folder / name).exists())


def _labelled(base: Channel, label_file: Path, *, otherwise: str) -> Channel:
    """Return `base`, named after its label if that can be part of a name."""
    name = otherwise
    if label_file.exists():
        label = label_file.read_text(encoding="utf-8", errors="replace").lower()
        if slug := re.sub(r"[^a-z0-9]+", "_", label).strip("_"):
            name = f"{base.name}_{slug}"
    return base if name == base.name else msgspec.structs.replace(base, name=name)
