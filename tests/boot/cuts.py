"""Power cuts in the middle of measuring, on QEMU's `virt` machine: what was published is not lost.

The guest's memory is gone with each cut, and with it all that it has not written to its card. As a
negative control the node then syncs its log every five minutes only: there the cuts must be seen.
"""

from __future__ import annotations

import random
import time
from typing import Any

from machine import Machine
from report import Report
from support import Subscriber, replaced, wait_until
from virt import BOOT_S, config, gaps, newest_seq, wait_for

__all__ = ["run_cuts"]

_NODE = "greenhouse"
_SENSORS = ["eth0/mtu", "eth0/type", "lo/mtu"]
_CONTROL_CUTS = 3


def run_cuts(machine: Machine, seen: Subscriber, report: Report, cuts: int) -> None:
    card = machine.card
    card.write("ssh.txt", machine.make_ssh_key())
    card.write("sensor-node.toml", config(_NODE, _SENSORS, every="1s"))
    chance = random.Random(cuts)
    report.say(f"{cuts} power cuts, each at a random moment of the first half minute")
    with report.check(f"no reading is lost by {cuts} power cuts") as figures:
        for _ in range(cuts):
            _run_and_cut(machine, seen, chance.uniform(0, 30))
        _let_it_catch_up(machine, seen)
        readings = seen.history(_NODE)
        numbers = {reading["seq"] for reading in readings}
        assert len({reading["stream"] for reading in readings}) == 1
        assert gaps(readings) == []
        assert _given_twice(readings) == []
        assert _published(seen) <= numbers, sorted(_published(seen) - numbers)
        figures.append(f"{max(numbers)} readings in a row")
    often = 'history_interval = "2s"'
    text = replaced(config("control", _SENSORS, every="1s"), (often, f'{often}\nsync_every = "5m"'))
    card.write("sensor-node.toml", text)
    with report.check("the control: with sync_every = 5m the cuts are seen") as figures:
        for _ in range(_CONTROL_CUTS):
            _run_and_cut(machine, seen, 20, node="control")
        # History waits up to two minutes after boot for the clock, which nobody sets here.
        _run_and_cut(machine, seen, 150, node="control")
        readings = seen.history("control")
        twice, missing = _given_twice(readings), gaps(readings)
        figures.append(f"{len(twice)} numbers were given twice, {len(missing)} are missing")
        assert twice or missing, "the cuts lose nothing, so the check above proves nothing"
    machine.cut_power()


def _run_and_cut(machine: Machine, seen: Subscriber, after_s: float, node: str = _NODE) -> None:
    """Start, and cut the power so long after the first reading."""
    before = len(seen.states("s0", node))
    machine.power_on()
    wait_for(machine, lambda: len(seen.states("s0", node)) > before, BOOT_S)
    time.sleep(after_s)
    machine.cut_power()


def _let_it_catch_up(machine: Machine, seen: Subscriber) -> None:
    before = newest_seq(seen)
    machine.power_on()
    wait_for(machine, lambda: newest_seq(seen) > before, BOOT_S)
    newest = max(_published(seen))
    wait_until(lambda: newest_seq(seen) > newest, 300, "the history of all that was published")


def _given_twice(readings: list[dict[str, Any]]) -> list[int]:
    """The numbers that two readings have; one reading may well come twice."""
    known: dict[int, tuple[str, str]] = {}
    return [
        reading["seq"]
        for reading in readings
        if known.setdefault(reading["seq"], (reading["sensor"], reading["time"]))
        != (reading["sensor"], reading["time"])
    ]


def _published(seen: Subscriber) -> set[int]:
    """The numbers of all readings that were seen as states."""
    sensors = [f"s{number}" for number in range(len(_SENSORS))]
    return {state["seq"] for sensor in sensors for state in seen.states(sensor, _NODE)}
