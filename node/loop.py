"""The node loop: one thread that owns everything that changes.

    timetable ──due──► workers ──ReadDone──► inbox ──► SensorState ──► Publisher ──► broker
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
from functools import partial

import msgspec

from drivers.bus import Board
from node import power
from node.broker_events import Acknowledged, BrokerEvent, Sent
from node.clock import Clock
from node.inbox import Inbox
from node.link import Change, Link
from node.messages import ONLINE, Topics, availability, plain_value, state_payload
from node.power import SensorPower
from node.publisher import Publisher
from node.reading import Reading, ReadOutcome
from node.schema import Config
from node.sensor_port import SensorPort
from node.sensor_state import SensorState
from node.service import Service
from node.timetable import Timetable
from node.workers import ReadDone, Workers

__all__ = ["Node", "StopRequest", "preload_drivers"]

_log = logging.getLogger(__name__)

GOODBYE_S = 1.0
"""How long a broker may take to acknowledge `offline` before the node leaves all the same."""
NETWORK_THREAD_CHECK_S = 10.0


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


class _Sensor:
    """What the loop keeps of one sensor."""

    def __init__(self, state: SensorState, port: SensorPort, supply: SensorPower | None) -> None:
        self.state = state
        self.port = port
        self.supply = supply
        self.newest: Reading | None = None
        self.without_power = False
        self.drop_next = False


class Node:
    """Reads the configured sensors and publishes, from `run` to `stop`."""

    def __init__(
        self,
        config: Config,
        board: Board,
        clock: Clock,
        *,
        client_id: str,
        tls_context: object = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._topics = Topics(config.mqtt.base_topic, config.node.name)
        self._inbox: Inbox[_Event] = Inbox()
        self._timetable = Timetable(clock)
        self._workers = Workers(self._inbox.put, self._inbox.put_quietly)
        self._link = Link(
            config.mqtt,
            clock,
            client_id=client_id,
            tls_context=tls_context,
            report=self._report_broker_event,
            will_topic=self._topics.status,
        )
        self._publisher = Publisher(self._link, status_topic=self._topics.status)
        self._service = Service(clock)
        self._sensors = {
            table.id: _Sensor(
                SensorState(table),
                SensorPort(table, board, clock),
                None if table.power_pin is None else SensorPower(table.id, table.power_pin, board),
            )
            for table in config.sensors
        }
        self._seq = 0
        self._online = 0
        self._next_check_s = math.inf
        self._check_network_at_s = clock.monotonic() + NETWORK_THREAD_CHECK_S
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
        self._publisher.flush()
        for event in self._wait(now_s):
            try:
                self._take(event)
            except Exception:
                _log.exception("an event could not be dealt with; the node goes on")

    def _wait(self, now_s: float) -> list[_Event]:
        """The events there are, after sleeping until the first, or until something is due."""
        wake_at_s = min(
            self._timetable.next_due_s,
            self._next_check_s,
            self._workers.next_look_s,
            self._check_network_at_s,
            self._service.next_feed_s,
        )
        self._inbox.ring_at = self._publisher.acknowledgements_wanted
        return self._inbox.take(wake_at_s - now_s)

    def _take(self, event: _Event) -> None:
        if isinstance(event, ReadDone):
            if event.bus_free:
                self._workers.bus_free(event.bus)
            self._read_ended(event.outcome)
        elif isinstance(event, StopRequest):
            self._stopping = True
            _log.info("stopping: %s", event.reason)
        else:
            if self._publisher.handle(event) is Change.UP:
                self._publish_everything()
            if not isinstance(event, Acknowledged | Sent):
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
                    self._publish_availability(sensor)
                    self._tell_service()
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

    def _tell_service(self) -> None:
        """Bring the line in `systemctl status` up to date."""
        broker = "connected" if self._link.connected else "no broker"
        self._service.status(f"{broker}, {self._online} of {len(self._sensors)} sensors online")

    # -- reading

    def _plan_reads(self) -> None:
        """Put every sensor on its grid; all grids start now, so reads come together."""
        start_s = self._clock.monotonic()
        for sensor in self._sensors.values():
            first_s = start_s if sensor.supply is None else start_s + power.SETTLE_S
            self._timetable.every(
                sensor.state.table.interval, partial(self._read_due, sensor), start_s=first_s
            )

    def _read_due(self, sensor: _Sensor, due_s: float) -> None:
        if sensor.state.busy_since_s is None and not sensor.without_power:
            sensor.state.busy_since_s = due_s
            self._next_check_s = min(self._next_check_s, sensor.state.next_check_s)
            self._workers.submit(sensor.port)

    def _read_ended(self, outcome: ReadOutcome) -> None:
        sensor = self._sensors[outcome.sensor]
        sensor.state.busy_since_s = None
        if sensor.drop_next:
            sensor.drop_next = False
            return
        was_online = sensor.state.online
        values = sensor.state.accept(outcome)
        if values:
            self._seq += 1
            sensor.newest = Reading(
                outcome.sensor, self._seq, outcome.utc_s, outcome.synced, values
            )
            if not was_online:
                self._next_check_s = min(self._next_check_s, sensor.state.next_check_s)
                self._online += 1
                self._publish_availability(sensor)
                self._tell_service()
            worth = sensor.state.worth_publishing(values, outcome.ended_s)
            if worth:
                self._publish_reading(sensor, sensor.newest, worth)
                # A state has every channel in it; a plain topic has only its own.
                sent = list(values) if self._config.mqtt.payload == "json" else worth
                sensor.state.published(sent, outcome.ended_s)
            for name in sensor.state.take_newly_missing(outcome.ended_s):
                self._take_back(sensor, name)
        if sensor.supply is not None:
            if values:
                sensor.supply.works()
            self._mind_supply(sensor, sensor.supply)

    def _mind_supply(self, sensor: _Sensor, supply: SensorPower) -> None:
        """Power-cycle a sensor that keeps failing; what it says first afterwards is dropped."""
        if not supply.wants_cycle(sensor.state.failures_in_a_row):
            return
        sensor.without_power = True
        sensor.state.failures_in_a_row = 0
        supply.off()

        def settled(_at_s: float) -> None:
            sensor.without_power = False
            sensor.drop_next = True

        now_s = self._clock.monotonic()
        self._timetable.once(now_s + power.OFF_S, lambda _at_s: supply.on())
        self._timetable.once(now_s + power.OFF_S + power.SETTLE_S, settled)

    # -- publishing

    def _publish_everything(self) -> None:
        """A connection has come about: say what is, in the order of the contract."""
        self._publisher.set(self._topics.status, ONLINE)
        for sensor in self._sensors.values():
            self._publish_availability(sensor)
        for sensor in self._sensors.values():
            if sensor.newest is not None and sensor.state.online:
                self._publish_reading(sensor, sensor.newest, list(sensor.newest.values))
                for name in sensor.state.missing_channels:
                    self._take_back(sensor, name)

    def _publish_availability(self, sensor: _Sensor) -> None:
        topic = self._topics.availability(sensor.state.table.id)
        self._publisher.set(topic, availability(sensor.state.online))

    def _publish_reading(self, sensor: _Sensor, reading: Reading, channels: list[str]) -> None:
        payload = self._config.mqtt.payload
        expiry_s = self._expiry_s(sensor)
        if payload != "plain":
            topic = self._topics.state(reading.sensor)
            self._publisher.set(topic, state_payload(reading), expiry_s=expiry_s)
        if payload != "json":
            for name in channels:
                topic = self._topics.channel(reading.sensor, name)
                value = plain_value(reading.values[name])
                self._publisher.set(topic, value, expiry_s=expiry_s)

    def _take_back(self, sensor: _Sensor, channel: str) -> None:
        """Delete the plain value of a channel that fails while the others go on."""
        if self._config.mqtt.payload != "json":
            self._publisher.set(self._topics.channel(sensor.state.table.id, channel), b"")

    def _expiry_s(self, sensor: _Sensor) -> float:
        retain_for_s = self._config.mqtt.retain_for
        return max(retain_for_s, 3 * sensor.state.table.interval) if retain_for_s else 0

    # -- the end

    def _say_goodbye(self) -> None:
        """Tell the broker, within `GOODBYE_S`; stuck sensors and a silent broker are left."""
        self._service.stopping()
        self._publisher.say_goodbye()
        give_up_s = self._clock.monotonic() + GOODBYE_S
        self._inbox.ring_at = 1
        while not self._publisher.idle and (left_s := give_up_s - self._clock.monotonic()) > 0:
            for event in self._inbox.take(left_s):
                if not isinstance(event, ReadDone | StopRequest):
                    self._publisher.handle(event)
        self._publisher.close()
        for sensor in self._sensors.values():
            if sensor.state.busy_since_s is None:  # else its worker still has the driver
                sensor.port.close()
            if sensor.supply is not None:
                sensor.supply.close()
