"""How long to wait before a failed attempt is repeated."""

from __future__ import annotations

import math

__all__ = ["BackOff"]


class BackOff:
    """A wait that doubles with each failure up to a bound; success resets it."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._wait_s = first_s
        self.until_s = -math.inf
        """Earliest time of the next attempt, on the monotonic clock."""

    def failed(self, now_s: float) -> None:
        """Start the next wait. A failure during a wait belongs to the same attempt."""
        if now_s >= self.until_s:
            self.until_s = now_s + self._wait_s
            self._wait_s = min(2 * self._wait_s, self._longest_s)

    def succeeded(self) -> None:
        """Start with the shortest wait next time."""
        self._wait_s = self._first_s
