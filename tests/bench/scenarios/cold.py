"""From the start of a process to its first reading at the subscriber: CPU and wall time.

The peers start in turn, one at a time. Each has been started once before, so that its files are in
the page cache and compiled, and the node has a log already.
"""

from __future__ import annotations

import math
import threading
import time

from contest import Contest, Workshop, open_contest
from process_meter import cpu_s
from subscriber import Message
from window import Figures

__all__ = ["measure"]

_PATIENCE_S = 30
_SLOW_MS = 1000


def measure(workshop: Workshop, *, starts: int, slow_starts: int = 3) -> dict[str, Figures]:
    """`slow_starts` is for those that take more than a second."""
    figures: dict[str, Figures] = {}
    with open_contest(workshop, 10, 10) as contest:
        for name in contest.peers:
            if _start(contest, name):
                figures[name] = {"cpu_ms": [], "wall_ms": []}
            else:
                workshop.remarks.append(f"{name}: no reading within {_PATIENCE_S} s of its start")
        for number in range(starts):
            for name, known in figures.items():
                if number >= slow_starts and min(known["wall_ms"], default=0) > _SLOW_MS:
                    continue
                taken = _start(contest, name) or (math.nan, math.nan)
                known["cpu_ms"].append(taken[0])
                known["wall_ms"].append(taken[1])
    return figures


def _start(contest: Contest, name: str) -> tuple[float, float] | None:
    """(CPU, wall) in ms up to the first reading; None if there is none."""
    arrived = threading.Event()
    taken: list[tuple[float, float]] = []
    begun_s = time.monotonic()
    process = contest.start(name)

    def look(message: Message) -> None:
        if not taken and contest.is_reading(name, message):
            taken.append((cpu_s(process.pid) * 1000, (message.at_s - begun_s) * 1000))
            arrived.set()

    contest.subscriber.on_message = look
    try:
        arrived.wait(_PATIENCE_S)
    finally:
        contest.subscriber.on_message = None
        contest.stop(name)
    time.sleep(0.1)  # the broker publishes the last will of who was killed
    return taken[0] if taken else None
