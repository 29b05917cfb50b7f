"""A simulated node: what it says, when its loop says so.

Topics, payloads, expiry, and the order of everything are the node's own code (`messages`,
`SensorTopics`, `Publisher`, `homeassistant`, `health`); only the sensors, the log on the disk and
the loop are simulated. So a thousand of them fit into a few processes.
"""

from __future__ import annotations

import random
import uuid
from collections import deque
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
from fleet_link import FleetLink

from node import __version__
from node.config.load import load
from node.config.schema import Config, NodeTable
from node.health import Health, SensorHealth
from node.homeassistant.discovery import (
    AnnouncedChannel,
    AnnouncedSensor,
    device_message,
    discovery_topic,
)
from node.mqtt.connection import Change
from node.mqtt.events import Acknowledged, BrokerEvent, Outgoing
from node.mqtt.publisher import Outcome, Publisher
from node.mqtt.retained_topics import RetainedTopics
from node.reading import Layout, Reading
from node.report.history import BATCH
from node.report.sensor_topics import SensorTopics
from node.report.topic_list import subscriptions
from node.sensors.state import SensorState
from node.system.clock import utc_text
from node.system.host import Vitals
from node.system.node_ids import client_id
from node.topics import ONLINE, Topics, history_payload

__all__ = ["FleetNode", "fleet_config"]

MAX_KEPT = 20_000
"""Readings that a simulated log keeps; more of them nobody waits for here."""
_CONFIG = """
[mqtt]
host = "127.0.0.1"
port = {port}
base_topic = "{base_topic}"
[node]
name = "fleet"
[[sensor]]
id = "air"
driver = "sht4x"
interval = {interval_s}
[[sensor]]
id = "box"
driver = "bme280"
interval = {interval_s}
[[sensor]]
id = "tank"
driver = "mcp9808"
address = 0x18
interval = {interval_s}
[[sensor]]
id = "freezer"
driver = "mcp9808"
address = 0x19
interval = {interval_s}
[[sensor]]
id = "cpu"
driver = "cpu"
interval = {interval_s}
"""
_USUAL = {"humidity": 46.0, "pressure": 1013.0}


def fleet_config(folder: Path, port: int, interval_s: float, base_topic: str = "sensors") -> Config:
    """The configuration that all of them share, but for the name: five sensors."""
    file = folder / "fleet.toml"
    file.write_text(_CONFIG.format(port=port, interval_s=interval_s, base_topic=base_topic))
    return load(file)


