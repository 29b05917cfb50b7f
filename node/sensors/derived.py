"""The derived channels of a sensor at run time: their parts, and what they remember.

Used on the loop's thread by `state`, after the sensor's own values have passed their filters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from node.derive.functions import Highest, Lowest
from node.derive.parts import Derived, Missing, OverWindow

__all__ = ["DerivedValues", "Window"]

_BUCKETS = 240
"""In how many steps a window moves on, so that a day at a reading a second takes 20 kB."""

PartValue = Callable[[str, str, str], float]
"""(sensor, channel, unit of its driver) -> its value in that unit; raises Missing."""


class DerivedValues:
    """The derived channels of one sensor."""

    def __init__(self, derived: Sequence[Derived]) -> None:
        self._derived = derived
        self.windows = {
            d.channel.name: Window(d.function)
            for d in derived
            if isinstance(d.function, OverWindow)
        }

    def values(self, part: PartValue, boot_s: float) -> Iterator[tuple[str, float | Missing]]:
        """Yield each channel with its value, or with the reason why it has none.

        `part` is asked after the channels before it were yielded, which may be its parts.
        `boot_s`: when the reading was taken, in time since boot.
        """
        for derived in self._derived:
            name = derived.channel.name
            try:
                yield name, self._value(derived, part, boot_s)
            except Missing as reason:
                yield name, reason

    def _value(self, derived: Derived, part: PartValue, boot_s: float) -> float:
        parts = {
            key: part(sensor, channel, derived.unit_of(key))
            for key, (sensor, channel) in derived.sources.items()
        }
        window = self.windows.get(derived.channel.name)
        if window is None:
            return derived.value(parts)
        window.add(boot_s, parts["of"])
        return window.value(boot_s)


class Window:
    """The lowest, highest or mean of the values of the last `window`, in boot time.

    It moves on in 240 steps, and never has a value that is older than the window.
    """

    def __init__(self, function: OverWindow) -> None:
        self.seconds = float(function.window)
        self._function = function
        self._step_s = self.seconds / _BUCKETS
        self._buckets: dict[int, tuple[float, float, float, int]] = {}
        """Step -> lowest, highest, sum, count."""
        self.has_this_boot = False
        """Whether it has the readings of this boot before this start."""
        self.is_complete = False
        """Whether it has all readings that the log has."""

    def add(self, at_s: float, value: float) -> None:
        """Add a value that was measured at `at_s`; older ones may follow younger ones."""
        step = math.floor(at_s / self._step_s)
        bucket = self._buckets.get(step)
        if bucket is None:
            oldest = max(self._buckets, default=step) - _BUCKETS
            self._buckets = {s: b for s, b in self._buckets.items() if s > oldest}
            self._buckets[step] = (value, value, value, 1)
        else:
            low, high, total, count = bucket
            self._buckets[step] = (min(low, value), max(high, value), total + value, count + 1)

    def value(self, now_s: float) -> float:
        """Return the value of the window that ends at `now_s`.

        Raises:
            Missing: readings of an earlier boot may belong to it, and are not in it.
        """
        if not self.is_complete and now_s < self.seconds:
            raise Missing("the readings before this boot are added once the clock is set")
        oldest = (now_s - self.seconds) / self._step_s
        inside = [bucket for step, bucket in self._buckets.items() if step >= oldest]
        if isinstance(self._function, Lowest):
            return min(low for low, _, _, _ in inside)
        if isinstance(self._function, Highest):
            return max(high for _, high, _, _ in inside)
        return math.fsum(total for _, _, total, _ in inside) / sum(n for _, _, _, n in inside)
