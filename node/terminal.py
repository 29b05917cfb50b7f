"""Plain text for terminals: tables, sparklines, and whether colour is wanted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

__all__ = ["count", "is_plain", "sparkline", "table"]

_BARS = "▁▂▃▄▅▆▇█"


def is_plain(stream: TextIO) -> bool:
    """No colour and no cursor movement: the stream is no terminal, or NO_COLOR is set."""
    return bool(os.environ.get("NO_COLOR")) or not stream.isatty()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, two spaces apart; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def count(things: Sequence[object], noun: str) -> str:
    """`1 sensor`, `2 sensors`."""
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def sparkline(values: Sequence[float]) -> str:
    """A bar per value, from the lowest to the highest of them; flat for a constant."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if high == low:
        return _BARS[0] * len(values)
    scale = (len(_BARS) - 1) / (high - low)
    return "".join(_BARS[round((value - low) * scale)] for value in values)
