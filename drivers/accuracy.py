"""The numbers in a text on accuracy: for each channel, in each range of its values.

A datasheet states figures for each quantity, with conditions: "±1.0 °C (0 to 65 °C), ±3 %, ±1
hPa", "±1.5 °C; cold junction ±0.25 °C typical", "±50 ppm ±5 %" (of the reading). The figures are
found by their unit and, for two channels in one unit, by the channel's name. What is not wholly
understood ("plus the sensor's own tolerance") gives no number, and neither does a figure at one
temperature alone. Pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import msgspec

from drivers.base import Channel

__all__ = ["Figure", "accuracy_at", "accuracy_of", "figures_of"]

_BETWEEN = r"[;,] (?![^(]*\))"  # not inside brackets
_FIGURE = r"±([\d.]+) (\S+)"
_CONDITION = (
    r"(?: ±(?P<percent>[\d.]+) %)?(?P<typical> typical| \(typical\))?(?: over its range)?"
    r"(?: \((?P<low>-?[\d.]+) to (?P<high>-?[\d.]+) \S+\))?(?P<above> above)?"
)
_MODEL = r"\b[A-Z]+\d"
"""A figure behind the name of a chip is for that chip, of several that the driver reads."""


class Figure(msgspec.Struct, frozen=True):
    """The largest deviation, in a range of values; all in the unit of the channel."""

    limit: float
    of_reading: float = 0.0
    """A share of the value that is added."""
    low: float = -math.inf
    high: float = math.inf
    typical: bool = False
    """Whether most samples are this good, and not all."""

    def at(self, value: float) -> float:
        """Return the largest deviation of `value`."""
        return self.limit + self.of_reading * abs(value)


def accuracy_of(text: str, channel: Channel, channels: Sequence[Channel]) -> str:
    """Return the first figure in `text` for `channel` of `channels`, "±1.0 °C"; "" without one."""
    first = next((re.search(_FIGURE, part) for part in _parts(text, channel, channels)), None)
    return "" if first is None else first[0]


def figures_of(text: str, channel: Channel, channels: Sequence[Channel]) -> tuple[Figure, ...]:
    """Return the figures in `text` for `channel` of `channels`; empty if it has none."""
    parts = _parts(text, channel, channels)
    of_all = [part for part in parts if not re.search(_MODEL, part.partition("±")[0])]
    found = list(_read(of_all or parts))
    certain = [figure for figure in found if not figure.typical]
    return tuple(certain or found)


def _parts(text: str, channel: Channel, channels: Sequence[Channel]) -> list[str]:
    """Return the parts of a text with a figure for a channel."""
    named: list[str] = []
    unnamed: list[str] = []
    others = [_words(other) for other in channels if other.name != channel.name]
    for part in re.split(_BETWEEN, text):
        figure = re.search(_FIGURE, part)
        if figure is None or figure[2] != channel.unit:
            continue
        if _words(channel) in part:
            named.append(part)
        elif not any(other in part for other in others):
            unnamed.append(part)
    is_first = next(c for c in channels if c.unit == channel.unit).name == channel.name
    return named or (unnamed if is_first else [])


def _read(parts: Iterable[str]) -> Iterable[Figure]:
    """Yield the figures that are understood; "above" is above the range before it."""
    before = math.inf
    for part in parts:
        figure = re.search(_FIGURE, part)
        assert figure is not None
        condition = re.fullmatch(_CONDITION, part[figure.end() :])
        if condition is None:
            continue
        low = before if condition["above"] else float(condition["low"] or -math.inf)
        before = float(condition["high"] or math.inf)
        yield Figure(
            limit=float(figure[1]),
            of_reading=float(condition["percent"] or 0) / 100,
            low=low,
            high=before,
            typical=bool(condition["typical"]),
        )


def accuracy_at(
    text: str, channel: Channel, channels: Sequence[Channel], value: float
) -> float | None:
    """Return the largest deviation of a value, in its unit; None where the datasheet is silent.

    Of several ranges the narrowest counts, and of several figures for one range the largest.
    """
    found = [f for f in figures_of(text, channel, channels) if f.low <= value <= f.high]
    if not found:
        return None
    best = min(found, key=lambda figure: (figure.high - figure.low, -figure.at(value)))
    return best.at(value)


def _words(channel: Channel) -> str:
    return channel.name.replace("_", " ")
