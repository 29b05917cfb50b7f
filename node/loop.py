"""The node loop: one thread that owns everything that changes.

    timetable ──due──► workers ──ReadDone──► inbox ──► SensorState ──► Reporter ──► broker
                       paho's thread ──BrokerEvent──►┘

Bus workers and paho's callbacks only put events into the inbox. The loop sleeps until the next
event or the next due time, whichever is sooner; nothing polls, and there are no locks of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from drivers.bus import Board
from node.broker_events import Acknowledged, BrokerEvent, Sent
from node.clock import Clock
from node.inbox import Inbox
from node.link import Link
from node.logs import RecentWarnings
from node.messages import Topics
from node.outbox import Outbox
from node.reading import ReadOutcome
from node.reporter import Reporter
from node.schema import Config
from node.sensor import Sensor
from node.service import Service
from node.timetable import Timetable
from node.workers import ReadDone, Workers

__all__ = ["Node", "StopRequest", "preload_drivers"]

_log = logging.getLogger(__name__)

GOODBYE_S = 1.0
"""How long a broker may take to acknowledge `offline` before the node leaves all the same."""
NETWORK_THREAD_CHECK_S = 10.0
REST_AFTER_MISTAKE_S = 1.0
STALL_S = 0.1


class StopRequest(msgspec.Struct, frozen=True):
    """The node shall end; `reason` goes into the log."""

    reason: str


_Event = ReadDone | BrokerEvent | StopRequest


def preload_drivers(config: Config) -> None:
    """Import what drivers must have imported on the main thread, before signals are caught.

    What they print meanwhile goes to standard error: standard output is for results.
    """
    wanted = {module: None for sensor in config.sensors for module in sensor.info.preload}
    for module in wanted:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(module)
        except Exception as error:
            # The driver runs into it again, and says what it means for its sensor.
            _log.debug("%s cannot be imported: %s", module, error)


class Node:
    """Reads the configured sensors and publishes, from `run` to `stop`."""

    def __init__(
        self,
        config: Config,
        board: Board,
        clock: Clock,
        *,
        client_id: str,
        state_dir: Path | None,
        hold_state_dir: Callable[[], None] = lambda: None,
        tls_context: object = None,
        warnings: RecentWarnings | None = None,
    ) -> None:
        """`state_dir`: where the log of readings is; with None it is in memory alone.

        `hold_state_dir` takes it for this process, and raises StateDirTaken.
        """
        self._clock = clock
        self._inbox: Inbox[_Event] = Inbox()
        self._timetable = Timetable(clock)
        self._workers = Workers(self._inbox.put, self._inbox.put_quietly)
        self._link = Link(
            config.mqtt,
            clock,
            client_id=client_id,
            tls_context=tls_context,
            report=self._report_broker_event,
            will_topic=Topics(config.mqtt.base_topic, config.node.name).status,
        )
        self._service = Service(clock)
        self._sensors = {table.id: Sensor(table, board, clock) for table in config.sensors}
        self._reporter = Reporter(
            config,
            board,
            clock,
            link=self._link,
            outbox=Outbox(state_dir, config.outbox, clock, hold=hold_state_dir),
            sensors=list(self._sensors.values()),
            warnings=warnings,
        )
        self._online = 0
        self._next_check_s = math.inf
        self._check_network_at_s = clock.monotonic() + NETWORK_THREAD_CHECK_S
        self._rest_until_s = 0.0
        """Nothing is due before, for what was due has failed."""
        self._stopping = False

    def stop(self, reason: str) -> None:
        """Make `run` return; may be called from a signal handler or another thread."""
        self._inbox.put(StopRequest(reason))

    def run(self) -> None:
        """Work until `stop`."""
        self._plan_reads()
        self._link.start()
        self._service.ready()
        while not self._stopping:
            self._turn()
        self._say_goodbye()

    # -- one turn of the loop

    def _turn(self) -> None:
        self._timetable.run_due()
        now_s = self._clock.monotonic()
        self._workers.dispatch(now_s)
        self._workers.help_out(now_s)
        self._watch_sensors(now_s)
        self._watch_network_thread(now_s)
        try:
            self._reporter.work(now_s)
        except Exception:
            self._go_on("publish")
        for event in self._wait(now_s):
            try:
                self._take(event)
            except Exception:
                self._go_on("deal with an event")
        saving_s = self._clock.monotonic()
        try:
            self._reporter.save(saving_s)
        except Exception:
            self._go_on("save readings")
        self._excuse_sensors(self._clock.monotonic() - saving_s)

    def _excuse_sensors(self, stalled_s: float) -> None:
        """A slow disk has held up the loop: nobody was asked, so nobody was silent."""
        if stalled_s > STALL_S:
            _log.debug("the disk took %.1f s to write", stalled_s)
            for sensor in self._sensors.values():
                sensor.state.excuse(stalled_s)
            self._next_check_s = self._clock.monotonic()

    def _go_on(self, what: str) -> None:
        """Log a mistake, and rest: none of ours may stop the readings, or fill the log."""
        _log.exception("failed to %s; the node goes on", what)
        self._rest_until_s = self._clock.monotonic() + REST_AFTER_MISTAKE_S

    def _wait(self, now_s: float) -> list[_Event]:
        """The events there are, after sleeping until the first, or until something is due."""
        wake_at_s = min(
            self._timetable.next_due_s,
            self._next_check_s,
            self._workers.next_look_s,
            self._check_network_at_s,
            self._service.next_feed_s,
            self._reporter.next_due_s,
        )
        self._inbox.ring_at = self._reporter.ask_for_acknowledgements()
        return self._inbox.take(max(wake_at_s, self._rest_until_s) - now_s)

    def _take(self, event: _Event) -> None:
        if isinstance(event, ReadDone):
            if event.bus_free:
                self._workers.bus_free(event.bus)
            self._read_ended(event.outcome)
        elif isinstance(event, StopRequest):
            self._stopping = True
            _log.info("stopping: %s", event.reason)
        elif self._reporter.handle(event):
            self._tell_service()

    def _report_broker_event(self, event: BrokerEvent) -> None:
        """Called on paho's thread. An acknowledgement alone is no reason to wake up."""
        if isinstance(event, Acknowledged | Sent):
            self._inbox.put_quietly(event)
        else:
            self._inbox.put(event)

    def _watch_sensors(self, now_s: float) -> None:
        """Look for silence, when it may have lasted too long; remember when that is next."""
        if now_s < self._next_check_s:
            return
        for sensor in self._sensors.values():
            if now_s >= sensor.state.next_check_s:
                was_online = sensor.state.online
                sensor.state.check(now_s, sensor.port.reading_since_s)
                if was_online:
                    self._online -= 1
                    self._reporter.availability_changed(sensor)
                    self._tell_service()
                else:
                    self._reporter.complaint()
        self._next_check_s = min(
            (sensor.state.next_check_s for sensor in self._sensors.values()), default=math.inf
        )

    def _watch_network_thread(self, now_s: float) -> None:
        """Feed the watchdog while paho's thread lives; replace the thread when it does not."""
        if now_s < min(self._check_network_at_s, self._service.next_feed_s):
            return
        self._check_network_at_s = now_s + NETWORK_THREAD_CHECK_S
        if self._link.alive:
            self._service.feed_watchdog()
        else:
            self._service.skip_feed()
            self._link.restart()
            self._reporter.link_lost()

    def _tell_service(self) -> None:
        """Bring the line in `systemctl status` up to date."""
        broker = "connected" if self._link.connected else "no broker"
        self._service.status(f"{broker}, {self._online} of {len(self._sensors)} sensors online")

    # -- reading

    def _plan_reads(self) -> None:
        """Put every sensor on its grid; all grids start now, so reads come together."""
        start_s = self._clock.monotonic()
        self._reporter.start(start_s)
        for sensor in self._sensors.values():
            self._timetable.every(
                sensor.table.interval,
                partial(self._read_due, sensor),
                start_s=start_s + sensor.settle_s,
            )

    def _read_due(self, sensor: Sensor, due_s: float) -> None:
        if sensor.ready:
            sensor.state.busy_since_s = due_s
            self._next_check_s = min(self._next_check_s, sensor.state.next_check_s)
            self._workers.submit(sensor.port)

    def _read_ended(self, outcome: ReadOutcome) -> None:
        sensor = self._sensors[outcome.sensor]
        sensor.state.busy_since_s = None
        if sensor.takes_first_after_power():
            return
        was_online, complaints = sensor.state.online, sensor.state.complaints
        values = sensor.state.accept(outcome)
        if values:
            if not was_online:
                self._next_check_s = min(self._next_check_s, sensor.state.next_check_s)
                self._online += 1
                self._reporter.availability_changed(sensor)
                self._tell_service()
            self._reporter.took(sensor, values, outcome)
        elif sensor.state.complaints != complaints:
            self._reporter.complaint()
        sensor.mind_supply(
            works=bool(values), timetable=self._timetable, now_s=self._clock.monotonic()
        )

    # -- the end

    def _say_goodbye(self) -> None:
        """Tell the broker, within `GOODBYE_S`; stuck sensors and a silent broker are left."""
        self._service.stopping()
        self._reporter.say_goodbye()
        give_up_s = self._clock.monotonic() + GOODBYE_S
        self._inbox.ring_at = 1
        while not self._reporter.idle and (left_s := give_up_s - self._clock.monotonic()) > 0:
            for event in self._inbox.take(left_s):
                if not isinstance(event, ReadDone | StopRequest):
                    self._reporter.handle(event)
        self._reporter.close()
        for sensor in self._sensors.values():
            sensor.close()
