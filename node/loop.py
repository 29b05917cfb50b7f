"""The node loop: one thread that owns everything that changes.

    bus workers ──ReadDone──────►┐         ┌──► Scheduler ──SensorEvent──► Reporter ──► broker
    paho's thread ──BrokerEvent──┴► queue ─┴──► Publisher, Reporter, RemoteCommands, Announcer

Bus workers and paho's callbacks only put events into the queue. The loop sleeps until the next
event or the next due time, whichever is sooner; nothing polls, and our code has no locks.
Each event goes only to its owner, by its type.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from drivers.bus import Board
from node.config.schema import Config
from node.event_queue import Call, EventQueue
from node.homeassistant.announcer import Announcer
from node.homeassistant.forms import is_discovery
from node.homeassistant.sensor_keys import sensor_keys
from node.mqtt.connection import MOVED_FILE_NAME, BrokerConnection
from node.mqtt.events import (
    Acknowledged,
    Arrived,
    BrokerEvent,
    Connected,
    ConnectFailed,
    Disconnected,
    Flooded,
    Subscribed,
    SubscribeRefused,
)
from node.mqtt.publisher import Publisher
from node.mqtt.rate_limit import RateLimit
from node.mqtt.retained_topics import RetainedTopics
from node.outbox.outbox import Outbox
from node.panel import ButtonHeld, ButtonPressed, Panel
from node.remote_commands import RemoteCommands
from node.report.reporter import Reporter
from node.report.topic_list import subscriptions
from node.sensors.scheduler import (
    AvailabilityChanged,
    ChannelsFound,
    Complained,
    Measured,
    ReadRequest,
    Scheduler,
    SensorEvent,
)
from node.sensors.sensor import Sensor
from node.sensors.workers import ReadDone, Workers
from node.system.clock import Clock
from node.system.logs import RecentWarnings
from node.system.node_ids import device_id, keep_device, read_device
from node.system.systemd import Service
from node.system.update_notice import read_notice
from node.topics import Topics

if TYPE_CHECKING:
    from node.alarms.outputs import AlarmOutputs
    from node.config.afar.trial import TrialFile
    from node.outbox.signature import Signed
    from node.remote_config import RemoteConfig
    from node.report.alarms import AlarmAct
    from node.updates.updater import Updater

__all__ = ["Node", "StopRequest"]

_log = logging.getLogger(__name__)

GOODBYE_S = 1.0
"""How long the node waits at the end for the broker to acknowledge `offline`."""
UNWRITTEN_S = 3.0
"""How long it sends readings before that which are only in memory, while the broker acknowledges
them. The unit's TimeoutStopSec has to be longer than both."""
NETWORK_THREAD_CHECK_S = 10.0
REST_AFTER_MISTAKE_S = 1.0
MAX_INCOMING_BYTES = 64 * 1024
INCOMING_BYTES_A_SENSOR = 4 * 1024
"""The largest message for the node is its own discovery message, as the broker retained it."""
STALL_S = 0.1
"""A turn that takes longer was held up: by the disk, a stopped process, or too little processor."""


class StopRequest(msgspec.Struct, frozen=True):
    """The node is to stop; `reason` goes into the log."""

    reason: str


