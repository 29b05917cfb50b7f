"""How many messages the node lets in: what is above that is dropped before it costs anything.

Anybody who may publish commands may publish thousands of them. They are counted on paho's thread,
where they arrive, and none above the bound wakes the loop, so that they delay no reading.

Used on paho's thread alone.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from node.system.clock import Clock

__all__ = ["RateLimit", "Verdict"]

BURST = 20
PER_S = 5.0
FLOOD = 200
"""So many in a row that were dropped are a flood: the loop shall stop listening for a while."""


class Verdict(enum.Enum):
    """What becomes of a message."""

    TAKEN = enum.auto()
    DROPPED = enum.auto()
    FLOODED = enum.auto()
    """Dropped, and it is time to do something about it."""


class RateLimit:
    """A bucket that holds `BURST` tokens, and gets `PER_S` of them a second."""

    def __init__(self, clock: Clock, *, unlimited: Callable[[str], bool]) -> None:
        """What is retained where `unlimited` says so is always taken, once a connection."""
        self._clock = clock
        self._unlimited = unlimited
        self._came: set[str] = set()
        """The unlimited topics of which what is retained has come."""
        self._tokens = float(BURST)
        self._filled_at_s = clock.monotonic()
        self._dropped = 0

    def begin_connection(self) -> None:
        """What is retained comes again."""
        self._came.clear()

    def judge(self, topic: str, *, retained: bool = False) -> Verdict:
        """Take the next message, or not."""
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
