"""Analog temperature sensors: from a voltage to °C, for any converter. Pure.

A converter's driver derives its options from `AnalogOptions`, and passes the voltage at its input
to `celsius_of`. Thermistors (NTC) are between the input and ground, with a resistor from the input
to the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from drivers.base import Channel, Options, refuse_implausible
from drivers.errors import ImplausibleValue

__all__ = [
    "AnalogOptions",
    "beta_celsius",
    "celsius_of",
    "channel_of",
    "divider_ohms",
    "lm35_celsius",
    "steinhart_hart_celsius",
    "tmp35_celsius",
    "tmp36_celsius",
    "tmp37_celsius",
]

_KELVIN = 273.15
# An input this near to 0 V or to the reference (a fraction of the reference: two steps of 10 bits)
# is not driven. None of these sensors gets there: an LM35 at 2 °C gives 20 mV.
_RAIL = 0.002

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Coefficients = Annotated[
    tuple[float, float, float], msgspec.Meta(description="three numbers, [a, b, c]")
]


def tmp35_celsius(volts: float) -> float:
    """Return °C: 10 mV/°C, 250 mV at 25 °C (TMP35/TMP36/TMP37 datasheet, table 4)."""
    return volts * 100


def tmp36_celsius(volts: float) -> float:
    """Return °C: 10 mV/°C, 750 mV at 25 °C (TMP35/TMP36/TMP37 datasheet, table 4)."""
    return (volts - 0.5) * 100


def tmp37_celsius(volts: float) -> float:
    """Return °C: 20 mV/°C, 500 mV at 25 °C (TMP35/TMP36/TMP37 datasheet, table 4)."""
    return volts * 50


def lm35_celsius(volts: float) -> float:
    """Return °C: 10 mV/°C from 0 V (LM35 datasheet, "Basic centigrade sensor")."""
    return volts * 100


def divider_ohms(fraction: float, series_ohms: float) -> float:
    """Return the resistance to ground of a divider with `fraction` (0 to 1) of its supply."""
    return series_ohms * fraction / (1 - fraction)


def beta_celsius(ohms: float, *, beta: float, nominal_ohms: float) -> float:
    """Return °C by the beta equation: 1/T = 1/T₂₅ + ln(R/R₂₅)/β, R₂₅ = `nominal_ohms` at 25 °C."""
    return _from_inverse_kelvin(1 / (25 + _KELVIN) + math.log(ohms / nominal_ohms) / beta)


def steinhart_hart_celsius(ohms: float, a: float, b: float, c: float) -> float:
    """Return °C: 1/T = a + b ln R + c (ln R)³ (Steinhart and Hart, Deep-Sea Research 15, 1968)."""
    logarithm = math.log(ohms)
    return _from_inverse_kelvin(a + b * logarithm + c * logarithm**3)


def _from_inverse_kelvin(inverse: float) -> float:
    """Return °C; infinity where the coefficients do not describe a temperature."""
    return 1 / inverse - _KELVIN if inverse > 0 else math.inf


class _Part(msgspec.Struct, frozen=True):
    """A sensor with a voltage output; the range is its datasheet's."""

    channel: Channel
    celsius: Callable[[float], float]
    accuracy: str


def _temperature(low: float, high: float) -> Channel:
    return Channel("temperature", "°C", (low, high), 1)


# TMP35/TMP36/TMP37 datasheet, table 1 (grade F); LM35 datasheet (SNIS159), "Features".
_TMP3X = "±1 °C typical at 25 °C, ±2 °C over its range"
_LM35 = "±0.5 °C at 25 °C"

_PARTS = {
    "tmp35": _Part(_temperature(10.0, 125.0), tmp35_celsius, _TMP3X),
    "tmp36": _Part(_temperature(-40.0, 125.0), tmp36_celsius, _TMP3X),
    "tmp37": _Part(_temperature(5.0, 100.0), tmp37_celsius, _TMP3X),
    "lm35": _Part(_temperature(2.0, 150.0), lm35_celsius, _LM35),
}
_THERMISTOR = _temperature(-55.0, 150.0)


class AnalogOptions(Options, frozen=True, kw_only=True):
    """The sensor wired to an input, and the reference of its voltage.

    `reference_volts` also supplies a thermistor's divider. `steinhart_hart` overrides `beta`.
    """

    sensor: Literal["tmp35", "tmp36", "tmp37", "lm35", "thermistor"] = "tmp36"
    reference_volts: _Positive = 3.3
    beta: _Positive = 3950.0
    nominal_ohms: _Positive = 10_000.0
    series_ohms: _Positive = 10_000.0
    steinhart_hart: _Coefficients | None = None

    def accuracy(self) -> str:
        part = _PARTS.get(self.sensor)
        return "that of the thermistor and its resistor" if part is None else part.accuracy

    def __post_init__(self) -> None:
        if self.steinhart_hart is not None and self.sensor != "thermistor":
            raise ValueError(f"steinhart_hart is for a thermistor, and this is a {self.sensor}")


def channel_of(options: AnalogOptions) -> Channel:
    """Return the channel of the sensor at an input."""
    part = _PARTS.get(options.sensor)
    return _THERMISTOR if part is None else part.channel


def celsius_of(options: AnalogOptions, volts: float, *, supply_tolerance: float = 0.0) -> float:
    """Return the temperature in °C for the voltage at an input.

    `supply_tolerance` is how far the reference may be below `reference_volts`, as a fraction of
    it; zero for a converter that measures relative to the reference itself.

    Raises:
        ImplausibleValue: the input is at 0 V or at the reference (a short, an open wire, or no
            power), or the temperature is outside the range of the part.
    """
    fraction = volts / options.reference_volts
    if not _RAIL < fraction < 1 - _RAIL - supply_tolerance:
        rail = "0 V" if fraction < 0.5 else f"{options.reference_volts:g} V"
        raise ImplausibleValue(
            f"{options.where()} is at {rail}",
            "look for a short or an open wire, and check the power of the chip",
        )
    part = _PARTS.get(options.sensor)
    celsius = _thermistor_celsius(options, fraction) if part is None else part.celsius(volts)
    channel = channel_of(options)
    refuse_implausible(
        {channel.name: celsius},
        (channel,),
        where=options.where(),
        hint=f"is a {options.sensor} wired to this input?",
    )
    return celsius


def _thermistor_celsius(options: AnalogOptions, fraction: float) -> float:
    ohms = divider_ohms(fraction, options.series_ohms)
    if options.steinhart_hart is not None:
        return steinhart_hart_celsius(ohms, *options.steinhart_hart)
    return beta_celsius(ohms, beta=options.beta, nominal_ohms=options.nominal_ohms)
