"""What a subscriber knows: a row per channel, from the messages alone.

Pure: `LiveModel.add` takes each message and the time, and `rows` returns the rows to show. Memory
is bounded. Below the base topic, the model understands the topics of nodes. From other topics, if
they are wanted, it takes the numbers, or the text if there are none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sized
from itertools import pairwise
from operator import itemgetter
from statistics import median

import msgspec

from node.config.schema import Config
from node.system.terminal import visible
from node.topics import Topics
from node.watch.discovery import Discovered, Units
from node.watch.payloads import (
    NOT_CHANNELS,
    Message,
    decimals_of,
    described,
    from_json,
    measured_at_s,
    values_in,
)
from node.watch.rows import (
    HISTORY,
    NO_LINK,
    NODE_OFFLINE,
    OFFLINE,
    ONLINE,
    SIMULATED,
    TableRow,
    Value,
    WatchTime,
)

__all__ = ["LiveModel", "units_of"]

MAX_ROWS = 2000
_ARRIVALS = 9
_MAX_TOPIC = 1000
_MAX_PATH = 500
_PASSED_OVER = 3
"""After this many plain values in a row, the model concludes that the state is not sent now."""
_CLOCKS_DIFFER_S = 2.0
"""A reading less than this in the future counts as taken now: NTP does not sync any closer."""

Levels = tuple[str, ...]


class _Series(msgspec.Struct):
    """The values of one channel so far."""

    topic: str
    sensor: Levels
    """(node, sensor); () for a topic that does not belong to a node."""
    path: str
    """Path of the value in the payload; "" if the payload is the value."""
    value: Value
    history: deque[float]
    arrivals: deque[float]
    decimals: int = 0
    passed_over: int = 0
    """Number of plain values since the last state."""
    measured_utc_s: float | None = None
    arrived_boot_s: float | None = None
    """None for a retained message."""


class LiveModel:
    """The latest values of every channel, and the status of nodes and sensors."""

    def __init__(
        self,
        base_topic: str,
        units: Units | None = None,
        *,
        others: bool = False,
        all_simulated: bool = False,
        max_rows: int = MAX_ROWS,
    ) -> None:
        """`others`: topics that do not belong to a node get a row, too.

        `all_simulated`: only simulated readings are expected, so the rows do not mention it.
        """
        self._max_rows = max_rows
        self._base = tuple(base_topic.split("/"))
        self.others = others
        self.all_simulated = all_simulated
        self._units = units or {}
        self.discovered = Discovered()
        self._series: dict[tuple[Levels, str], _Series] = {}
        """Keyed by the levels of the row's name, and the channel."""
        self._status: dict[Levels, str] = {}
        """Status text by (node,) and by (node, sensor)."""
        self._simulated: set[str] = set()
        """Nodes whose readings are marked as simulated."""
        self.full = False
        """Some messages did not fit and were dropped."""

    def below_base(self, topic: str) -> Levels:
        """Return the levels of a node's topic, from the node on; () for other topics."""
        levels = tuple(topic.split("/"))
        depth = len(self._base)
        return levels[depth:] if levels[:depth] == self._base else ()

    def add(self, message: Message, now: WatchTime) -> None:
        """Record a message that arrived now."""
        if len(message.topic) > _MAX_TOPIC:
            self.full = True
            return
        match self.below_base(message.topic):
            case (_, "history"):
                pass
            case (node, "status"):
                self._add_status(message, (node,))
            case (node, sensor, "availability") if sensor != "cmd":
                self._add_status(message, (node, sensor))
            case (node, sensor, "alarm", name) if sensor != "cmd":
                self._add_alarm(message, (node, sensor), name, now)
            case (node, sensor, part) if sensor != "cmd":
                self._add_values(message, (node, sensor), part, now)
            case _ if self.others:
                self._add_values(message, (), "", now)

    def _add_status(self, message: Message, whose: Levels) -> None:
        if not message.payload:
            self._status.pop(whose, None)
        elif whose in self._status or self._room_beside(self._status):
            self._status[whose] = visible(described(message.payload), 12)

    def _room_beside(self, kept: Sized) -> bool:
        if len(kept) >= self._max_rows:
            self.full = True
            return False
        return True

    def _add_values(self, message: Message, sensor: Levels, part: str, now: WatchTime) -> None:
        """Record values. `part`: "state", or a plain value's channel; "" for other topics."""
        whose = self._base + sensor if sensor else tuple(message.topic.split("/"))
        if not message.payload:
            self._forget(message.topic)
            return
        content = from_json(message.payload)
        values = values_in(content)
        if part == "state":
            self._note_simulated(sensor[0], content)
            values = {path: v for path, v in values.items() if path not in NOT_CHANNELS}
        if not values:
            self._note(message, whose, sensor, part, "", described(message.payload), now)
        elif (text := self._series.get((whose, part))) and isinstance(text.value, str):
            del self._series[whose, part]  # the values are back
        measured_utc_s = measured_at_s(content)
        for path, value in values.items():
            channel = path if part == "state" else ".".join(filter(None, (part, path)))
            series = self._note(message, whose, sensor, channel, path, value, now)
            if series is not None:
                series.measured_utc_s = measured_utc_s

    def _add_alarm(self, message: Message, sensor: Levels, name: str, now: WatchTime) -> None:
        """Record an alarm as a row of its own, with its state as the value."""
        content = from_json(message.payload)
        if not message.payload or not isinstance(content, dict):
            self._forget(message.topic)
            return
        state = visible(str(content.get("state")), 12)
        seen = " (seen)" if content.get("acknowledged") is True else ""
        whose = self._base + sensor
        self._note(message, whose, sensor, f"alarm {name}", "", f"{state}{seen}", now)

    def _forget(self, topic: str) -> None:
        for key in [key for key, series in self._series.items() if series.topic == topic]:
            del self._series[key]

    def _note(
        self,
        message: Message,
        whose: Levels,
        sensor: Levels,
        channel: str,
        path: str,
        value: Value,
        now: WatchTime,
    ) -> _Series | None:
        """Return the series that `value` was added to; None if a state covers it, or if full."""
        series = self._series.get((whose, channel))
        if series is None:
            if len(channel) > _MAX_PATH or not self._room_beside(self._series):
                self.full = True
                return None
            history: deque[float] = deque(maxlen=HISTORY)
            arrivals: deque[float] = deque(maxlen=_ARRIVALS)
            series = _Series(message.topic, sensor, path, value, history, arrivals)
            self._series[whose, channel] = series
        elif series.topic.endswith("/state") and not message.topic.endswith("/state"):
            series.passed_over += 1
            if series.passed_over < _PASSED_OVER:
                return None  # a state also has the time of the value
        replayed = message.retained and value == series.value and series.history
        if not isinstance(value, str) and not replayed:
            series.history.append(float(value))
            series.decimals = max(series.decimals, decimals_of(float(value)))
        if not message.retained:
            series.arrivals.append(now.boot_s)
        series.topic, series.path, series.value = message.topic, path, value
        series.passed_over = 0
        series.measured_utc_s = None
        series.arrived_boot_s = None if message.retained else now.boot_s
        return series

    def forget_status(self) -> None:
        """Forget what is online: after a loss of the link, only new messages can say."""
        self._status.clear()

    @property
    def known(self) -> dict[Levels, None]:
        """(node,) and (node, sensor) of all that have a status or a value, as an ordered set."""
        return dict.fromkeys([*self._status, *(one.sensor for one in self._series.values())])

    def status(self, whose: Levels) -> str:
        """Return the status of (node,) or (node, sensor) by itself; `?` if it is not known."""
        return self._status.get(whose, "?")

    def is_simulated(self, node: str) -> bool:
        return node in self._simulated

    def rows(self, now: WatchTime, *, linked: bool = True) -> list[TableRow]:
        """Return rows by node, sensor and channel; without a link none of them is current."""
        rows = {key: self._row(*key, series, now) for key, series in self._series.items()}
        nodes_with_sensors = {sensor[:1] for sensor in self.known if len(sensor) == 2}
        with_values = {series.sensor for series in self._series.values()} | nodes_with_sensors
        for whose in self._status.keys() - with_values:
            said = "no reading" if len(whose) == 2 else "no sensor"
            rows[self._base + whose, ""] = self._silent(whose, said)
        ordered = [row for _, row in sorted(rows.items(), key=itemgetter(0))]
        if linked:
            return ordered
        return [msgspec.structs.replace(row, status=NO_LINK) for row in ordered]

    def _row(self, whose: Levels, channel: str, series: _Series, now: WatchTime) -> TableRow:
        age_s = None
        if series.measured_utc_s is not None:
            age_s = now.utc_s - series.measured_utc_s
            age_s = 0.0 if -_CLOCKS_DIFFER_S < age_s < 0 else age_s
        elif series.arrived_boot_s is not None:
            age_s = now.boot_s - series.arrived_boot_s
        return TableRow(
            what=self._shown(whose),
            channel=visible(channel),
            value=series.value,
            unit=self.unit(series.topic, series.path),
            age_s=age_s,
            status=self._status_of(series.sensor),
            every_s=_every_s(series.arrivals),
            history=tuple(series.history),
            decimals=series.decimals,
            whose=series.sensor,
            expires_s=self.discovered.expires_s(series.topic, series.path),
        )

    def _silent(self, whose: Levels, said: str) -> TableRow:
        """Return the row of a node or sensor without a value."""
        what = self._shown(self._base + whose)
        return TableRow(
            what, "", said, "", None, self._status_of(whose), None, (), silent=True, whose=whose
        )

    def _shown(self, whose: Levels) -> str:
        return visible("/".join(whose if self.others else whose[len(self._base) :]))

    def unit(self, topic: str, path: str) -> str:
        """Return the unit from the node's discovery, else from a local configuration."""
        return self.discovered.unit(topic, path) or self._units.get((topic, path), "")

    def history_unit(self, topic: str) -> Callable[[str, str], str]:
        """Return a function for units of (sensor, path) on `topic`: those of the sensor's state."""
        node_topic = topic.removesuffix("history")
        return lambda sensor, path: self.unit(f"{node_topic}{sensor}/state", path)

    def _note_simulated(self, node: str, content: object) -> None:
        if isinstance(content, dict) and content.get("simulated") is True:
            if node in self._simulated or self._room_beside(self._simulated):
                self._simulated.add(node)
        else:
            self._simulated.discard(node)

    def _status_of(self, sensor: Levels) -> str:
        if not sensor:
            return ""
        if self._status.get(sensor[:1]) == OFFLINE:
            return NODE_OFFLINE
        status = self._status.get(sensor, "?")
        real = sensor[0] not in self._simulated or status != ONLINE
        return status if real or self.all_simulated else SIMULATED


def _every_s(arrivals: Iterable[float]) -> float | None:
    """Return the median interval, which one outage does not change; None without any."""
    times = list(arrivals)
    if len(times) < 2:
        return None
    return median(later - earlier for earlier, later in pairwise(times))


def units_of(config: Config) -> Units:
    """Return the unit of every channel of the configured node, on both topics that carry it."""
    topics = Topics(config.mqtt.base_topic, config.node.name)
    units: Units = {}
    for sensor in config.sensors:
        native = {c.name: c.unit for c in sensor.channels}
        chosen = {name: table.unit for name, table in sensor.channel.items() if table.unit}
        for channel, unit in (native | chosen).items():
            units[topics.state(sensor.id), channel] = unit
            units[topics.channel(sensor.id, channel), ""] = unit
    return units
