"""Home Assistant's device discovery: one retained message that describes the whole node.

Pure functions. The message follows "MQTT device discovery"
(https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload), with its abbreviated
keys; `Announcer` sends it. A component is a channel of a sensor, a number of the node's health, or
a button. Its unique id consists of the device's id, the sensor's key (see `sensor_keys`) and the
channel, so it does not depend on the names in the configuration.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterable
from typing import Any

import msgspec

from node import __version__
from node.alarms.table import AlarmTable
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
    "PLATFORMS",
    "AnnouncedChannel",
    "AnnouncedSensor",
    "Component",
    "announced_status",
    "birth_topics",
    "components_of",
    "device_message",
    "discovery_topic",
    "is_of_host",
    "removal_of",
]

_MARGIN_S = 60
"""How much longer than three of its intervals a value stays valid, to allow for the way to Home
Assistant and for a reconnection of the node."""
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
    "g/m³": "absolute_humidity",
    "dBm": "signal_strength",
}
"""Unit -> device class, for units with only one that fits."""
_NAMED_CLASSES = {
    ("humidity", "%"): "humidity",
    ("co2", "ppm"): "carbon_dioxide",
    ("battery", "%"): "battery",
}
"""(Beginning of the channel's name, unit) -> device class."""

PLATFORMS = ("sensor", "binary_sensor", "button", "update")
_MAX_COMPONENTS = 1000
_ABBREVIATIONS = {"co2": "CO2", "cpu": "CPU", "rssi": "RSSI"}
_NOT_IN_AN_ID = re.compile("[^a-z0-9]+")
Component = dict[str, Any]


class AnnouncedChannel(msgspec.Struct, frozen=True):
    """A channel as published."""

    name: str
    unit: str
    decimals: int
    quantity: str = ""
    """What it is a value of, if that is not its name; see `node.derive.Derived`."""
    diagnostic: bool = False
    has_accuracy: bool = False
    """Whether health may have its accuracy."""


class AnnouncedSensor(msgspec.Struct, frozen=True):
    """A sensor, the key by which Home Assistant knows it, and its channels."""

    table: SensorTable
    key: str
    channels: tuple[AnnouncedChannel, ...]


def discovery_topic(prefix: str, device: str) -> str:
    return f"{prefix}/device/{device}/config"


def birth_topics(prefix: str) -> tuple[str, ...]:
    """Return the topics on which Home Assistant says `online` after its start.

    The first is its default, independent of its discovery prefix. A second Home Assistant with a
    different prefix would be configured to use the other one.
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
    """Return the discovery message, to be encoded as JSON."""
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
        components.update(_alarms(topics, sensor))
    components.update(_diagnostics(topics, vitals))
    components.update(_buttons(config, topics, has_led=has_led))
    components.update(_update(config, topics))
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
    """Return the link on the device's page: the configured one, else the node's status page."""
    if config.homeassistant.configuration_url is not None:
        return str(config.homeassistant.configuration_url)
    if not (config.web.enabled and config.web.on_the_network):
        return None
    host = socket.gethostname().partition(".")[0]
    try:
        name = parse_host(f"{host}.local")
    except ValueError:  # the kernel accepts any name for a computer
        return None
    return f"http://{name}:{config.web.port}/"


class _Announced(msgspec.Struct):
    """The part of a discovery message that has the components."""

    cmps: dict[str, Any]


class _Of(msgspec.Struct):
    """The part of a discovery message that says of which node it is."""

    avty: list[dict[str, str]]


def components_of(payload: bytes, device: str) -> dict[str, Component]:
    """Return the components that `device` has announced in a message, without removals.

    Ignore anything else, because another client may have published it.
    """
    try:
        components = msgspec.json.decode(payload, type=_Announced).cmps
    except (msgspec.DecodeError, RecursionError):
        return {}
    ours = {
        key: component
        for key, component in components.items()
        if isinstance(component, dict)
        and re.fullmatch(r"[A-Za-z0-9_.-]+", key)
        and component.get("uniq_id") == f"{device}.{key}"
        and component.get("p") in PLATFORMS
    }
    return ours if len(ours) <= _MAX_COMPONENTS else {}


def is_of_host(key: str) -> bool:
    """Return whether a component exists only while this computer reports its value."""
    return any(row.of_host and row.component == key for row in shown_fields().values())


def announced_status(payload: bytes) -> str:
    """The topic of the status of the node that has published a message; "" of anything else."""
    try:
        topics = [available["t"] for available in msgspec.json.decode(payload, type=_Of).avty]
    except (msgspec.DecodeError, KeyError, RecursionError):
        return ""
    return topics[0] if topics and topics[0].endswith("/status") else ""


def removal_of(component: Component) -> Component:
    """Return the entry that removes a component: only its platform."""
    return {"p": component["p"]}


def _named(sensor: str, channel: str) -> str:
    """Return `Water 2 temperature` for `water_2`, `temperature`: shown after the node's name.

    For a sensor `gas` with a channel `gas_resistance`, `gas` is not repeated.
    """
    text = channel if f"{channel}_".startswith(f"{sensor}_") else f"{sensor} {channel}"
    words = [_ABBREVIATIONS.get(word.lower(), word) for word in text.replace("_", " ").split()]
    name = " ".join(words)
    return name[:1].upper() + name[1:]


def _tell_apart(components: dict[str, Component]) -> None:
    """Make names distinct that Home Assistant would otherwise number in order of arrival.

    Home Assistant derives entity ids from the letters and digits of the names. Channels keep their
    names first, then the values of the node, in the order of the components.
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
    """Return the part of an entity id that Home Assistant derives from a name."""
    return _NOT_IN_AN_ID.sub("_", name.lower()).strip("_")


def _channels(config: Config, topics: Topics, sensor: AnnouncedSensor) -> dict[str, Component]:
    """Return a component for each channel of a sensor."""
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
        if channel.diagnostic:
            component["ent_cat"] = "diagnostic"
        if config.mqtt.payload == "plain":
            component["stat_t"] = topics.channel(table.id, channel.name)
            # An empty payload makes the value unknown.
            component["val_tpl"] = "{{ value or none }}"
        else:
            component["stat_t"] = topics.state(table.id)
            # A key is missing after one rejected value: "" keeps the last. null makes it unknown.
            component["val_tpl"] = _template(channel.name)
        if channel.has_accuracy:
            component["json_attr_t"] = topics.health
            component["json_attr_tpl"] = _accuracy_template(table.id, channel.name)
        components[f"{sensor.key}.{channel.name}"] = component
    return components


def _alarms(topics: Topics, sensor: AnnouncedSensor) -> dict[str, Component]:
    """Return a component for each alarm of a sensor.

    It is available while the node is: a sensor that is offline does not end an alarm that is on,
    and the state of one that is off is then unknown.
    """
    units = {channel.name: channel.unit for channel in sensor.channels}
    return {
        f"alarm.{sensor.key}.{alarm.called(channel)}": {
            "p": "binary_sensor",
            "name": _named(sensor.table.id, alarm.called(channel)),
            "dev_cla": _class_of_alarm(alarm, units.get(channel, "")),
            "stat_t": (topic := topics.alarm(sensor.table.id, alarm.called(channel))),
            # The topic is emptied with the alarm. Home Assistant takes None for unknown.
            "val_tpl": _ALARM_STATE,
            "pl_on": "on",
            "pl_off": "off",
            "json_attr_t": topic,
            "json_attr_tpl": "{{ value or '{}' }}",
        }
        for channel, alarm in sensor.table.alarms
    }


_ALARM_STATE = "{{ value_json.state if value and value_json.state in ('on', 'off') else none }}"


def _class_of_alarm(alarm: AlarmTable, unit: str) -> str:
    """Return `heat` or `cold` for a limit of a temperature; `problem` for anything else."""
    kinds = [*alarm.conditions(unit)]
    is_temperature = _DEVICE_CLASSES.get(unit) == "temperature"
    if is_temperature and kinds == ["above"]:
        return "heat"
    return "cold" if is_temperature and kinds == ["below"] else "problem"


def _template(key: str) -> str:
    """Return the template for a value of the JSON; a missing key does not cause a log entry."""
    return f"{{{{ value_json['{key}'] | default('') }}}}"


def _accuracy_template(sensor: str, channel: str) -> str:
    """Return the template for the attribute `accuracy`, of the node's health."""
    return (
        f"{{% set known = (value_json | default({{}})).get('sensors', {{}}).get('{sensor}', {{}})"
        f".get('accuracy', {{}}) %}}{{{{ ({{'accuracy': known['{channel}']}} "
        f"if '{channel}' in known else {{}}) | tojson }}}}"
    )


def _device_class(channel: AnnouncedChannel) -> str | None:
    if channel.quantity:
        from node.derive.functions import functions  # most nodes derive nothing

        function = functions().get(channel.quantity)
        if function is not None and function.device_class:
            return function.device_class
    for (name, unit), device_class in _NAMED_CLASSES.items():
        if (channel.quantity or channel.name).startswith(name) and channel.unit == unit:
            return device_class
    return _DEVICE_CLASSES.get(channel.unit)


def _expires_after_s(config: Config, sensor: AnnouncedSensor, channel: str) -> int:
    """Return how long after the last message a channel's value becomes unknown."""
    tables = sensor.table.channel
    # Diagnostic channels are published along with the others.
    leading = [c.name for c in sensor.channels if not c.diagnostic] or [channel]
    if config.mqtt.payload == "plain" and channel in leading:
        gap_s = tables.get(channel, ChannelTable()).longest_gap_s(sensor.table.interval)
    else:  # any channel that is published brings all the others with it
        gap_s = min(
            tables.get(name, ChannelTable()).longest_gap_s(sensor.table.interval)
            for name in leading
        )
    return math.ceil(STALE_INTERVALS * gap_s) + _MARGIN_S


def _diagnostics(topics: Topics, vitals: Vitals) -> dict[str, Component]:
    """Return the node's own values that this computer can report: the rows of `node.health`."""
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
    """Return a button for each command that is allowed, and that this node can carry out."""
    if not config.commands.enabled:
        return {}
    kinds: dict[str, Component] = {
        "read": {"name": "Read now"},
        "identify": {"name": "Identify", "dev_cla": "identify", "ent_cat": "diagnostic"},
        "restart": {"name": "Restart", "dev_cla": "restart", "ent_cat": "config"},
        "acknowledge": {"name": "Acknowledge alarms"},
    }
    return {
        name: {
            "p": "button",
            **kind,
            "cmd_t": topics.command(name),
            "pl_prs": "",
        }
        for name, kind in kinds.items()
        if name in config.useful_commands and (has_led or name != "identify")
    }


def _update(config: Config, topics: Topics) -> dict[str, Component]:
    """Return the update of the node, if it takes updates from afar."""
    if not (config.commands.enabled and "update" in config.useful_commands):
        return {}
    return {
        "update": {
            "p": "update",
            "name": "Software",
            "ent_cat": "config",
            "stat_t": topics.health,
            "val_tpl": _UPDATE,
            "cmd_t": topics.command("update"),
            "pl_inst": "install",
        }
    }


# Home Assistant refuses a message with another key than these (its mqtt/update.py).
_UPDATE = (
    "{% set known = (value_json | default({})).get('update') %}"
    "{{ {'installed_version': known.installed_version, 'latest_version': known.latest_version, "
    "'in_progress': known.in_progress, 'update_percentage': known.update_percentage, "
    "'release_summary': known.text} | tojson if known else '' }}"
)
