"""What a subscriber knows: a row per channel, from the messages alone.

Pure: `LiveModel.take` is given each message and the time, `rows` says what to show. Units are
not on the wire: those of a node whose configuration is at hand are shown, and no guesses.
"""

from __future__ import annotations

from collections import deque

import msgspec

from node.schema import Config

__all__ = ["LiveModel", "Message", "Row", "units_of", "values_in"]

HISTORY = 40
_NOT_CHANNELS = {"time", "clock", "seq"}

Units = dict[tuple[str, str, str], str]
"""(node, sensor, channel) -> unit, where it is known."""


class Message(msgspec.Struct, frozen=True):
    """One message of a topic below the base."""

    topic: str
    payload: bytes
    retained: bool

    @property
    def text(self) -> str:
        """The payload as text; bytes that are not UTF-8 as \\xNN."""
        return self.payload.decode("utf-8", "backslashreplace")


class Row(msgspec.Struct, frozen=True):
    """One line of the view; `age_s` is None where it cannot be known."""

    topic: str
    channel: str
    value: float
    unit: str
    age_s: float | None
    status: str
    history: tuple[float, ...]


class _Series(msgspec.Struct):
    topic: str
    node: str
    sensor: str
    channel: str
    value: float
    measured_at_s: float | None
    history: deque[float]


def values_in(message: Message) -> dict[str, float]:
    """The channels and values that a message carries; empty for any other message."""
    kind = message.topic.rpartition("/")[2]
    try:
        decoded = msgspec.json.decode(message.payload)
    except (msgspec.DecodeError, RecursionError):
        return {}
    if kind != "state":
        decoded = {kind: decoded}
    if not isinstance(decoded, dict):
        return {}
    return {
        name: float(value)
        for name, value in decoded.items()
        if name not in _NOT_CHANNELS and _is_number(value)
    }


def _is_number(value: object) -> bool:
    """A number that a float can hold; an integer of JSON may have hundreds of digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


class LiveModel:
    """Everything that was heard, newest values first in mind."""

    def __init__(self, base_topic: str, units: Units | None = None) -> None:
        self._depth = base_topic.count("/") + 1
        self._units = units or {}
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._status: dict[str, str] = {}
        self._availability: dict[tuple[str, str], str] = {}

    def take(self, message: Message, now_s: float) -> None:
        """Note a message that arrived at `now_s` (seconds since 1970)."""
        parts = message.topic.split("/")[self._depth :]
        if len(parts) == 2 and parts[1] == "status":
            self._status[parts[0]] = message.text
        elif len(parts) == 3 and parts[2] == "availability":
            self._availability[parts[0], parts[1]] = message.text
        elif len(parts) == 3 and not message.payload:
            self._series.pop((parts[0], parts[1], parts[2]), None)
        elif len(parts) == 3:
            measured_at_s = _measured_at_s(message) if message.retained else now_s
            for channel, value in values_in(message).items():
                self._note(message.topic, (parts[0], parts[1], channel), value, measured_at_s)

    def _note(
        self, topic: str, key: tuple[str, str, str], value: float, at_s: float | None
    ) -> None:
        series = self._series.get(key)
        if series is None:
            history: deque[float] = deque(maxlen=HISTORY)
            series = self._series[key] = _Series(topic, *key, value, at_s, history)
        series.value, series.measured_at_s = value, at_s
        series.history.append(value)

    def rows(self, now_s: float) -> list[Row]:
        """A row per channel, by node, sensor and order of the channels."""
        return [
            Row(
                topic=series.topic,
                channel=series.channel,
                value=series.value,
                unit=self.unit(series.node, series.sensor, series.channel),
                age_s=None
                if series.measured_at_s is None
                else max(0.0, now_s - series.measured_at_s),
                status=self._status_of(series),
                history=tuple(series.history),
            )
            for series in sorted(self._series.values(), key=lambda s: (s.node, s.sensor))
        ]

    def unit(self, node: str, sensor: str, channel: str) -> str:
        return self._units.get((node, sensor, channel), "")

    def units_for(self, message: Message) -> dict[str, str]:
        """The unit of each channel in a message."""
        parts = message.topic.split("/")[self._depth :]
        if len(parts) != 3:
            return {}
        return {name: self.unit(parts[0], parts[1], name) for name in values_in(message)}

    def _status_of(self, series: _Series) -> str:
        if self._status.get(series.node) == "offline":
            return "offline"
        return self._availability.get((series.node, series.sensor), "?")


def _measured_at_s(message: Message) -> float | None:
    """When a retained reading was taken, by the node's clock, if that is to be trusted."""
    from datetime import datetime

    try:
        decoded = msgspec.json.decode(message.payload)
        if decoded["clock"] != "synced":
            return None
        return datetime.fromisoformat(decoded["time"]).timestamp()
    except (msgspec.DecodeError, TypeError, KeyError, ValueError):
        return None


def units_of(config: Config) -> Units:
    """The unit of every channel of the configured node."""
    units: Units = {}
    for sensor in config.sensors:
        for channel in sensor.info.channels_with(sensor.options):
            units[config.node.name, sensor.id, channel.name] = channel.unit
        for name, table in sensor.channel.items():
            if table.unit is not None:
                units[config.node.name, sensor.id, name] = table.unit
    return units
