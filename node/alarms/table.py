"""`[[sensor.channel.NAME.alarm]]`: the keys of an alarm, their check, and their words.

A condition is a key that is set: `above`, `below`, `rate` or `no_value`. `rule` evaluates
them. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from drivers.base import BcmPin, Channel
from node.units import Rate, Seconds, TopicPart, convert, convertible, duration_text

__all__ = ["AlarmTable", "Condition", "alarm_problems", "duplicate_names"]

Problems = Iterator[tuple[str, str]]
"""(key, problem); the key is "" for the table as a whole."""


class Condition(msgspec.Struct, frozen=True):
    """One condition of an alarm: its key, and its limit in `unit`."""

    kind: str
    limit: float
    unit: str

    def __str__(self) -> str:
        if self.kind == "no_value":
            return f"no value for {duration_text(self.limit)}"
        words = {"rate": "changes faster than"}.get(self.kind, self.kind)
        return f"{words} {self.limit:g} {self.unit}"


class AlarmTable(msgspec.Struct, frozen=True, kw_only=True):
    """One alarm; every number is in the unit of its channel."""

    name: TopicPart | None = None
    above: float | None = None
    below: float | None = None
    rate: Rate | None = None
    no_value: Seconds | None = None
    for_: Seconds = msgspec.field(default=Seconds(0), name="for")
    hysteresis: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    gpio: BcmPin | None = None
    exec_: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)] | None = msgspec.field(
        default=None, name="exec"
    )

    def called(self, channel: str) -> str:
        """Return its name, by default `temperature_above`."""
        if self.name is not None:
            return self.name
        kind = next(iter(self.conditions("")), "alarm")
        return re.sub(r"[^A-Za-z0-9_-]+", "_", f"{channel}_{kind}")

    def conditions(self, unit: str) -> dict[str, Condition]:
        """Return what it watches for, by key, for a channel in `unit`."""
        found = []
        if self.above is not None:
            found.append(Condition("above", self.above, unit))
        if self.below is not None:
            found.append(Condition("below", self.below, unit))
        if self.rate is not None:
            found.append(Condition("rate", self.rate.amount, f"{unit}/{self.rate.period}"))
        if self.no_value is not None:
            found.append(Condition("no_value", float(self.no_value), "s"))
        return {condition.kind: condition for condition in found}

    def described(self, unit: str) -> str:
        """Return it in words: `above 8 °C for 10m, or no value for 30m; GPIO 22`."""
        held = f" for {duration_text(self.for_)}" if self.for_ else ""
        words = [
            f"{condition}{held if kind != 'no_value' else ''}"
            for kind, condition in self.conditions(unit).items()
        ]
        acts = [] if self.gpio is None else [f"GPIO {self.gpio}"]
        acts += [] if self.exec_ is None else [f"runs {self.exec_[0]}"]
        return "; ".join([", or ".join(words), *acts])


def alarm_problems(
    table: AlarmTable,
    channel: Channel | None,
    unit: str,
    *,
    interval_s: float,
    accepted: tuple[float, float] | None,
) -> Problems:
    """Yield the problems of a table whose values are each of the right type.

    `channel` is None if only the sensor knows its channels. `accepted`: the `range` of the channel,
    outside of which no value passes.
    """
    if not table.conditions(unit):
        yield "", "has no condition: set above, below, rate or no_value"
    if table.no_value is not None and table.no_value <= interval_s:
        yield (
            "no_value",
            f"must be longer than the interval of the sensor, {duration_text(interval_s)}",
        )
    if table.for_ and table.above is None and table.below is None and table.rate is None:
        yield "for", "only applies together with above, below or rate"
    yield from _limit_problems(table, _reach(channel, unit, accepted), unit)
    if table.exec_ is not None and not re.fullmatch(r"/[^\0]+", table.exec_[0]):
        yield "exec", 'the program must be an absolute path: ["/usr/local/bin/on-alarm"]'
    elif table.exec_ is not None and any("\0" in part for part in table.exec_):
        yield "exec", "an argument cannot have a NUL in it"


def _reach(
    channel: Channel | None, unit: str, accepted: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return between which values the channel can be; None if that is not known."""
    if channel is None or unit not in convertible(channel.unit):
        return accepted
    low, high = (convert(bound, channel.unit, unit) for bound in channel.plausible)
    if accepted is None:
        return low, high
    return max(low, accepted[0]), min(high, accepted[1])


def _limit_problems(table: AlarmTable, reach: tuple[float, float] | None, unit: str) -> Problems:
    """Yield why `above`, `below` and `hysteresis` could not do what they are for."""
    above, below, slack = table.above, table.below, table.hysteresis
    if above is not None and below is not None and not below < above:
        yield "below", f"must be less than above, {above:g}: the values between them are right"
    elif above is not None and below is not None and slack >= above - below:
        yield "hysteresis", f"must be less than above - below, {above - below:g}"
    if above is None and below is None:
        if slack:
            yield "hysteresis", "only applies together with above or below"
        return
    if reach is None:
        return
    low, high = reach
    within = f"the values are between {low:g} and {high:g} {unit}"
    for key, limit, farthest, ends_at in (
        ("above", above, high, None if above is None else above - slack),
        ("below", below, low, None if below is None else below + slack),
    ):
        if limit is None or ends_at is None:
            continue
        if not low <= limit <= high:
            yield key, f"is out of reach: {within}"
        elif limit == farthest:
            yield key, f"cannot be exceeded: {within}"
        elif not low <= ends_at <= high:
            yield "hysteresis", f"is so large that the alarm would never end: {within}"
            return


def duplicate_names(named: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield (index, index of the first) for each name that was given before."""
    first: dict[str, int] = {}
    for index, name in enumerate(named):
        if name in first:
            yield index, first[name]
        first.setdefault(name, index)
