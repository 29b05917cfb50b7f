"""What a reading costs the card: bytes at the block device, with journal and inodes.

Each peer's folder is an ext4 of its own on a loop device, whose counter of sectors is the kernel's
(see card.py). A scenario of its own, because a sync that goes through two file systems is slower.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from card import Card
from contest import Contest, Workshop, open_contest
from timing import live_times
from window import Figures

__all__ = ["measure", "on_cards"]

_OPTIONS = "noatime"
"""As most systems mount their root."""


def measure(
    workshop: Workshop, *, interval_s: float, slices: int, slice_s: float
) -> dict[str, Figures]:
    with open_contest(workshop, 10, interval_s) as contest, on_cards(workshop, contest) as cards:
        contest.start_all()
        contest.drop_the_late(10 + 2 * interval_s)
        written = {name: [cards[name].written_bytes()] for name in contest.running()}
        ends_s = [time.monotonic()]
        for _ in range(slices):
            time.sleep(max(0.0, ends_s[-1] + slice_s - time.monotonic()))
            ends_s.append(time.monotonic())
            for name, counts in written.items():
                counts.append(cards[name].written_bytes())
        return {name: _figures(contest, name, counts, ends_s) for name, counts in written.items()}


def _figures(contest: Contest, name: str, counts: list[int], ends_s: list[float]) -> Figures:
    figures: Figures = {"written_bytes_per_reading": [], "written_mb_per_hour": []}
    for number, (begin_s, end_s) in enumerate(itertools.pairwise(ends_s)):
        size = counts[number + 1] - counts[number]
        arrived = contest.arrivals(name, begin_s, end_s)
        readings = sum(map(len, live_times(arrived).values()))
        figures["written_bytes_per_reading"].append(size / readings if readings else math.nan)
        figures["written_mb_per_hour"].append(size * 3600 / (end_s - begin_s) / 1e6)
    return figures


@contextmanager
def on_cards(workshop: Workshop, contest: Contest) -> Iterator[dict[str, Card]]:
    """Give each peer that is not started yet a folder on a card of its own.

    Raises:
        RuntimeError: only root may mount, and mkfs.ext4 must be there.
    """
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        raise RuntimeError("needs root and mkfs.ext4, to mount a file system for each peer")
    cards = {}
    with contextlib.ExitStack() as stack:
        for name, job in contest.jobs.items():
            cards[name] = Card(workshop.disk / "cards" / name, _OPTIONS)
            stack.callback(shutil.rmtree, workshop.disk / "cards" / name)
            stack.callback(cards[name].close)
            stack.callback(contest.end, name)
            contest.jobs[name] = job._replace(folder=cards[name].folder)
        yield cards
