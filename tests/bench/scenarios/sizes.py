"""1, 10, 100 and 1,000 sensors every second: CPU, and readings that were missed.

Up to 100 all peers run at once; with 1,000 one after the other, for the machine could not feed them
all.
"""

from __future__ import annotations

from collections.abc import Sequence

from contest import Workshop, open_contest
from window import Figures, observe

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
    workshop: Workshop, *, sizes: Sequence[int], slices: int, slice_s: float, start_s: float
) -> dict[str, Figures]:
    """Metrics are named `METRIC@SIZE`. `start_s`: what a start may take for each sensor."""
    figures: dict[str, Figures] = {peer.name: {} for peer in workshop.peers}
    for size in sizes:
        alone = size >= _ALONE_FROM
        groups = [workshop.only([peer.name]) for peer in workshop.peers] if alone else [workshop]
        for group in groups:
            for name, measured in _one(group, size, slices, slice_s, start_s).items():
                for metric in _KEPT:
                    figures[name][f"{metric}@{size}"] = measured.get(metric, [])
    return figures


def _one(
    workshop: Workshop, size: int, slices: int, slice_s: float, start_s: float
) -> dict[str, Figures]:
    with open_contest(workshop, size, 1.0) as contest:
        contest.start_all()
        contest.drop_the_late(15 + size * start_s)
        figures = observe(contest, slices, slice_s)
        for name in (peer.name for peer in workshop.peers):
            if name not in figures:  # it was too late for `observe`: it has missed everything
                expected = size * slices * slice_s
                figures[name] = {"missed": [expected], "missed_percent": [100.0], "readings": [0]}
        return figures
