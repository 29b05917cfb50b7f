"""What people call a sensor: from a word to its driver, or to a sentence about how to read it.

`registry` has the drivers by name. This module adds their aliases (`DriverInfo.aliases`) and
corrects misspelt words; `name_sentences` has the words for kinds, boards and kernel chips. Two part
numbers that differ in a digit are two chips, so a similar name is only suggested, and only for the
bus that the sensor is wired to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

import msgspec

from drivers.base import DriverInfo
from drivers.errors import MissingSupport
from drivers.name_sentences import about, spelled
from drivers.registry import driver_names, find_driver

__all__ = ["all_drivers", "bus_kind", "driver_called", "drivers_matching", "suggestion"]

_HOW_TO_LIST = "sensor-node drivers lists all"
_NEAR = 0.72
"""Least difflib ratio of a word and its misspelling: three of four letters agree."""
_FAR = 0.5
_MOST = 3


def driver_called(word: str) -> str | None:
    """Return the driver whose alias is `word`, or whose name is a spelling variant of it."""
    key = spelled(word)
    if not key:
        return None
    for name in driver_names():
        if spelled(name) == key:
            return name
    return next((info.name for info in all_drivers() if key in info.aliases), None)


def all_drivers() -> Iterator[DriverInfo]:
    """Yield every driver that can be loaded, by name."""
    for name in driver_names():
        try:
            yield find_driver(name)
        except MissingSupport:
            continue


def drivers_matching(word: str) -> list[DriverInfo]:
    """Return the drivers with `word` in their name, aliases or description.

    The drivers named in the sentence about the word are included.
    """
    key, words = spelled(word), word.casefold().split()
    named = re.findall(r'"(\w+)"', about(word))

    def matches(info: DriverInfo) -> bool:
        if info.name in named:
            return True
        if key and any(key in name for name in (spelled(info.name), *info.aliases)):
            return True
        summary = info.summary.casefold()
        return bool(words) and all(part in summary for part in words)

    return [info for info in all_drivers() if matches(info)]


def bus_kind(info: DriverInfo) -> str:
    """Return "I2C", "SPI", "1-Wire", "GPIO", "Bluetooth" or "serial", by the driver's options.

    "" for other drivers.
    """
    keys = set(info.options.__struct_encode_fields__)
    if "adapter" in keys:
        return "Bluetooth"
    if "port" in keys:
        return "serial"
    if keys & {"select", "clock_pin"}:
        return "SPI"
    if {"bus", "address"} <= keys:
        return "I2C"
    if "pin" in keys:
        return "GPIO"
    return "1-Wire" if "address" in keys else ""


def suggestion(word: str, *, bus: str = "") -> str:
    """Return a suggestion for a word that is not a driver's name, or how to list the drivers.

    `bus` is the sensor's known bus, as `bus_kind` returns it: drivers for another bus are not
    suggested. Without it, the nearest name decides.
    """
    sentence = about(word)
    if sentence:
        return f"it {sentence}"
    near = [
        found for found in _nearest(spelled(word)) if not bus or bus_kind(found.info) in (bus, "")
    ]
    if not near:
        return f"it is like no name that is known here; {_HOW_TO_LIST}"
    best = near[0]
    kind = bus_kind(best.info)
    names = dict.fromkeys(found.info.name for found in near if bus_kind(found.info) == kind)
    if best.likeness < _NEAR:
        return f"the nearest names are {', '.join([*names][:_MOST])}; {_HOW_TO_LIST}"
    remarks = [] if best.called == spelled(best.info.name) else [f"it reads {best.called.upper()}"]
    remarks += [f"on {kind}"] * bool(kind and not bus)
    also = dict.fromkeys(
        found.info.name
        for found in near
        if found.likeness >= _NEAR and bus_kind(found.info) == kind and found.info != best.info
    )
    remarks += [f"near it: {', '.join([*also][: _MOST - 1])}"] * bool(also)
    remark = f" ({'; '.join(remarks)});" if remarks else ""
    return f"did you mean {best.info.name}?{remark} {_HOW_TO_LIST}"


class _Near(msgspec.Struct, frozen=True):
    """A name or an alias with a similar spelling."""

    called: str
    info: DriverInfo
    likeness: float


def _nearest(key: str) -> list[_Near]:
    """Return similar names, the nearest first; of two, the one with the longer common start."""
    infos = list(all_drivers())
    known = {name: info for info in infos for name in info.aliases}
    known |= {spelled(info.name): info for info in infos}
    close = difflib.get_close_matches(key, known, n=5 * _MOST, cutoff=_FAR)
    near = [
        _Near(name, known[name], difflib.SequenceMatcher(None, name, key).ratio()) for name in close
    ]
    near.sort(key=lambda n: (n.likeness, _alike_at_first(n.called, key)), reverse=True)
    return near


def _alike_at_first(one: str, other: str) -> int:
    """Return the number of equal letters before the first difference."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
