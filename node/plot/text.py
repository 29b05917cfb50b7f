"""Text for HTML, SVG and people: escaped, and numbers as they are written. Pure."""

from __future__ import annotations

import html
import re

from node.units import duration_text

__all__ = ["age_text", "clean", "esc", "label_of", "number_text", "slug"]

_MAX_CHARACTERS = 400


def clean(text: str, longest: int = _MAX_CHARACTERS) -> str:
    """Foreign text as it may be shown: without control characters and turns of direction."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return "".join(
        c if c.isprintable() else " " if c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def esc(text: str, longest: int = _MAX_CHARACTERS) -> str:
    """Foreign text for HTML and SVG, between tags or in an attribute in double quotes."""
    return html.escape(clean(text, longest), quote=True)


def number_text(number: float, decimals: int) -> str:
    """A value with a true minus sign, and the decimals that its channel has."""
    text = f"{number:.{decimals}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def age_text(age_s: float | None) -> str:
    """`12s ago`, `now`; for a reading without a known time, that."""
    if age_s is None:
        return "age unknown"
    return "now" if age_s < 1 else f"{duration_text(round(age_s))} ago"


def label_of(channel: str) -> str:
    """A channel's name for people: `water_2` as `Water 2`."""
    words = channel.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def slug(text: str) -> str:
    """A text as a part of an id of HTML; different texts may have the same."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", text)[:64]
