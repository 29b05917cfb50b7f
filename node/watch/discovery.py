"""What a subscriber learns from the nodes' device discovery for Home Assistant.

Pure: `<prefix>/device/<id>/config` is JSON with components, and
`<prefix>/<platform>/<id>/<component>/config` is one of them. Each component names a topic, the key
of the value in its JSON, the unit, and how long a value is valid; the device names its own page.
Everything else is ignored, malformed parts included, because anybody may publish on that topic.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import msgspec

from node.config.values import parse_web_address
from node.system.terminal import visible
from node.watch.payloads import from_json

__all__ = ["Device", "Discovered", "Units", "device_in", "discovery_filters"]

Place = tuple[str, str]
"""(topic, key in its JSON); the key is "" if the payload is the value itself."""
Units = dict[Place, str]

_MAX_COMPONENTS = 500
_MAX_UNIT = 12
_MAX_PLACE = 300
_MAX_FACTS = 100_000
"""Of all devices together; a device that does not fit is ignored."""

# {{ value_json.air.temperature | round(1) }}, {{ value_json['temperature'] }}
_KEYS = re.compile(r"value_json((?:\.\w+|\[\s*(?:'[^']*'|\"[^\"]*\")\s*\])+)")
_KEY = re.compile(r"\.(\w+)|'([^']*)'|\"([^\"]*)\"")


class Device(msgspec.Struct, frozen=True):
    """One device's discovery."""

    units: Units = {}
    expires_s: dict[Place, float] = {}
    """How long after it was published a value is valid."""
    page: str = ""
    """The address of the device's own page."""
    topics: frozenset[str] = frozenset()
    """All topics of its components."""

    @property
    def facts(self) -> int:
        return len(self.units) + len(self.expires_s) + len(self.topics)


def discovery_filters(prefix: str) -> tuple[str, str]:
    """Return the filters for devices, and for components that are announced by themselves."""
    return f"{prefix}/device/+/config", f"{prefix}/+/+/+/config"


def device_in(payload: bytes) -> Device:
    """Return what the discovery of one device says."""
    root = from_json(payload)
    if not isinstance(root, dict):
        return Device()
    components = root.get("cmps", root.get("components", {"": {}}))
    if not isinstance(components, dict):
        return Device()
    units: Units = {}
    expires_s: dict[Place, float] = {}
    topics = set()
    for whole, place in _places(root, list(components.values())[:_MAX_COMPONENTS]):
        topics.add(place[0])
        if unit := _text(whole, "unit_of_meas", "unit_of_measurement"):
            units[place] = visible(unit, _MAX_UNIT)
        limit_s = whole.get("exp_aft", whole.get("expire_after"))
        if type(limit_s) is int and 0 < limit_s < 1 << 31:
            expires_s[place] = float(limit_s)
    return Device(units, expires_s, _page(root), frozenset(topics))


def _places(
    root: dict[str, object], components: list[object]
) -> Iterator[tuple[dict[str, object], Place]]:
    """Yield the options of each component that has a value, and where the value is."""
    for component in components:
        if not isinstance(component, dict):
            continue
        whole = {**root, **component}  # Home Assistant lets the components share options
        topic = _expanded(_text(whole, "stat_t", "state_topic"), _text(whole, "~"))
        key = _key(_text(whole, "val_tpl", "value_template"))
        if topic and key is not None and len(topic) + len(key) <= _MAX_PLACE:
            yield whole, (topic, key)


def _page(root: dict[str, object]) -> str:
    """Return the address of the device's page; "" if there is none that a browser takes."""
    device = root.get("dev", root.get("device"))
    if isinstance(device, dict):
        with contextlib.suppress(ValueError):
            return str(parse_web_address(_text(device, "cu", "configuration_url")))
    return ""


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


class Discovered:
    """What every discovered device says, until its discovery is removed."""

    def __init__(self) -> None:
        self._units: Units = {}
        self._expires_s: dict[Place, float] = {}
        self._pages: dict[str, str] = {}
        self._devices: dict[str, Device] = {}
        self._facts = 0

    def learn(self, topic: str, payload: bytes) -> None:
        """Record a device's discovery on `topic`; an empty payload removes it."""
        before = self._devices.pop(topic, Device())
        self._facts -= before.facts
        for place in before.units:
            self._units.pop(place, None)
        for place in before.expires_s:
            self._expires_s.pop(place, None)
        for known in before.topics:
            self._pages.pop(known, None)
        device = device_in(payload) if payload else Device()
        if device.facts and self._facts + device.facts <= _MAX_FACTS:
            self._devices[topic] = device
            self._facts += device.facts
            self._units |= device.units
            self._expires_s |= device.expires_s
            if device.page:
                self._pages |= dict.fromkeys(device.topics, device.page)

    def unit(self, topic: str, key: str) -> str | None:
        return self._units.get((topic, key))

    def expires_s(self, topic: str, key: str) -> float | None:
        """Return how long a value is valid; None if no device says it."""
        return self._expires_s.get((topic, key))

    def page(self, topic: str) -> str:
        """Return the address of the page of the device with this topic; "" if it has none."""
        return self._pages.get(topic, "")
