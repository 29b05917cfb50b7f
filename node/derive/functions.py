"""The functions of `[sensor.derive]`: one class each, in the list of `functions`.

A class checks its keys, has its text in node/config/README.md, and computes the value. Imported
only by nodes that have derived channels. Pure.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated

import msgspec

from drivers.base import Channel
from node.derive.parts import ChannelName, Function, OutOfRange, OverWindow, Part

__all__ = ["function_called", "functions", "vapour_pressure"]

_ZERO_C = 273.15  # K
_STANDARD_PRESSURE = 1013.25  # hPa, at sea level

_Temperature = Annotated[ChannelName, Part("°C", -45.0, 60.0)]
_WarmTemperature = Annotated[ChannelName, Part("°C", 20.0, 50.0)]
_Humidity = Annotated[ChannelName, Part("%", 1.0, 100.0)]


def vapour_pressure(temperature: float, humidity: float = 100.0) -> float:
    """Return the vapour pressure in hPa, for °C, and %RH over water.

    WMO-No. 8, Volume I, annex 4.B: -45 to 60 °C. Sensors give the humidity over water in frost too.
    """
    return humidity / 100 * 6.112 * math.exp(17.62 * temperature / (243.12 + temperature))


def _pressure_over_ice(temperature: float) -> float:
    """Return the saturation vapour pressure over ice in hPa (WMO-No. 8, annex 4.B)."""
    return 6.112 * math.exp(22.46 * temperature / (272.62 + temperature))


def _dew_point(temperature: float, humidity: float) -> float:
    """Return the temperature in °C at which the air is saturated over water (annex 4.B)."""
    ratio = math.log(vapour_pressure(temperature, humidity) / 6.112)
    return 243.12 * ratio / (17.62 - ratio)


class DewPoint(Function, frozen=True, kw_only=True):
    """WMO-No. 8, Volume I, annex 4.B; over water, below 0 °C too."""

    name = "dew_point"
    aliases = ("dewpoint",)
    help = "dew point in °C, over water (WMO-No. 8); -45 to 60 °C"
    channel = Channel("dew_point", "°C", (-100.0, 61.0), 1)

    temperature: _Temperature = ""
    humidity: _Humidity = ""

    def value(self, **parts: float) -> float:
        return _dew_point(parts["temperature"], parts["humidity"])


class AbsoluteHumidity(Function, frozen=True, kw_only=True):
    """The density of water vapour as an ideal gas: e / (Rw T), with Rw = 461.5 J/(kg K)."""

    name = "absolute_humidity"
    help = "water in the air in g/m³ (WMO-No. 8); -45 to 60 °C"
    channel = Channel("absolute_humidity", "g/m³", (0.0, 140.0), 2)

    temperature: _Temperature = ""
    humidity: _Humidity = ""

    def value(self, **parts: float) -> float:
        pascal = 100 * vapour_pressure(parts["temperature"], parts["humidity"])
        return 1000 * pascal / (461.5 * (parts["temperature"] + _ZERO_C))


class VapourPressureDeficit(Function, frozen=True, kw_only=True):
    """How much vapour the air could still take: saturation minus present pressure."""

    name = "vpd"
    aliases = ("vapour_pressure_deficit", "vapor_pressure_deficit")
    help = "vapour pressure deficit in kPa (WMO-No. 8); -45 to 60 °C"
    channel = Channel("vpd", "kPa", (0.0, 21.0), 2)
    device_class = "pressure"

    temperature: _Temperature = ""
    humidity: _Humidity = ""

    def value(self, **parts: float) -> float:
        return 0.1 * vapour_pressure(parts["temperature"], 100.0 - parts["humidity"])


class HeatIndex(Function, frozen=True, kw_only=True):
    """NWS, "The Heat Index Equation" (Rothfusz, SR 90-23, 1990, of Steadman's table of 1979)."""

    name = "heat_index"
    help = "heat index in °C, in the shade (NWS); 20 to 50 °C"
    channel = Channel("heat_index", "°C", (15.0, 60.0), 1)

    temperature: _WarmTemperature = ""
    humidity: _Humidity = ""

    def value(self, **parts: float) -> float:
        t, rh = 1.8 * parts["temperature"] + 32, parts["humidity"]  # °F
        simple = 0.5 * (t + 61.0 + (t - 68.0) * 1.2 + rh * 0.094)
        index = (simple + t) / 2
        if index >= 80.0:
            index = _rothfusz(t, rh)
        celsius = (index - 32) / 1.8
        if celsius > self.channel.plausible[1]:
            raise OutOfRange("it is hotter and more humid than the table of the heat index")
        return celsius


def _rothfusz(t: float, rh: float) -> float:
    """Return the regression with its adjustments, in °F."""
    index = (
        -42.379
        + 2.04901523 * t
        + 10.14333127 * rh
        - 0.22475541 * t * rh
        - 0.00683783 * t * t
        - 0.05481717 * rh * rh
        + 0.00122874 * t * t * rh
        + 0.00085282 * t * rh * rh
        - 0.00000199 * t * t * rh * rh
    )
    if rh < 13 and 80 <= t <= 112:
        index -= (13 - rh) / 4 * math.sqrt((17 - abs(t - 95)) / 17)
    elif rh > 85 and 80 <= t <= 87:
        index += (rh - 85) / 10 * (87 - t) / 5
    return index


class Humidex(Function, frozen=True, kw_only=True):
    """Masterton and Richardson, 1979, as Environment and Climate Change Canada publishes it."""

    name = "humidex"
    help = "humidex in °C (Environment Canada); 20 to 50 °C, dew point above 0 °C"
    channel = Channel("humidex", "°C", (15.0, 150.0), 1)

    temperature: _WarmTemperature = ""
    humidity: _Humidity = ""

    def value(self, **parts: float) -> float:
        dew_point = _dew_point(parts["temperature"], parts["humidity"])
        if dew_point < 0:
            raise OutOfRange(f"the dew point is {dew_point:.1f} °C, and must be above 0 °C")
        pressure = 6.11 * math.exp(5417.7530 * (1 / 273.16 - 1 / (_ZERO_C + dew_point)))
        return parts["temperature"] + 5 / 9 * (pressure - 10.0)


class WetBulb(Function, frozen=True, kw_only=True):
    """The thermodynamic wet bulb, solved by halving.

    ASHRAE Handbook, Fundamentals (2017), chapter 1, eq. 33 (water) and 35 (ice); the vapour
    pressures are those of WMO-No. 8.
    """

    name = "wet_bulb"
    help = "wet-bulb temperature in °C (ASHRAE); with the pressure of the sensor, else 1013 hPa"
    channel = Channel("wet_bulb", "°C", (-50.0, 61.0), 1)

    temperature: _Temperature = ""
    humidity: _Humidity = ""
    pressure: Annotated[ChannelName, Part("hPa", 500.0, 1100.0, needed=False)] = ""

    def value(self, **parts: float) -> float:
        t, pressure = parts["temperature"], parts.get("pressure", _STANDARD_PRESSURE)
        ratio = _mixing_ratio(vapour_pressure(t, parts["humidity"]), pressure)
        # In frost, air that is saturated over water is more than that over ice: the result is t.
        low, high = _dew_point(t, parts["humidity"]) - 1, t
        while high - low > 1e-3:
            middle = (low + high) / 2
            if _ratio_at_wet_bulb(t, middle, pressure) > ratio:
                high = middle
            else:
                low = middle
        return (low + high) / 2


def _mixing_ratio(vapour: float, pressure: float) -> float:
    """Return kg of water in a kg of dry air; both pressures are in hPa (ASHRAE, eq. 20)."""
    return 0.621945 * vapour / (pressure - vapour)


def _ratio_at_wet_bulb(t: float, wet: float, pressure: float) -> float:
    """Return the mixing ratio of air of `t` whose wet bulb is `wet`, in °C."""
    if wet >= 0:
        saturated = _mixing_ratio(vapour_pressure(wet), pressure)
        return ((2501 - 2.326 * wet) * saturated - 1.006 * (t - wet)) / (
            2501 + 1.86 * t - 4.186 * wet
        )
    saturated = _mixing_ratio(_pressure_over_ice(wet), pressure)
    return ((2830 - 0.24 * wet) * saturated - 1.006 * (t - wet)) / (2830 + 1.86 * t - 2.1 * wet)


class SeaLevelPressure(Function, frozen=True, kw_only=True):
    """WMO-No. 8, Volume I, chapter 3: reduction by the mean virtual temperature of the air column.

    The column gains 0.0065 K/m downwards, and 0.12 K for each hPa of vapour.
    """

    name = "sea_level_pressure"
    aliases = ("pressure_at_sea_level", "qff")
    help = "pressure at sea level in hPa (WMO-No. 8), for an `altitude` of -500 to 2000 m"
    channel = Channel("sea_level_pressure", "hPa", (850.0, 1100.0), 1)

    altitude: Annotated[float, msgspec.Meta(ge=-500, le=2000)]
    """Of the sensor above sea level, in m; the reduction is for stations below 750 m."""
    pressure: Annotated[ChannelName, Part("hPa", 500.0, 1150.0)] = ""
    temperature: _Temperature = ""
    humidity: Annotated[ChannelName, Part("%", 0.0, 100.0, needed=False)] = ""

    def value(self, **parts: float) -> float:
        vapour = vapour_pressure(parts["temperature"], parts.get("humidity", 0.0))
        column = parts["temperature"] + _ZERO_C + 0.0065 * self.altitude / 2 + 0.12 * vapour  # K
        return parts["pressure"] * math.exp(9.80665 / 287.05 * self.altitude / column)


class Lowest(OverWindow, frozen=True, kw_only=True):
    """The lowest value."""

    name = "min"
    aliases = ("minimum", "lowest")
    help = 'lowest value: `min_24h = {function = "min", of = "temperature", window = "24h"}`'


class Highest(OverWindow, frozen=True, kw_only=True):
    """The highest value."""

    name = "max"
    aliases = ("maximum", "highest")
    help = "highest value, with the same keys"


class Mean(OverWindow, frozen=True, kw_only=True):
    """The mean value."""

    name = "mean"
    aliases = ("average", "avg")
    help = "mean value, with the same keys"


@functools.cache
def functions() -> dict[str, type[Function]]:
    """Return every function by its name."""
    kinds: tuple[type[Function], ...] = (
        DewPoint,
        AbsoluteHumidity,
        VapourPressureDeficit,
        HeatIndex,
        Humidex,
        WetBulb,
        SeaLevelPressure,
        Lowest,
        Highest,
        Mean,
    )
    return {kind.name: kind for kind in kinds}


def function_called(name: str) -> type[Function] | None:
    """Return the function of that name or alias; None if there is none."""
    wanted = name.lower().replace("-", "_")
    return next((k for k in functions().values() if wanted in (k.name, *k.aliases)), None)
