"""The faults, one after the other, and what the nodes and the database notice of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from brokers import PATIENCE_S, Broker
from plant import Plant

__all__ = ["FAULTS", "Row", "measure", "quiet"]


class Row(NamedTuple):
    """What was seen in one fault; times in seconds."""

    fault: str
    seconds: float
    messages_per_s: float
    """Published by the simulated nodes, and acknowledged."""
    readings_per_s: float
    """New in the database."""
    lag_median_s: float
    lag_worst_s: float
    """Of the node that was furthest behind at any time."""
    losses: int
    """Connections of simulated nodes that ended."""
    online_again_s: float
    """From the beginning of the fault until all were connected for good."""
    recovery_s: float
    """From the beginning of the fault until the database had a later reading of each node."""


class _Gauge:
    """Looks once a second, from its making on."""

    def __init__(self, plant: Plant) -> None:
        assert plant.simulated is not None
        self._plant = plant
        self._nodes = plant.simulated
        self._expected = self._nodes.count + len(plant.real)
        self._began_s, self._began_utc_s = time.monotonic(), time.time()
        self._before = dict(self._nodes.figures)
        self._stored_before = len(plant.stored())
        self._worst_s: float = 0
        self._medians: list[float] = []
        self.online_s = self.recovered_s = 0.0

    def look(self) -> None:
        now_s = time.monotonic() - self._began_s
        newest = self._plant.newest()
        lags_s = sorted(time.time() - at_s for at_s in newest.values())
        if lags_s:
            self._worst_s = max(self._worst_s, lags_s[-1])
            self._medians.append(lags_s[len(lags_s) // 2])
        if self._plant.online() < self._nodes.count:
            self.online_s = 0
        elif not self.online_s:
            self.online_s = now_s
        current = sum(at_s >= self._began_utc_s for at_s in newest.values())
        if not self.recovered_s and current == self._expected:
            self.recovered_s = now_s
        time.sleep(1)

    def look_for(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self.look()

    def look_until(self, condition: Callable[[], bool], what: str) -> None:
        end_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > end_s:
                raise AssertionError(f"not within {PATIENCE_S:g} s: {what}; {self._state()}")
            self.look()

    def _state(self) -> str:
        newest = self._plant.newest()
        behind = sorted(name for name, at_s in newest.items() if at_s < self._began_utc_s)
        return f"{self._plant.online()} of {self._nodes.count} are online; behind: {behind}"

    def row(self, fault: str) -> Row:
        passed_s = time.monotonic() - self._began_s
        now = self._nodes.figures
        acknowledged = now["acknowledged"] - self._before["acknowledged"]
        return Row(
            fault,
            passed_s,
            acknowledged / passed_s,
            (len(self._plant.stored()) - self._stored_before) / passed_s,
            sorted(self._medians)[len(self._medians) // 2],
            self._worst_s,
            now["losses"] - self._before["losses"],
            self.online_s,
            self.recovered_s,
        )


def quiet(plant: Plant, seconds: float) -> Row:
    """Measure without a fault."""
    gauge = _Gauge(plant)
    gauge.look_for(seconds)
    return gauge.row("none")


def _kill(brokers: list[Broker]) -> Iterator[str]:
    one = brokers[0]
    one.kill()
    yield f"kill -9 of {one.host.name}"
    one.start()


def _cut(brokers: list[Broker]) -> Iterator[str]:
    one = brokers[0]
    one.host.unplug()
    yield f"{one.host.name} cut off from all"
    one.host.plug()


def _split(brokers: list[Broker]) -> Iterator[str]:
    one, *rest = brokers
    others = [broker.host for broker in rest]
    one.host.lose(others)
    yield f"{one.host.name} cut off from the other brokers"
    one.host.find(others)


def _restart(brokers: list[Broker]) -> Iterator[str]:
    for broker in brokers:
        broker.kill()
    yield "kill -9 of all three"
    for broker in brokers:
        broker.start()


FAULTS: dict[str, Callable[[list[Broker]], Iterator[str]]] = {
    "kill": _kill,
    "cut": _cut,
    "split": _split,
    "restart": _restart,
}
"""Each concerns the first of the brokers, or all of them; ends with the second step."""


def measure(plant: Plant, brokers: list[Broker], fault: str, one: Broker, down_s: float) -> Row:
    """Have one fault for `down_s`, and look until everything is as before."""
    gauge = _Gauge(plant)
    steps = FAULTS[fault]([one, *(broker for broker in brokers if broker is not one)])
    name = next(steps)
    gauge.look_for(down_s)
    for _ in steps:
        pass
    gauge.look_until(lambda: all(broker.welcomes() for broker in brokers), "all brokers accept")
    gauge.look_until(lambda: bool(gauge.recovered_s and gauge.online_s), f"recovery from: {name}")
    return gauge.row(name)
