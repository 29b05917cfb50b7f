"""Which part of a text on accuracy applies to which channel.

A datasheet states one figure for each quantity, with conditions: "±1.0 °C (0 to 65 °C), ±3 %, ±1
hPa", "±1.5 °C; cold junction ±0.25 °C typical". The figures are found by their unit and, for two
channels in one unit, by the channel's name. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from drivers.base import Channel

__all__ = ["accuracy_of"]

_BETWEEN = re.compile(r"[;,] (?![^(]*\))")  # not inside brackets
_FIGURE = re.compile(r"±[\d.]+ (\S+)")


def accuracy_of(text: str, channel: Channel, channels: Sequence[Channel]) -> str:
    """Return the first figure in `text` for `channel` of `channels`, "±1.0 °C"; "" without one."""
    named, first = "", ""
    others = [_words(other) for other in channels if other.name != channel.name]
    for part in _BETWEEN.split(text):
        figure = _FIGURE.search(part)
        if figure is None or figure[1] != channel.unit:
            continue
        if _words(channel) in part:
            named = named or figure[0]
        elif not any(other in part for other in others):
            first = first or figure[0]
    is_first = next(c for c in channels if c.unit == channel.unit).name == channel.name
    return named or (first if is_first else "")


def _words(channel: Channel) -> str:
    return channel.name.replace("_", " ")
