"""How many messages the node lets in: what is above that is dropped before it costs anything.

Anybody who may publish commands may publish thousands of them. They are counted on paho's thread,
where they arrive, and none above the bound wakes the loop, so that they delay no reading.

Used on paho's thread alone.
"""

from __future__ import annotations

import enum

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

    def __init__(self, clock: Clock, *, unlimited: str) -> None:
        """What is retained on the topic `unlimited` is always taken, once a connection."""
        self._clock = clock
        self._unlimited = unlimited
        self._has_come = False
        """What is retained on `unlimited` has come."""
        self._tokens = float(BURST)
        self._filled_at_s = clock.monotonic()
        self._dropped = 0

    def begin_connection(self) -> None:
        """What is retained comes again."""
        self._has_come = False

    def judge(self, topic: str, *, retained: bool = False) -> Verdict:
        """Take the next message, or not."""
        if retained and topic == self._unlimited and not self._has_come:
            self._has_come = True
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
