"""The facts that a series of readings is drawn by: times, marks, usual step, decimals. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from node.reading import Reading
from node.system.clock import Clock

__all__ = ["MAX_DECIMALS", "STEPS", "Mark", "Moment", "decimals_of", "usual_step_ms"]

STEPS = 25
"""The number of newest readings from which a sensor's interval is estimated."""
MAX_DECIMALS = 6


class Moment(msgspec.Struct, frozen=True):
    """The current time, by the clocks that date a reading."""

    utc_ms: int
    boot_ms: int
    boot_id: str

    @classmethod
    def of(cls, clock: Clock) -> Moment:
        """Return the current time of `clock`."""
        return cls(
            utc_ms=round(clock.utc_s() * 1000),
            boot_ms=round(clock.boot_s() * 1000),
            boot_id=clock.boot_id,
        )

    def time_of(self, reading: Reading) -> int:
        """Return when a reading was taken (ms since 1970); an estimate if its clock was unset."""
        if not reading.synced and reading.boot_id == self.boot_id:
            return self.utc_ms - (self.boot_ms - reading.boot_ms)
        return reading.utc_ms


class Mark(msgspec.Struct, frozen=True):
    """A number of values that a filter rejected, and when the increase was noticed."""

    at_ms: int
    count: int


def usual_step_ms(steps: Iterable[int]) -> int:
    """Return the step that at least nine of ten steps do not exceed; 0 without any steps.

    The longest step is not used because it may be a gap.
    """
    ordered = sorted(steps)
    return ordered[(len(ordered) - 1) * 9 // 10] if ordered else 0


def decimals_of(number: float) -> int:
    """Return how many decimals a number is written with, six at the most."""
    return len(f"{number:.{MAX_DECIMALS}f}".partition(".")[2].rstrip("0"))
