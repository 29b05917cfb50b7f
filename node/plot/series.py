"""What a series of readings is drawn by: its times, marks, usual step and decimals. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from node.reading import Reading
from node.system.clock import Clock

__all__ = ["MAX_DECIMALS", "STEPS", "Mark", "Moment", "decimals_of", "usual_step_ms"]

STEPS = 25
"""So many of a sensor's newest readings tell how often it is read."""
MAX_DECIMALS = 6


class Moment(msgspec.Struct, frozen=True):
    """Now, by the clocks that tell when a reading was taken."""

    utc_ms: int
    boot_ms: int
    boot_id: str

    @classmethod
    def of(cls, clock: Clock) -> Moment:
        """What this clock says."""
        return cls(
            utc_ms=round(clock.utc_s() * 1000),
            boot_ms=round(clock.boot_s() * 1000),
            boot_id=clock.boot_id,
        )

    def time_of(self, reading: Reading) -> int:
        """When it was taken, since 1970; of one without a true time, the best that is known."""
        if not reading.synced and reading.boot_id == self.boot_id:
            return self.utc_ms - (self.boot_ms - reading.boot_ms)
        return reading.utc_ms


class Mark(msgspec.Struct, frozen=True):
    """Values that a filter rejected, and were seen to be counted at this time."""

    at_ms: int
    count: int


def usual_step_ms(steps: Iterable[int]) -> int:
    """How far readings are apart, as in nine steps of ten, at the least; 0 without any.

    Not the longest: that one may be a gap.
    """
    ordered = sorted(steps)
    return ordered[(len(ordered) - 1) * 9 // 10] if ordered else 0


def decimals_of(number: float) -> int:
    """How many decimals a number is written with, six at the most."""
    return len(f"{number:.{MAX_DECIMALS}f}".partition(".")[2].rstrip("0"))
