"""What several sensors agree on, of the driver `agree`: pure, and the state of one such sensor.

Used on the loop's thread: `Scheduler` asks for the outcome when the sensor is due, as soon as those
of its sensors that are being read have answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from drivers.agree import Agreed
from drivers.errors import SensorError, SensorFault, SensorNotFound
from node.config.schema import SensorTable
from node.derive.parts import Missing
from node.reading import ReadOutcome
from node.system.clock import Clock

if TYPE_CHECKING:
    from node.sensors.state import SensorState

__all__ = ["Agreement", "Verdict", "verdict_on"]


class Verdict(msgspec.Struct, frozen=True):
    """What the sensors say together."""

    value: float | None
    """The median; None if they do not agree, or have no value."""
    used: tuple[str, ...] = ()
    """The channels that it rests on."""
    middle: tuple[str, ...] = ()
    """The channels that it is the mean of: the one in the middle, or two."""
    problem: str = ""
    """Who deviates or is missing, without numbers: it changes only if the case does."""
    numbers: str = ""


def verdict_on(
    values: Mapping[str, float], missing: Mapping[str, str], *, within: float, unit: str
) -> Verdict:
    """Compare the values of channels, by their names; `missing`: channel -> why it has none.

    Of three, more than half must be within the bound of the median. Two must be within it of each
    other. A single one that is left is believed, because the others are known to have failed.
    """
    numbers = ", ".join(f"{name} {value:.4g} {unit}" for name, value in values.items())
    absent = "; ".join(missing.values())
    if not values:
        return Verdict(None, problem=absent)
    if len(values) == 1:
        (name, value) = next(iter(values.items()))
        return Verdict(value, (name,), (name,), f"only {name} has a value ({absent})", numbers)
    ordered = sorted(values, key=lambda name: values[name])
    half = len(ordered) // 2
    middles = tuple(dict.fromkeys((ordered[-1 - half], ordered[half])))
    middle = sum(values[name] for name in middles) / len(middles)
    bound = within * (1 + 1e-9)  # 21.5 - 21.0 is not always 0.5
    if len(values) == 2:
        one, other = values.values()
        agreeing = tuple(values) if abs(one - other) <= bound else ()
    else:
        agreeing = tuple(name for name, v in values.items() if abs(v - middle) <= bound)
    if len(agreeing) * 2 <= len(values):
        names = " and ".join(values)
        text = f"{names} differ by more than {within:g} {unit}, and nothing says which is right"
        return Verdict(None, problem=text, numbers=numbers)
    others = [name for name in values if name not in agreeing]
    deviate = "deviates" if len(others) == 1 else "deviate"
    deviating = f"{' and '.join(others)} {deviate} by more than {within:g} {unit}" if others else ""
    problem = "; ".join(text for text in (deviating, absent) if text)
    return Verdict(middle, agreeing, middles, problem, numbers)


class Agreement:
    """One sensor of the driver `agree`."""

    def __init__(self, table: SensorTable, clock: Clock) -> None:
        assert isinstance(table.options, Agreed)
        self._id = table.id
        self._options = table.options
        self.sensors = {name.partition("/")[0] for name in table.options.of}
        """The sensors whose channels are compared."""
        self._clock = clock
        self._newest_s = -math.inf
        """When the newest value was measured that was compared."""
        self.middle: tuple[tuple[str, str], ...] = ()
        """The (sensor, channel) that the last value is the mean of."""
        self.concern = ""
        """What is wrong although there is a value; "" for nothing."""
        self.numbers = ""
        """The values that the concern is about."""

    def outcome(self, states: Mapping[str, SensorState]) -> ReadOutcome | None:
        """Return the outcome of comparing the newest values; None if none of them is new.

        It is as old as the oldest value that it rests on.
        """
        now_s = self._clock.monotonic()
        values: dict[str, float] = {}
        missing: dict[str, str] = {}
        outcomes: dict[str, ReadOutcome] = {}
        for name in self._options.of:
            sensor, _, part = name.partition("/")
            state = states[sensor]
            try:
                values[name] = state.newest(part, self._options.channel.unit, now_s)
            except Missing as reason:
                missing[name] = str(reason)
                continue
            assert state.outcome is not None
            outcomes[name] = state.outcome
        newest_s = max((o.ended_s for o in outcomes.values()), default=math.inf)
        if newest_s <= self._newest_s:
            return None
        self._newest_s = newest_s if outcomes else self._newest_s
        channel = self._options.channel
        verdict = verdict_on(values, missing, within=self._options.within, unit=channel.unit)
        self.middle = tuple((s, name) for s, _, name in (m.partition("/") for m in verdict.middle))
        self.concern = verdict.problem if verdict.value is not None else ""
        self.numbers = verdict.numbers
        if verdict.value is None:
            return self._failed(verdict)
        oldest = min((outcomes[name] for name in verdict.used), key=lambda o: o.ended_s - o.age_s)
        return msgspec.structs.replace(
            oldest,
            sensor=self._id,
            started_s=oldest.ended_s,
            measurement={channel.name: verdict.value},
            channels=(channel,),
        )

    def _failed(self, verdict: Verdict) -> ReadOutcome:
        error: SensorError = SensorNotFound(verdict.problem)
        if verdict.numbers:
            error = SensorFault(verdict.problem, verdict.numbers)
        now_s = self._clock.monotonic()
        return ReadOutcome(
            sensor=self._id,
            started_s=now_s,
            ended_s=now_s,
            boot_s=self._clock.boot_s(),
            utc_s=self._clock.utc_s(),
            synced=self._clock.synced(),
            measurement=None,
            channels=(self._options.channel,),
            error=error,
        )
