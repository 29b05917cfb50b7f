"""All nodes of a broker as the fleet's page shows them: from what a subscriber hears. Pure.

`Fleet.add` takes each message, and `view` returns the nodes, those in most trouble first. What
others publish is bounded here, in number and in length, and masked; it is escaped by the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from node.config.schema import STALE_INTERVALS
from node.health import AlarmHealth, Health, SensorHealth
from node.system.terminal import count, visible
from node.watch.discovery import Units
from node.watch.model import LiveModel
from node.watch.payloads import Message, from_json, measured_at_s, value_text
from node.watch.rows import OFFLINE, ONLINE, TableRow, WatchTime

__all__ = ["Fleet", "FleetAlarm", "FleetChannel", "FleetNode", "FleetSensor", "FleetView"]

MAX_NODES = 500
MAX_CHANNELS = 5000
_MAX_PROBLEMS = 10
_MAX_ALARMS_OF_A_SENSOR = 20
_MAX_SENSORS_OF_HEALTH = 100
_LONGEST_NAME = 64
_LONGEST_TEXT = 300
_GRACE_S = 60.0
_UNKNOWN_LIMIT_S = 3600.0
"""The age at which a value is old if nothing says how often it comes: `retain_for`'s default."""
_HEALTH_LASTS_S = 300.0
"""A node sends its health every minute."""

_WORST_FIRST = (
    "alarm",
    "offline",
    "sensors-offline",
    "unknown",
    "problems",
    "no-health",
    "sensors-unknown",
    "simulated",
    "online",
)


class FleetChannel(msgspec.Struct, frozen=True):
    """The newest value of a channel; `text` is the value without its unit."""

    name: str
    text: str
    unit: str
    value: float | bool | str
    why: str
    """Why the value is not current; "" while it is."""


class FleetAlarm(msgspec.Struct, frozen=True):
    """An alarm that is on."""

    name: str
    text: str
    """Its condition, value and time, in words."""
    acknowledged: bool


class FleetSensor(msgspec.Struct, frozen=True):
    """A sensor of a node."""

    id: str
    state: str
    """online, offline, or unknown."""
    why: str
    """Why none of its values is current; "" if one is."""
    age_s: float | None
    channels: tuple[FleetChannel, ...]
    alarms: tuple[FleetAlarm, ...]
    """Those that are on, by name. They stay on while the node is away."""
    last_error: str
    """The last error of a sensor that is not online."""


class FleetNode(msgspec.Struct, frozen=True):
    """A node; `condition` is one of `_WORST_FIRST`, `words` the same for people."""

    name: str
    condition: str
    words: str
    simulated: bool
    page: str
    """The address of its own page; "" if not known."""
    version: str
    health_age_s: float | None
    problems: tuple[str, ...]
    sensors: tuple[FleetSensor, ...]

    @property
    def online(self) -> int:
        return sum(sensor.state == "online" for sensor in self.sensors)

    @property
    def alarms(self) -> int:
        """Return how many alarms are on."""
        return sum(len(sensor.alarms) for sensor in self.sensors)


class FleetView(msgspec.Struct, frozen=True):
    """What the page shows now."""

    connected: bool
    link: str
    """`connected, MQTT 5`, or why there is not a connection."""
    utc_s: float
    nodes: tuple[FleetNode, ...]
    full: bool
    """There is more at the broker than is kept."""

    @property
    def online(self) -> int:
        """Number of nodes that are online, well or not."""
        return sum(node.condition not in ("offline", "unknown") for node in self.nodes)

    @property
    def well(self) -> bool:
        """Whether the broker is connected and all nodes are in order."""
        return self.connected and all(node.condition == "online" for node in self.nodes)


class _Heard(msgspec.Struct, frozen=True):
    """A node's health, and when it came."""

    health: Health
    arrived_boot_s: float
    written_utc_s: float | None


