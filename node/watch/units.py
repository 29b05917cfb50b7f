"""Units from the nodes' device discovery for Home Assistant, for any subscriber to use.

Pure: `<prefix>/device/<id>/config` is JSON with components. Each component names a topic, the key
of the value in its JSON, and the unit. Everything else is ignored, malformed parts included,
because anybody may publish on that topic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from node.system.terminal import visible
from node.watch.payloads import from_json

__all__ = ["DiscoveredUnits", "Units", "discovery_filter", "units_in"]

Units = dict[tuple[str, str], str]
"""(topic, key in its JSON) -> unit; the key is "" if the payload is the value itself."""

_MAX_DEVICES = 2000
_MAX_COMPONENTS = 500
_MAX_UNIT = 12

# {{ value_json.air.temperature | round(1) }}, {{ value_json['temperature'] }}
_KEYS = re.compile(r"value_json((?:\.\w+|\[\s*(?:'[^']*'|\"[^\"]*\")\s*\])+)")
_KEY = re.compile(r"\.(\w+)|'([^']*)'|\"([^\"]*)\"")


def discovery_filter(prefix: str) -> str:
    return f"{prefix}/device/+/config"


def units_in(payload: bytes) -> Units:
    """Return the units in one device's discovery."""
    root = from_json(payload)
    if not isinstance(root, dict):
        return {}
    components = root.get("cmps", root.get("components"))
    if not isinstance(components, dict):
        return {}
    return dict(_units_of(root, list(components.values())[:_MAX_COMPONENTS]))


def _units_of(
    root: dict[str, object], components: list[object]
) -> Iterator[tuple[tuple[str, str], str]]:
    for component in components:
        if not isinstance(component, dict):
            continue
        whole = {**root, **component}  # Home Assistant lets the components share options
        topic = _text(whole, "stat_t", "state_topic")
        unit = _text(whole, "unit_of_meas", "unit_of_measurement")
        key = _key(_text(whole, "val_tpl", "value_template"))
        if topic and unit and key is not None:
            yield (_expanded(topic, _text(whole, "~")), key), visible(unit, _MAX_UNIT)


def _text(options: dict[str, object], *names: str) -> str:
    """Return the text under the first name that has one: an option or its abbreviation."""
    for name in names:
        value = options.get(name)
        if isinstance(value, str):
            return value
    return ""


def _expanded(topic: str, base: str) -> str:
    """Replace `~` at the beginning or the end of a topic by the base."""
    if topic.startswith("~"):
        return base + topic[1:]
    return topic[:-1] + base if topic.endswith("~") else topic


def _key(template: str) -> str | None:
    """Return the key, dotted for nested objects; None for another kind of template."""
    if not template or re.fullmatch(r"\{\{\s*value\b(?!_json).*\}\}", template.strip()):
        return ""
    found = _KEYS.search(template)
    if found is None:
        return None
    return ".".join("".join(parts) for parts in _KEY.findall(found[1]))


class DiscoveredUnits:
    """The units of every discovered device, until its discovery is removed."""

    def __init__(self) -> None:
        self._units: Units = {}
        self._of_device: dict[str, Units] = {}

    def learn(self, topic: str, payload: bytes) -> None:
        """Record a device's discovery on `topic`; an empty payload removes it."""
        for place in self._of_device.pop(topic, {}):
            self._units.pop(place, None)
        if payload and len(self._of_device) < _MAX_DEVICES:
            units = self._of_device[topic] = units_in(payload)
            self._units |= units

    def get(self, topic: str, key: str) -> str | None:
        return self._units.get((topic, key))
