"""The two forms of discovery: one message for the whole device, or one for each component. Pure.

`[homeassistant] form = "components"` is for programs that read Home Assistant's discovery and do
not know its device messages: Domoticz, and openHAB before 5.2. A component's message is what Home
Assistant makes of the device's message: the shared keys and its own.
https://www.home-assistant.io/integrations/mqtt/#single-component-discovery-payload

What these programs read was looked up in their sources: `hardware/MQTTAutoDiscover.cpp` of Domoticz
(commit 0162f31f) and `org.openhab.binding.mqtt.homeassistant` of openHAB. Domoticz has no Jinja: it
takes the key out of `{{ value_json['key'] | ... }}` and ignores the rest, and it takes the number
`value` in the JSON of an alarm for its state, unless there is a `state_value_template`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from node.config.schema import Config
from node.homeassistant.discovery import PLATFORMS, Component, discovery_topic

__all__ = [
    "MIGRATION",
    "component_filter",
    "component_in",
    "component_topic",
    "is_discovery",
    "payloads_of",
    "tried_components",
]

MIGRATION = b'{"migrate_discovery":true}'
"""Makes Home Assistant let go of the entities of a topic, and keep their ids and settings.
https://www.home-assistant.io/integrations/mqtt/#migration-from-single-component-to-device-based-discovery
"""

_OF_ENTITIES = "-entities"
"""What the node id of components has more than the device's object id. With the same id, Home
Assistant takes the end of the device's message for the end of the components, and says so."""


def component_topic(prefix: str, device: str, platform: str, key: str) -> str:
    """Return the topic of one component's message.

    Its object id is the key with `--` for each dot, because a dot is not allowed there. Where two
    keys could have the same one, it also has a checksum.
    """
    object_id = key.replace(".", "--")
    if "--" in key or "-." in key or ".-" in key:
        object_id += f"-{binascii.crc32(key.encode()):08x}"
    return f"{prefix}/{platform}/{device}{_OF_ENTITIES}/{object_id}/config"


def component_filter(prefix: str, device: str) -> str:
    """Return the filter for the messages of all components."""
    return f"{prefix}/+/{device}{_OF_ENTITIES}/+/config"


def tried_components(config: Config, device: str) -> Iterator[str]:
    """Yield the topic of one component of each platform that the node has in any case.

    An ACL allows or denies them all, because it cannot know the sensors.
    """
    prefix = config.homeassistant.prefix
    yield component_topic(prefix, device, "sensor", "uptime")
    if config.has_alarms:
        table, channel, alarm = next((t, c, a) for t in config.sensors for c, a in t.alarms)
        key = f"alarm.{table.id}.{alarm.called(channel)}"
        yield component_topic(prefix, device, "binary_sensor", key)
    buttons = {"read", "restart", "acknowledge"}.intersection(config.useful_commands)
    if config.commands.enabled and buttons:
        yield component_topic(prefix, device, "button", min(buttons))
    if config.commands.enabled and "update" in config.useful_commands:
        yield component_topic(prefix, device, "update", "update")


def is_discovery(topic: str, prefix: str, device: str) -> bool:
    """Return whether the topic is one of the device's discovery, in either form."""
    if topic == discovery_topic(prefix, device):
        return True
    if not topic.startswith(f"{prefix}/"):
        return False
    platform, *rest = topic.removeprefix(f"{prefix}/").split("/")
    if platform not in PLATFORMS or len(rest) != 3:
        return False
    node, object_id, last = rest
    if (node, last) != (f"{device}{_OF_ENTITIES}", "config"):
        return False
    return re.fullmatch(r"[A-Za-z0-9_-]+", object_id) is not None


def payloads_of(
    message: dict[str, Any], prefix: str, device: str, *, apart: bool
) -> dict[str, bytes]:
    """Return topic -> payload for a device's message; `apart`: in the form of components.

    A component that consists of its platform alone is to be removed: apart, by an empty payload.
    """
    if not apart:
        return {discovery_topic(prefix, device): msgspec.json.encode(message)}
    shared = {key: value for key, value in message.items() if key != "cmps"}
    return {
        component_topic(prefix, device, component["p"], key): (
            msgspec.json.encode(_alone(shared, component)) if len(component) > 1 else b""
        )
        for key, component in message["cmps"].items()
    }


def _alone(shared: dict[str, Any], component: Component) -> Component:
    """Return the message of one component, in the words that all these programs know."""
    whole = {**shared, **component}
    del whole["p"]
    if component["p"] == "binary_sensor":
        whole.update(_binary(whole))
    return whole


def _binary(component: Component) -> Component:
    """Return the keys of a binary sensor that have to be written in another way.

    Home Assistant takes `None` for unknown, and complains of a look into an empty message. JSON's
    true is `True` in Python's Jinja, and `true` in Java's and in Domoticz.
    """
    if component["pl_on"] == "True":
        look = component["val_tpl"].removeprefix("{{ ").removesuffix(" }}")
        return {
            "val_tpl": _or_unknown(f"{look} | lower", "none"),
            "pl_on": "true",
            "pl_off": "false",
        }
    if component["pl_on"] == "on":
        look = "value_json['state'] | default('')"
        return {"val_tpl": _or_unknown(look, "unknown"), "stat_val_tpl": f"{{{{ {look} }}}}"}
    return {}


def _or_unknown(look: str, unknown: str) -> str:
    return f"{{{{ {look} | replace('{unknown}', 'None') if value else none }}}}"


def component_in(
    topic: str, payload: bytes, prefix: str, device: str
) -> tuple[str, Component] | None:
    """Return the key and the component that `device` has announced on a topic.

    None for anything else, because another client may have published it.
    """
    try:
        component = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return None
    unique_id, platform = component.get("uniq_id"), topic.removeprefix(f"{prefix}/").split("/")[0]
    if platform not in PLATFORMS or not isinstance(unique_id, str):
        return None
    key = unique_id.removeprefix(f"{device}.")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", key) or unique_id != f"{device}.{key}":
        return None
    if component_topic(prefix, device, platform, key) != topic:
        return None
    return key, {**component, "p": platform}
