"""Derived channels: what a function makes of the channels of one sensor, or of several.

A function is a class of `functions`. Its name is its key in `[sensor.derive]`; its fields
are the keys of that table. A part is a channel that it needs; a field names it, and without that
name it is the sensor's own.

Pure; `sensors/derived.py` brings the values of the parts, in the units of their drivers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec

from drivers.base import Channel
from node.units import Seconds

__all__ = [
    "ChannelName",
    "Derived",
    "Function",
    "Missing",
    "OutOfRange",
    "OverWindow",
    "Part",
    "parts_of",
]

ChannelName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([A-Za-z0-9_-]+/)?[A-Za-z0-9_-]+\Z",
        max_length=129,
        description='the name of a channel of this sensor, or "SENSOR/CHANNEL"',
    ),
]


class Missing(Exception):
    """A derived channel has no value at present; the message says why."""


class OutOfRange(Missing):
    """A formula does not apply to the values of its parts."""


class Part(msgspec.Struct, frozen=True):
    """One channel that a function needs: its unit, and the values that the formula is valid for."""

    unit: str
    low: float
    high: float
    needed: bool = True
    """Whether there is no value without it."""


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """One function, with the keys of its table; the base class of all."""

    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    help: ClassVar[str]
    """The text of the key in the table of node/config/README.md."""
    channel: ClassVar[Channel]
    """What it gives, under the name of the function."""
    device_class: ClassVar[str] = ""
    """Home Assistant's, where the unit alone would be taken for another one."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (key, problem) of keys that are each of the right type."""
        return iter(())

    def value(self, **parts: float) -> float:
        """Return the value, in the unit of `channel`; each part is in its unit, and in range.

        Raises:
            OutOfRange: the formula does not apply to this combination.
        """
        raise NotImplementedError


class OverWindow(Function, frozen=True, kw_only=True):
    """Something of all values of a channel in the last `window`; the base class of those."""

    of: ChannelName
    window: Seconds

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 60 <= self.window <= 31 * 86400:
            yield "window", 'expected a window of "1m" to "31d"'


@functools.cache
def parts_of(kind: type[Function]) -> dict[str, Part]:
    """Return the parts of a function by the keys that name them."""
    return {
        field.name: part
        for field in msgspec.structs.fields(kind)
        for part in getattr(field.type, "__metadata__", ())
        if isinstance(part, Part)
    }


class Derived(msgspec.Struct, frozen=True):
    """One derived channel of a sensor, with its parts found."""

    channel: Channel
    function: Function
    sources: dict[str, tuple[str, str]]
    """Part -> (sensor, channel); `of` is the one part of a function over a window."""
    quantity: str = ""
    """What it is a value of: the name of its function, or of the channel that a window is of."""

    def unit_of(self, part: str) -> str:
        """Return the unit of a part; of a function over a window, that of the channel."""
        limits = parts_of(type(self.function)).get(part)
        return self.channel.unit if limits is None else limits.unit

    def value(self, parts: dict[str, float]) -> float:
        """Return the value for the values of the parts.

        Raises:
            OutOfRange: the formula is not valid for them.
        """
        for key, limits in parts_of(type(self.function)).items():
            value = parts.get(key)
            if value is not None and not limits.low <= value <= limits.high:
                raise OutOfRange(
                    f"{self.function.name} is defined for a {key} of {limits.low:g} to "
                    f"{limits.high:g} {limits.unit}, and it is {value:.4g}"
                )
        return self.function.value(**parts)
