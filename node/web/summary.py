"""A summary of the log, in as little memory as plots need. Pure.

`Watcher` feeds it with each reading once. Bounded: about 12 kB a channel, and at most
`MAX_CHANNELS` channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from node.plot.buckets import ChannelBuckets
from node.plot.series import MAX_DECIMALS, STEPS, Mark, Moment, decimals_of, usual_step_ms
from node.reading import Layout, Reading

__all__ = [
    "MAX_CHANNELS",
    "ChannelSummary",
    "SensorSummary",
    "Summary",
]

MAX_CHANNELS = 4000
_FORGET_AFTER_MS = 172_800_000
_MAX_MARKS = 300
_FINE_MS = 3_660_000
_AHEAD_MS = 120_000
"""A time further in the future than this comes from a clock that was wrong."""


class ChannelSummary:
    """One channel of a sensor, in one unit."""

    __slots__ = ("buckets", "decimals", "name", "newest", "unit", "value")

    def __init__(self, name: str, unit: str) -> None:
        self.name = name
        self.unit = unit
        self.buckets = ChannelBuckets()
        self.newest: Reading | None = None
        self.value = 0.0
        self.decimals = 0
        """The most decimals of its newer values."""

    def add(self, at_ms: int, number: float, now_ms: int, *, unsynced: bool) -> None:
        self.buckets.days.add(at_ms, number, unsynced=unsynced)
        if at_ms > now_ms - _FINE_MS:
            self.buckets.hour.add(at_ms, number, unsynced=unsynced)
            if self.decimals < MAX_DECIMALS:
                self.decimals = max(self.decimals, decimals_of(number))


class SensorSummary:
    """One sensor, as the log describes it."""

    __slots__ = ("channels", "id", "marks", "newest", "steps")

    def __init__(self, sensor_id: str) -> None:
        self.id = sensor_id
        self.newest: Reading | None = None
        self.channels: dict[tuple[str, str], ChannelSummary] = {}
        self.marks: deque[Mark] = deque(maxlen=_MAX_MARKS)
        self.steps: deque[int] = deque(maxlen=STEPS)
        """Time in ms between each of the newest readings and the one before it."""

    @property
    def interval_ms(self) -> int:
        """The usual time between two readings; 0: unknown."""
        return usual_step_ms(self.steps)


class Summary:
    """The sensors in the log, each with the buckets of its channels."""

    def __init__(self) -> None:
        self.sensors: dict[str, SensorSummary] = {}
        self.last_seq = 0
        self.unsynced_boots: set[str] = set()
        """Boots with readings in this summary whose true time was not known."""
        self.left_out: set[str] = set()
        """Sensors with channels beyond the bound."""
        self._channels = 0
        self._rejected: dict[str, int] = {}

    def add(self, readings: Iterable[Reading], now: Moment) -> None:
        """Add readings, in order of seq."""
        oldest_ms, newest_ms = now.utc_ms - _FORGET_AFTER_MS, now.utc_ms + _AHEAD_MS
        known: dict[int, tuple[SensorSummary, list[ChannelSummary | None]]] = {}
        for reading in readings:
            layout = reading.layout
            if layout.alarm is not None:
                self.last_seq = reading.seq
                continue
            parts = known.get(id(layout))  # readings of a query share and keep it
            if parts is None:
                parts = known[id(layout)] = self._parts_of(layout)
            sensor, channels = parts
            before = sensor.newest
            if before is not None and before.boot_id == reading.boot_id:
                sensor.steps.append(reading.boot_ms - before.boot_ms)
            sensor.newest = reading
            at_ms = reading.utc_ms
            if not reading.synced:
                at_ms = now.time_of(reading)
                self.unsynced_boots.add(reading.boot_id)
            in_time = oldest_ms <= at_ms <= newest_ms
            for channel, number in zip(channels, reading.numbers, strict=True):
                if channel is not None:
                    channel.newest = reading
                    channel.value = number
                    if in_time:
                        channel.add(at_ms, number, now.utc_ms, unsynced=not reading.synced)
            self.last_seq = reading.seq

    def _parts_of(self, layout: Layout) -> tuple[SensorSummary, list[ChannelSummary | None]]:
        """Return the sensor and the channels of a layout's numbers; None: a channel left out."""
        sensor = self.sensors.get(layout.sensor)
        if sensor is None:
            sensor = self.sensors[layout.sensor] = SensorSummary(layout.sensor)
        channels: list[ChannelSummary | None] = []
        for name, unit in zip(layout.channels, layout.units, strict=True):
            channel = sensor.channels.get((name, unit))
            if channel is None and self._channels < MAX_CHANNELS:
                self._channels += 1
                channel = sensor.channels[name, unit] = ChannelSummary(name, unit)
            if channel is None:
                self.left_out.add(layout.sensor)
            channels.append(channel)
        return sensor, channels

    def mark_rejections(self, counts: Mapping[str, int], process: int, at_ms: int) -> None:
        """Mark each sensor whose count of rejected values has grown since the last call.

        The counts restart with each start of the node, so with each `process`.
        """
        for sensor_id, count in counts.items():
            key = f"{process} {sensor_id}"
            before = self._rejected.get(key)
            if before is not None and count > before and sensor_id in self.sensors:
                self.sensors[sensor_id].marks.append(Mark(at_ms, count - before))
        self._rejected = {f"{process} {name}": count for name, count in counts.items()}

    def keep_marks_of(self, other: Summary) -> None:
        """Take over the marks of the summary that this one replaces: the log does not have them."""
        self._rejected = other._rejected
        for sensor_id, sensor in other.sensors.items():
            if sensor_id in self.sensors:
                self.sensors[sensor_id].marks = sensor.marks

    def forget_old(self, now: Moment) -> None:
        """Remove sensors and channels without a reading within the reach of the plots."""
        for sensor in list(self.sensors.values()):
            for key, channel in list(sensor.channels.items()):
                if channel.newest is None or _is_old(channel.newest, now):
                    del sensor.channels[key]
                    self._channels -= 1
            if not sensor.channels and sensor.id not in self.left_out:
                del self.sensors[sensor.id]


def _is_old(reading: Reading, now: Moment) -> bool:
    """Return whether a reading is too old for every plot; False while its time may change."""
    if not reading.synced and reading.boot_id != now.boot_id:
        return False
    return now.utc_ms - now.time_of(reading) > _FORGET_AFTER_MS
