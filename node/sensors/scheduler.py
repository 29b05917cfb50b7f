"""The sensors of a node: read when they are due, watched for silence, power-cycled when they fail.

    timetable ──due──► workers ──ReadDone──► read_ended ──► SensorState ──► SensorEvent

Used on the loop's thread, which calls `run_due` in each turn, wakes up for `next_due_s`, gives
each `ReadDone` to `read_ended`, and hands on the events that both return.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from node.reading import ReadOutcome
from node.sensors.sensor import Sensor
from node.sensors.timetable import GridJob, Timetable
from node.sensors.workers import ReadDone, Workers
from node.system.clock import Clock

__all__ = [
    "AvailabilityChanged",
    "ChannelsFound",
    "Complained",
    "Measured",
    "ReadRequest",
    "Scheduler",
    "SensorEvent",
]

_MARGIN_S = 0.1
"""How much time an extra read must leave before the next read on its bus is due."""
_LATEST_S = 1.0
"""How much longer than the budgets of its sensors an extra read may take in total."""


class Measured(msgspec.Struct, frozen=True):
    """A read gave values that passed the filters."""

    sensor: Sensor
    values: dict[str, float]
    outcome: ReadOutcome


class AvailabilityChanged(msgspec.Struct, frozen=True):
    """A sensor has come online, or has gone offline."""

    sensor: Sensor


class ChannelsFound(msgspec.Struct, frozen=True):
    """A sensor has given a channel that was not known before."""

    sensor: Sensor


class Complained(msgspec.Struct, frozen=True):
    """A sensor has a new problem."""

    sensor: Sensor


class ReadRequest:
    """A request to read some sensors now, out of turn; as an event, the request is done."""

    def __init__(
        self, sensors: list[str], done: Callable[[ReadRequest], None] = lambda _request: None
    ) -> None:
        """Keep the request. The loop calls `done` once each sensor is in `values` or `errors`."""
        self.sensors = sensors
        self.done = done
        self.values: dict[str, dict[str, float]] = {}
        self.errors: dict[str, str] = {}
        self.waiting = dict.fromkeys(sensors)
        """The sensors that have not answered, in their order."""
        self.give_up_s = math.inf


SensorEvent = Measured | AvailabilityChanged | ChannelsFound | Complained | ReadRequest


class Scheduler:
    """Reads the sensors, and returns the events that result."""

    def __init__(self, sensors: dict[str, Sensor], clock: Clock, *, workers: Workers) -> None:
        self._sensors = sensors
        self._clock = clock
        self._workers = workers
        self._events: list[SensorEvent] = []
        """The events since the last call of `_returned`."""
        self._timetable = Timetable(clock)
        self._jobs: dict[str, GridJob] = {}
        self._requests: list[ReadRequest] = []
        self._to_agree: dict[str, float] = {}
        """Sensors to compute, as soon as their sensors have answered -> when to do it at last."""
        self._next_check_s = math.inf
        self.online = 0
        """How many sensors are."""

    @property
    def ids(self) -> list[str]:
        return list(self._sensors)

    @property
    def unread(self) -> list[str]:
        """Return the ids of the sensors that were not read yet, successfully or not."""
        return [
            n for n, sensor in self._sensors.items() if not sensor.state.ok + sensor.state.failed
        ]

    def start(self, start_s: float) -> None:
        """Put every sensor on its grid; all grids start now, so reads come together."""
        for sensor in self._sensors.values():
            self._jobs[sensor.table.id] = self._timetable.every(
                sensor.table.interval,
                partial(self._read_due, sensor),
                start_s=start_s + sensor.settle_s,
            )

    def run_due(self) -> list[SensorEvent]:
        """Prepare the reads that are due, and look for silence."""
        self._timetable.run_due()
        now_s = self._clock.monotonic()
        self._workers.dispatch(now_s)
        self._workers.help_out(now_s)
        self._watch(now_s)
        if self._to_agree:
            self._agree(now_s)
        for request in [r for r in self._requests if now_s >= r.give_up_s]:
            for name in request.waiting:
                request.errors[name] = "no answer yet"
            self._finish(request)
        return self._returned()

    def _returned(self) -> list[SensorEvent]:
        """Return the events so far; each one once, even if a later step failed."""
        events, self._events = self._events, []
        return events

    @property
    def begins_reads(self) -> bool:
        """Return whether `begin` has reads to begin; `next_due_s` is then very soon."""
        return self._workers.begins_reads

    def begin(self) -> None:
        """Let the reads begin, right before the loop sleeps."""
        self._workers.begin()

    @property
    def next_due_s(self) -> float:
        """Return when there is something to do, if nothing happens until then."""
        give_up_s = min((r.give_up_s for r in self._requests), default=math.inf)
        agree_s = min(self._to_agree.values(), default=math.inf)
        parts = (self._timetable.next_due_s, self._next_check_s, self._workers.next_look_s)
        return min(*parts, give_up_s, agree_s)

    def read_now(self, request: ReadRequest) -> None:
        """Read sensors out of turn, without delaying scheduled reads.

        A scheduled read on the same bus that comes due during the extra read goes first. A sensor's
        own scheduled read also answers the request.
        """
        now_s = self._clock.monotonic()
        due_s: dict[str, float] = {}
        for name, sensor in self._sensors.items():
            bus = sensor.port.bus
            due_s[bus] = min(due_s.get(bus, math.inf), self._jobs[name].due_s)
        begins = {
            name: self._begin_s(self._sensors[name], now_s, due_s) for name in request.sensors
        }
        budget_s = sum(self._sensors[name].table.info.read_budget_s for name in begins)
        request.give_up_s = max(begins.values(), default=now_s) + budget_s + _LATEST_S
        self._requests.append(request)
        for name, begin_s in begins.items():
            self._timetable.once(begin_s, partial(self._read_requested, self._sensors[name]))
        if not request.sensors:
            self._finish(request)

    def _begin_s(self, sensor: Sensor, now_s: float, due_of_bus_s: Mapping[str, float]) -> float:
        """Return when an extra read of the sensor may begin.

        `due_of_bus_s`: bus -> when its next scheduled read is due.
        """
        rest_s = sensor.table.info.min_interval_s
        begin_s = max(now_s, sensor.begun_s + rest_s)
        own_turn_s = self._jobs[sensor.table.id].due_s
        if own_turn_s < begin_s + rest_s:
            # The extra read would make its own turn wait for the sensor to rest.
            return max(now_s, own_turn_s)
        end_s = begin_s + 2 * sensor.took_s + _MARGIN_S
        due_s = due_of_bus_s[sensor.port.bus]
        return max(now_s, due_s) if due_s < end_s else begin_s

    def _read_requested(self, sensor: Sensor, at_s: float) -> None:
        name = sensor.table.id
        if sensor.without_power:
            supply = "its power is switched off for a moment"
            self._answer(name, lambda request: request.errors.setdefault(name, supply))
        elif any(name in request.waiting for request in self._requests):
            self._read_due(sensor, at_s)

    def _answer(self, name: str, put: Callable[[ReadRequest], object]) -> None:
        """Answer the requests that wait for a sensor."""
        for request in [r for r in self._requests if name in r.waiting]:
            put(request)
            request.waiting.pop(name, None)
            if not request.waiting:
                self._finish(request)

    def _finish(self, request: ReadRequest) -> None:
        self._requests.remove(request)
        self._events.append(request)

    def read_ended(self, done: ReadDone) -> list[SensorEvent]:
        """Evaluate a finished read."""
        if done.bus_free:
            self._workers.bus_free(done.bus)
        self._evaluate(self._sensors[done.outcome.sensor], done.outcome)
        if self._to_agree:
            self._agree(self._clock.monotonic())
        return self._returned()

    def excuse(self, held_up_s: float) -> None:
        """Allow every sensor more time, because none was read while the loop was held up."""
        for sensor in self._sensors.values():
            sensor.state.excuse(held_up_s)
        for request in self._requests:
            request.give_up_s += held_up_s
        self._next_check_s = self._clock.monotonic()

    def close(self) -> None:
        for sensor in self._sensors.values():
            sensor.close()

    def _watch(self, now_s: float) -> None:
        """Look for silent sensors when one may be due; remember when to look next."""
        if now_s < self._next_check_s:
            return
        ports = [sensor.port for sensor in self._sensors.values()]
        busy = {port.bus for port in ports if port.reading_since_s is not None}
        for sensor in self._sensors.values():
            bus_is_busy = sensor.port.bus in busy
            if now_s >= sensor.state.next_check_s and self._was_not_begun(
                sensor, now_s, bus_is_busy=bus_is_busy
            ):
                sensor.state.excuse(sensor.state.patience_s)
            if now_s >= sensor.state.next_check_s:
                was_online = sensor.state.online
                sensor.state.check(now_s, sensor.port.reading_since_s, bus_is_busy=bus_is_busy)
                if was_online:
                    self.online -= 1
                    self._events.append(AvailabilityChanged(sensor))
                else:
                    self._events.append(Complained(sensor))
        self._next_check_s = min(
            (sensor.state.next_check_s for sensor in self._sensors.values()), default=math.inf
        )

    @staticmethod
    def _was_not_begun(sensor: Sensor, now_s: float, *, bus_is_busy: bool) -> bool:
        """Return whether a requested read has not begun although its bus is free.

        The computer is then short of processor time or memory.
        """
        waits = sensor.state.busy_since_s is not None and now_s > sensor.begun_s + _MARGIN_S
        return waits and not bus_is_busy

    def _read_due(self, sensor: Sensor, due_s: float) -> None:
        if sensor.agreement is not None:
            budgets = (self._sensors[n].table.info.read_budget_s for n in sensor.agreement.sensors)
            self._to_agree.setdefault(sensor.table.id, self._clock.monotonic() + sum(budgets))
        elif sensor.ready:
            sensor.state.busy_since_s = due_s
            sensor.begun_s = self._clock.monotonic()
            self._next_check_s = min(self._next_check_s, sensor.state.next_check_s)
            self._workers.submit(sensor.port)

    def _agree(self, now_s: float) -> None:
        """Compute the sensors that are due and no longer wait for another; those that are parts of
        others come first."""
        computed = True
        while computed:
            computed = False
            for name, at_last_s in list(self._to_agree.items()):
                if now_s >= at_last_s or not self._awaits_a_part(self._sensors[name]):
                    del self._to_agree[name]
                    self._compute(self._sensors[name])
                    computed = True

    def _awaits_a_part(self, sensor: Sensor) -> bool:
        assert sensor.agreement is not None
        return any(
            name in self._to_agree or self._sensors[name].state.busy_since_s is not None
            for name in sensor.agreement.sensors
        )

    def _compute(self, sensor: Sensor) -> None:
        """Compare the newest values of the sensors that must agree."""
        assert sensor.agreement is not None
        outcome = sensor.agreement.outcome({n: s.state for n, s in self._sensors.items()})
        if outcome is None:
            values = sensor.state.values
            self._answer(sensor.table.id, lambda r: r.values.setdefault(sensor.table.id, values))
            return
        sensor.state.middle = sensor.agreement.middle
        self._evaluate(sensor, outcome, taken_s=outcome.ended_s)
        complaints = sensor.state.complaints
        if outcome.measurement is not None:
            sensor.state.note_concern(sensor.agreement.concern, sensor.agreement.numbers)
        if sensor.state.complaints != complaints:
            self._events.append(Complained(sensor))

    def _evaluate(
        self, sensor: Sensor, outcome: ReadOutcome, *, taken_s: float | None = None
    ) -> None:
        if outcome.again_s:
            again_at_s = self._clock.monotonic() + outcome.again_s
            self._timetable.once(again_at_s, lambda _at_s: self._workers.submit(sensor.port))
            return
        sensor.state.busy_since_s = None
        sensor.took_s = outcome.ended_s - outcome.started_s
        if sensor.drops_first_after_power():
            return
        was_online, complaints = sensor.state.online, sensor.state.complaints
        taken_s = self._clock.monotonic() if taken_s is None else taken_s
        values = sensor.state.accept(outcome, taken_s=taken_s)
        if values:
            if not was_online:
                self._next_check_s = min(self._next_check_s, sensor.state.next_check_s)
                self.online += 1
                self._events.append(AvailabilityChanged(sensor))
            self._events.append(Measured(sensor, values, outcome))
            if sensor.state.found_channels():
                self._events.append(ChannelsFound(sensor))
        elif sensor.state.complaints != complaints:
            self._events.append(Complained(sensor))
        if self._requests:
            self._answer_with(sensor, values)
        if sensor.supply is not None:
            sensor.mind_supply(
                sensor.supply,
                works=bool(values),
                timetable=self._timetable,
                now_s=self._clock.monotonic(),
            )

    def _answer_with(self, sensor: Sensor, values: dict[str, float]) -> None:
        """Answer requests with the outcome of a read: its values, or why there are none."""
        name = sensor.table.id
        if values:
            self._answer(name, lambda request: request.values.setdefault(name, values))
        else:
            error = sensor.state.last_error or "no value"
            self._answer(name, lambda request: request.errors.setdefault(name, error))
