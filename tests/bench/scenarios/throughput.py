"""Readings a second, as fast as they go, counted where they arrive.

The loops that can be told to go on without a pause (an interval of 0) are counted from their second
second on, before they have more under way than MQTT has message ids for. The node is not made for
that: what it does as fast as it can is to send what waits in its log, with its limit on that
(`drain_rate`) out of the way. So its log is filled first, by a node without a broker. mqtt-io,
`schedule` and collectd have no such thing.
"""

from __future__ import annotations

import shutil
import time

from contest import Contest, Workshop, open_contest
from peers import Node
from window import Figures

__all__ = ["measure"]

_LOOPS = ("tutorial", "paho", "c")
_BEFORE_S = 1.0


def measure(
    workshop: Workshop, *, rounds: int, seconds: float, fill_s: float
) -> dict[str, Figures]:
    figures: dict[str, Figures] = {}
    with open_contest(workshop.only(_LOOPS), 10, 0.0, counting=False) as contest:
        for _ in range(rounds):
            for name in contest.peers:
                rate = _flood(contest, name, seconds)
                figures.setdefault(name, {"per_s": []})["per_s"].append(rate)
    if workshop.only(["node"]).peers:
        with open_contest(workshop.only(["node"]), 100, 0.1, counting=False) as contest:
            figures["node"] = {"per_s": _drains(contest, rounds, fill_s)}
    return figures


def _flood(contest: Contest, name: str, seconds: float) -> float:
    messages = contest.subscriber.messages
    messages.clear()
    contest.start(name)
    while not messages:
        time.sleep(0.01)
    time.sleep(_BEFORE_S)
    began, began_s = len(messages), time.monotonic()
    time.sleep(seconds)
    rate = (len(messages) - began) / (time.monotonic() - began_s)
    contest.stop(name)
    return rate


def _drains(contest: Contest, rounds: int, fill_s: float) -> list[float]:
    """From the first message of history to the last."""
    node = contest.peers["node"]
    assert isinstance(node, Node)
    job = contest.jobs["node"]
    state = job.folder / "state"
    contest.broker.stop()
    contest.start("node")
    time.sleep(fill_s)
    contest.stop("node")
    contest.broker.start()
    filled = state.rename(job.folder / "filled")
    sensor = f'[[sensor]]\nid = "s0"\ndriver = "sysfs"\npath = "{job.files[0]}"\ninterval = "1h"\n'
    rates = []
    for _ in range(rounds):
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(filled, state)
        began_s = time.monotonic()
        contest.start("node", node.run(job, f"[outbox]\ndrain_rate = 1000000\n{sensor}"))
        times = _history_times(contest, began_s)
        contest.stop("node")
        rates.append((len(times) - 1) / (times[-1] - times[0]))
    return rates


def _history_times(contest: Contest, began_s: float) -> list[float]:
    """The time of each reading, once no more have come for a second."""
    deadline_s = time.monotonic() + 30
    known = -1
    while time.monotonic() < deadline_s:
        times = [a.at_s for a in contest.arrivals("node", began_s) if a.topic.endswith("/history")]
        if len(times) == known > 1:
            return times
        known = len(times)
        time.sleep(1)
    raise RuntimeError("the node does not send its log")
