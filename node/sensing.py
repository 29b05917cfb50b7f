"""The sensors of a node: read when they are due, watched for silence, power-cycled when they fail.

    timetable ──due──► workers ──ReadDone──► take ──► SensorState ──► Reporter

Used on the loop's thread, which calls `work` in each turn, wakes up for `next_due_s`, and hands
each `ReadDone` to `take`.
"""

from __future__ import annotations

import math
from functools import partial

from node.clock import Clock
from node.reading import ReadOutcome
from node.reporter import Reporter
from node.sensor import Sensor
from node.timetable import Timetable
from node.workers import ReadDone, Workers

__all__ = ["Sensing"]


class Sensing:
    """Reads the sensors and tells the reporter what came of it."""

    def __init__(
        self, sensors: dict[str, Sensor], clock: Clock, *, workers: Workers, reporter: Reporter
    ) -> None:
        self._sensors = sensors
        self._clock = clock
        self._workers = workers
        self._reporter = reporter
        self._timetable = Timetable(clock)
        self._next_check_s = math.inf
        self.online = 0
        """How many sensors are."""

    def start(self, start_s: float) -> None:
        """Put every sensor on its grid; all grids start now, so reads come together."""
        for sensor in self._sensors.values():
            self._timetable.every(
                sensor.table.interval,
                partial(self._read_due, sensor),
                start_s=start_s + sensor.settle_s,
            )

    def work(self) -> None:
        """Begin the reads that are due, and look for silence."""
        self._timetable.run_due()
        now_s = self._clock.monotonic()
        self._workers.dispatch(now_s)
        self._workers.help_out(now_s)
        self._watch(now_s)

    @property
    def next_due_s(self) -> float:
        """When there is something to do, if nothing happens until then."""
        return min(self._timetable.next_due_s, self._next_check_s, self._workers.next_look_s)

    def take(self, done: ReadDone) -> None:
        """A read has ended."""
        if done.bus_free:
            self._workers.bus_free(done.bus)
        self._read_ended(self._sensors[done.outcome.sensor], done.outcome)

    def excuse(self, stalled_s: float) -> None:
        """The loop was held up: nobody was asked meanwhile, so nobody was silent."""
        for sensor in self._sensors.values():
            sensor.state.excuse(stalled_s)
        self._next_check_s = self._clock.monotonic()

    def close(self) -> None:
        for sensor in self._sensors.values():
            sensor.close()

    def _watch(self, now_s: float) -> None:
        """Look for silence, when it may have lasted too long; remember when that is next."""
        if now_s < self._next_check_s:
            return
        for sensor in self._sensors.values():
            if now_s >= sensor.state.next_check_s:
                was_online = sensor.state.online
                sensor.state.check(now_s, sensor.port.reading_since_s)
                if was_online:
                    self.online -= 1
                    self._reporter.availability_changed(sensor)
                else:
                    self._reporter.complaint()
        self._next_check_s = min(
            (sensor.state.next_check_s for sensor in self._sensors.values()), default=math.inf
        )

    def _read_due(self, sensor: Sensor, due_s: float) -> None:
        if sensor.ready:
            sensor.state.busy_since_s = due_s
            self._next_check_s = min(self._next_check_s, sensor.state.next_check_s)
            self._workers.submit(sensor.port)

    def _read_ended(self, sensor: Sensor, outcome: ReadOutcome) -> None:
        sensor.state.busy_since_s = None
        if sensor.takes_first_after_power():
            return
        was_online, complaints = sensor.state.online, sensor.state.complaints
        values = sensor.state.accept(outcome)
        if values:
            if not was_online:
                self._next_check_s = min(self._next_check_s, sensor.state.next_check_s)
                self.online += 1
                self._reporter.availability_changed(sensor)
            self._reporter.took(sensor, values, outcome)
        elif sensor.state.complaints != complaints:
            self._reporter.complaint()
        sensor.mind_supply(
            works=bool(values), timetable=self._timetable, now_s=self._clock.monotonic()
        )
