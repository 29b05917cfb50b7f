"""Everybody is started while there is no broker; it comes later.

A peer that has ended by then has made no readings: all that there could have been are lost.
"""

from __future__ import annotations

import time

from contest import Workshop, open_contest
from window import Figures

from scenarios.outage import figures_of, numbers, wait_for_readings

__all__ = ["measure"]


def measure(workshop: Workshop, *, away_s: float, after_s: float) -> dict[str, Figures]:
    with open_contest(workshop, 10, 1.0, session=True) as contest:
        contest.broker.stop()
        began = numbers(contest)
        contest.start_all()
        time.sleep(away_s)
        over = numbers(contest)
        running = contest.running()
        returned_s = time.monotonic()
        contest.broker.start()
        for name in set(contest.processes) - set(running):
            contest.stop(name)
        ended = wait_for_readings(contest, over, after_s)
        figures: dict[str, Figures] = {}
        for name in contest.peers:
            if name in running:
                measured = figures_of(
                    contest, name, ended[name], returned_s, began[name], over[name]
                )
                figures[name] = {**measured, "ended": [0]}
            else:
                figures[name] = {"ended": [1], "lost": [round(away_s) * contest.sensors]}
        return figures
