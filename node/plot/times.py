"""How far back: `24h`, or a date. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from node.units import Seconds

__all__ = ["parse_since"]


def parse_since(text: str, now_ms: int) -> int:
    """A duration before now, or a time (RFC 3339, or a date alone), as ms since 1970.

    Raises:
        ValueError: neither.
    """
    try:
        return now_ms - round(Seconds.parse(text) * 1000)
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise ValueError('expected a duration ("24h") or a time ("2026-11-24T12:00Z")') from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return round(at.timestamp() * 1000)
