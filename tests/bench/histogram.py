"""Durations counted in buckets that are each 10 % wider than the last; they travel as JSON."""

from __future__ import annotations

import math

__all__ = ["Histogram"]

_FIRST_MS = 0.01
_STEP = math.log(1.1)


class Histogram:
    """How often which duration was seen."""

    def __init__(self, counts: dict[str, int] | None = None, longest_ms: float = 0.0) -> None:
        self.counts = {int(bucket): count for bucket, count in (counts or {}).items()}
        self.longest_ms = longest_ms

    def add(self, duration_ms: float) -> None:
        bucket = 0
        if duration_ms > _FIRST_MS:
            bucket = 1 + int(math.log(duration_ms / _FIRST_MS) / _STEP)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.longest_ms = max(self.longest_ms, duration_ms)

    def merge(self, other: Histogram) -> None:
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.longest_ms = max(self.longest_ms, other.longest_ms)

    def quantile_ms(self, share: float) -> float:
        """The upper end of the bucket in which `share` of all lies; 0 where there is nothing."""
        wanted = share * sum(self.counts.values())
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(self.longest_ms, _FIRST_MS * math.exp(bucket * _STEP))
        return 0.0

    def take(self) -> dict[str, object]:
        """For JSON, and begin anew."""
        taken = {"counts": {str(b): c for b, c in self.counts.items()}, "longest": self.longest_ms}
        self.counts, self.longest_ms = {}, 0.0
        return taken
