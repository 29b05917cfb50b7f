"""The alarms of a node: evaluated, recorded in the log, published, and acted upon.

    measured, look ──► AlarmRule ──change──► record in the outbox, with the state of the alarm
                                                  │ commit
                       retained topic ◄───────────┴──────────► act (outputs, commands)

A record is a reading of the log: it has a `seq`, and history delivers it in its order. The state is
committed with it, so that a process that is killed at any instant has either both or neither.
Nothing is published or acted upon before the commit. No broker is needed for any of it.

Used on the loop's thread, by `Reporter`. Imported only if there are alarms.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import msgspec

from node.alarms.rule import AlarmChange
from node.alarms.table import AlarmTable
from node.health import AlarmHealth
from node.mqtt.publisher import Publisher
from node.outbox.outbox import Outbox
from node.reading import ALARM_ACKNOWLEDGED, ALARM_OFF, ALARM_ON, AlarmOf, Layout, Reading
from node.report.alarm_state import Kept, OneAlarm, placed, recall
from node.sensors.scheduler import Measured
from node.sensors.sensor import Sensor
from node.system.clock import Clock, utc_text
from node.topics import Topics, alarm_payload

__all__ = ["AlarmAct", "Alarms"]

_log = logging.getLogger(__name__)

_MOST_RECORDS = 10_000

_Time = tuple[float, float, bool]
"""Time since boot and since 1970, in seconds, and whether the latter can be trusted."""


class AlarmAct(msgspec.Struct, frozen=True):
    """A change of an alarm that was committed, for those who act on it."""

    alarm: AlarmTable
    name: str
    record: Reading
    unit: str

    @property
    def state(self) -> str:
        """Return `off`, `on` or `acknowledged`."""
        return ("off", "on", "acknowledged")[int(self.record.numbers[0])]

    @property
    def facts(self) -> dict[str, str]:
        """Return the environment of the program that the alarm runs."""
        record, of = self.record, self.record.layout.alarm
        assert of is not None
        facts = {
            "sensor": record.sensor,
            "channel": of.channel,
            "alarm": of.name,
            "state": self.state,
            "condition": of.condition,
            "limit": f"{record.numbers[1]:g}",
            "value": f"{record.numbers[2]:g}" if len(record.numbers) > 2 else "",
            "unit": self.unit,
            "time": utc_text(record.utc_ms),
            "clock": "synced" if record.synced else "unsynced",
            "seq": str(record.seq),
        }
        return {f"SENSOR_NODE_{name.upper()}": text for name, text in facts.items()}


class Alarms:
    """Every alarm of the node."""

    def __init__(
        self,
        sensors: Sequence[Sensor],
        clock: Clock,
        *,
        topics: Topics,
        outbox: Outbox,
        publisher: Publisher,
        retain_for_s: float,
        act: Callable[[AlarmAct], None],
        simulated: bool = False,
    ) -> None:
        """Continue where the log ends. `act` is called for each change, after its commit."""
        self._clock = clock
        self._topics = topics
        self._outbox = outbox
        self._publisher = publisher
        self._retain_for_s = retain_for_s
        self._act = act
        self._simulated = simulated
        now_s = clock.monotonic()
        self._alarms = [
            OneAlarm(sensor, channel, table, now_s)
            for sensor in sensors
            for channel, table in sensor.table.alarms
        ]
        self._of_sensor: dict[str, list[OneAlarm]] = {}
        for alarm in self._alarms:
            self._of_sensor.setdefault(alarm.sensor.table.id, []).append(alarm)
        self._acts: list[AlarmAct] = []
        """The changes since the last commit."""
        self.unsaved = False
        """Whether there is something to commit."""
        self._stale = True
        """Whether a retained message, or `sounding`, may be out of date."""
        self.sounding: list[AlarmTable] = []
        """The alarms that are on and not acknowledged, by the last commit."""
        self.next_due_s = now_s
        self._numbering = outbox.numbering
        self._restore(now_s)
        recall(self._alarms, sensors, outbox, clock)
        for alarm in self._alarms:
            self._keep(alarm, now_s)
        for alarm in self._alarms:
            alarm.payload = self._payload(alarm)

    # -- from the log, and back

    def _restore(self, now_s: float) -> None:
        """Take the states of an earlier process; end the alarms that were removed since."""
        known = {alarm.key: alarm for alarm in self._alarms}
        for key, state in self._outbox.alarms.items():
            try:
                kept = msgspec.json.decode(state, type=Kept)
            except msgspec.DecodeError as error:
                _log.warning("the state of the alarm %s cannot be read: %s", key, error)
                continue
            if key not in known:
                self._end_removed(key, kept)
            elif known[key].record is None:
                alarm = known[key]
                since_s = {}
                for kind, instant in kept.since.items():
                    placed_s = placed(instant, self._clock)
                    since_s[kind] = now_s if placed_s is None else placed_s
                    if placed_s is None:
                        alarm.undated[kind] = now_s, instant
                alarm.rule.restore(kept.kind, since_s)
                alarm.record, alarm.kept = kept.record, kept

    def _end_removed(self, key: str, kept: Kept) -> None:
        self._outbox.keep_alarm(key, "")
        self.unsaved = True
        if kept.record is not None and kept.record.numbers[0] != ALARM_OFF:
            _log.info("the alarm %s has ended: it is not configured any more", key)
            self._append(kept.record.layout, (ALARM_OFF, *kept.record.numbers[1:]))

    def _keep(self, alarm: OneAlarm, now_s: float) -> None:
        """Keep the state of an alarm with the next commit, if a later process would miss it."""
        kind, since_s = alarm.rule.kept(now_s)
        before = alarm.kept
        is_known = since_s.keys() == set(before.since)
        if is_known and (kind, alarm.record) == (before.kind, before.record):
            return
        since = {k: alarm.instant_of(k, at_s, self._clock) for k, at_s in since_s.items()}
        alarm.kept = Kept(kind, alarm.record, since)
        self._outbox.keep_alarm(alarm.key, msgspec.json.encode(alarm.kept).decode())
        self.unsaved = True

    # -- what happens

    def measured(self, event: Measured) -> None:
        """Evaluate the values of a read, after its reading was appended."""
        outcome = event.outcome
        for alarm in self._of_sensor.get(event.sensor.table.id, ()):
            value = event.values.get(alarm.channel)
            alarm.has_value |= value is not None
            self._stale |= alarm.known != alarm.was_known
            if value is None:
                continue
            change = alarm.rule.feed(value, outcome.ended_s)
            if change is not None:
                self._changed(alarm, change, (outcome.boot_s, outcome.utc_s, outcome.synced))
            self._keep(alarm, outcome.ended_s)
            self.next_due_s = min(self.next_due_s, alarm.rule.next_look_s(outcome.ended_s))

    def look(self, now_s: float) -> bool:
        """Notice what time alone decides: that no value has come. Return whether to commit."""
        if self._numbering != self._outbox.numbering:
            self._renumbered(now_s)
        if now_s >= self.next_due_s:
            self._look_at_all(now_s)
        self._publish(now_s)
        return self.unsaved

    def _look_at_all(self, now_s: float) -> None:
        for alarm in self._alarms:
            change = alarm.rule.look(now_s)
            if change is not None:
                self._changed(alarm, change)
            self._keep(alarm, now_s)
        self._stale |= any(now_s >= alarm.renew_at_s for alarm in self._alarms)
        self.next_due_s = min(
            (min(alarm.rule.next_look_s(now_s), alarm.renew_at_s) for alarm in self._alarms),
            default=math.inf,
        )

    def sensor_gone(self) -> None:
        """Note that a sensor has gone offline."""
        self._stale = True

    def clock_was_set(self) -> None:
        """Give the records of this boot their true times; date what holds since an earlier one."""
        for alarm in self._alarms:
            for kind, (at_s, instant) in alarm.undated.items():
                placed_s = placed(instant, self._clock)
                if placed_s is not None:
                    alarm.rule.redate(kind, at_s, placed_s)
            alarm.undated.clear()
            if alarm.record is not None and not alarm.record.synced:
                alarm.record = self._outbox.retimed(alarm.record)
                self._keep(alarm, self._clock.monotonic())
        self._stale = True

    def acknowledge(self, keys: Sequence[str] = ()) -> list[str]:
        """Acknowledge the alarms `sensor/name` that are on, or all; return which they were.

        Raises:
            KeyError: there is no such alarm.
        """
        wanted = {alarm.key: alarm for alarm in self._alarms}
        chosen = [wanted[key] for key in keys] if keys else self._alarms
        done = [alarm for alarm in chosen if alarm.on and not alarm.acknowledged]
        for alarm in done:
            assert alarm.record is not None
            _log.info("the alarm %s is acknowledged", alarm.key)
            self._record(
                alarm, alarm.record.layout, (ALARM_ACKNOWLEDGED, *alarm.record.numbers[1:])
            )
            self._keep(alarm, self._clock.monotonic())
        return [alarm.key for alarm in done]

    def _changed(self, alarm: OneAlarm, change: AlarmChange, at: _Time | None = None) -> None:
        condition = alarm.table.conditions(alarm.unit)[change.kind]
        values = () if change.value is None else (change.value,)
        names = [f"alarm_{alarm.name}", f"alarm_{alarm.name}_limit", f"alarm_{alarm.name}_value"]
        layout = Layout(
            sensor=alarm.sensor.table.id,
            channels=tuple(names[: 2 + len(values)]),
            units=("", condition.unit, alarm.unit)[: 2 + len(values)],
            alarm=AlarmOf(alarm.name, alarm.channel, condition.kind),
        )
        is_at = "" if change.value is None else f" is {change.value:g} {alarm.unit}"
        if change.on:
            _log.warning("ALARM %s: %s%s (%s)", alarm.key, alarm.channel, is_at, condition)
        else:
            _log.warning("the alarm %s is over: %s%s", alarm.key, alarm.channel, is_at)
        code = ALARM_ON if change.on else ALARM_OFF
        self._record(alarm, layout, (code, condition.limit, *values), at)

    def _record(
        self, alarm: OneAlarm, layout: Layout, numbers: tuple[float, ...], at: _Time | None = None
    ) -> None:
        alarm.record = self._append(layout, numbers, at)
        self._acts.append(AlarmAct(alarm.table, alarm.name, alarm.record, alarm.unit))
        self._stale = True

    def _append(
        self, layout: Layout, numbers: tuple[float, ...], at: _Time | None = None
    ) -> Reading:
        """Append a record, of now if not of `at`."""
        self.unsaved = True
        clock = self._clock
        boot_s, utc_s, synced = at or (clock.boot_s(), clock.utc_s(), clock.synced())
        return self._outbox.append(layout, numbers, boot_s=boot_s, utc_s=utc_s, synced=synced)

    def _renumbered(self, now_s: float) -> None:
        """Follow the log, which was opened late: its states, and the numbers of our records."""
        self._numbering = self._outbox.numbering
        own = {alarm.key: alarm for alarm in self._alarms if alarm.record is not None}
        for reading in self._outbox.read(self._outbox.cursor, _MOST_RECORDS) if own else ():
            of = reading.layout.alarm
            alarm = own.get(f"{reading.sensor}/{of.name}") if of is not None else None
            if alarm is not None:
                alarm.record = reading
        self._restore(now_s)
        for alarm in self._alarms:
            self._keep(alarm, now_s)
        self._stale = True

    # -- what is done about it

    def committed(self, now_s: float) -> bool:
        """Publish and act on what the log has now; return whether an alarm has changed."""
        self.unsaved = False
        acts, self._acts = self._acts, []
        for act in acts:
            self._act(act)
        self._publish(now_s)
        return bool(acts)

    def _publish(self, now_s: float) -> None:
        """Bring the retained messages up to date; the log has their records."""
        if not self._stale or self.unsaved:
            return
        self._stale = False
        self.sounding = [one.table for one in self._alarms if one.on and not one.acknowledged]
        for alarm in self._alarms:
            payload, alarm.was_known = self._payload(alarm), alarm.known
            if payload != alarm.payload or now_s >= alarm.renew_at_s:
                alarm.payload = payload
                self._set(alarm, now_s)

    def publish_all(self) -> None:
        """Set every topic on a new connection, before the status is `online` again."""
        for alarm in self._alarms:
            self._set(alarm, self._clock.monotonic())

    def _set(self, alarm: OneAlarm, now_s: float) -> None:
        """Publish an alarm: one that is on stays at the broker whatever becomes of the node."""
        kept_s = 0.0 if alarm.on else alarm.sensor.table.kept_for_s(self._retain_for_s)
        alarm.renew_at_s = now_s + kept_s / 2 if kept_s else math.inf
        self.next_due_s = min(self.next_due_s, alarm.renew_at_s)
        topic = self._topics.alarm(alarm.sensor.table.id, alarm.name)
        self._publisher.set(topic, alarm.payload, expiry_s=kept_s)

    def _payload(self, alarm: OneAlarm) -> bytes:
        record = alarm.record
        stream = self._outbox.stream if record is None else self._outbox.stream_of(record.seq)
        return alarm_payload(record, stream, known=alarm.known, simulated=self._simulated)

    # -- how it looks

    @property
    def health(self) -> dict[str, dict[str, AlarmHealth]]:
        """Return sensor -> name -> alarm, as the retained messages have them."""
        return {
            sensor: {a.name: msgspec.json.decode(a.payload, type=AlarmHealth) for a in alarms}
            for sensor, alarms in self._of_sensor.items()
        }
