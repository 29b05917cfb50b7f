"""The time, passed in wherever it is needed: monotonic for intervals, UTC for timestamps."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock", "utc_text"]


class Clock(Protocol):
    """What the node asks of a clock."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never stepped."""
        ...

    def utc_s(self) -> float:
        """Seconds since 1970, UTC, as far as this computer knows."""
        ...

    def synced(self) -> bool:
        """Whether the kernel's clock is kept by NTP."""
        ...


class SystemClock:
    """The computer's clocks."""

    def __init__(self) -> None:
        self._adjtimex = _find_adjtimex()

    def monotonic(self) -> float:
        return time.monotonic()

    def utc_s(self) -> float:
        return time.time()

    def synced(self) -> bool:
        """adjtimex(2) without a change: TIME_ERROR (5) means that nobody keeps the clock."""
        return self._adjtimex is not None and 0 <= self._adjtimex() < 5


def _find_adjtimex() -> Adjtimex | None:
    import ctypes

    try:
        function = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    # struct timex is 208 bytes on 64 bits; modes, its first field, is 0: nothing is changed.
    buffer = ctypes.create_string_buffer(512)
    return lambda: int(function(buffer))


class Adjtimex(Protocol):
    """A call without effect that gives the state of the kernel's clock, -1 for an error."""

    def __call__(self) -> int: ...


def utc_text(utc_s: float) -> str:
    """RFC 3339 with milliseconds: `2026-11-24T03:13:00.123Z`."""
    milliseconds = round(utc_s * 1000)
    moment = time.gmtime(milliseconds // 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', moment)}.{milliseconds % 1000:03d}Z"
