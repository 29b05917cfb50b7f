"""The time, passed in where it is needed.

Monotonic for intervals, UTC for timestamps, and the time since boot, which outlives the process:
together with the boot's id it dates a reading that was taken before the date was known.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

__all__ = ["Clock", "SystemClock", "local_text", "utc_text"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_HARDWARE_CLOCKS = Path("/sys/class/rtc")
_AGREES_S = 2.0
_COMPARE_EVERY_S = 60.0
_LOOK_EVERY_S = 0.1
_NO_EARLIER_S = 1_735_689_600  # 2025-01-01: an earlier time is always wrong


class Clock(Protocol):
    """The interface of a clock."""

    @property
    def boot_id(self) -> str:
        """A new id after each boot of this computer."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never stepped."""
        ...

    def boot_s(self) -> float:
        """Seconds since this computer was booted, never stepped."""
        ...

    def utc_s(self) -> float:
        """Seconds since 1970, UTC, as far as this computer knows."""
        ...

    def synced(self) -> bool:
        """Whether the kernel's clock is right, for all that is known."""
        ...


class SystemClock:
    """The computer's clocks."""

    def __init__(self) -> None:
        self._adjtimex = _find_adjtimex()
        self._boot_clock: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        self.boot_id = _read_boot_id()
        self._agreed = False
        self._agreed_at_s = -math.inf
        """When the hardware clock was looked at last."""
        self._synced = False
        self._look_again_s = -math.inf
        """When `_synced` is too old."""

    monotonic = staticmethod(time.monotonic)

    def boot_s(self) -> float:
        """CLOCK_BOOTTIME, which counts a laptop's sleep too (clock_gettime(2))."""
        return time.clock_gettime(self._boot_clock)

    def utc_s(self) -> float:
        return time.time()

    def synced(self) -> bool:
        """Return whether NTP keeps the clock, or a hardware clock agrees with it within 2 s.

        adjtimex(2) without a change: TIME_ERROR (5) means that nobody keeps the clock. A hardware
        clock without a battery begins in the past, and so agrees with nothing. The readings of a
        tick share one answer.
        """
        now_s = self.monotonic()
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + _LOOK_EVERY_S
            kept = self._adjtimex is not None and 0 <= self._adjtimex() < 5
            self._synced = self.utc_s() >= _NO_EARLIER_S and (kept or self._agrees_with_hardware())
        return self._synced

    def _agrees_with_hardware(self) -> bool:
        """Compare with the hardware clock, at most once a minute: it may be on the sensors' bus."""
        now_s = self.monotonic()
        if now_s >= self._agreed_at_s + _COMPARE_EVERY_S:
            self._agreed_at_s = now_s
            self._agreed = any(abs(at_s - self.utc_s()) <= _AGREES_S for at_s in _hardware_times())
        return self._agreed


def _hardware_times() -> Iterator[float]:
    """What each hardware clock says, in seconds since 1970 (ABI/testing/sysfs-class-rtc)."""
    for file in _HARDWARE_CLOCKS.glob("*/since_epoch"):
        with contextlib.suppress(OSError, ValueError):  # one that has stopped cannot be read
            yield int(file.read_bytes()) + 0.5


def _read_boot_id() -> str:
    """Return the kernel's boot id (random(4)); without one, each process start is a new boot."""
    try:
        return _BOOT_ID.read_text(encoding="utf-8").strip()
    except OSError:
        return os.urandom(16).hex()


def _find_adjtimex() -> Adjtimex | None:
    import ctypes

    try:
        function = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    # struct timex is 208 bytes on 64 bits. Its first field, modes, is 0, so nothing is changed.
    buffer = ctypes.create_string_buffer(512)
    return lambda: int(function(buffer))


class Adjtimex(Protocol):
    """A read-only call that returns the state of the kernel's clock, or -1 for an error."""

    def __call__(self) -> int: ...


def utc_text(utc_ms: int) -> str:
    """Return RFC 3339 with milliseconds: `2026-11-24T03:13:00.123Z`."""
    return f"{_second_text(utc_ms // 1000)}.{utc_ms % 1000:03d}Z"


@functools.lru_cache(maxsize=16)  # the readings of a tick share it, in `state` and in `history`
def _second_text(utc_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(utc_s))


def local_text(utc_ms: int) -> str:
    """Return a time for people, with this computer's zone: `2026-11-24 04:13:00 CET`."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(utc_ms // 1000))
