"""The contract between a driver and the code that reads the sensor.

A driver module exposes one `DriverInfo`. Its `options` type is the schema of the keys in the
sensor's configuration table. `open` is called with an instance of that type, and a board, on the
thread of the sensor's bus, and again after a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec

from drivers.bus import Board
from drivers.errors import ImplausibleValue

__all__ = [
    "API_VERSION",
    "CO2",
    "HUMIDITY",
    "PRESSURE",
    "TEMPERATURE",
    "Attached",
    "BcmPin",
    "Channel",
    "Claim",
    "Dated",
    "Driver",
    "DriverInfo",
    "Measurement",
    "Options",
    "Primed",
    "Simulate",
    "fault_of",
    "refuse_implausible",
]

API_VERSION = "0.1"
"""The version of what API.md promises to drivers of other packages, as two numbers.

The first is raised when a driver may have to change (while it is 0, the second), else the second.
"""

Measurement = dict[str, float]
"""Channel name -> value in the channel's unit, unfiltered, as measured by the sensor."""

BcmPin = Annotated[int, msgspec.Meta(ge=0, le=27)]
"""A GPIO by its Broadcom number; the 40-pin header carries 0 to 27."""


class Channel(msgspec.Struct, frozen=True):
    """One quantity that a sensor measures.

    `plausible` is the range that the sensor can report at all, in `unit`, bounds included: a value
    outside it is an error of the sensor or the wire, never weather.
    """

    name: str
    unit: str
    plausible: tuple[float, float]
    decimals: int
    """Decimal places that the sensor's resolution deserves."""
    overshoot: float = 0.0
    """How far beyond the ends of `plausible` the sensor's own error may take a value."""
    diagnostic: bool = False
    """Whether it says how the sensor is (battery, signal), and not what it measures."""

    def cut_off(self, value: float) -> float:
        """Return `value`, or the end of `plausible` if it is exceeded by at most `overshoot`."""
        low, high = self.plausible
        if low <= value <= high or not low - self.overshoot <= value <= high + self.overshoot:
            return value
        return min(max(value, low), high)


_ABSOLUTE_ZERO = -273.15
_LESS_THAN_A_STEP = 5e-4  # the kernel counts in 0.001 °C


def refuse_implausible(
    measurement: Measurement, channels: tuple[Channel, ...], *, where: str, hint: str
) -> Measurement:
    """Check each value against the range of its channel, and cut off its overshoot.

    Raises:
        ImplausibleValue: a value is outside, or is a physically impossible temperature; `where` and
            `hint` go into the message.
    """
    return {
        channel.name: plausible_value(measurement[channel.name], channel, where=where, hint=hint)
        for channel in channels
        if channel.name in measurement
    }


def plausible_value(value: float, channel: Channel, *, where: str | Path, hint: str) -> float:
    """Return a value with its overshoot cut off.

    Raises:
        ImplausibleValue: see `refuse_implausible`.
    """
    low, high = channel.plausible
    if not low <= value <= high:
        value = channel.cut_off(value)
    if channel.unit == "°C" and value < _ABSOLUTE_ZERO + _LESS_THAN_A_STEP:
        raise ImplausibleValue(f"{where}: {channel.name} {value:g} °C, absolute zero", hint)
    if not low <= value <= high:
        raise ImplausibleValue(
            f"{where}: {channel.name} {value:g} {channel.unit} is outside {low:g} to {high:g}",
            hint,
        )
    return value


TEMPERATURE = Channel("temperature", "°C", (-55.0, 150.0), 1)
HUMIDITY = Channel("humidity", "%", (0.0, 100.0), 1, overshoot=5.0)
"""Near its ends a sensor may be off by this much (5 % for most: HTU21D, HTS221, DHT11), and the
datasheets say to cut it off; a frame of zeros gives -6 %, and one of ones 119 %."""
PRESSURE = Channel("pressure", "hPa", (300.0, 1100.0), 1)
CO2 = Channel("co2", "ppm", (250.0, 40_000.0), 0)
"""Outdoor air has about 420 ppm; a sensor that has not measured reports 0."""


class Claim(msgspec.Struct, frozen=True):
    """A piece of hardware that a sensor needs; two sensors may not claim the same one.

    Claims with equal, non-empty `shared_as` get along (the SPI pins of two ADC inputs).
    """

    resource: str
    shared_as: str = ""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every driver's options."""

    def bus(self) -> str:
        """Name of the bus; reads on one bus never overlap."""
        raise NotImplementedError

    def where(self) -> str:
        """The wire, in words, for messages: "GPIO 4", "I2C bus 1 address 0x76"."""
        raise NotImplementedError

    def accuracy(self) -> str:
        """Accuracy of this sensor, if the driver serves several kinds; else empty."""
        return ""

    def channels(self) -> tuple[Channel, ...]:
        """Channels with these options, if the channels depend on them; else empty."""
        return ()

    def claims(self) -> tuple[Claim, ...]:
        """Hardware that other sensors must not use at the same time."""
        return ()


def fault_of(options: Options) -> str:
    """Return what is wrong with a driver's options type, for any values; "" if nothing is.

    Usually a field has the name of a method, such as the natural `bus`, and so hides it.
    """
    for name in ("bus", "where", "accuracy", "channels", "claims"):
        method = getattr(options, name)
        if not callable(method):
            return (
                f"its field {name} hides the method {name}(): give the field another name, and "
                f'the key its own, with msgspec.field(name="{name}")'
            )
        try:
            fault = _fault_of_result(name, method())
        except Exception as error:  # noqa: BLE001, another package's options may raise anything
            fault = f"{name}() raises {type(error).__name__}: {error}"
        if fault:
            return fault
    return ""


