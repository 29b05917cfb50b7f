"""The retained topics of a node's sensors: their content, and how long it is valid.

Used on the loop's thread; `Publisher` ensures that the messages arrive.
"""

from __future__ import annotations

from collections.abc import Iterable

from node.config.schema import MqttTable, SensorTable
from node.mqtt.publisher import Publisher
from node.mqtt.retained_topics import RetainedTopics
from node.reading import Reading
from node.sensors.sensor import Sensor
from node.topics import Topics, availability, plain_value, state_payload

__all__ = ["SensorTopics"]


class SensorTopics:
    """Sets the topics of sensors according to `[mqtt] payload` and `retain_for`."""

    def __init__(
        self,
        mqtt: MqttTable,
        topics: Topics,
        publisher: Publisher,
        retained: RetainedTopics,
        *,
        simulated: bool = False,
    ) -> None:
        self._payload = mqtt.payload
        self._retain_for_s = mqtt.retain_for
        self._topics = topics
        self._publisher = publisher
        self._retained = retained
        self._states: dict[str, tuple[str, float]] = {}
        """Sensor -> the topic of its state, and how long an MQTT 5 broker keeps its readings, in
        seconds: neither changes."""
        self._values_set: set[str] = set()
        """The topics with a plain value, for sensors that have been online since then."""
        self._simulated = simulated

    @property
    def whole(self) -> bool:
        """Return whether readings are published whole, as a state with every channel."""
        return self._payload == "json"

    def states(self, sensors: Iterable[Sensor]) -> list[str]:
        """Return the topics of whole readings; none where the payload is "plain"."""
        if self._payload == "plain":
            return []
        return [self._topics.state(sensor.table.id) for sensor in sensors]

    def channels(self, sensors: Iterable[Sensor]) -> list[str]:
        """Return the topics of plain values that are known without a read; none with "json"."""
        if self._payload == "json":
            return []
        return [
            self._topics.channel(sensor.table.id, channel.name)
            for sensor in sensors
            for channel in sensor.table.info.channels_with(sensor.table.options)
        ]

    def availability(self, sensor: SensorTable, *, online: bool) -> None:
        """Set the availability after the values; delete those from before it was offline."""
        values = self._topics.channel(sensor.id, "")
        if not online:
            self._values_set = {t for t in self._values_set if not t.startswith(values)}
        elif self._payload != "json":
            others = {self._topics.availability(sensor.id), self._topics.state(sensor.id)}
            for topic in sorted(self._retained.own - self._values_set - others):
                if topic.startswith(values) and "/" not in topic.removeprefix(values):
                    self._publisher.set(topic, b"")
        topic = self._topics.availability(sensor.id)
        self._publisher.set(topic, availability(online), last=True)

    def forget(self) -> None:
        """Forget the values that were set, because the connection is new."""
        self._values_set.clear()

    def reading(
        self,
        sensor: SensorTable,
        reading: Reading,
        stream: str,
        channels: list[str],
        missing: set[str],
    ) -> None:
        """Set the newest reading, and the plain values of `channels`; mark the `missing` ones."""
        if sensor.id not in self._states:
            kept_s = sensor.kept_for_s(self._retain_for_s)
            self._states[sensor.id] = self._topics.state(sensor.id), kept_s
        topic, expiry_s = self._states[sensor.id]
        if self._payload != "plain":
            payload = state_payload(reading, stream, sorted(missing), simulated=self._simulated)
            self._publisher.set(topic, payload, expiry_s=expiry_s)
        if self._payload != "json":
            values = reading.values
            for name in channels:
                topic = self._topics.channel(sensor.id, name)
                self._publisher.set(topic, plain_value(values[name]), expiry_s=expiry_s)
                self._values_set.add(topic)

    def clear(self, sensor: SensorTable, channel: str) -> None:
        """Delete the plain value of a channel that fails while others work."""
        if self._payload != "json":
            topic = self._topics.channel(sensor.id, channel)
            self._publisher.set(topic, b"")
            self._values_set.discard(topic)
