"""1, 10, 100 and 1,000 sensors every second: CPU, and readings that were missed.

Up to 100 all peers run at once; with 1,000 one after the other, for the machine could not feed them
all.
"""

from __future__ import annotations

from collections.abc import Sequence

from contest import Workshop, open_contest
from window import Figures, observe, wait_for_all

__all__ = ["measure"]

_ALONE_FROM = 1000
_KEPT = (
    "cpu_ms_per_reading",
    "cpu_percent",
    "missed",
    "missed_percent",
    "readings",
    "rss_mb",
    "wakeups_per_s",
)


def measure(
    workshop: Workshop, *, sizes: Sequence[int], slices: int, slice_s: float, rounds: int
) -> dict[str, Figures]:
    """Metrics are named `METRIC@SIZE`. `rounds`: of those that run alone."""
    figures: dict[str, Figures] = {peer.name: {} for peer in workshop.peers}
    for size in sizes:
        alone = size >= _ALONE_FROM
        groups = [workshop.only([peer.name]) for peer in workshop.peers] if alone else [workshop]
        for _ in range(rounds if alone else 1):
            for group in groups:
                for name, measured in _one(group, size, slices, slice_s).items():
                    for metric in _KEPT:
                        known = figures[name].setdefault(f"{metric}@{size}", [])
                        known += measured[metric]
    return figures


def _one(workshop: Workshop, size: int, slices: int, slice_s: float) -> dict[str, Figures]:
    with open_contest(workshop, size, 1.0) as contest:
        contest.start_all()
        wait_for_all(contest, 10 + size / 50)
        return observe(contest, slices, slice_s)
