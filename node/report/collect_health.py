"""The node's present health, collected from its parts.

Used on the loop's thread, whenever `NodeTopics` sets health.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from drivers.bus import Board
from node import __version__
from node.config.schema import Config
from node.health import AlarmHealth, Health, SensorHealth, UpdateHealth, age_of
from node.homeassistant.announcer import Announcer
from node.mqtt.connection import BrokerConnection
from node.mqtt.publisher import Publisher
from node.outbox.outbox import Outbox
from node.report.history import History
from node.report.own_topics import OwnTopics
from node.sensors.sensor import Sensor
from node.sensors.state import SensorState
from node.system.clock import Clock, utc_text

if TYPE_CHECKING:
    from node.report.alarms import Alarms
    from node.system.host import Vitals

__all__ = ["HealthCollector"]


class HealthCollector:
    """Asks the parts of the node how they are, and puts the answers into words."""

    def __init__(
        self,
        config: Config,
        board: Board,
        clock: Clock,
        *,
        link: BrokerConnection,
        publisher: Publisher,
        outbox: Outbox,
        history: History,
        own_topics: OwnTopics,
        announcer: Announcer,
        sensors: Sequence[Sensor],
        alarms: Alarms | None,
        simulated: bool,
        notices: Sequence[str],
        update: Callable[[], UpdateHealth | None],
    ) -> None:
        """Keep the parts.

        `simulated`: the hardware is not real. `notices`: problems from before the start
        (`node.system.update_notice`, `node.config.afar.trial`). `update` returns the state of the
        updates from afar.
        """
        self._config = config
        self._board = board
        self._clock = clock
        self._link = link
        self._publisher = publisher
        self._outbox = outbox
        self._history = history
        self._own_topics = own_topics
        self._announcer = announcer
        self._sensors = [sensor.state for sensor in sensors]
        self._alarms = alarms
        self._simulated = simulated
        self._notices = notices
        self._update = update
        self._configuration_problem = ""
        if config.stands_in_for:
            self._configuration_problem = (
                f"{config.stands_in_for}: the node runs on the last good configuration"
            )

    def collect(self, started_s: float, started: str | None) -> Health:
        """Return the present health.

        `started_s` is the monotonic time at which the node began, in seconds, `started` the time of
        day.
        """
        from node.system.host import read_vitals

        clock, link, outbox = self._clock, self._link, self._outbox
        alarms = self._alarms.health if self._alarms else {}
        oldest = outbox.read(outbox.cursor, 1)
        vitals = read_vitals(self._board)
        return Health(
            node=self._config.node.name,
            process=os.getpid(),
            version=__version__,
            config=self._config.digest,
            configuration_problem=self._configuration_problem,
            time=utc_text(round(clock.utc_s() * 1000)),
            clock="synced" if clock.synced() else "unsynced",
            simulated=self._simulated,
            uptime_s=round(clock.monotonic() - started_s),
            started=started,
            **msgspec.structs.asdict(vitals),
            broker=link.described,
            connected=link.connected,
            mqtt_version=link.mqtt_version,
            server=link.server,
            short_connections=link.short_connections,
            outbox_readings=outbox.unsent,
            outbox_oldest_s=age_of(oldest[0], clock) if oldest else 0.0,
            history_interval_s=self._history.interval_s,
            read=sum(sensor.ok for sensor in self._sensors),
            rejected=sum(sensor.rejected_for.total() for sensor in self._sensors),
            name_problem=self._own_topics.problem,
            alarms=sum(alarm.state == "on" for some in alarms.values() for alarm in some.values()),
            stream=outbox.stream,
            seq=outbox.last_seq,
            chain_seq=outbox.chain_head[0] if outbox.chain_head else None,
            chain_hash=outbox.chain_head[1].hex() if outbox.chain_head else None,
            committed=outbox.committed,
            sent=self._history.sent,
            dropped_readings=outbox.dropped,
            dead_letters=outbox.dead_letters,
            update=self._update(),
            problems=[text for text in self._problems(vitals) if text],
            sensors={s.table.id: _sensor_health(s, alarms) for s in self._sensors},
        )

    def _problems(self, vitals: Vitals) -> Iterator[str]:
        """Yield each problem, "" for one that there is not."""
        outbox, refusal = self._outbox, self._history.refusal
        yield self._configuration_problem
        yield self._own_topics.problem
        yield self._announcer.problem
        yield from self._notices
        yield outbox.problem
        yield self._link.problem
        for sensor in self._sensors:
            if sensor.concern and sensor.online:
                yield f"{sensor.table.id}: {sensor.concern}"
        if not self._link.guarded:
            yield (
                "this paho-mqtt is newer than this program: packets of the broker are not bounded "
                "before they are parsed; install paho-mqtt 2.2"
            )
        for name in outbox.set_aside:
            yield f"a log that could not be used was set aside as {name}"
        if outbox.dropped:
            yield f"the outbox was full: {outbox.dropped} readings were dropped"
        if refusal:
            yield f"the broker rejects history at present: {refusal}"
        yield from _rejected(self._publisher.left_out)
        if outbox.dead_letters:
            yield f"the broker rejected {outbox.dead_letters} messages"
        if self._config.mqtt.tls is not None:
            from node.config.certificates import ending_soon

            yield from ending_soon(self._config.mqtt.tls, self._clock.utc_s())
        if vitals.under_voltage:
            yield "the supply is too weak (under-voltage): use a better supply, or a shorter cable"


def _sensor_health(
    sensor: SensorState, alarms: Mapping[str, Mapping[str, AlarmHealth]]
) -> SensorHealth:
    """Return the health of a sensor; `alarms`: sensor -> name -> alarm."""
    return SensorHealth(
        online=sensor.online,
        ok=sensor.ok,
        failed=sensor.failed,
        rejected=sensor.rejected_for.total(),
        rejected_for=sensor.rejected_for,
        last_error=sensor.last_error,
        alarms=dict(alarms.get(sensor.table.id, {})),
        accuracy=sensor.accuracy() if sensor.online else {},
    )


def _rejected(left_out: Mapping[str, str]) -> list[str]:
    """Return a problem for each reason: with a message for each entity there may be many topics."""
    topics_of: dict[str, list[str]] = {}
    for topic, why in left_out.items():
        topics_of.setdefault(why, []).append(topic)
    return [
        f"the broker rejected {first}{f' and {len(others)} more' if others else ''}: {why}"
        for why, (first, *others) in topics_of.items()
    ]
