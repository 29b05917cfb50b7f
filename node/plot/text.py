"""Text for HTML, SVG and people: escaped, and numbers as they are written. Pure."""

from __future__ import annotations

import html
import re

from node.units import duration_text

__all__ = ["age_text", "clean", "esc", "label_of", "number_text", "slug"]

_MAX_CHARACTERS = 400


def clean(text: str, longest: int = _MAX_CHARACTERS) -> str:
    """Remove control characters and bidirectional controls from foreign text."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return "".join(
        c if c.isprintable() else " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def esc(text: str, longest: int = _MAX_CHARACTERS) -> str:
    """Escape foreign text for HTML and SVG, between tags or in a double-quoted attribute."""
    return html.escape(clean(text, longest), quote=True)


def number_text(number: float, decimals: int) -> str:
    """Format a value with a true minus sign and the decimals of its channel."""
    text = f"{number:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def age_text(age_s: float | None) -> str:
    """Return `12s ago` or `now`; for a reading without a known time, say that."""
    if age_s is None:
        return "age unknown"
    return "now" if age_s < 1 else f"{duration_text(round(age_s))} ago"


def label_of(channel: str) -> str:
    """Return a channel's name for people: `Water 2` for `water_2`."""
    words = channel.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def slug(text: str) -> str:
    """Return a text as a part of an HTML id; different texts may give the same."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)[:64]
