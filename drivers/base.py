"""What a driver is: the contract between a sensor's code and whoever reads it.

A driver module exposes one `DriverInfo`. Its `options` type is the schema of the keys that stand
in the sensor's configuration table; `open` is called with an instance of it, and a board, on the
thread of the sensor's bus, and again after a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol

import msgspec

from drivers.bus import Board
from drivers.errors import ImplausibleValue

__all__ = [
    "CO2",
    "HUMIDITY",
    "PRESSURE",
    "TEMPERATURE",
    "BcmPin",
    "Channel",
    "Claim",
    "Driver",
    "DriverInfo",
    "Measurement",
    "Options",
    "Primed",
    "fault_of",
    "refuse_implausible",
]

Measurement = dict[str, float]
"""Channel name -> value in the channel's unit, unfiltered, as the sensor gave it."""

BcmPin = Annotated[int, msgspec.Meta(ge=0, le=27)]
"""A GPIO by its Broadcom number; the 40-pin header carries 0 to 27."""


class Channel(msgspec.Struct, frozen=True):
    """One quantity that a sensor measures.

    `plausible` is what the sensor can mean at all, in `unit`, bounds included: a value outside
    it is an error of the sensor or the wire, never weather.
    """

    name: str
    unit: str
    plausible: tuple[float, float]
    decimals: int
    """Digits after the point that the sensor's resolution deserves."""
    overshoot: float = 0.0
    """How far beyond `plausible` the sensor's own error may take a value that is at its end."""

    def cut_off(self, value: float) -> float:
        """`value`, or the end of `plausible` where it lies beyond by no more than `overshoot`."""
        low, high = self.plausible
        if low - self.overshoot <= value <= high + self.overshoot:
            return min(max(value, low), high)
        return value


_ABSOLUTE_ZERO = -273.15
_LESS_THAN_A_STEP = 5e-4  # the kernel counts in 0.001 °C


def refuse_implausible(
    measurement: Measurement, channels: tuple[Channel, ...], *, where: str, hint: str
) -> Measurement:
    """Hold each value against what its channel can mean, and cut its overshoot off.

    Raises:
        ImplausibleValue: one lies outside, or is a temperature that nothing has; `where` and
            `hint` go into the message.
    """
    believed: Measurement = {}
    for channel in channels:
        if channel.name not in measurement:
            continue
        value = believed[channel.name] = channel.cut_off(measurement[channel.name])
        low, high = channel.plausible
        if channel.unit == "°C" and value < _ABSOLUTE_ZERO + _LESS_THAN_A_STEP:
            raise ImplausibleValue(f"{where}: {channel.name} {value:g} °C, absolute zero", hint)
        if not low <= value <= high:
            raise ImplausibleValue(
                f"{where}: {channel.name} {value:g} {channel.unit} is outside {low:g} to {high:g}",
                hint,
            )
    return believed


TEMPERATURE = Channel("temperature", "°C", (-55.0, 150.0), 1)
HUMIDITY = Channel("humidity", "%", (0.0, 100.0), 1, overshoot=5.0)
"""Near its ends a sensor may be off by that much (5 % for most: HTU21D, HTS221, DHT11), and the
datasheets say to cut it off; -6 % and 119 % are a frame of zeros and one of ones."""
PRESSURE = Channel("pressure", "hPa", (300.0, 1100.0), 1)
CO2 = Channel("co2", "ppm", (250.0, 40_000.0), 0)
"""Outdoors has some 420 ppm; 0 is what a sensor says that has not measured."""


