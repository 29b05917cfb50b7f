"""What one message says: its text, the numbers in it, and when it was measured.

Pure, and for any bytes at all: a subscriber cannot choose what others publish.
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
"""Beside the channels in a node's `state`."""


class Message(msgspec.Struct, frozen=True):
    """A message as it arrived."""

    topic: str
    payload: bytes
    retained: bool


def described(payload: bytes, longest: int = 200) -> str:
    """The payload in words that can be shown anywhere; what is not UTF-8 is told as such."""
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
    """What the payload is as JSON; None where it is none, or too large to look into."""
    if len(payload) > _LARGEST_JSON:
        return None
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None


def values_in(content: object) -> dict[str, float | bool]:
    """The numbers and truth values in decoded JSON, by their path: {"update.progress": 3.0}.

    A bare number has the path "". What a node puts beside its channels is left out.
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
        if abs(content) < 1e300:  # an integer of JSON may have hundreds of digits
            yield path, float(content)
    elif isinstance(content, dict) and depth < _DEEPEST:
        ours = NOT_CHANNELS if _is_reading(content) else set()
        for key, value in content.items():
            if key not in ours:
                yield from _walk(value, f"{path}.{key}" if path else key, depth + 1)


def _is_reading(content: dict[str, object]) -> bool:
    return isinstance(content.get("time"), str) and content.get("clock") in ("synced", "unsynced")


def measured_at_s(content: object) -> float | None:
    """When a reading was taken, in seconds since 1970, by a clock that was set; else None."""
    if not isinstance(content, dict) or content.get("clock") != "synced":
        return None
    try:
        moment = datetime.fromisoformat(content["time"])
        return moment.timestamp() if moment.tzinfo else None
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None


def decimals_of(value: float) -> int:
    """How many decimals a number has, of seven digits (a 32-bit float has no more)."""
    text = f"{value:.7g}"
    return 0 if "e" in text else len(text.partition(".")[2])


def value_text(value: float | bool, decimals: int = 0) -> str:
    """A value for people, with seven digits or so, and with at least so many decimals."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:.7g}"
    if "e" not in text:
        return f"{value:.{max(decimals, decimals_of(value))}f}"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else text
