"""Lists every topic of a node: what it publishes there, and what it listens to.

Pure; for the node itself, for `check`, and for `doctor`.
"""

from __future__ import annotations

from collections.abc import Callable

from node.config.schema import Config, SensorTable
from node.homeassistant.discovery import birth_topics, discovery_topic
from node.homeassistant.forms import component_filter, is_discovery
from node.mqtt.events import Subscription
from node.topics import UPDATE_PIECE, Topics
from node.units import duration_text

__all__ = ["current_topics", "published_topics", "received_topics", "subscriptions"]


def subscriptions(config: Config, device: str) -> tuple[Subscription, ...]:
    """Return what the node with the id `device` listens to.

    That includes its own status and health, to detect another node of its name. It includes its
    own discovery topic even if the node announces nothing, to remove a former announcement.
    """
    topics = Topics(config.mqtt.base_topic, config.node.name)
    wanted = [
        Subscription(topics.status),
        Subscription(topics.health),
        Subscription(discovery_topic(config.homeassistant.prefix, device)),
    ]
    if config.homeassistant.apart:
        wanted.append(Subscription(component_filter(config.homeassistant.prefix, device)))
    if config.homeassistant.enabled:
        wanted += map(Subscription, birth_topics(config.homeassistant.prefix))
    if config.commands.enabled:
        wanted.append(Subscription(topics.command_filter, show_retained=True))
    return tuple(wanted)


def published_topics(config: Config, device: str) -> list[tuple[str, str]]:
    """Return every topic that the node publishes on, and its content."""
    topics = Topics(config.mqtt.base_topic, config.node.name)
    rows = [(topics.status, "online, offline")]
    if config.homeassistant.enabled:
        if config.homeassistant.apart:
            discovery = component_filter(config.homeassistant.prefix, device)
            rows.append((discovery, "each entity, for Home Assistant and others"))
        else:
            discovery = discovery_topic(config.homeassistant.prefix, device)
            rows.append((discovery, "the node, for Home Assistant"))
    for sensor in config.sensors:
        rows.append((topics.availability(sensor.id), "online, offline"))
        rows += _reading_topics(config, sensor, topics)
        rows += [
            (topics.alarm(sensor.id, alarm.called(channel)), f"{channel} {alarm.described(unit)}")
            for channel, alarm in sensor.alarms
            for unit in (_units_of(sensor).get(channel, ""),)
        ]
    interval = duration_text(config.outbox.history_interval)
    rows.append((topics.history, f"every reading, in batches, every {interval}"))
    rows.append((topics.health, "the node itself, every minute"))
    if config.commands.enabled:
        rows += [
            (topics.command_result(name), "the answer, not retained")
            for name in _command_topics(config)
        ]
    return rows


def command_names(config: Config) -> tuple[str, ...]:
    """Return the commands that are allowed, and that have something to do."""
    return (*config.useful_commands, *(("config",) if config.commands.config else ()))


def _command_topics(config: Config) -> list[str]:
    """Return the last level of the topic of each command; a bundle comes in pieces on its own."""
    names = [*command_names(config)]
    return [*names, UPDATE_PIECE] if "update" in names else names


def current_topics(config: Config, device: str) -> Callable[[str], bool]:
    """Return a function that returns whether the node still publishes on a topic."""
    published = frozenset(topic for topic, _ in published_topics(config, device))
    topics = Topics(config.mqtt.base_topic, config.node.name)
    # If the channels are known only after a read, any topic of a plain value may be one.
    open_ended = tuple(
        topics.channel(sensor.id, "")
        for sensor in config.sensors
        if sensor.info.more_channels and config.mqtt.payload != "json"
    )

    def is_current(topic: str) -> bool:
        if config.mqtt.payload == "plain" and topics.is_state(topic):
            return False
        if is_discovery(topic, config.homeassistant.prefix, device):
            return config.homeassistant.enabled  # the announcer removes those of the other form
        return topic in published or topic.startswith(open_ended)

    return is_current


def received_topics(config: Config, device: str) -> list[tuple[str, str]]:
    """Return every topic that the node listens to, and the messages that it expects there."""
    topics = Topics(config.mqtt.base_topic, config.node.name)
    meanings = {
        discovery_topic(config.homeassistant.prefix, device): "the former announcement",
        component_filter(config.homeassistant.prefix, device): "the former announcements",
        topics.status: "another node of this name",
        topics.health: "another node of this name",
        topics.command_filter: f"commands: {', '.join(command_names(config)) or 'none allowed'}",
    }
    return [
        (s.topic, meanings.get(s.topic, "the start of Home Assistant"))
        for s in subscriptions(config, device)
    ]


def _units_of(sensor: SensorTable) -> dict[str, str]:
    """Return channel -> the unit that it is published in, of the channels known without a read."""
    return {
        channel.name: sensor.channel[channel.name].unit or channel.unit
        if channel.name in sensor.channel
        else channel.unit
        for channel in sensor.channels
    }


def _reading_topics(config: Config, sensor: SensorTable, topics: Topics) -> list[tuple[str, str]]:
    every = f"every {duration_text(sensor.interval)}"
    units = _units_of(sensor)
    rows = []
    if config.mqtt.payload != "plain":
        channels = ", ".join(f"{name} {unit}" for name, unit in units.items())
        more = ", and other values in the folder" if sensor.info.more_channels else ""
        rows.append((topics.state(sensor.id), f"{channels}{more}, {every}"))
    if config.mqtt.payload != "json":
        rows += [(topics.channel(sensor.id, name), f"{u}, {every}") for name, u in units.items()]
        if sensor.info.more_channels:
            rows.append((topics.channel(sensor.id, "..."), "other values in the folder"))
    return rows