_Event = ReadDone | BrokerEvent | ButtonPressed | ButtonHeld | StopRequest | Call


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
        simulated: bool = False,
        warnings: RecentWarnings | None = None,
        trial_file: TrialFile | None = None,
        config_by_service: bool = False,
    ) -> None:
        """Build the node's parts.

        `state_dir`: the folder of the log of readings; with None the log is only in memory.
        `hold_state_dir` reserves the folder for this process, and raises StateDirTaken.
        `simulated`: the hardware is not real. `trial_file`: where the trial of a configuration is
        recorded, if there was one, or may be. `config_by_service`: see `RemoteConfig`.
        """
        self._clock = clock
        self._queue: EventQueue[_Event] = EventQueue()
        device = device_id(state_dir)
        topics = Topics(config.mqtt.base_topic, config.node.name)
        retained = RetainedTopics(state_dir, topics.root)
        ours = (topics.status, topics.health)

        def is_discovered(topic: str) -> bool:
            return is_discovery(topic, config.homeassistant.prefix, device)

        self._link = BrokerConnection(
            config.mqtt,
            clock,
            client_id=client_id,
            tls_context=tls_context,
            report=self._report_broker_event,
            will_topic=topics.status,
            subscribe=subscriptions(config, device),
            rate_limit=RateLimit(
                clock,
                unlimited=lambda topic: (
                    topic in ours or topics.is_state(topic) or is_discovered(topic)
                ),
            ),
            max_incoming_bytes=MAX_INCOMING_BYTES + INCOMING_BYTES_A_SENSOR * len(config.sensors),
            moved_file=state_dir / MOVED_FILE_NAME if state_dir else None,
        )
        self._name = config.node.name
        self._service = Service(clock)
        self.panel = Panel(
            config.status_led,
            config.button,
            board,
            clock,
            report=self._queue.put,
            bad_configuration=bool(config.stands_in_for),
        )
        sensors = {table.id: Sensor(table, board, clock) for table in config.sensors}
        states = {name: sensor.state for name, sensor in sensors.items()}
        for state in states.values():
            state.others = states
        outbox = Outbox(state_dir, config.outbox, clock, hold=hold_state_dir)
        self._publisher = Publisher(
            self._link, status_topic=topics.status, refused=outbox.refused, retained=retained
        )

        def part_with_device() -> bool:
            if keep_device(state_dir, config.node.name, another=True) is None:
                return False
            for topic in filter(is_discovered, set(retained.own)):
                retained.emptied(topic)  # not ours to do
            retained.save()
            return True

        known = read_device(state_dir) or keep_device(state_dir, config.node.name)
        self._announcer = Announcer(
            config,
            board,
            clock,
            device=device,
            is_first=known is None or known.is_first(config.node.name),
            part=part_with_device,
            keys=sensor_keys(config.sensors, state_dir),
            sensors=list(sensors.values()),
            publisher=self._publisher,
            published=lambda: retained.own,
            has_led=lambda: self.panel.has_led,
            simulated=simulated,
        )
        self._alarm_outputs: AlarmOutputs | None = None
        if config.has_alarms:
            from node.alarms.outputs import AlarmOutputs  # most nodes have none
            from node.alarms.programs import AlarmPrograms

            alarms = [alarm for table in config.sensors for _, alarm in table.alarms]
            hidden = config.private_files()
            programs = AlarmPrograms(hidden if state_dir is None else [state_dir, *hidden])
            self._alarm_outputs = AlarmOutputs(alarms, board, programs)
        self._reporter = Reporter(
            config,
            board,
            clock,
            link=self._link,
            outbox=outbox,
            publisher=self._publisher,
            announcer=self._announcer,
            retained=retained,
            device=device,
            sensors=list(sensors.values()),
            warnings=warnings,
            simulated=simulated,
            notices=[read_notice(state_dir), *([trial_file.notice] if trial_file else ())],
            act=self._act,
            update=lambda: self._updater.health if self._updater else None,
        )
        self._scheduler = Scheduler(
            sensors,
            clock,
            workers=Workers(self._queue.put, self._queue.put_quietly),
        )
        self.begins_again = False
        """Whether this process is to be followed by another one at once."""
        self._remote_config: RemoteConfig | None = None
        if trial_file is not None:
            from node.remote_config import RemoteConfig  # most nodes do not allow it

            self._remote_config = RemoteConfig(
                clock,
                file=trial_file,
                by_service=config_by_service,
                commands_topic=topics.command_filter,
                link=self._link,
                publisher=self._publisher,
                states=states,
                heard=lambda: self._reporter.heard_online,
                later=lambda do: self._queue.put(Call(do)),
                begin_again=self._begin_again,
            )
        self._updater = self._make_updater(config, device, state_dir)
        self._commands = RemoteCommands(
            config,
            clock,
            link=self._link,
            publisher=self._publisher,
            scheduler=self._scheduler,
            identify=self._identify,
            restart=lambda: self.stop("told to restart by a command"),
            acknowledge=self._acknowledge,
            replay=self._reporter.replay,
            configure=self._remote_config.hear
            if self._remote_config is not None and config.commands.config
            else None,
            sign=self._signing(config, outbox, state_dir),
            updater=self._updater,
        )
        self._sensor_count = len(sensors)
        self._on_what = "on the last good configuration, " if config.stands_in_for else ""
        self._condition: tuple[bool, int] | None = None
        self._check_network_at_s = clock.monotonic() + NETWORK_THREAD_CHECK_S
        self._rest_until_s = 0.0
        """Nothing is due before this time, because what was due has failed."""
        self._reads_first = False
        """Whether only reads begin in this turn, and the rest waits for the next one."""
        self._stopping = False
        self._awake_since_s = clock.monotonic()
        """The end of the time that is accounted for; the loop could have worked since."""

    def stop(self, reason: str) -> None:
        """Make `run` return; may be called from a signal handler or another thread."""
        self._queue.put(StopRequest(reason))

    def _begin_again(self, reason: str) -> None:
        self.begins_again = True
        self.stop(reason)

    def run(self) -> None:
        """Run until `stop` is called."""
        start_s = self._clock.monotonic()
        self._scheduler.start(start_s)
        try:
            self._reporter.start(start_s)
        except Exception:  # noqa: BLE001, logged, and the node goes on
            self._go_on("save the first health")
        self._link.start()
        self._service.ready()
        self._awake_since_s = self._clock.monotonic()
        while not self._stopping:
            self._turn()
        self._say_goodbye()

    # -- one turn of the loop

    def _turn(self) -> None:
        if self._excuse_hold_up():
            # Take reads that ended meanwhile: their sensors are free for the turn due now.
            for event in self._queue.wait(0):
                self._contained(event)
        try:
            self._hand_on(self._scheduler.run_due())
        except Exception:  # noqa: BLE001, logged, and the loop goes on
            self._go_on("begin reads")
        now_s = self._clock.monotonic()
        self._watch_network_thread(now_s)
        # Other work that is due with the reads, such as health and history, would make them late.
        # It waits for the next turn, which comes with the outcomes or very soon, and no longer.
        self._reads_first = self._scheduler.begins_reads and not self._reads_first
        if not self._reads_first:
            try:
                self._commands.listen_again(now_s)
                if self._remote_config is not None:
                    self._remote_config.look(now_s)
                if self._updater is not None:
                    self._updater.look(now_s)
                self._reporter.publish_due(now_s)
            except Exception:  # noqa: BLE001, logged, and the loop goes on
                self._go_on("publish")
        for event in self._wait(now_s):
            self._contained(event)
        try:
            self._reporter.save(self._clock.monotonic())
        except Exception:  # noqa: BLE001, logged, and the loop goes on
            self._go_on("save readings")
        self._show_condition()

    def _excuse_hold_up(self) -> bool:
        """Excuse the sensors for the time in which the loop was held up; return whether it was.

        Called before the loop looks for silent sensors, and before it sleeps, so that every delay
        counts: a slow disk, a late wake-up, a process that was stopped.
        """
        now_s = self._clock.monotonic()
        held_up_s, self._awake_since_s = now_s - self._awake_since_s, now_s
        if held_up_s <= STALL_S:
            return False
        _log.debug("the node was held up for %.1f s", held_up_s)
        self._scheduler.excuse(held_up_s)
        return True

    def _contained(self, event: _Event) -> None:
        try:
            self._dispatch(event)
        except Exception:  # noqa: BLE001, logged, and the loop goes on
            self._go_on("handle an event")

    def _go_on(self, what: str) -> None:
        """Log an exception, and pause: a bug must neither stop the readings nor fill the log."""
        _log.exception("failed to %s; the node goes on", what)
        self._rest_until_s = self._clock.monotonic() + REST_AFTER_MISTAKE_S

    def _wait(self, now_s: float) -> list[_Event]:
        """Sleep until the first event, or until something is due; return the events."""
        wake_at_s = min(
            self._scheduler.next_due_s,
            self._check_network_at_s,
            self._service.next_feed_s,
            self.panel.next_due_s,
        )
        if not self._reads_first:
            wake_at_s = min(wake_at_s, self._reporter.next_due_s, self._commands.next_due_s)
            if self._remote_config is not None:
                wake_at_s = min(wake_at_s, self._remote_config.next_due_s)
            if self._updater is not None:
                wake_at_s = min(wake_at_s, self._updater.next_due_s)
        self._queue.ring_at = self._reporter.ask_for_acknowledgements()
        self._link.send()
        self._scheduler.begin()
        self._excuse_hold_up()
        wake_at_s = max(wake_at_s, self._rest_until_s)
        events = self._queue.wait(wake_at_s - now_s)
        due_s = max(wake_at_s, self._awake_since_s)
        self._awake_since_s = min(due_s, self._clock.monotonic())
        return events

    def _dispatch(self, event: _Event) -> None:
        """Give an event to its owner; ignore those of a client that has been replaced."""
        match event:
            case ReadDone():
                self._hand_on(self._scheduler.read_ended(event))
            case Acknowledged():
                self._publisher.acknowledged(event)
            case Call():
                event.do()
            case StopRequest():
                self._stopping = True
                _log.info("stopping: %s", event.reason)
            case ButtonPressed():
                self._acknowledge()
                self._scheduler.read_now(ReadRequest(self._scheduler.ids))
            case ButtonHeld():
                self._identify()
            case _ if event.generation != self._link.generation:
                pass
            case Arrived():
                if not (self._reporter.hear(event) or self._announcer.hear(event)):
                    self._commands.hear(event)
            case Subscribed():
                self._reporter.heard_all()
            case Flooded():
                self._commands.flooded(event)
            case Connected() | ConnectFailed() | Disconnected() | SubscribeRefused():
                self._reporter.link_changed(self._link.follow(event))

    def _hand_on(self, events: list[SensorEvent]) -> None:
        """Give sensor events to their owners; an exception costs only one event."""
        for event in events:
            try:
                match event:
                    case Measured():
                        self._reporter.measured(event)
                    case AvailabilityChanged():
                        self._reporter.availability_changed(event.sensor)
                    case Complained():
                        self._reporter.health_changed()
                    case ChannelsFound():
                        self._announcer.channels_found()
                    case ReadRequest():
                        event.done(event)
            except Exception:  # noqa: BLE001, logged, and the loop goes on
                self._go_on("handle the outcome of a read")

    def _signing(
        self, config: Config, outbox: Outbox, state_dir: Path | None
    ) -> Callable[[str, Callable[[Signed | str], None]], None] | None:
        """Return what signs the head of the log's chain; None if there is no chain."""
        if not config.outbox.chain or state_dir is None:
            return None
        from node.report.signer import HeadSigner  # most logs are not chained

        report = self._queue.put
        return HeadSigner(config.node.name, outbox, self._clock, state_dir, report=report).sign

    def _make_updater(self, config: Config, device: str, state_dir: Path | None) -> Updater | None:
        """Return what takes updates from afar; None without the key of a publisher."""
        allowed = config.commands.enabled and "update" in config.useful_commands
        if state_dir is None or not allowed:
            return None
        from node.updates.updater import Reply, Updater  # most nodes have no such key

        def answer(name: str, reply: Reply, content: dict[str, object]) -> bool:
            return self._commands.answer_later(name, reply, content)

        return Updater(
            config.update.url,
            self._clock,
            state_dir=state_dir,
            device=device,
            later=lambda do: self._queue.put(Call(do)),
            answer=answer,
            changed=self._reporter.health_changed,
        )

    def _act(self, act: AlarmAct) -> None:
        """Run the program of an alarm that has changed."""
        if self._alarm_outputs is not None and act.alarm.exec_ is not None:
            facts = {"SENSOR_NODE_NODE": self._name, **act.facts}
            self._alarm_outputs.programs.run(act.alarm.exec_, facts)

    def _acknowledge(self, names: Sequence[str] = ()) -> list[str]:
        """Acknowledge alarms that are on, all or those named; return which they were."""
        alarms = self._reporter.alarms
        if alarms is not None:
            return alarms.acknowledge(names)
        if names:
            raise KeyError(names[0])
        return []

    def _identify(self) -> float:
        """Blink the LED, and return for how many seconds."""
        _log.info("this is %s", self._name)
        return self.panel.identify()

    def _report_broker_event(self, event: BrokerEvent) -> None:
        """Queue an event; called on paho's thread. An acknowledgement does not wake the loop."""
        if isinstance(event, Acknowledged) and event.refused is None:
            self._queue.put_quietly(event)
        else:
            self._queue.put(event)

    def _watch_network_thread(self, now_s: float) -> None:
        """Feed the watchdog while paho's thread lives; replace the thread when it does not."""
        due_s = min(self._check_network_at_s, self._service.next_feed_s)
        if now_s < due_s - NETWORK_THREAD_CHECK_S / 2:  # sooner, if that saves a wake-up
            return
        self._check_network_at_s = now_s + NETWORK_THREAD_CHECK_S
        if self._link.alive:
            self._service.feed_watchdog()
            self._link.renew_login(now_s)
        else:
            self._service.skip_feed()
            self._link.restart()
            self._reporter.link_lost()

    def _show_condition(self) -> None:
        """Bring the LED, and the line in `systemctl status`, up to date."""
        all_online = self._scheduler.online == self._sensor_count
        sounding = self._reporter.alarms.sounding if self._reporter.alarms else ()
        self.panel.show(connected=self._link.connected, all_online=all_online, alarm=bool(sounding))
        if self._alarm_outputs is not None:
            self._alarm_outputs.show(sounding)
        condition = (self._link.connected, self._scheduler.online)
        if condition != self._condition:
            self._condition = condition
            broker = "connected" if self._link.connected else "no broker"
            online = f"{self._scheduler.online} of {self._sensor_count} sensors online"
            self._service.status(f"{self._on_what}{broker}, {online}")

    # -- the end

    def _say_goodbye(self) -> None:
        """Publish `offline`, within `GOODBYE_S`; leave stuck sensors and a silent broker."""
        if not self.begins_again:  # systemd would end what follows
            self._service.stopping()
        self._queue.ring_at = 1
        self._send_what_cannot_be_written()
        self._reporter.say_goodbye()
        give_up_s = self._clock.monotonic() + GOODBYE_S
        while not self._reporter.idle and (left_s := give_up_s - self._clock.monotonic()) > 0:
            self._link.send()
            for event in self._queue.wait(left_s):
                if isinstance(event, Acknowledged | Disconnected):
                    self._dispatch(event)
                    self._publisher.flush()
        self.panel.close()
        if self._alarm_outputs is not None:
            self._alarm_outputs.close()
        self._reporter.close()
        self._scheduler.close()

    def _send_what_cannot_be_written(self) -> None:
        """Send the readings that are only in memory, because they would be lost.

        A broker that acknowledges none of them for GOODBYE_S is given up.
        """
        now_s = self._clock.monotonic
        give_up_s, end_s = now_s() + GOODBYE_S, now_s() + UNWRITTEN_S
        unwritten = self._reporter.has_unwritten()
        while unwritten and (left_s := min(give_up_s, end_s) - now_s()) > 0:
            unwritten = self._reporter.send_unwritten()
            self._link.send()
            for event in self._queue.wait(left_s if unwritten else 0):
                if isinstance(event, Acknowledged | Disconnected):
                    self._contained(event)
                if isinstance(event, Acknowledged):
                    give_up_s = now_s() + GOODBYE_S
