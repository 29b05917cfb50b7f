"""The limits that the node is to keep to, and whether each run did; ratios are of one run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from results import Results
from table import number_text

__all__ = ["GOALS", "Verdict", "goal_lines", "judge"]


class Goal(NamedTuple):
    """The node's `metric`, or its ratio to that of the peer `beside`, is to be `limit` at most.

    With `at_least` it is to be more than `limit`.
    """

    what: str
    scenario: str
    metric: str
    limit: float
    beside: str | None = None
    at_least: bool = False


class Verdict(NamedTuple):
    """`values` has one for each run that has measured it; `met` counts those that keep to it."""

    goal: Goal
    values: list[float]
    met: int


GOALS = (
    Goal("CPU per reading, 10 at 10 s", "steady-10s", "cpu_ms_per_reading", 1.0, "tutorial"),
    Goal("CPU per reading, 10 at 10 s", "steady-10s", "cpu_ms_per_reading", 0.3, "mqtt-io"),
    Goal("cold start, CPU", "cold", "cpu_ms", 1.3, "tutorial"),
    Goal("cold start, CPU", "cold", "cpu_ms", 0.12, "mqtt-io"),
    Goal("memory (RSS)", "steady-10s", "rss_mb", 1.15, "tutorial"),
    Goal("wake-ups a second, 10 at 10 s", "steady-10s", "wakeups_per_s", 1.3),
    # Ten times the periods of 10 s: there, one late arrival looks like a drift.
    Goal("drift per period, 10 at 1 s, ms", "steady-1s", "abs_drift_ms", 0.1),
    Goal("lateness p99, 10 at 1 s", "steady-1s", "late_p99_ms", 2.0, "c"),
    Goal("CPU, 1,000 sensors at 1 s", "sizes", "cpu_percent@1000", 1.5, "tutorial"),
    Goal("the same, per reading", "sizes", "cpu_ms_per_reading@1000", 1.5, "tutorial"),
    Goal("missed of 1,000 sensors at 1 s", "sizes", "missed@1000", 0),
    Goal("readings a second", "throughput", "per_s", 1.0, "tutorial", at_least=True),
    *(
        Goal(what, scenario, metric, 0)
        for scenario, where in (
            ("outage-down", "broker down"),
            ("outage-killed", "broker killed"),
            ("outage-frozen", "broker frozen"),
            ("kill", "kill -9 in an outage"),
            ("absent", "no broker at the start"),
            ("backlog", "a day's backlog"),
        )
        for what, metric in ((f"{where}: lost", "lost"), (f"{where}: out of order", "went_back"))
    ),
)


def judge(goal: Goal, runs: Sequence[Results]) -> Verdict:
    """Return what each run says of it, of those that have measured it."""
    values = [value for run in runs if (value := _value(goal, run)) is not None]
    kept_to = [value > goal.limit if goal.at_least else value <= goal.limit for value in values]
    return Verdict(goal, values, sum(kept_to))


def _value(goal: Goal, run: Results) -> float | None:
    if goal.beside is None:
        return run.median(goal.scenario, "node", goal.metric)
    return run.ratio(goal.scenario, goal.metric, goal.beside)


def goal_lines(runs: Sequence[Results]) -> Iterator[str]:
    """A line for each goal that was measured, and one that counts the others.

    Of several runs: the median, the lowest and the highest, and in how many it was met.
    """
    verdicts = [judge(goal, runs) for goal in GOALS]
    for goal, values, met in verdicts:
        if not values:
            continue
        what = goal.what + (f", beside {goal.beside}" if goal.beside else "")
        times = "x" if goal.beside else ""
        measured = _text(statistics.median(values), times)
        verdict = "met" if met == len(values) else "NOT MET"
        asked = f"{'more than' if goal.at_least else 'at most'} {goal.limit:g}{times}"
        if len(runs) == 1:
            yield f"  {what:<48}{measured:>10}   {asked:<18}{verdict}"
        else:
            span = f"{_text(min(values), '')} to {_text(max(values), '')}"
            verdict += f", {met} of {len(values)}"
            yield f"  {what:<44}{measured:>7}  {span:<15}{asked:<15}{verdict}"
    unknown = sum(not verdict.values for verdict in verdicts)
    if unknown:
        yield f"  {unknown} of {len(verdicts)} goals were not measured in this run"


def _text(value: float, times: str) -> str:
    return f"{value:.2f}{times}" if times else number_text(value)
