"""Bounds how many messages the node accepts, and drops the rest before they cost anything.

A client that may publish commands may publish thousands of them. They are counted on paho's thread,
where they arrive. Messages above the bound do not wake the loop, so they do not delay readings.

Used only on paho's thread.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from node.system.clock import Clock

__all__ = ["RateLimit", "Verdict"]

BURST = 20
PER_S = 5.0
FLOOD = 200
"""This many dropped in a row are a flood, and the loop should stop listening for a while."""


class Verdict(enum.Enum):
    """The decision on a message."""

    TAKEN = enum.auto()
    DROPPED = enum.auto()
    FLOODED = enum.auto()
    """Dropped, and it is time to do something about it."""


class RateLimit:
    """A bucket that holds `BURST` tokens, and gets `PER_S` of them a second."""

    def __init__(self, clock: Clock, *, unlimited: Callable[[str], bool]) -> None:
        """Start with a full bucket.

        Retained messages on `unlimited` topics are always accepted, once per connection.
        """
        self._clock = clock
        self._unlimited = unlimited
        self._came: set[str] = set()
        """The unlimited topics whose retained message has arrived."""
        self._tokens = float(BURST)
        self._filled_at_s = clock.monotonic()
        self._dropped = 0

    def begin_connection(self) -> None:
        """Expect the retained messages again."""
        self._came.clear()

    def judge(self, topic: str, *, retained: bool = False) -> Verdict:
        """Decide whether to accept the next message."""
        if retained and topic not in self._came and self._unlimited(topic):
            self._came.add(topic)
            return Verdict.TAKEN
        now_s = self._clock.monotonic()
        self._tokens = min(BURST, self._tokens + (now_s - self._filled_at_s) * PER_S)
        self._filled_at_s = now_s
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            if self._tokens > BURST / 2:
                self._dropped = 0
            return Verdict.TAKEN
        self._dropped += 1
        return Verdict.FLOODED if self._dropped % FLOOD == 0 else Verdict.DROPPED
