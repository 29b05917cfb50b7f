"""Plain text for terminals: tables, sparklines, and foreign text made safe to show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

__all__ = ["count", "is_plain", "sparkline", "table", "visible"]

_BARS = "▁▂▃▄▅▆▇█"


def is_plain(stream: TextIO) -> bool:
    """Return True to avoid colour and cursor movement: not a terminal, a dumb one, or NO_COLOR."""
    dumb = os.environ.get("TERM", "").lower() in ("", "dumb", "unknown")
    return dumb or bool(os.environ.get("NO_COLOR")) or not stream.isatty()


def visible(text: str, longest: int = 200) -> str:
    """Make foreign text safe to show: control characters are written out, as `\\x1b`.

    So are characters that change the direction of writing, join others, or are invisible
    (`\\u202e`, Unicode's "other" and "separator"). Text longer than `longest` is cut.
    """
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _written_out(c) for c in text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, two spaces apart; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def count(things: Sequence[object], noun: str) -> str:
    """Return `1 sensor`, `2 sensors`."""
    return f"{len(things)} {noun}" + ("" if len(things) == 1 else "s")


def sparkline(values: Sequence[float]) -> str:
    """Return a bar per value, scaled from the lowest to the highest; flat for a constant."""
    if not values:
        return ""
    low, high = min(values), max(values)
    if high == low:
        return _BARS[0] * len(values)
    return "".join(
        _BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in values
    )
