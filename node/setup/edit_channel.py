"""Sets keys of `[sensor.channel.NAME]` in a configuration, and leaves the rest as it is.

Only the lines of these keys change: comments, order and spelling of all others stay. What comes out
is read again, and used only if it means what was meant. Pure.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import date
from typing import Any

from node.config.toml_lines import KeyPath, locate_keys

__all__ = ["CannotEdit", "channel_lines", "with_channel_keys"]

_REPLACED = ("offset", "calibrate", "calibrated")


class CannotEdit(Exception):
    """The file is written in a way that is not edited here; the message says which."""


def channel_lines(keys: Mapping[str, object]) -> list[str]:
    """Return the keys as lines of TOML."""
    return [f"{key} = {value}" for key, value in keys.items()]


def with_channel_keys(
    text: str, sensor: int, channel: str, keys: Mapping[str, object], today: date
) -> str:
    """Return the text with `keys` in the table of a channel of the sensor with that index.

    Keys of an earlier calibration become comments.

    Raises:
        CannotEdit: the channel's table is not below a header of its own.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += newline
    where = locate_keys(text)
    table: KeyPath = ("sensor", sensor, "channel", channel)
    new = [line + newline for line in channel_lines(keys)]
    if table in where and lines[where[table] - 1].lstrip().startswith("["):
        for key in _REPLACED:
            if (*table, key) in where:
                _comment_out(lines, where[*table, key] - 1, today)
        lines[where[table] : where[table]] = new
    else:
        last = max(line for path, line in where.items() if path[:2] == ("sensor", sensor))
        end = last if lines[last - 1].lstrip().startswith("[") else _end_of(lines, last - 1)
        lines[end:end] = [newline, f"[sensor.channel.{channel}]{newline}", *new]
    edited = "".join(lines)
    if not _means(text, edited, sensor, channel, keys):
        raise CannotEdit(f"the channels of this sensor are not below [sensor.channel.{channel}]")
    return edited


def _comment_out(lines: list[str], start: int, today: date) -> None:
    """Make a comment of each line of a key that is replaced."""
    for index in range(start, _end_of(lines, start)):
        lines[index] = f"# until {today}: {lines[index].lstrip()}"


def _end_of(lines: list[str], start: int) -> int:
    """Return the index behind the last line of the key that begins at `start`."""
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("".join(lines[start:end]).strip().replace("\r\n", "\n"))
        except tomllib.TOMLDecodeError:
            continue
        return end
    return start + 1


def _means(before: str, after: str, sensor: int, channel: str, keys: Mapping[str, object]) -> bool:
    """Return whether the edited text differs from the other one in these keys alone."""
    try:
        wanted: dict[str, Any] = tomllib.loads(before.removeprefix("\ufeff"))
        found = tomllib.loads(after.removeprefix("\ufeff"))
        table = wanted["sensor"][sensor].setdefault("channel", {}).setdefault(channel, {})
    except (tomllib.TOMLDecodeError, KeyError, IndexError, AttributeError):
        return False
    for key in _REPLACED:
        table.pop(key, None)
    table.update(keys)
    return found == wanted