class FleetNode:
    """One of many; used on one thread."""

    def __init__(
        self, config: Config, name: str, chance: random.Random, *, mqtt_5: bool = True
    ) -> None:
        self.name = name
        config = msgspec.structs.replace(config, node=NodeTable(name=name))
        self._config = config
        self._topics = Topics(config.mqtt.base_topic, name)
        self._device = "sn" + uuid.uuid5(uuid.NAMESPACE_OID, name).hex[:12]
        self._swings = [chance.uniform(-2, 2) for _ in range(97)]
        self.link = FleetLink(
            client_id(config.mqtt.base_topic, name),
            keepalive_s=int(config.mqtt.keepalive),
            will_topic=self._topics.status,
            subscribe=subscriptions(config, self._device),
            mqtt_5=mqtt_5,
        )
        self._patience_s = 2.0 * config.mqtt.keepalive
        self._publisher = Publisher(
            self.link,  # type: ignore[arg-type]
            status_topic=self._topics.status,
            refused=lambda *_: None,
        )
        retained = RetainedTopics(None, self._topics.root)
        self._retained = SensorTopics(config.mqtt, self._topics, self._publisher, retained)
        self._states = [SensorState(table) for table in config.sensors]
        self._layouts = [
            Layout(s.table.id, tuple(p.channel.name for p in s.filters), ()) for s in self._states
        ]
        self._digits = [tuple(p.decimals for p in s.filters) for s in self._states]
        self._newest: list[Reading] = []
        self._unsent: deque[Reading] = deque(maxlen=MAX_KEPT)
        self._stream = uuid.UUID(int=chance.getrandbits(128)).hex
        self._seq = 0
        self._sent = 0
        self._goal = 0
        """The last reading of the present round of history."""
        self._position = 0
        """The last reading that was handed to the publisher."""
        self._early: set[int] = set()
        """Readings that the broker has acknowledged before earlier ones."""
        self._discovery = self._discovery_payload()

    @property
    def committed(self) -> tuple[str, int]:
        """The stream, and the number of its last reading."""
        return self._stream, self._seq

    @property
    def unsent(self) -> int:
        """Readings that the broker has not acknowledged."""
        return len(self._unsent)

    # -- what happens

    def happened(self, events: list[BrokerEvent]) -> None:
        """Let the publisher know, and send what may be sent now."""
        for event in events:
            if isinstance(event, Acknowledged):
                self._publisher.acknowledged(event)
            else:
                change = self.link.follow(event)
                self._publisher.link_changed(change)
                if change is Change.UP:
                    self._connected()
        self._publisher.flush()
        self._go_on_with_history()

    def lost(self) -> None:
        """The connection is gone, and what was in flight with it."""
        self.link.end()
        self._publisher.forget()

    def is_stalled(self, now_s: float) -> bool:
        """Whether the broker answers pings and not messages: `Reporter._mind_acknowledgements`."""
        return self._publisher.stalled_for_s(now_s) > self._patience_s

    def _connected(self) -> None:
        """In the order of the contract: status, discovery, availability, state, history."""
        self._publisher.set(self._topics.status, ONLINE)
        discovery = discovery_topic(self._config.homeassistant.prefix, self._device)
        self._publisher.set(discovery, self._discovery)
        for state in self._states:
            self._retained.availability(state.table, online=True)
        for state, reading in zip(self._states, self._newest, strict=False):
            self._retained.reading(state.table, reading, self._stream, [], set())
        self._publisher.set(self._topics.health, self._health_payload(0.0))
        self._position = self._unsent[0].seq - 1 if self._unsent else self._seq
        self._goal = self._seq

    def tick(self, utc_s: float) -> None:
        """Read five sensors, and publish what they say."""
        self._newest = [
            self._reading(layout, digits, utc_s)
            for layout, digits in zip(self._layouts, self._digits, strict=True)
        ]
        self._unsent.extend(self._newest)
        for state, reading in zip(self._states, self._newest, strict=True):
            self._retained.reading(state.table, reading, self._stream, [], set())
        self._publisher.flush()

    def minute(self, uptime_s: float) -> None:
        """Health and a round of history, each minute."""
        self._publisher.set(self._topics.health, self._health_payload(uptime_s))
        self._publisher.flush()
        self._goal = self._seq
        self._go_on_with_history()

    # -- how it is said

    def _reading(self, layout: Layout, digits: tuple[int, ...], utc_s: float) -> Reading:
        self._seq += 1
        swing = self._swings[self._seq % len(self._swings)]
        numbers = tuple(
            round(_USUAL.get(name, 21.0) + swing, decimals)
            for name, decimals in zip(layout.channels, digits, strict=True)
        )
        return Reading(self._seq, layout, numbers, "", 0, round(utc_s * 1000), True)

    def _go_on_with_history(self) -> None:
        while self._position < self._goal and self._publisher.history_room > 0:
            begin = self._position - self._unsent[0].seq + 1
            batch = list(islice(self._unsent, max(0, begin), max(0, begin) + BATCH))
            batch = [reading for reading in batch if reading.seq <= self._goal]
            if not batch:
                return
            self._position = batch[-1].seq
            payload = history_payload(self._stream, batch)
            message = Outgoing(self._topics.history, payload, retain=False)
            seqs = range(batch[0].seq, batch[-1].seq + 1)
            self._publisher.send(message, partial(self._settled, seqs))

    def _settled(self, seqs: range, outcome: Outcome) -> None:
        """Forget what the broker has; what it refuses is sent again with the next round."""
        if outcome is not Outcome.TAKEN:
            self._position = self._goal = self._unsent[0].seq - 1
            return
        self._early.update(seqs)
        while self._unsent and self._unsent[0].seq in self._early:
            self._early.discard(self._unsent.popleft().seq)
            self._sent += 1

    def _discovery_payload(self) -> bytes:
        sensors = [
            AnnouncedSensor(
                state.table,
                state.table.id,
                tuple(
                    AnnouncedChannel(
                        p.channel.name, p.unit, p.decimals, diagnostic=p.channel.diagnostic
                    )
                    for p in state.filters
                ),
            )
            for state in self._states
        ]
        vitals = Vitals(cpu_temperature=47.2, wifi_dbm=-61, under_voltage=False, throttled=False)
        model = "Raspberry Pi Zero W Rev 1.1"
        return msgspec.json.encode(
            device_message(self._config, self._device, sensors, vitals, model, has_led=False)
        )

    def _health_payload(self, uptime_s: float) -> bytes:
        reads = self._seq // len(self._states)
        sensors = {
            state.table.id: SensorHealth(
                online=True, ok=reads, failed=0, rejected=0, rejected_for={}, last_error=None
            )
            for state in self._states
        }
        health = Health(
            node=self.name,
            process=731,
            version=__version__,
            config=self._config.digest,
            time=utc_text(self._newest[0].utc_ms) if self._newest else "",
            clock="synced",
            uptime_s=round(uptime_s),
            cpu_temperature=47.2,
            wifi_dbm=-61,
            under_voltage=False,
            throttled=False,
            broker="connected, MQTT 5",
            connected=True,
            mqtt_version="5",
            outbox_readings=len(self._unsent),
            outbox_oldest_s=0.0,
            read=self._seq,
            rejected=0,
            committed=self._seq,
            sent=self._sent,
            dropped_readings=0,
            dead_letters=0,
            problems=[],
            sensors=sensors,
        )
        return msgspec.json.encode(health)
