"""From readings to the broker: the log, the retained topics, history and health, in their order.

    measured ──► outbox ──commit──► retained topics (the newest) ──► Publisher ──► broker
                           └──────► History (all of them) ─────────────┘

A reading is committed before it is published, so two readings never get the same seq. All readings
of a turn of the loop are committed together.

Used on the loop's thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from drivers.bus import Board
from node.config.schema import Config
from node.health import UpdateHealth
from node.homeassistant.announcer import Announcer
from node.mqtt.connection import BrokerConnection, Change
from node.mqtt.events import Arrived
from node.mqtt.publisher import Publisher
from node.mqtt.retained_topics import RetainedTopics
from node.outbox.outbox import Outbox
from node.outbox.records import Event
from node.report.collect_health import HealthCollector
from node.report.history import History
from node.report.newest import NewestReadings
from node.report.node_topics import NodeTopics
from node.report.opening import Opening
from node.report.own_topics import OwnTopics
from node.report.sensor_topics import SensorTopics
from node.report.topic_list import current_topics
from node.sensors.scheduler import Measured
from node.sensors.sensor import Sensor
from node.system.back_off import BackOff
from node.system.clock import Clock
from node.system.logs import RecentWarnings
from node.topics import Topics
from node.units import duration_text

if TYPE_CHECKING:
    from node.report.alarms import AlarmAct, Alarms

__all__ = ["Reporter"]

SAVE_AT_LEAST_EVERY_S = 60.0
"""How long a moved cursor or a line of the log may wait to be committed together with readings."""
GIVE_WAY_S = 0.005
"""How long the loop sleeps while readings are sent, if it has more to do: a computing thread does
not yield the interpreter sooner (`sys.getswitchinterval`), even when it reads files."""
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
"""How long after a temporary refusal a retained message is published again."""
CURSOR_LAG = 1000
"""How far the cursor may move before it is committed without waiting for readings."""


class Reporter:
    """Commits readings, publishes the newest, and sends all of them until the broker has them."""

    def __init__(
        self,
        config: Config,
        board: Board,
        clock: Clock,
        *,
        link: BrokerConnection,
        outbox: Outbox,
        publisher: Publisher,
        announcer: Announcer,
        retained: RetainedTopics,
        device: str,
        sensors: list[Sensor],
        warnings: RecentWarnings | None,
        simulated: bool = False,
        notices: Sequence[str] = (),
        act: Callable[[AlarmAct], None] = lambda _act: None,
        update: Callable[[], UpdateHealth | None] = lambda: None,
    ) -> None:
        """Keep the parts. `act` is called for each change of an alarm, after its commit.

        `update` returns the state of the updates from afar.
        """
        self._clock = clock
        self._link = link
        self._outbox = outbox
        self._sensors = sensors
        self._warnings = warnings
        self._topics = Topics(config.mqtt.base_topic, config.node.name)
        self._publisher = publisher
        self._announcer = announcer
        sensor_topics = SensorTopics(
            config.mqtt, self._topics, publisher, retained, simulated=simulated
        )
        self._newest = NewestReadings(sensors, sensor_topics, outbox, clock)
        self.alarms: Alarms | None = None
        """None if no alarm is configured, and none was that has to end."""
        if config.has_alarms or outbox.alarms:
            from node.report.alarms import Alarms  # most nodes have none

            self.alarms = Alarms(
                sensors,
                clock,
                topics=self._topics,
                outbox=outbox,
                publisher=publisher,
                retain_for_s=config.mqtt.retain_for,
                act=act,
                simulated=simulated,
            )
        self._opening = Opening(
            link,
            publisher,
            retained,
            clock,
            status=self._topics.status,
            availability=[self._topics.availability(sensor.table.id) for sensor in sensors],
            states=sensor_topics.states(sensors),
            channels=sensor_topics.channels(sensors),
            is_current=current_topics(config, device),
            set_alarms=self.alarms.publish_all if self.alarms else lambda: None,
        )
        self._own_topics = OwnTopics(self._topics, outbox, clock)
        self._history = History(
            config.outbox,
            outbox,
            self._publisher,
            clock,
            topic=self._topics.history,
            clock_found_set=self._clock_found_set,
            simulated=simulated,
        )
        self._patience_s = 2.0 * config.mqtt.keepalive
        self._uncommitted = False
        """Whether there are readings since the last commit."""
        self._gives_way = False
        self._not_before_s = -math.inf
        """When other due work may be done, so that readings are sent first."""
        self._clock_known = False
        self._node_topics = NodeTopics(
            self._topics,
            clock,
            publisher=publisher,
            outbox=outbox,
            history=self._history,
            own_topics=self._own_topics,
            collect=HealthCollector(
                config,
                board,
                clock,
                link=link,
                publisher=publisher,
                outbox=outbox,
                history=self._history,
                own_topics=self._own_topics,
                announcer=announcer,
                sensors=sensors,
                alarms=self.alarms,
                simulated=simulated,
                notices=notices,
                update=update,
            ).collect,
        )
        self._save_at_s = clock.monotonic()
        self._outbox_condition = outbox.condition
        self._link_said = ""
        self._trouble_said: tuple[str, str, str, dict[str, str]] = ("", "", "", {})
        self._retry = BackOff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._retries = False
        """Whether retained messages wait to be published again."""

    def start(self, start_s: float) -> None:
        """Put periodic work on a grid soon after that of the reads, which begins at `start_s`.

        The first health is committed here, so that `sensor-node status` describes this process as
        soon as the service is up.
        """
        self._refill_windows()
        self._history.start(start_s)
        self._save_at_s = start_s + SAVE_AT_LEAST_EVERY_S
        self._node_topics.start(start_s)
        self.save(start_s)

    # -- what happens

    def link_changed(self, change: Change) -> None:
        """React to a link that came up or went down, or to a new reason why it is down."""
        if self._link.described != self._link_said:
            self._link_said = self._link.described
            self._node_topics.note_change()
        self._publisher.link_changed(change)
        if change is Change.UP:
            self._newest.link_up()
            self._opening.begin()
            self._retry.succeeded()
        elif change is Change.DOWN:
            if self._link.was_too_fast:
                self._history.slow_down()
            self._link_is_down()

    def link_lost(self) -> None:
        """React to a connection lost without an event, and with it the messages in flight."""
        self._publisher.forget()
        self._link_is_down()

    def _link_is_down(self) -> None:
        self._opening.link_down()
        self._own_topics.heard_online = False
        self._history.link_down()
        self._announcer.link_down()

    def hear(self, message: Arrived) -> bool:
        """Note a message; return whether it is on a topic that this node publishes on."""
        opening = self._opening.under_way
        return self._opening.hear(message) or self._own_topics.hear(message, opening=opening)

    @property
    def heard_online(self) -> bool:
        """Return whether the broker has sent back the `online` of this connection."""
        return self._own_topics.heard_online

    def heard_all(self) -> None:
        """Note that the retained messages on this node's topics have arrived."""
        self._opening.heard_all()

    def _mind_acknowledgements(self, now_s: float) -> None:
        """Leave a broker that answers pings but does not acknowledge messages."""
        stalled_s = self._publisher.stalled_for_s(now_s)
        if stalled_s > self._patience_s and self._link.connected:
            self._link.give_up(f"has not acknowledged a message for {duration_text(stalled_s)}")
            self.link_lost()

    def measured(self, event: Measured) -> None:
        """Keep the values of a read; `save` commits and publishes them."""
        sensor, values, outcome = event.sensor, event.values, event.outcome
        if outcome.synced and not self._clock_known:
            self._clock_was_set(outcome.boot_s, outcome.utc_s)
        self._clock_known = outcome.synced
        self._uncommitted = True
        reading = self._outbox.append(
            sensor.state.layout(values),
            tuple(values.values()),
            boot_s=outcome.boot_s - outcome.age_s,
            utc_s=outcome.utc_s - outcome.age_s,
            synced=outcome.synced,
        )
        self._newest.add(event, reading)
        if self.alarms is not None:
            self.alarms.measured(event)

    def availability_changed(self, sensor: Sensor) -> None:
        """Publish the availability; for a sensor that came online, after its value."""
        self._newest.availability_changed(sensor)
        if not sensor.state.online and self.alarms is not None:
            self.alarms.sensor_gone()
        self._node_topics.note_change()

    def health_changed(self) -> None:
        """Note that health has something new, a problem of a sensor for example."""
        self._node_topics.note_change()

    def replay(
        self, stream: str, first_seq: int, last_seq: int, done: Callable[[int, int | None], None]
    ) -> None:
        """Send readings again from the log; see `History.replay`."""
        self._history.replay(stream, first_seq, last_seq, done)

    def _clock_found_set(self) -> None:
        self._clock_was_set(self._clock.boot_s(), self._clock.utc_s())

    def _clock_was_set(self, boot_s: float, utc_s: float) -> None:
        """Give the readings of this boot their true times; publish the newest ones again."""
        self._clock_known = True
        self._outbox.clock_was_set(boot_s=boot_s, utc_s=utc_s)
        self._history.clock_was_set()
        if self.alarms is not None:
            self.alarms.clock_was_set()
        self._refill_windows()
        self._newest.clock_was_set()

    def _refill_windows(self) -> None:
        states = [sensor.state for sensor in self._sensors]
        if any(state.windows for state in states):
            from node.report.refill import refill_windows  # most nodes have none

            refill_windows(states, self._outbox, self._clock)

    # -- what is done about it, in each turn of the loop

    def publish_due(self, now_s: float) -> None:
        """Publish the messages that may be published now.

        Readings go first: slow work waits until they are sent.
        """
        self._mind_acknowledgements(now_s)
        if self._opening.under_way:
            if not self._opening.proceed():
                self._publisher.flush()
                return
            self._own_topics.opened()
            self._publish_everything()
            self._history.link_up()
            self._node_topics.link_up()
        if self._own_topics.contradicts(now_s):
            self._node_topics.say_online(now_s)
            self._newest.publish_all()
        self._node_topics.publish_first(now_s)
        has_readings = self._publisher.flush()
        self._gives_way = has_readings and now_s >= self.next_due_s and not self._gives_way
        if self._gives_way:
            self._not_before_s = now_s + GIVE_WAY_S
            return
        self._mind_refusals(now_s)
        if self._announcer.birth_is_due(now_s):
            self._announcer.answer_birth()
            self._newest.publish_all()
        self._announcer.announce_due(now_s)
        self._publisher.flush()
        self._history.send_due(now_s)
        self._node_topics.publish_due(now_s)
        self._publisher.flush()

    def save(self, now_s: float) -> None:
        """Commit the results of this turn, and set the retained topics accordingly."""
        lag = self._outbox.cursor_lag >= CURSOR_LAG or self._outbox.notes_waiting
        save_at_s = min(self._save_at_s, self._node_topics.save_at_s)
        overdue = now_s >= save_at_s and self._outbox.unsaved
        alarms = self.alarms is not None and self.alarms.look(now_s)
        if not (self._uncommitted or alarms or lag or overdue):
            return
        self._note_warnings()
        self._outbox.commit()
        self._uncommitted = False
        self._node_topics.committed()
        if self.alarms is not None and self.alarms.committed(now_s):
            self._node_topics.note_change()
        self._save_at_s = now_s + SAVE_AT_LEAST_EVERY_S
        if self._outbox.condition != self._outbox_condition:
            self._outbox_condition = self._outbox.condition
            self._node_topics.note_change()
        # While a connection is being opened, everything is published at its end.
        self._newest.committed(publish=not self._opening.under_way)

    @property
    def next_due_s(self) -> float:
        """Return when there is something to do, if nothing happens until then."""
        save_s = min(self._save_at_s, self._node_topics.save_at_s)
        save_s = save_s if self._outbox.unsaved else math.inf
        if self.alarms is not None:
            save_s = min(save_s, self.alarms.next_due_s)
        retry_s = self._retry.until_s if self._retries else math.inf
        if self._opening.under_way:
            return min(self._opening.next_due_s, save_s)
        parts = (self._history, self._announcer, self._own_topics, self._node_topics)
        due_s = min(*(part.next_due_s for part in parts), save_s, retry_s)
        return max(due_s, self._not_before_s)

    def ask_for_acknowledgements(self) -> int:
        """Return how many acknowledgements are worth a wake-up; 0: any number is not."""
        waiting = (
            self._history.waiting or self._node_topics.waits_for_history or self._opening.under_way
        )
        return self._publisher.ask_for_acknowledgements(more_history=waiting)

    def _mind_refusals(self, now_s: float) -> None:
        """Publish temporarily refused messages again, after a while."""
        trouble = (
            self._publisher.history_refusal,
            self._own_topics.problem,
            self._announcer.problem,
            {**self._publisher.left_out},
        )
        if trouble != self._trouble_said:
            self._trouble_said = trouble
            self._node_topics.note_change()
        if not self._retries and self._publisher.put_off:
            self._retry.failed(now_s)
        elif self._retries and now_s >= self._retry.until_s:
            self._publisher.try_again()
        self._retries = self._publisher.put_off

    def _note_warnings(self) -> None:
        """Keep logged warnings and errors for later inspection."""
        records = self._warnings.records if self._warnings else ()
        while records:
            record = records.popleft()
            text = record.getMessage().encode("utf-8", "replace").decode()
            self._outbox.note(Event(round(record.created * 1000), record.levelname, text))

    def _publish_everything(self) -> None:
        """Publish the present state on a new connection, in the order of the contract."""
        self._node_topics.say_online(self._clock.monotonic())
        self._announcer.announce()
        self._newest.publish_all(are_offline=True)

    # -- the end

    @property
    def idle(self) -> bool:
        """Return whether nothing is on its way to the broker, or nothing can be."""
        return self._publisher.idle

    def has_unwritten(self) -> bool:
        """Return whether readings are only in memory, though the file was tried once more."""
        return self._link.connected and self._outbox.try_file_again() > 0

    def send_unwritten(self) -> bool:
        """Send them as history, as far as there is room; return whether there is more to wait for.

        There is no room for history while retained topics wait, so those are sent first.
        """
        self._publisher.flush()
        self._history.finish(self._clock.monotonic())
        return self._link.connected and self._outbox.unsent > 0

    def say_goodbye(self) -> None:
        """Publish `offline` for the node and its sensors, and then nothing else.

        When the node starts again and publishes `online`, the old values of its sensors must not
        look current.
        """
        self._history.link_down()
        online = [sensor for sensor in self._sensors if sensor.state.online]
        self._publisher.say_goodbye([self._topics.availability(s.table.id) for s in online])

    def close(self) -> None:
        """Disconnect from the broker, and close the log."""
        self._publisher.close()
        self._note_warnings()
        self._outbox.close()
