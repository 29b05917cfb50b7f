"""Writes `[[sensor]]` tables, for `scan` to print and `init` to put into a file."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

import msgspec

__all__ = ["free_id", "sensor_table", "suggest_id", "toml_value"]

_MAX_ID = 64


def suggest_id(driver: str, options: Mapping[str, str | int]) -> str:
    """Return an id of letters, digits, - and _: the driver, and what distinguishes this sensor."""
    named = [str(options[key]) for key in ("name", "device") if key in options]
    parts = named or [driver]
    for name, value in options.items():
        if name == "bus":
            parts.append(f"bus{value}")
        elif name == "unit":
            parts.append(str(value))
        elif name == "model":
            parts[0] = str(value)
        elif name == "address":
            parts = [value] if isinstance(value, str) else [*parts, f"{value:02x}"]
    return re.sub(r"[^A-Za-z0-9_-]+", "-", "-".join(parts)).strip("-")[: _MAX_ID - 4]


def free_id(wanted: str, taken: Container[str]) -> str:
    """Return `wanted`, followed by the first number that makes it unique."""
    number, free = 1, wanted or "sensor"
    while free in taken:
        number += 1
        free = f"{wanted}-{number}"
    return free


def sensor_table(name: str, driver: str, options: Mapping[str, str | int]) -> list[str]:
    """Return the lines of one table."""
    lines = ["[[sensor]]", f'id = "{name}"', f'driver = "{driver}"']
    return lines + [f"{key} = {toml_value(key, value)}" for key, value in options.items()]


def toml_value(key: str, value: str | int) -> str:
    """Return an address in hexadecimal, a text in quotes, another number as it is."""
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()  # a TOML string escapes as JSON does
    return f"0x{value:02x}" if key == "address" else str(value)