class Claim(msgspec.Struct, frozen=True):
    """A piece of hardware that a sensor needs; two sensors may not claim the same one.

    Claims with equal, non-empty `shared_as` get along (the SPI pins of two ADC inputs).
    """

    resource: str
    shared_as: str = ""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every driver's options."""

    def bus(self) -> str:
        """Name of the bus: reads on one bus are done one after another."""
        raise NotImplementedError

    def where(self) -> str:
        """The wire, in words, for messages: "GPIO 4", "I2C bus 1 address 0x76"."""
        raise NotImplementedError

    def accuracy(self) -> str:
        """Of the very sensor, where the driver serves several; else empty."""
        return ""

    def channels(self) -> tuple[Channel, ...]:
        """What is measured with these options, where it depends on them; else empty."""
        return ()

    def claims(self) -> tuple[Claim, ...]:
        """Hardware that no other sensor may use at the same time."""
        return ()


def fault_of(options: Options) -> str:
    """What is wrong with a driver's options whatever their values are; "" if nothing is.

    Mostly a field that has the name of a method, such as the natural `bus`, and so hides it.
    """
    for name in ("bus", "where", "accuracy", "channels", "claims"):
        method = getattr(options, name)
        if not callable(method):
            return (
                f"its field {name} hides the method {name}(): give the field another name, and "
                f'the key its own, with msgspec.field(name="{name}")'
            )
        try:
            method()
        except Exception as error:  # noqa: BLE001, another package's may raise anything
            return f"{name}() raises {type(error).__name__}: {error}"
    return ""


class Driver(Protocol):
    """An opened sensor. Every method is called on the thread of the sensor's bus."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """What this sensor measures; known once it is open."""
        ...

    def read(self) -> Measurement:
        """Take one fresh measurement of every channel.

        Raises:
            SensorError: no trustworthy value could be had. Never returns a value that was
                measured before the call; by a chip that measures on its own, not one that was
                read before, or is older than its period; sensors that are converted together
                may share a value that is up to a second old.
        """
        ...

    def close(self) -> None:
        """Release the hardware; may be called twice."""
        ...


class Primed(Protocol):
    """What a driver is too whose sensor answers with what it measured when it was asked before.

    `read` asks it twice by itself; who calls `prime` first need not let the bus wait meanwhile.
    """

    def prime(self) -> float:
        """Ask the sensor, if its next answer would be too old.

        Returns how many seconds later `read` is to be called; 0 for at once.

        Raises:
            SensorError: it does not answer.
        """
        ...


class DriverInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known of a driver before any hardware is touched."""

    name: str
    summary: str
    aliases: tuple[str, ...] = ()
    """What else people call what it reads, in small letters and digits alone: "am2302"."""
    options: type[Options]
    channels: tuple[Channel, ...]
    open: Callable[[Any, Board], Driver]
    """`open(options, board)` -> Driver. Raises SensorError."""
    example: str
    """Lines of a `[[sensor]]` table, beside `id`."""
    accuracy: str = ""
    """By the datasheet, "±1.0 °C (0 to 65 °C), ±3 %"; `Options.accuracy` may be nearer."""
    source: str = ""
    """The datasheet, with the section, that accuracy and ranges are from."""
    quirks: str = ""
    """What a person should know of the sensor, or of what reads it."""
    more_channels: bool = False
    """The hardware may have channels beyond `channels` (an IIO folder)."""
    min_interval_s: float = 0.0
    """The sensor's own limit; a shorter interval is an error of the configuration."""
    frozen_after: int = 0
    """So many measurements that are the same to the last bit come from a sensor that has stopped
    measuring; 0: they may just be the truth."""
    read_budget_s: float = 2.0
    """How long one read may take, retries included, before it counts as stuck."""
    reopen_after_failure: bool = True
    """Whether to close and open it again after a failed read, so that a chip is set up afresh."""
    extra: str = ""
    """Name of the pip extra that brings the package this driver needs."""
    scan: Callable[[Board], list[dict[str, str | int]]] | None = None
    """Finds what is attached without disturbing it: the options of each sensor."""
    preload: tuple[str, ...] = ()
    """Modules to import on the main thread before signal handlers are set."""

    def channels_with(self, options: Options) -> tuple[Channel, ...]:
        """What a sensor with `options` measures."""
        return options.channels() or self.channels