class Fleet:
    """Everything that was heard of the nodes below a base topic."""

    def __init__(
        self,
        base_topic: str,
        units: Units | None = None,
        *,
        masked: Callable[[str], str] = str,
    ) -> None:
        """`masked` takes words that the page must not show out of the texts of nodes."""
        self.model = LiveModel(base_topic, units, all_simulated=True, max_rows=MAX_CHANNELS)
        self._base = base_topic
        self._masked = masked
        self._health: dict[str, _Heard] = {}
        self._alarms: dict[tuple[str, str], dict[str, FleetAlarm]] = {}
        """(node, sensor) -> name -> an alarm that is on."""
        self._full = False

    def add(self, message: Message, now: WatchTime) -> None:
        """Record a message that arrived now."""
        match self.model.below_base(message.topic):
            case (node, "health"):
                self._add_health(node, message.payload, now)
            case (node, sensor, "alarm", name) if sensor != "cmd":
                self._add_alarm((node, sensor), name, message.payload)
            case _:
                self.model.add(message, now)

    def _add_health(self, node: str, payload: bytes, now: WatchTime) -> None:
        if not payload:
            self._health.pop(node, None)
            return
        content = from_json(payload)
        try:
            health = msgspec.convert(content, Health)
        except (msgspec.ValidationError, RecursionError):
            self._health.pop(node, None)  # what it said before is no longer true
            return
        if node not in self._health and len(self._health) >= MAX_NODES:
            self._full = True
            return
        self._health[node] = _Heard(self._bounded(health), now.boot_s, measured_at_s(content))

    def _add_alarm(self, sensor: tuple[str, str], name: str, payload: bytes) -> None:
        """Record whether an alarm is on."""
        alarms = self._alarms.get(sensor, {})
        alarms.pop(name, None)
        try:
            alarm = msgspec.convert(from_json(payload), AlarmHealth)
        except (msgspec.ValidationError, RecursionError):
            alarm = AlarmHealth()
        if alarm.state == "on":
            has_room = sensor in self._alarms or len(self._alarms) < MAX_NODES
            if not has_room or len(alarms) >= _MAX_ALARMS_OF_A_SENSOR:
                self._full = True
                return
            called = visible(name, _LONGEST_NAME)
            alarms[name] = FleetAlarm(called, self._said(str(alarm)), alarm.acknowledged)
        if alarms:
            self._alarms[sensor] = alarms
        else:
            self._alarms.pop(sensor, None)

    def _bounded(self, health: Health) -> Health:
        """Return what is shown of a node's health, and nothing else of it."""
        sensors = list(health.sensors.items())[:_MAX_SENSORS_OF_HEALTH]
        return Health(
            version=visible(health.version, _LONGEST_NAME),
            simulated=health.simulated,
            problems=[self._said(text) for text in health.problems[:_MAX_PROBLEMS]],
            sensors={
                name: SensorHealth(last_error=self._said(sensor.last_error or ""))
                for name, sensor in sensors
                if len(name) <= _LONGEST_NAME
            },
        )

    def _said(self, text: str) -> str:
        return self._masked(visible(text, _LONGEST_TEXT))

    def forget_status(self) -> None:
        """Forget what is online: after a loss of the link, only new messages can say."""
        self.model.forget_status()

    def view(self, now: WatchTime, *, connected: bool, link: str) -> FleetView:
        """Return all nodes; without a link to the broker none of them is current."""
        rows: dict[str, dict[str, list[TableRow]]] = {}
        for whose in self.model.known:
            if whose:
                rows.setdefault(whose[0], {})
        for node in self._health:
            rows.setdefault(node, {})
        for node, sensor in self._alarms:
            rows.setdefault(node, {}).setdefault(sensor, [])
        for row in self.model.rows(now):
            if len(row.whose) == 2:
                rows[row.whose[0]].setdefault(row.whose[1], []).append(row)
        full = self._full or self.model.full or len(rows) > MAX_NODES
        names = sorted(list(rows)[:MAX_NODES])  # a flood of names does not hide those before it
        nodes = [self._node(name, rows[name], now, connected=connected) for name in names]
        nodes.sort(key=lambda node: (_WORST_FIRST.index(node.condition), not node.alarms))
        return FleetView(connected, self._masked(link), now.utc_s, tuple(nodes), full)

    def _node(
        self, name: str, rows: dict[str, list[TableRow]], now: WatchTime, *, connected: bool
    ) -> FleetNode:
        status = self.model.status((name,)) if connected else "?"
        heard = self._health.get(name)
        age_s = None if heard is None else _health_age_s(heard, now)
        lives = heard is not None and age_s is not None and age_s <= _HEALTH_LASTS_S
        health = heard.health if heard is not None else Health()
        # In the order of the configuration, followed by sensors that it no longer has.
        order = dict.fromkeys([*(s for s in health.sensors if s in rows), *sorted(rows)])
        sensors = tuple(
            self._sensor((name, sensor), rows[sensor], status, health.sensors.get(sensor))
            for sensor in order
        )
        simulated = health.simulated or self.model.is_simulated(name)
        problems = tuple(health.problems) if lives and status == ONLINE else ()
        condition, words = _condition(status, sensors, lives, bool(problems), simulated)
        return FleetNode(
            name=visible(name, _LONGEST_NAME),
            condition=condition,
            words=words,
            simulated=simulated,
            page=self._page(name, rows.values()),
            version=health.version,
            health_age_s=None if age_s is None else round(age_s, 1),
            problems=problems,
            sensors=sensors,
        )

    def _page(self, name: str, rows: Iterable[list[TableRow]]) -> str:
        """Return the address of the node's page, which its discovery names."""
        topics = [f"{self._base}/{name}/health"]
        topics += [f"{self._base}/{name}/{row.whose[1]}/state" for part in rows for row in part[:1]]
        return next(filter(None, map(self.model.discovered.page, topics)), "")

    def _sensor(
        self,
        whose: tuple[str, str],
        rows: list[TableRow],
        node_status: str,
        health: SensorHealth | None,
    ) -> FleetSensor:
        values = [row for row in rows if not row.silent]
        newest = min(values, key=_age_or_last, default=None)
        state, why = _said_state(node_status, self.model.status(whose))
        if state == "online":
            state, why = ("unknown", "no reading") if newest is None else _state_by_age(newest)
        error = health.last_error if health is not None and state != "online" else ""
        return FleetSensor(
            id=visible(whose[1], _LONGEST_NAME),
            state=state,
            why=why,
            age_s=None if newest is None or newest.age_s is None else round(newest.age_s, 1),
            channels=tuple(
                FleetChannel(
                    name=visible(row.channel, _LONGEST_NAME),
                    text=_value_text(row),
                    unit=row.unit,
                    value=row.value,
                    why=why or _state_by_age(row)[1],
                )
                for row in values
            ),
            alarms=tuple(alarm for _, alarm in sorted(self._alarms.get(whose, {}).items())),
            last_error=error or "",
        )


