"""Durations, rates, units and names, as people write them in the configuration."""

from __future__ import annotations

import math
import re
from typing import Annotated

import msgspec

__all__ = [
    "Rate",
    "Seconds",
    "TopicPart",
    "all_units",
    "convert",
    "convert_back",
    "convertible",
    "decimals_in",
    "duration_text",
    "unit_called",
]

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*"
_RATE = r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|min|m|h)\s*"

TopicPart = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_-]+\Z", max_length=64, description="letters, digits, - and _"
    ),
]


class Seconds(float):
    """A duration in seconds, written "500ms", "30s", "5m", "1h", "2d" or as a number of seconds."""

    @classmethod
    def parse(cls, written: object) -> Seconds:
        """Parse a duration; raise ValueError if it is not one."""
        if isinstance(written, int | float) and not isinstance(written, bool):
            seconds = float(min(written, 1e12))
        elif isinstance(written, str) and (match := re.fullmatch(_DURATION, written)):
            seconds = float(match[1]) * _UNIT_S[match[2]]
        else:
            raise ValueError('expected a duration: "500ms", "30s", "5m", "1h" or a number')
        if not 0 <= seconds < 10 * 365 * 86400:
            raise ValueError("expected a duration between 0 and ten years")
        return cls(seconds)


class Rate(float):
    """A change per second, written "5/min", "0.2/s" or "10/h"."""

    period = "s"
    """The unit of time that it was written with."""

    @classmethod
    def parse(cls, written: object) -> Rate:
        """Parse a rate; raise ValueError if it is not one above zero."""
        if isinstance(written, str) and (match := re.fullmatch(_RATE, written)):
            per_second = float(match[1]) / _UNIT_S[match[2]]
            if per_second > 0:
                rate = cls(per_second)
                rate.period = match[2]
                return rate
        raise ValueError('expected a rate above zero: "5/min", "0.2/s" or "10/h"')

    @property
    def period_s(self) -> float:
        return _UNIT_S[self.period]

    @property
    def amount(self) -> float:
        """Return the change in one `period`, as it was written."""
        return round(self * self.period_s, 9)


def duration_text(seconds: float) -> str:
    """Format a duration in at most two units, for people: 0.5s, 42s, 3m, 2h 5m, 3d."""
    if seconds < 10:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    for unit, size, smaller, smaller_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size}{unit}" + (f" {rest}{smaller}" if rest else "")
    return f"{whole}s"


# Unit -> (factor, offset): value in the unit = native value * factor + offset.
_FROM_NATIVE = {
    "°C": {"°C": (1.0, 0.0), "°F": (1.8, 32.0), "K": (1.0, 273.15)},
    "hPa": {
        "hPa": (1.0, 0.0),
        "kPa": (0.1, 0.0),
        "Pa": (100.0, 0.0),
        "mbar": (1.0, 0.0),
        "mmHg": (0.750061683, 0.0),
        "inHg": (0.0295299831, 0.0),
    },
    "kPa": {"kPa": (1.0, 0.0), "hPa": (10.0, 0.0), "Pa": (1000.0, 0.0)},
}


def convertible(native: str) -> list[str]:
    """Return the units that a value in `native` can be published in."""
    return list(_FROM_NATIVE.get(native, {native: None}))


_CALLED = {"c": "°C", "degc": "°C", "celsius": "°C", "f": "°F", "degf": "°F", "fahrenheit": "°F"}
_CALLED |= {"kelvin": "K", "k": "K"}


def unit_called(written: str) -> str:
    """Return the unit that `written` means: many keyboards lack the °."""
    return _CALLED.get(written.lower().lstrip("°º˚ "), written)


def all_units() -> list[str]:
    """Return every unit that some channel can be published in."""
    return sorted({unit for units in _FROM_NATIVE.values() for unit in units} | {"%", "ppm"})


def decimals_in(unit: str, native: str, decimals: int) -> int:
    """Return how many decimals in `unit` match `decimals` in `native`: 3 in inHg for 1 in hPa."""
    factor, _ = _FROM_NATIVE.get(native, {}).get(unit, (1.0, 0.0))
    return max(0, decimals + round(-math.log10(factor)))


def convert(value: float, native: str, unit: str) -> float:
    """Convert `value` from `native` to `unit` (one of `convertible(native)`)."""
    if native == unit:
        return value
    factor, offset = _FROM_NATIVE[native][unit]
    return value * factor + offset


def convert_back(value: float, native: str, unit: str) -> float:
    """Convert `value` from `unit` (one of `convertible(native)`) to `native`."""
    if native == unit:
        return value
    factor, offset = _FROM_NATIVE[native][unit]
    return (value - offset) / factor
