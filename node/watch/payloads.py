"""The content of one message: its text, its numbers, and the time of measurement.

Pure, and safe for any bytes at all: a subscriber cannot choose what others publish.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import msgspec

from node.system.terminal import visible

__all__ = [
    "NOT_CHANNELS",
    "Message",
    "decimals_of",
    "described",
    "from_json",
    "measured_at_s",
    "value_text",
    "values_in",
]

_LARGEST_JSON = 256 * 1024
_MAX_VALUES = 64
_DEEPEST = 4
_SHOWN_BYTES = 16
_LONG_TEXT = 1000
NOT_CHANNELS = {"time", "clock", "seq", "stream", "simulated"}
"""Keys in a node's `state` that are not channels."""


class Message(msgspec.Struct, frozen=True):
    """A message as it arrived."""

    topic: str
    payload: bytes
    retained: bool


def described(payload: bytes, longest: int = 200) -> str:
    """Return the payload as safe text for a terminal; bytes that are not UTF-8 are described."""
    if not payload:
        return "(empty)"
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        shown = payload[:_SHOWN_BYTES].hex(" ")
        more = " ..." if len(payload) > _SHOWN_BYTES else ""
        return f"{_size(payload)}, not UTF-8: {shown}{more}"
    size = f"({_size(payload)}) " if len(payload) > _LONG_TEXT else ""
    return size + visible(text, longest)


def _size(payload: bytes) -> str:
    length = len(payload)
    if length >= 1_000_000:
        return f"{length / 1_000_000:.1f} MB"
    if length >= 10_000:
        return f"{length / 1_000:.0f} kB"
    return "1 byte" if length == 1 else f"{length} bytes"


def from_json(payload: bytes) -> object:
    """Decode the payload as JSON; None if it is not JSON, or is too large."""
    if len(payload) > _LARGEST_JSON:
        return None
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None


def values_in(content: object) -> dict[str, float | bool]:
    """Return the numbers and booleans in decoded JSON, by their path: {"update.progress": 3.0}.

    A bare number has the path "". A node's own keys (`NOT_CHANNELS`) are left out.
    """
    values: dict[str, float | bool] = {}
    for path, value in _walk(content, "", 0):
        values[path] = value
        if len(values) == _MAX_VALUES:
            break
    return values


def _walk(content: object, path: str, depth: int) -> Iterator[tuple[str, float | bool]]:
    if isinstance(content, bool):
        yield path, content
    elif isinstance(content, int | float):
        if abs(content) < 1e300:  # an integer in JSON may have hundreds of digits
            yield path, float(content)
    elif isinstance(content, dict) and depth < _DEEPEST:
        ours = NOT_CHANNELS if _is_reading(content) else set()
        for key, value in content.items():
            if key not in ours:
                yield from _walk(value, f"{path}.{key}" if path else key, depth + 1)


def _is_reading(content: dict[str, object]) -> bool:
    return isinstance(content.get("time"), str) and content.get("clock") in ("synced", "unsynced")


def measured_at_s(content: object) -> float | None:
    """Return when a reading was taken, in seconds since 1970; None if its clock was not set."""
    if not isinstance(content, dict) or content.get("clock") != "synced":
        return None
    try:
        moment = datetime.fromisoformat(content["time"])
        return moment.timestamp() if moment.tzinfo else None
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None


def decimals_of(value: float) -> int:
    """Return how many decimals a number has, within seven digits (the limit of 32-bit floats)."""
    text = f"{value:.7g}"
    return 0 if "e" in text else len(text.partition(".")[2])


def value_text(value: float | bool, decimals: int = 0) -> str:
    """Format a value for people with about seven digits, and at least `decimals` decimals."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.7g}"
    if "e" not in text:
        return f"{value:.{max(decimals, decimals_of(value))}f}"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else text
