"""When the node started, as a time that does not jitter from one health to the next.

Used on the loop's thread.
"""

from __future__ import annotations

from node.system.clock import Clock, utc_text

__all__ = ["StartTime"]

MAX_STEP_S = 2.0
"""How far the clock may be set without a change of what was said."""


class StartTime:
    """Made at the start."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_boot_s = clock.boot_s()
        self._utc_s: float | None = None

    def text(self) -> str | None:
        """Return the start in RFC 3339, in whole seconds; None until the clock was right once."""
        if self._clock.synced():
            utc_s = self._clock.utc_s() - (self._clock.boot_s() - self._started_boot_s)
            if self._utc_s is None or abs(utc_s - self._utc_s) > MAX_STEP_S:
                self._utc_s = utc_s
        return None if self._utc_s is None else utc_text(round(self._utc_s) * 1000)
