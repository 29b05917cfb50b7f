"""What is measured, in this order, and for how long: 40 minutes in all, and two with --quick."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["SCENARIOS", "Scenario"]


class Scenario(NamedTuple):
    """A module of scenarios/, and what its `measure` is given; `quick` is None where `--quick`
    leaves it out. `quick_peers`: all, or those alone."""

    name: str
    module: str
    full: dict[str, Any]
    quick: dict[str, Any] | None
    quick_peers: tuple[str, ...] = ()


def _outage(kind: str, quick: dict[str, Any] | None) -> Scenario:
    full = {"kind": kind, "before_s": 5, "away_s": 60, "after_s": 90}
    return Scenario(f"outage-{kind}", "outage", full, quick)


SCENARIOS = (
    Scenario("cold", "cold", {"starts": 11}, {"starts": 3}),
    Scenario(
        "steady-10s",
        "steady",
        {"interval_s": 10.0, "slices": 5, "slice_s": 50, "traced_s": 20},
        {"interval_s": 10.0, "slices": 1, "slice_s": 20, "traced_s": 0},
    ),
    Scenario(
        "card",
        "card",
        {"interval_s": 10.0, "slices": 3, "slice_s": 60},
        {"interval_s": 10.0, "slices": 1, "slice_s": 20},
        ("tutorial", "node"),
    ),
    Scenario(
        "steady-1s",
        "steady",
        {"interval_s": 1.0, "slices": 5, "slice_s": 24, "traced_s": 10},
        None,
    ),
    Scenario(
        "sizes",
        "sizes",
        # mqtt-io takes a tenth of a second of the processor for each sensor before it starts.
        {"sizes": [1, 10, 100, 1000], "slices": 3, "slice_s": 7, "start_s": 0.15},
        {"sizes": [1000], "slices": 1, "slice_s": 6, "start_s": 0.015},
        ("tutorial", "node"),
    ),
    Scenario(
        "throughput",
        "throughput",
        {"rounds": 5, "seconds": 3, "fill_s": 15},
        {"rounds": 1, "seconds": 2, "fill_s": 5},
        ("tutorial", "node"),
    ),
    _outage("down", {"kind": "down", "before_s": 1, "away_s": 10, "after_s": 12}),
    _outage("killed", None),
    _outage("frozen", None),
    Scenario("kill", "killed", {"before_s": 5, "away_s": 20, "after_s": 90}, None),
    Scenario("absent", "absent", {"away_s": 20, "after_s": 90}, None),
    Scenario("blocking", "blocking", {"blocks_s": 5, "settle_s": 8, "seconds": 30}, None),
    Scenario("backlog", "backlog", {"readings": 86_400, "longest_s": 130, "after_s": 90}, None),
)
