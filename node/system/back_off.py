"""How long to wait before something that was refused is tried again."""

from __future__ import annotations

import math

__all__ = ["BackOff"]


class BackOff:
    """A wait that doubles with each failure up to a bound; success makes it small again."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._wait_s = first_s
        self.until_s = -math.inf
        """When the next attempt may be made; a monotonic time."""

    def failed(self, now_s: float) -> None:
        """Wait again; what fails while a wait is under way is part of the same attempt."""
        if now_s >= self.until_s:
            self.until_s = now_s + self._wait_s
            self._wait_s = min(2 * self._wait_s, self._longest_s)

    def succeeded(self) -> None:
        """Begin with the shortest wait the next time."""
        self._wait_s = self._first_s
