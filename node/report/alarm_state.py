"""One alarm with its state, and what of it a later process can know, from the log.

A condition that holds is kept with the state of its alarm once it has held for a while; what began
later, the newest readings show. Used by `alarms`, on the loop's thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from node.alarms.rule import KEPT_AFTER_S, AlarmRule
from node.alarms.table import AlarmTable
from node.outbox.outbox import Outbox
from node.reading import ALARM_ACKNOWLEDGED, ALARM_OFF, Reading
from node.sensors.sensor import Sensor
from node.system.clock import Clock

__all__ = ["Instant", "Kept", "OneAlarm", "placed", "recall"]

_MOST_RECALLED = 2000
"""How many readings of the log are looked through at a start, at most."""


class Instant(msgspec.Struct, frozen=True):
    """A moment, as a later process or boot can place it."""

    boot_id: str
    boot_ms: int
    utc_ms: int
    synced: bool


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state of an alarm in the log."""

    kind: str = ""
    record: Reading | None = None
    since: dict[str, Instant] = {}


class OneAlarm:
    """One alarm, with its newest record and what was published of it."""

    def __init__(self, sensor: Sensor, channel: str, table: AlarmTable, now_s: float) -> None:
        self.sensor = sensor
        self.channel = channel
        self.table = table
        self.name = table.called(channel)
        self.key = f"{sensor.table.id}/{self.name}"
        self.rule = AlarmRule(table, now_s=now_s, patience_s=sensor.state.patience_s)
        self.record: Reading | None = None
        self.kept = Kept()
        self.undated: dict[str, tuple[float, Instant]] = {}
        """Condition -> since when it holds, as long as the clock cannot say it, and what will."""
        self.has_value = self.was_known = False
        """Whether its channel has had a value in this process; `known` in the `payload`."""
        self.payload = b""
        """The retained message, as of the last commit."""
        self.renew_at_s = math.inf

    @property
    def unit(self) -> str:
        """Return the unit of its channel; "" until the first value, if only the sensor knows it."""
        filters = self.sensor.state.filters
        return next((one.unit for one in filters if one.channel.name == self.channel), "")

    @property
    def on(self) -> bool:
        return bool(self.record and self.record.numbers[0] != ALARM_OFF)

    @property
    def acknowledged(self) -> bool:
        return bool(self.record and self.record.numbers[0] == ALARM_ACKNOWLEDGED)

    @property
    def known(self) -> bool:
        """Return whether a current value proves that the alarm is off."""
        state = self.sensor.state
        current = self.has_value and state.online and self.channel not in state.missing_channels
        return current or not self.rule.needs_values

    def instant_of(self, kind: str, since_s: float, clock: Clock) -> Instant:
        """Return since when a condition holds, as a later process can place it."""
        kept = self.kept.since.get(kind)
        if kept is None and kind in self.undated:
            kept = self.undated[kind][1]
        return kept or _instant_at(since_s, clock)

    def recall(self, value: float, reading: Reading, clock: Clock) -> None:
        """Note a value of an earlier process, in order of time."""
        instant = Instant(reading.boot_id, reading.boot_ms, reading.utc_ms, reading.synced)
        placed_s = placed(instant, clock)
        at_s = clock.monotonic() if placed_s is None else placed_s
        before, self.undated = self.undated, {}
        for kind, held_s in self.rule.recall(value, at_s, dated=placed_s is not None).items():
            goes_on = kind in before and kind != "no_value"
            if goes_on or placed_s is None:
                self.undated[kind] = before[kind] if goes_on else (held_s, instant)


def placed(instant: Instant, clock: Clock) -> float | None:
    """Return a moment as monotonic time; None if nothing is known of the time since."""
    now_s = clock.monotonic()
    if instant.boot_id == clock.boot_id:
        return now_s - max(0.0, clock.boot_s() - instant.boot_ms / 1000)
    if instant.synced and clock.synced():
        return now_s - max(0.0, clock.utc_s() - instant.utc_ms / 1000)
    return None


def _instant_at(at_s: float, clock: Clock) -> Instant:
    """Return a monotonic time as a moment that a later process can place."""
    ago_s = clock.monotonic() - at_s
    return Instant(
        clock.boot_id,
        round((clock.boot_s() - ago_s) * 1000),
        round((clock.utc_s() - ago_s) * 1000),
        clock.synced(),
    )


def recall(
    alarms: Sequence[OneAlarm], sensors: Sequence[Sensor], outbox: Outbox, clock: Clock
) -> None:
    """Let the rules know the newest readings of the log, so that what began there goes on."""
    wanted: dict[tuple[str, str], list[OneAlarm]] = {}
    for alarm in alarms:
        if alarm.rule.has_memory:
            wanted.setdefault((alarm.sensor.table.id, alarm.channel), []).append(alarm)
    if not wanted:
        return
    a_second = sum(1 / max(sensor.table.interval, 0.1) for sensor in sensors)
    count = min(_MOST_RECALLED, math.ceil(1.5 * KEPT_AFTER_S * a_second))
    for reading in outbox.read(max(0, outbox.last_seq - count), count):
        layout = reading.layout
        if layout.alarm is not None:
            continue
        for name, unit, value in zip(layout.channels, layout.units, reading.numbers, strict=True):
            for alarm in wanted.get((reading.sensor, name), ()):
                if unit == (alarm.unit or unit):  # not one from before the unit was changed
                    alarm.recall(value, reading, clock)
