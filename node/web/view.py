"""The view shared by the page, the API and the metrics. Pure, except for the ages.

A value counts as current only while its node runs, reports the sensor as online, and the reading is
not older than three intervals. The node has the same rule; the rule is repeated here because a
log that is no longer written cannot say so.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from node.config.schema import STALE_INTERVALS
from node.health import Health, SensorHealth
from node.plot.text import number_text
from node.reading import Reading
from node.system.clock import utc_text
from node.web.settings import Settings
from node.web.summary import ChannelSummary, SensorSummary
from node.web.watcher import Known, Watcher

__all__ = ["ChannelView", "NodeView", "SensorView", "view_of"]

_LONG_S = 180.0
"""A running node with anything to write does so at least once a minute."""
_GRACE_S = 60.0
_LEAST_GAP_MS = 5_000
_UNKNOWN_GAP_MS = 600_000


class ChannelView(msgspec.Struct, frozen=True):
    """The newest value of a channel."""

    name: str
    unit: str
    value: float
    text: str
    current: bool
    channel: ChannelSummary
    decimals: int
    accuracy: float | None
    """How far the value may be off, in its unit; None: not known."""


class SensorView(msgspec.Struct, frozen=True):
    """A sensor; `newest` is None if the log does not have a reading."""

    id: str
    state: str
    """online, offline, or unknown."""
    age_s: float | None
    newest: Reading | None
    time: str
    """RFC 3339; "" if the time of the newest reading is not known."""
    gap_ms: int
    """A longer time without a reading is a gap."""
    health: SensorHealth | None
    channels: tuple[ChannelView, ...]
    sensor: SensorSummary | None

    @property
    def synced(self) -> bool:
        return self.newest is not None and self.newest.synced


class NodeView(msgspec.Struct, frozen=True):
    """The node, and all its sensors in the order of the configuration."""

    name: str
    state: str
    """running, starting, stopped, or unknown."""
    known: Known
    health: Health | None
    """The health of this run."""
    problems: tuple[str, ...]
    sensors: tuple[SensorView, ...]
    unhealthy: str
    """Why `/healthz` reports a failure; "" if all is well."""

    @property
    def unsent(self) -> int:
        return self.known.ledger.last_seq - self.known.ledger.cursor

    @property
    def online(self) -> int:
        return sum(sensor.state == "online" for sensor in self.sensors)


def view_of(watcher: Watcher, settings: Settings) -> NodeView:
    """Look into the log, and return the view. The caller must hold `watcher.lock`."""
    known = watcher.look()
    if settings.open_to_all:
        known = _masked(known, settings.masked)
    health = known.health
    if known.problem:
        state = "unknown"
    elif known.process is None:
        state = "stopped"
    else:
        state = "starting" if known.health_is_old else "running"
    fresh = None if known.health_is_old or known.problem else health
    # In the order of the configuration, followed by sensors that it no longer has.
    names = dict.fromkeys([*(health.sensors if health else ()), *sorted(watcher.summary.sensors)])
    sensors = tuple(_sensor(name, watcher, known, settings, state) for name in names)
    return NodeView(
        name=(health.node if health else "") or settings.node,
        state=state,
        known=known,
        health=fresh,
        problems=tuple(_problems(known, fresh, watcher)),
        sensors=sensors,
        unhealthy=_unhealthy(state, known, sensors),
    )


def _masked(known: Known, masked: Callable[[str], str]) -> Known:
    """Return what is known, without the words that are not for everybody."""
    health = known.health
    if health is not None:
        problems = [masked(text) for text in health.problems]
        health = msgspec.structs.replace(health, broker=masked(health.broker), problems=problems)
    events = tuple(
        msgspec.structs.replace(event, message=masked(event.message)) for event in known.events
    )
    return msgspec.structs.replace(known, health=health, events=events)


def _sensor(
    name: str, watcher: Watcher, known: Known, settings: Settings, node_state: str
) -> SensorView:
    sensor = watcher.summary.sensors.get(name)
    health = known.health.sensors.get(name) if known.health else None
    newest = sensor.newest if sensor else None
    interval_ms = settings.intervals.get(name, 0.0) * 1000 or (sensor.interval_ms if sensor else 0)
    gap_ms = _UNKNOWN_GAP_MS
    if interval_ms:
        gap_ms = max(round(STALE_INTERVALS * interval_ms), _LEAST_GAP_MS)
    age_s = watcher.age_s(newest) if newest else None
    fresh = age_s is not None and age_s <= gap_ms / 1000 + _GRACE_S
    if node_state == "unknown" or (node_state == "starting" and fresh):
        state = "unknown"
    elif node_state == "stopped" or not fresh:
        state = "offline"
    else:
        state = "online" if health is not None and health.online else "offline"
    channels = _newest_units(sensor) if sensor else []
    return SensorView(
        id=name,
        state=state,
        age_s=age_s,
        newest=newest,
        time="" if newest is None or age_s is None else utc_text(watcher.time_of(newest)),
        gap_ms=gap_ms,
        health=health,
        channels=tuple(
            _channel(channel, watcher, gap_ms, health, online=state == "online")
            for channel in channels
        ),
        sensor=sensor,
    )


def _newest_units(sensor: SensorSummary) -> list[ChannelSummary]:
    """Return each channel in its current unit, which the configuration may have changed."""
    newest: dict[str, ChannelSummary] = {}
    for channel in sensor.channels.values():
        other = newest.get(channel.name)
        if other is None or _seq(channel) > _seq(other):
            newest[channel.name] = channel
    return list(newest.values())


def _seq(channel: ChannelSummary) -> int:
    return channel.newest.seq if channel.newest else 0


def _channel(
    channel: ChannelSummary,
    watcher: Watcher,
    gap_ms: int,
    health: SensorHealth | None,
    *,
    online: bool,
) -> ChannelView:
    age_s = watcher.age_s(channel.newest) if channel.newest else None
    decimals = min(channel.decimals, 6)
    if not decimals and channel.value != round(channel.value):
        decimals = 2
    return ChannelView(
        name=channel.name,
        unit=channel.unit,
        value=channel.value,
        text=number_text(channel.value, decimals),
        current=online and age_s is not None and age_s <= gap_ms / 1000 + _GRACE_S,
        channel=channel,
        decimals=decimals,
        accuracy=health.accuracy.get(channel.name) if health else None,
    )


def _problems(known: Known, health: Health | None, watcher: Watcher) -> list[str]:
    """Return the node's problems, each with a remedy."""
    if known.problem:
        return [known.problem]
    problems = list(health.problems) if health else []
    if known.process is None:
        problems.append(
            "the node does not run: start it (sudo systemctl start sensor-node), "
            "or see why it ended (sudo journalctl -u sensor-node)"
        )
    elif known.written_s > _LONG_S:
        problems.append("the log is not written: is the disk full, or read-only?")
    if known.unsound:
        problems.append(
            "a part of the log is damaged and not shown; the node sets such a log aside when it "
            "is started"
        )
    if watcher.summary.left_out:
        problems.append("there are more channels than the page can show; some are left out")
    return problems


def _unhealthy(state: str, known: Known, sensors: tuple[SensorView, ...]) -> str:
    if known.problem:
        return known.problem
    if state == "stopped":
        return "the node does not run"
    if not sensors:
        return "no reading has been committed yet"
    if not any(s.age_s is not None and s.age_s <= s.gap_ms / 1000 + _GRACE_S for s in sensors):
        return "no sensor has given a reading that was committed for three intervals"
    return ""