def _health_age_s(heard: _Heard, now: WatchTime) -> float:
    if heard.written_utc_s is not None:
        return max(0.0, now.utc_s - heard.written_utc_s)
    return now.boot_s - heard.arrived_boot_s


def _age_or_last(row: TableRow) -> float:
    return float("inf") if row.age_s is None else row.age_s


def _value_text(row: TableRow) -> str:
    return row.value if isinstance(row.value, str) else value_text(row.value, row.decimals)


def _limit_s(row: TableRow) -> float:
    """Return the age from which a value is old: as discovery says, else by how often it came."""
    if row.expires_s is not None:
        return row.expires_s
    if row.every_s is not None:
        return STALE_INTERVALS * row.every_s + _GRACE_S
    return _UNKNOWN_LIMIT_S


def _said_state(node_status: str, availability: str) -> tuple[str, str]:
    """Return a sensor's state as node and broker say it, and why its values are not current."""
    if node_status == OFFLINE:
        return "offline", "node offline"
    if availability == OFFLINE:
        return "offline", "sensor offline"
    if node_status != ONLINE or availability != ONLINE:
        return "unknown", "not known to be online"
    return "online", ""


def _state_by_age(row: TableRow) -> tuple[str, str]:
    """Return the state by the age of a value, and why it is not current."""
    if row.age_s is None:
        return "unknown", "age unknown"
    if row.age_s < -_GRACE_S:
        return "unknown", "from the future: a clock is wrong"
    return ("offline", "too old") if row.age_s > _limit_s(row) else ("online", "")


def _condition(
    status: str, sensors: tuple[FleetSensor, ...], lives: bool, problems: bool, simulated: bool
) -> tuple[str, str]:
    """Return the condition, and the same in words; the worst counts."""
    alarms = [alarm for sensor in sensors for alarm in sensor.alarms]
    on = count(alarms, "alarm") + (", acknowledged" if all(a.acknowledged for a in alarms) else "")
    if status != ONLINE:
        name = "offline" if status == OFFLINE else "unknown"
        return name, f"{name}, {on}" if alarms else name
    if alarms:
        return "alarm", on
    states = [sensor.state for sensor in sensors]
    of_all = f"of {len(states)} sensor{'' if len(states) == 1 else 's'}"
    if gone := states.count("offline"):
        return "sensors-offline", f"{gone} {of_all} offline"
    if problems:
        return "problems", "online, with problems"
    if not lives:
        return "no-health", "online, no health"
    if not states:
        return "sensors-unknown", "online, no sensor"
    if unknown := states.count("unknown"):
        return "sensors-unknown", f"{unknown} {of_all} unknown"
    return ("simulated", "online, simulated") if simulated else ("online", "online")
