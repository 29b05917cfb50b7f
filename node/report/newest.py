"""The newest reading of each sensor, and what of it the broker should have.

Used on the loop's thread.
"""

from __future__ import annotations

from node.outbox.outbox import Outbox
from node.reading import Reading
from node.report.sensor_topics import SensorTopics
from node.sensors.scheduler import Measured
from node.sensors.sensor import Sensor
from node.system.clock import Clock

__all__ = ["NewestReadings"]

OLDER_S = 1.0
"""How much older the newest reading may be than its sensor may be silent."""


class NewestReadings:
    """Sets the topics of the sensors once their readings are committed, and on a new connection."""

    def __init__(
        self, sensors: list[Sensor], topics: SensorTopics, outbox: Outbox, clock: Clock
    ) -> None:
        self._sensors = sensors
        self._topics = topics
        self._outbox = outbox
        self._clock = clock
        self._newest: dict[str, Reading] = {}
        """Sensor -> its newest reading."""
        self._fresh: list[tuple[Sensor, Reading, list[str]]] = []
        """Readings to publish with the commit, and their channels that are worth a message."""
        self._withheld: set[str] = set()
        """Online sensors whose newest reading was too old for a new connection."""
        self._newly_online: list[Sensor] = []
        """Sensors whose availability to publish with the commit."""

    def link_up(self) -> None:
        """Forget what the topics have, because the connection is new."""
        self._topics.forget()

    def add(self, event: Measured, reading: Reading) -> None:
        """Note the reading that was made of a read; it is published with the commit."""
        sensor, ended_s = event.sensor, event.outcome.ended_s
        self._newest[sensor.table.id] = reading
        if sensor.table.id in self._withheld:
            self._newly_online.append(sensor)
        worth = sensor.state.worth_publishing(event.values, ended_s)
        missing = [] if sensor.state.complete else sensor.state.note_missing(ended_s)
        if worth or missing:
            self._fresh.append((sensor, reading, worth))
            published = list(event.values) if self._topics.whole else worth
            sensor.state.published(published, ended_s)
        for name in missing:
            self._topics.clear(sensor.table, name)

    def availability_changed(self, sensor: Sensor) -> None:
        """Publish the availability; for a sensor that came online, after its value."""
        if sensor.state.online:
            self._newly_online.append(sensor)
        else:
            self._set_availability(sensor, online=False)

    def committed(self, *, publish: bool) -> None:
        """Publish what was committed, unless everything is published later."""
        if publish:
            for sensor, reading, channels in self._fresh:
                self._set_reading(sensor, self._outbox.retimed(reading), channels)
            for sensor in self._newly_online:
                self._set_availability(sensor, online=sensor.state.online)
        self._fresh.clear()
        self._newly_online.clear()

    def clock_was_set(self) -> None:
        """Publish the newest readings again that now have their true times."""
        for sensor in self._sensors:
            newest = self._newest.get(sensor.table.id)
            if newest is not None and not newest.synced:
                newest = self._newest[sensor.table.id] = self._outbox.retimed(newest)
                if sensor.state.online:
                    self._publish_newest(sensor, newest)

    def publish_all(self, *, are_offline: bool = False) -> None:
        """Publish each sensor's availability, after the value of a sensor that is online.

        `are_offline`: the broker has `offline` of all sensors, so it is not repeated.
        """
        for sensor in self._sensors:
            newest = self._newest.get(sensor.table.id)
            online = newest is not None and sensor.state.online
            if newest is not None and online and self._is_current(sensor, newest):
                self._publish_newest(sensor, newest)
                for name in sensor.state.missing_channels:
                    self._topics.clear(sensor.table, name)
                self._set_availability(sensor, online=True)
            else:
                if not are_offline:
                    self._set_availability(sensor, online=False)
                if online:
                    self._withheld.add(sensor.table.id)

    def _is_current(self, sensor: Sensor, reading: Reading) -> bool:
        """Return whether a reading is recent enough; time in suspension counts."""
        age_s = self._clock.boot_s() - reading.boot_ms / 1000
        return age_s <= sensor.state.patience_s + OLDER_S

    def _set_availability(self, sensor: Sensor, *, online: bool) -> None:
        self._withheld.discard(sensor.table.id)
        self._topics.availability(sensor.table, online=online)

    def _publish_newest(self, sensor: Sensor, reading: Reading) -> None:
        self._set_reading(sensor, reading, list(reading.layout.channels))

    def _set_reading(self, sensor: Sensor, reading: Reading, channels: list[str]) -> None:
        stream = self._outbox.stream_of(reading.seq)
        missing = sensor.state.missing_channels
        self._topics.reading(sensor.table, reading, stream, channels, missing)
