"""When an alarm is on: its conditions, and how long each has held.

A value decides about `above`, `below` and `rate`; only time decides about `no_value`. An alarm that
is on stays on until a value proves that it is over, so an outage of its sensor does not end it. A
`for` counts from the first value beyond the limit to the newest one, and only a value within the
limit begins it again.

Pure except for the memory of a rule; the time is always passed in, monotonic, in seconds.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

from node.alarms.table import AlarmTable, Condition

__all__ = ["KEPT_AFTER_S", "AlarmChange", "AlarmRule"]

KEPT_AFTER_S = 300.0
"""A condition that has held for so long is kept, however long its `for` is; what began later, the
newest readings of the log show (`recall`)."""
_EARLY_S = 0.5
"""How much sooner a `for` may be over, because reads are not exactly on time."""
_BUCKETS = 60
"""In how many parts the time of a `rate` is remembered."""


class AlarmChange(msgspec.Struct, frozen=True):
    """An alarm went on, off, or from one condition to another."""

    on: bool
    kind: str
    """The condition that holds now; of an alarm that went off, the one that is over."""
    value: float | None
    """The value that decided; None if none came."""


class AlarmRule:
    """One alarm of one channel."""

    def __init__(self, table: AlarmTable, *, now_s: float, patience_s: float = 0.0) -> None:
        """`patience_s`: how long the sensor may be silent, and take until its first value."""
        self.kind = ""
        """The condition for which it is on; "" while it is off."""
        self._conditions = table.conditions("")
        self._hysteresis = table.hysteresis
        self._for_s = table.for_ - min(_EARLY_S, table.for_ / 10)
        self._started_s = now_s
        self._patience_s = patience_s
        self._since_s: dict[str, float] = {}
        """Condition -> since when it holds; `no_value` since the last value."""
        self._fastest: _Fastest | None = None
        if table.rate is not None:
            self._fastest = _Fastest(table.rate.amount, table.rate.period_s)
        if "no_value" in self._conditions:
            self._since_s["no_value"] = now_s

    @property
    def needs_values(self) -> bool:
        """Return whether a value decides about any of its conditions."""
        return self._conditions.keys() != {"no_value"}

    @property
    def has_memory(self) -> bool:
        """Return whether earlier values matter, beyond what is on."""
        return bool(self._for_s or self._fastest or "no_value" in self._conditions)

    def restore(self, kind: str, since_s: dict[str, float]) -> None:
        """Continue where an earlier process was; conditions that were removed are left out."""
        self.kind = kind
        self._since_s |= {k: at_s for k, at_s in since_s.items() if k in self._conditions}

    def recall(self, value: float, at_s: float, *, dated: bool = True) -> dict[str, float]:
        """Note a value of an earlier process; return since when each condition holds.

        Called in order of time, before the first value of this process. It changes no alarm. Of a
        value that is not `dated`, its time is not known, so it says nothing about a rate.
        """
        self._note(value, at_s, without="" if dated else "rate")
        return dict(self._since_s)

    def redate(self, kind: str, at_s: float, true_s: float) -> None:
        """Let a condition that holds since `at_s` without a break hold since `true_s`."""
        if self._since_s.get(kind) == at_s:
            self._since_s[kind] = min(at_s, true_s)

    def kept(self, now_s: float) -> tuple[str, dict[str, float]]:
        """Return what a later process has to know: `kind`, and condition -> since when it holds.

        A condition is left out until it has held for a while: most do not for long.
        """
        since_s = {
            kind: at_s
            for kind, at_s in self._since_s.items()
            if kind != self.kind
            and (at_s <= self._started_s or now_s - at_s >= self._worth_keeping_s(kind))
        }
        return self.kind, since_s

    def _time_of(self, kind: str) -> float:
        """Return how long a condition has to hold, in seconds."""
        return self._conditions[kind].limit if kind == "no_value" else self._for_s

    def _worth_keeping_s(self, kind: str) -> float:
        """Return after how long a condition is kept; for silence, it is not between two reads."""
        half_s = self._time_of(kind) / 2
        return max(half_s, self._patience_s) if kind == "no_value" else min(half_s, KEPT_AFTER_S)

    def feed(self, value: float, at_s: float) -> AlarmChange | None:
        """Evaluate a value that passed the filters, measured at `at_s`."""
        self._note(value, at_s)
        ripe = [kind for kind in self._conditions if self._is_ripe(kind, at_s)]
        if self.kind in ripe or (not ripe and not self.kind):
            return None
        return self._change(ripe[0] if ripe else "", value)

    def _note(self, value: float, at_s: float, *, without: str = "") -> None:
        for kind, condition in self._conditions.items():
            if kind == without:
                continue
            if kind == "no_value":
                self._since_s[kind] = at_s
            elif self._holds(condition, value, at_s):
                self._since_s[kind] = min(self._since_s.get(kind, at_s), at_s)
            else:
                self._since_s.pop(kind, None)

    def _holds(self, condition: Condition, value: float, at_s: float) -> bool:
        slack = self._hysteresis if self.kind == condition.kind else 0.0
        match condition.kind:
            case "above":
                return value > condition.limit - slack
            case "below":
                return value < condition.limit + slack
        assert self._fastest is not None
        return self._fastest.exceeded_by(value, at_s)

    def _is_ripe(self, kind: str, now_s: float) -> bool:
        """Return whether a condition has held for long enough."""
        since_s = self._since_s.get(kind)
        if since_s is None:
            return False
        if kind == "no_value":
            return now_s >= self._silent_at_s(since_s)
        return kind == self.kind or now_s - since_s >= self._for_s

    def _change(self, kind: str, value: float | None) -> AlarmChange:
        over, self.kind = self.kind, kind
        if over not in self._conditions:  # the configuration no longer has it
            over = next(iter(self._conditions))
        return AlarmChange(bool(kind), kind or over, value)

    def look(self, now_s: float) -> AlarmChange | None:
        """Notice that no value has come for too long."""
        if self.kind or not self._is_ripe("no_value", now_s):
            return None
        return self._change("no_value", None)

    def next_look_s(self, now_s: float) -> float:
        """Return when `look` or `kept` may have news after `now_s`, if no value comes."""
        since_s = self._since_s.get("no_value")
        if self.kind or since_s is None:
            return math.inf
        silent_at_s = self._silent_at_s(since_s)
        keep_at_s = since_s + self._worth_keeping_s("no_value")
        return keep_at_s if now_s < keep_at_s < silent_at_s else silent_at_s

    def _silent_at_s(self, since_s: float) -> float:
        """Return when no value has come for too long; not before a first one can have come."""
        return max(since_s + self._time_of("no_value"), self._started_s + self._patience_s)


class _Fastest:
    """The lowest and highest value of the last `period_s`, in a bounded number of parts."""

    def __init__(self, amount: float, period_s: float) -> None:
        self._amount = amount
        self._period_s = period_s
        self._parts: deque[tuple[float, float, float]] = deque()
        """(begin, lowest, highest) of each part of the period."""

    def exceeded_by(self, value: float, at_s: float) -> bool:
        """Return whether a value has changed by more than the amount within the period.

        Of a sensor that is read more seldom, the change since the last value counts, in proportion.
        """
        while len(self._parts) > 1 and self._parts[0][0] < at_s - self._period_s:
            self._parts.popleft()
        exceeded = any(
            max(value - low, high - value)
            > self._amount * max(1.0, (at_s - begin_s) / self._period_s) + 1e-9
            for begin_s, low, high in self._parts
        )
        if self._parts and at_s - self._parts[-1][0] < self._period_s / _BUCKETS:
            begin_s, low, high = self._parts.pop()
            self._parts.append((begin_s, min(low, value), max(high, value)))
        else:
            self._parts.append((at_s, value, value))
        return exceeded
