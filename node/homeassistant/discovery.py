"""Home Assistant's device discovery: one retained message that describes the whole node.

Pure functions. The message is that of "MQTT device discovery"
(https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload), with its abbreviated
keys; `Announcer` sends it. A component is a channel of a sensor, a number of the node's health, or
a button; its unique id is made of the device's id, the sensor's key (see `identities`) and the
channel, so none of the names in the configuration is in it.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterable
from typing import Any

import msgspec

from node import __version__
from node.config.schema import (
    STALE_INTERVALS,
    ChannelTable,
    Config,
    SensorTable,
)
from node.config.values import parse_host
from node.health import Shown, shown_fields
from node.system.host import Vitals
from node.topics import Topics

__all__ = [
    "AnnouncedChannel",
    "AnnouncedSensor",
    "announced_status",
    "birth_topics",
    "components_of",
    "device_message",
    "discovery_topic",
    "is_of_host",
    "removal_of",
]

_MARGIN_S = 60
"""How much longer than three of its intervals a value may take before it is unknown: what the
way to Home Assistant may take, and the reconnection of the node."""
_HEALTH_EXPIRES_S = 300

_DEVICE_CLASSES = {
    "°C": "temperature",
    "°F": "temperature",
    "K": "temperature",
    "hPa": "atmospheric_pressure",
    "kPa": "atmospheric_pressure",
    "Pa": "atmospheric_pressure",
    "mbar": "atmospheric_pressure",
    "mmHg": "atmospheric_pressure",
    "inHg": "atmospheric_pressure",
    "V": "voltage",
    "mV": "voltage",
    "A": "current",
    "mA": "current",
    "W": "power",
    "lx": "illuminance",
}
"""Unit -> device class, where a unit has but one that fits."""
_NAMED_CLASSES = {("humidity", "%"): "humidity", ("co2", "ppm"): "carbon_dioxide"}
"""(What the channel's name begins with, unit) -> device class."""

_PLATFORMS = ("sensor", "binary_sensor", "button")
_MAX_COMPONENTS = 1000
_ABBREVIATIONS = {"co2": "CO2", "cpu": "CPU"}
Component = dict[str, Any]


class AnnouncedChannel(msgspec.Struct, frozen=True):
    """A channel as it is published."""

    name: str
    unit: str
    decimals: int


class AnnouncedSensor(msgspec.Struct, frozen=True):
    """A sensor, the key that it is known by, and its channels."""

    table: SensorTable
    key: str
    channels: tuple[AnnouncedChannel, ...]


def discovery_topic(prefix: str, device: str) -> str:
    return f"{prefix}/device/{device}/config"


def birth_topics(prefix: str) -> tuple[str, ...]:
    """Where Home Assistant says `online` when it has been started.

    Its default is the first whatever its discovery prefix is; a second Home Assistant with a
    prefix of its own has been given the other one.
    """
    return tuple(dict.fromkeys(("homeassistant/status", f"{prefix}/status")))


def device_message(
    config: Config,
    device: str,
    sensors: Iterable[AnnouncedSensor],
    vitals: Vitals,
    model: str,
    *,
    has_led: bool,
) -> dict[str, Any]:
    """The discovery message, to be encoded as JSON."""
    topics = Topics(config.mqtt.base_topic, config.node.name)
    about: dict[str, Any] = {
        "ids": [device],
        "name": config.node.name,
        "mf": "sensor-node",
        "mdl": model,
        "sw": __version__,
    }
    if url := _configuration_url(config):
        about["cu"] = url
    components: dict[str, Component] = {}
    for sensor in sensors:
        components.update(_channels(config, topics, sensor))
    components.update(_diagnostics(topics, vitals))
    components.update(_buttons(config, topics, has_led=has_led))
    _tell_apart(components)
    for key, component in components.items():
        component["uniq_id"] = f"{device}.{key}"
    return {
        "dev": about,
        "o": {"name": "sensor-node", "sw": __version__},
        "qos": 1,
        "avty": [{"t": topics.status}],
        "avty_mode": "all",
        "cmps": components,
    }


def _configuration_url(config: Config) -> str | None:
    """The link on the device's page: what is configured, else the node's own status page."""
    if config.homeassistant.configuration_url is not None:
        return str(config.homeassistant.configuration_url)
    if not (config.web.enabled and config.web.on_the_network):
        return None
    host = socket.gethostname().partition(".")[0]
    try:
        name = parse_host(f"{host}.local")
    except ValueError:  # the kernel lets a computer be called anything
        return None
    return f"http://{name}:{config.web.port}/"


def components_of(payload: bytes, device: str) -> dict[str, Component]:
    """The components that `device` has announced in a message, without removals.

    Of anything else nothing: somebody else may have published it.
    """
    try:
        components = dict(msgspec.json.decode(payload)["cmps"])
    except (msgspec.DecodeError, TypeError, KeyError, ValueError, RecursionError):
        return {}
    ours = {
        key: component
        for key, component in components.items()
        if isinstance(component, dict)
        and re.fullmatch(r"[A-Za-z0-9_.-]+", key)
        and component.get("uniq_id") == f"{device}.{key}"
        and component.get("p") in _PLATFORMS
    }
    return ours if len(ours) <= _MAX_COMPONENTS else {}


def is_of_host(key: str) -> bool:
    """Whether it is a component that is there only as far as this computer tells it just now."""
    return any(row.of_host and row.component == key for row in shown_fields().values())


def announced_status(payload: bytes) -> str:
    """The topic of the status of the node that has published a message; "" of anything else."""
    try:
        topic = msgspec.json.decode(payload)["avty"][0]["t"]
    except (msgspec.DecodeError, TypeError, KeyError, IndexError, RecursionError):
        return ""
    return topic if isinstance(topic, str) and topic.endswith("/status") else ""


def removal_of(component: Component) -> Component:
    """What stands in the place of a component to have it removed: its platform alone."""
    return {"p": component["p"]}


def _named(sensor: str, channel: str) -> str:
    """`water_2`, `temperature` as `Water 2 temperature`: shown beside the name of the node.

    A sensor `gas` with a channel `gas_resistance` is not named twice.
    """
    text = channel if f"{channel}_".startswith(f"{sensor}_") else f"{sensor} {channel}"
    words = [_ABBREVIATIONS.get(word.lower(), word) for word in text.replace("_", " ").split()]
    name = " ".join(words)
    return name[:1].upper() + name[1:]


def _tell_apart(components: dict[str, Component]) -> None:
    """Give a name that is not like another one's to what Home Assistant would number as it comes.

    It makes entity ids of the names, of their letters and digits alone. A channel keeps its name,
    then what is said of the node does, in the order of the components.
    """
    taken: set[str] = set()
    of_sensors = [key for key in components if "." in key]
    for key in (*of_sensors, *(key for key in components if "." not in key)):
        name = components[key]["name"]
        if key not in of_sensors and _entity_id(name) in taken:
            name = f"Node {name[:1].lower()}{name[1:]}"
        number = 1
        numbered = name
        while _entity_id(numbered) in taken:
            number += 1
            numbered = f"{name} {number}"
        taken.add(_entity_id(numbered))
        components[key]["name"] = numbered


def _entity_id(name: str) -> str:
    """The part of an entity id that Home Assistant makes of a name."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def _channels(config: Config, topics: Topics, sensor: AnnouncedSensor) -> dict[str, Component]:
    """A component for each channel of a sensor."""
    table = sensor.table
    available = [{"t": topics.status}, {"t": topics.availability(table.id)}]
    components: dict[str, Component] = {}
    for channel in sensor.channels:
        component: Component = {
            "p": "sensor",
            "name": _named(table.id, channel.name),
            "stat_cla": "measurement",
            "unit_of_meas": channel.unit,
            "sug_dsp_prc": channel.decimals,
            "exp_aft": _expires_after_s(config, sensor, channel.name),
            "avty": available,
        }
        if device_class := _device_class(channel):
            component["dev_cla"] = device_class
        if config.mqtt.payload == "plain":
            component["stat_t"] = topics.channel(table.id, channel.name)
            # An empty payload takes the value back.
            component["val_tpl"] = "{{ value or none }}"
        else:
            component["stat_t"] = topics.state(table.id)
            # What is left out was rejected once: "" leaves the last value. null makes it unknown.
            component["val_tpl"] = _template(channel.name)
        components[f"{sensor.key}.{channel.name}"] = component
    return components


def _template(key: str) -> str:
    """A value of the JSON; written so, it is quiet about what is missing."""
    return f"{{{{ value_json['{key}'] | default('') }}}}"


def _device_class(channel: AnnouncedChannel) -> str | None:
    for (name, unit), device_class in _NAMED_CLASSES.items():
        if channel.name.startswith(name) and channel.unit == unit:
            return device_class
    return _DEVICE_CLASSES.get(channel.unit)


def _expires_after_s(config: Config, sensor: AnnouncedSensor, channel: str) -> int:
    """After how long a silence of its topic a channel's value is unknown."""
    tables = sensor.table.channel
    if config.mqtt.payload == "plain":
        gap_s = tables.get(channel, ChannelTable()).longest_gap_s(sensor.table.interval)
    else:  # any channel that is worth it brings all the others with it
        gap_s = min(
            tables.get(c.name, ChannelTable()).longest_gap_s(sensor.table.interval)
            for c in sensor.channels
        )
    return math.ceil(STALE_INTERVALS * gap_s) + _MARGIN_S


def _diagnostics(topics: Topics, vitals: Vitals) -> dict[str, Component]:
    """What the node says of itself, as far as this computer can tell: the rows of `node.health`."""
    components: dict[str, Component] = {}
    for field, shown in shown_fields().items():
        if not shown.component or (shown.of_host and getattr(vitals, field) is None):
            continue
        components[shown.component] = {
            "p": "binary_sensor" if shown.is_problem else "sensor",
            "name": shown.name[:1].upper() + shown.name[1:],
            "val_tpl": _template(field),
            **(_OF_A_PROBLEM if shown.is_problem else _of_a_number(shown)),
            "stat_t": topics.health,
            "ent_cat": "diagnostic",
            "exp_aft": _HEALTH_EXPIRES_S,
        }
    return components


_OF_A_PROBLEM = {
    "pl_on": "True",  # as a template renders the true of JSON
    "pl_off": "False",
    "dev_cla": "problem",
}


def _of_a_number(shown: Shown) -> Component:
    keys = {
        "dev_cla": shown.device_class,
        "unit_of_meas": shown.unit,
        "stat_cla": shown.state_class,
    }
    said: Component = {key: text for key, text in keys.items() if text}
    if shown.decimals is not None:
        said["sug_dsp_prc"] = shown.decimals
    return said


def _buttons(config: Config, topics: Topics, *, has_led: bool) -> dict[str, Component]:
    """A button for each command that is allowed, and that this node can do."""
    if not config.commands.enabled:
        return {}
    kinds: dict[str, Component] = {
        "read": {"name": "Read now"},
        "identify": {"name": "Identify", "dev_cla": "identify", "ent_cat": "diagnostic"},
        "restart": {"name": "Restart", "dev_cla": "restart", "ent_cat": "config"},
    }
    return {
        name: {
            "p": "button",
            **kind,
            "cmd_t": topics.command(name),
            "pl_prs": "",
        }
        for name, kind in kinds.items()
        if name in config.commands.allow and (has_led or name != "identify")
    }