def _fault_of_result(name: str, result: object) -> str:
    """Return what is wrong with what a method of options returns; "" if nothing is."""
    if name in ("channels", "claims"):
        kind = Channel if name == "channels" else Claim
        is_right = isinstance(result, tuple | list) and all(isinstance(r, kind) for r in result)
        return "" if is_right else f"{name}() returns {result!r}, and not {kind.__name__}s"
    is_right = isinstance(result, str) and bool(result or name == "accuracy")
    return "" if is_right else f"{name}() returns {result!r}, and not a text"


class Driver(Protocol):
    """An opened sensor. Every method is called on the thread of the sensor's bus."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Channels of this sensor; known once it is open."""
        ...

    def read(self) -> Measurement:
        """Take one fresh measurement of every channel.

        Raises:
            SensorError: the sensor did not give a trustworthy value. The value must be measured
                after the call. A chip that measures by itself must give a value that was not read
                before and is not older than its period; sensors that are converted together may
                share a value that is up to a second old. A `Dated` one says how old it is.
        """
        ...

    def close(self) -> None:
        """Release the hardware; may be called twice."""
        ...


class Primed(Protocol):
    """A driver of a sensor that answers each request with its previous measurement.

    `read` alone asks the sensor twice. A caller of `prime` keeps the bus free in between.
    """

    def prime(self) -> float:
        """Ask the sensor, if its next answer would be too old.

        Return how many seconds later to call `read`; 0 for at once.

        Raises:
            SensorError: the sensor does not answer.
        """
        ...


class Dated(Protocol):
    """A driver of a sensor that sends by itself, at times of its own."""

    @property
    def age_s(self) -> float:
        """How long before `read` returned the sensor sent the measurement; a reading gets that
        time, and no measurement may be read twice."""
        ...


class Attached(msgspec.Struct, frozen=True, kw_only=True):
    """A sensor that `DriverInfo.scan` has found, where there is more to say than its options."""

    options: dict[str, str | int]
    summary: str
    """What a person recognizes it by."""
    may_be_foreign: bool = False
    """Whether it may be a neighbour's, because it is on no wire."""


class Simulate(Protocol):
    """Puts simulated hardware under a sensor, for `--simulate` and the conformance suite."""

    def __call__(self, options: Any, board: Any, air: Callable[[], Any], /) -> None:
        """Attach to `board` what the driver reads with `options`.

        `board` is a `drivers.sim.board.SimulatedBoard`. `air()` is what the sensor measures now, a
        `drivers.sim.room.Air`: temperature in °C, humidity in %, pressure in hPa.
        """
        ...


class DriverInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a driver before any hardware is touched."""

    name: str
    summary: str
    aliases: tuple[str, ...] = ()
    """Other names for what it reads, in lower-case letters and digits only: "am2302"."""
    options: type[Options]
    channels: tuple[Channel, ...]
    open: Callable[[Any, Board], Driver]
    """`open(options, board)` -> Driver. Raises SensorError."""
    example: str
    """Lines of a `[[sensor]]` table, without `id`."""
    accuracy: str = ""
    """From the datasheet, "±1.0 °C (0 to 65 °C), ±3 %"; `Options.accuracy` may be more precise."""
    source: str = ""
    """The datasheet, with the section, that accuracy and ranges are from."""
    quirks: str = ""
    """What a person should know about the sensor, or about the code that reads it."""
    computed: bool = False
    """The node computes it from other sensors: it has no hardware, and `open` is not called."""
    is_die: bool = False
    """It reads the temperature of a chip that is made for something else: motion, power, time."""
    more_channels: bool = False
    """The hardware may have channels beyond `channels` (an IIO folder)."""
    min_interval_s: float = 0.0
    """The sensor's own limit; a shorter interval is an error of the configuration."""
    frozen_after: int = 0
    """After this many measurements that are equal to the last bit, the sensor counts as frozen; 0:
    equal values are normal."""
    read_budget_s: float = 2.0
    """How long one read may take, retries included, before it counts as stuck."""
    reopen_after_failure: bool = True
    """Whether to close and reopen it after a failed read, so that a chip is set up again."""
    extra: str = ""
    """Name of the pip extra with the package that this driver needs."""
    scan: Callable[[Board], Sequence[dict[str, str | int] | Attached]] | None = None
    """Finds attached sensors without disturbing them: returns the options of each."""
    former: tuple[tuple[str, str, str], ...] = ()
    """Values of earlier versions: option, value, and the value that has taken its place."""
    scan_s: float = 5.0
    """How long `scan` may take before it is given up."""
    devices: tuple[str, ...] = ()
    """For a driver of another package: the classes of character devices that it opens itself, by
    their names in /proc/devices ("hidraw"). `update` then opens them to the service."""
    groups: tuple[str, ...] = ()
    """The groups that own these devices on Debian ("plugdev"); the service joins them."""
    simulate: Simulate | None = None
    """Puts a simulated sensor on a board; without it, only drivers of ours can be simulated."""
    preload: tuple[str, ...] = ()
    """Modules to import on the main thread before signal handlers are set."""

    def channels_with(self, options: Options) -> tuple[Channel, ...]:
        """Return the channels of a sensor with `options`."""
        return options.channels() or self.channels
