"""Is a discovery message, of a device or of a component, that Home Assistant takes whole?

Quietly, too. Stricter than Home Assistant where it is lax to its user's cost: it drops a key of a
component that it does not know without a word, shows the value of a channel without a name as
"MQTT Sensor", and takes a device for available by whichever topic spoke last. Pure, and without
Home Assistant, so that the ordinary tests can ask it.

Sources, looked at in November 2026:
- https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload, and the pages
  sensor.mqtt, binary_sensor.mqtt and button.mqtt beside it, for keys and defaults;
- https://www.home-assistant.io/integrations/sensor/#device-class for units, and
  https://developers.home-assistant.io/docs/core/entity/sensor for state classes;
- Home Assistant core 2026.11.0, `components/mqtt/` (schemas.py, discovery.py, abbreviations.py,
  sensor.py, binary_sensor.py, button.py, update.py) and `components/sensor/const.py`, for what is
  really done with a message. Keys that 2026.2 does not know are no keys here: one of them on the
  top level makes that version refuse the whole message.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

__all__ = ["problems_in"]

_Check = Callable[[Any], str | None]
"""What is wrong with a value; None: nothing."""


def problems_in(topic: str, payload: bytes) -> list[str]:
    """What is wrong with the discovery message `payload` on `topic`; empty if nothing is.

    An empty payload takes it back, and is right; so is what asks Home Assistant to let go of it.
    """
    single = _SINGLE.fullmatch(topic)
    problems = [] if single or _TOPIC.fullmatch(topic) else [f"{topic!r} is no topic of discovery"]
    if payload in (b"", b'{"migrate_discovery":true}'):
        return problems
    try:
        message = json.loads(payload, object_pairs_hook=_mapping, parse_constant=_no_number)
    except ValueError as error:
        return [*problems, f"not JSON: {error}"]
    if not isinstance(message, dict):
        return [*problems, "not a JSON object"]
    return [*problems, *(_in_single(single[1], message) if single else _in_message(message))]


_SINGLE = re.compile(r"[^+#\0]+/(sensor|binary_sensor|button)/[a-zA-Z0-9_-]+/[a-zA-Z0-9_-]+/config")
_TOPIC = re.compile(r"[^+#\0]+/device/([a-zA-Z0-9_-]+/)?[a-zA-Z0-9_-]+/config")


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is there twice")
    return dict(pairs)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


# --- values


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "is to be a text that is not empty"


def _any_text(value: Any) -> str | None:
    return None if isinstance(value, str) else "is to be a text"


def _name(value: Any) -> str | None:
    return None if value is None else _text(value)


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "is to be true or false"


def _whole(value: Any) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return None if whole and value >= 0 else "is to be a whole number, 0 or more"


def _seconds(value: Any) -> str | None:
    return _whole(value) or (None if value else "is to be above 0")


def _one_of(*allowed: Any) -> _Check:
    def check(value: Any) -> str | None:
        right = value in allowed and not isinstance(value, bool)
        return None if right else f"is to be one of {', '.join(map(str, allowed))}"

    return check


def _topic_name(value: Any) -> str | None:
    """A topic to publish on, or to subscribe to without wildcards (MQTT 5, §1.5.4 and §4.7)."""
    if not isinstance(value, str) or not value:
        return "is to be a topic"
    if re.search(r"[+#\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]", value):
        return "has a character that a topic may not have"
    return None if len(value.encode(errors="replace")) <= 65535 else "is too long for a topic"


def _url(*schemes: str) -> _Check:
    def check(value: Any) -> str | None:
        try:
            parts = urlsplit(value)
            # Home Assistant takes the host and the port apart (yarl), and refuses what cannot be.
            right = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except (ValueError, AttributeError, TypeError):
            right = False
        return None if right else f"is to be a URL with {', '.join(schemes)}"

    return check


def _identifiers(value: Any) -> str | None:
    if isinstance(value, str):
        return _text(value)
    right = isinstance(value, list) and value and all(_text(item) is None for item in value)
    return None if right else "is to be a text, or a list of them that is not empty"


def _connections(value: Any) -> str | None:
    right = isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(_text(item) is None for item in pair)
        for pair in value
    )
    return None if right else "is to be a list of pairs of texts"


# The forms that look at nothing but the message, and are quiet about what is missing in it: a
# missing key makes `value_json.x` and `value_json['x']` log a warning with each message, an empty
# payload makes `value_json.x | default('')` log an error (measured).
_LOOK = r"value_json\['[^'\\]+'\] \| default\((?:''|none|false|0)\)"
# One of some texts, or unknown; nothing is asked of a message that is empty.
_ONE_OF = r"(value_json\.\w+) if value and \1 in \('\w+'(?:, '\w+')*\) else none"
_HARMLESS = re.compile(
    rf"\{{\{{ (?:{_ONE_OF}|value|value or none|'\w+' if {_LOOK} else '\w+'"
    rf"|{_LOOK}(?:(?: \| lower)? \| replace\('\w+', 'None'\) if value else none)?) \}}\}}"
)


# An attribute that is there once each level above it is; rendered in tests/test_uncertainty.py.
_ATTRIBUTES = re.compile(
    r"\{% set known = \(value_json \| default\(\{\}\)\)(?:\.get\('[^'\\]+', \{\}\))+ %\}"
    r"\{\{ \(\{'\w+': known\['([^'\\]+)'\]\} if '\1' in known else \{\}\) \| tojson \}\}"
)


def _attributes(value: Any) -> str | None:
    whole = value == "{{ value or '{}' }}"  # all of a message that may be empty
    known = whole or (isinstance(value, str) and _ATTRIBUTES.fullmatch(value))
    return None if known else "is to give {} where a level is missing"


# Home Assistant refuses the whole state if it has another key, so they are spelt out; rendered in
# tests/test_homeassistant.py.
_UPDATE_KEYS = ("title", "release_summary", "in_progress", "update_percentage")
_UPDATE = re.compile(
    r"\{% set known = \(value_json \| default\(\{\}\)\)\.get\('\w+'\) %\}"
    r"\{\{ \{(?:'(\w+)': known\.\w+(?:, )?)+\} \| tojson if known else '' \}\}"
)


def _of_an_update(value: Any) -> str | None:
    known = isinstance(value, str) and _UPDATE.fullmatch(value)
    keys = {"installed_version", "latest_version", *_UPDATE_KEYS}
    odd = (
        [name for name in re.findall(r"'(\w+)': known", value) if name not in keys] if known else []
    )
    return None if known and not odd else f"is to give keys of an update, not {odd}"


def _template(value: Any) -> str | None:
    if isinstance(value, str) and _HARMLESS.fullmatch(value):
        return None
    return "is to be like {{ value_json['x'] | default('') }}, {{ value }} or {{ value or none }}"


# --- device classes

_AIR = {"Pa", "hPa", "kPa", "bar", "cbar", "mbar", "mmHg", "inHg", "psi"}
_MEASUREMENT = {"measurement"}
_ANY_STATE = {"measurement", "total", "total_increasing"}
# Device class -> its units, and its state classes beside none: those of physical quantities.
_SENSOR_CLASSES: dict[str, tuple[set[str | None], set[str]]] = {
    "absolute_humidity": ({"g/m³", "mg/m³"}, _MEASUREMENT),
    "atmospheric_pressure": ({*_AIR}, _MEASUREMENT),
    "battery": ({"%"}, _MEASUREMENT),
    "carbon_dioxide": ({"ppm"}, _MEASUREMENT),
    "carbon_monoxide": ({"ppb", "ppm", "mg/m³", "μg/m³"}, _MEASUREMENT),
    "conductivity": ({"S/cm", "mS/cm", "μS/cm"}, _MEASUREMENT),
    "current": ({"A", "mA", "μA"}, _MEASUREMENT),
    "data_size": ({"bit", "B", "kB", "MB", "GB", "KiB", "MiB", "GiB"}, _ANY_STATE),
    "distance": ({"mm", "cm", "m", "km", "in", "ft", "yd", "mi"}, _ANY_STATE),
    "duration": ({"d", "h", "min", "s", "ms", "μs"}, _ANY_STATE),
    "frequency": ({"Hz", "kHz", "MHz", "GHz"}, _MEASUREMENT),
    "humidity": ({"%"}, _MEASUREMENT),
    "illuminance": ({"lx"}, _MEASUREMENT),
    "irradiance": ({"W/m²", "BTU/(h⋅ft²)"}, _MEASUREMENT),
    "moisture": ({"%"}, _MEASUREMENT),
    "ph": ({None}, _MEASUREMENT),
    "pm1": ({"μg/m³"}, _MEASUREMENT),
    "pm10": ({"μg/m³"}, _MEASUREMENT),
    "pm25": ({"μg/m³"}, _MEASUREMENT),
    "pm4": ({"μg/m³"}, _MEASUREMENT),
    "power": ({"mW", "W", "kW"}, _MEASUREMENT),
    "pressure": ({*_AIR}, _MEASUREMENT),
    "signal_strength": ({"dB", "dBm"}, _MEASUREMENT),
    "temperature": ({"°C", "°F", "K"}, _MEASUREMENT),
    "temperature_delta": ({"°C", "°F", "K"}, _MEASUREMENT),
    "timestamp": ({None}, set()),
    "volatile_organic_compounds_parts": ({"ppb", "ppm"}, _MEASUREMENT),
    "voltage": ({"V", "mV", "μV"}, _MEASUREMENT),
}
_BINARY_CLASSES = [
    *("battery", "cold", "connectivity", "heat", "light", "moisture", "motion", "opening"),
    *("plug", "power", "problem", "running", "safety", "tamper"),
]
_BUTTON_CLASSES = ("identify", "restart", "update")

# --- keys: short name -> (long name, check)

_Keys = dict[str, tuple[str, _Check]]

_ENTRY: _Keys = {
    "t": ("topic", _topic_name),
    "pl_avail": ("payload_available", _any_text),
    "pl_not_avail": ("payload_not_available", _any_text),
    "val_tpl": ("value_template", _template),
}


def _availability(value: Any) -> str | None:
    entries = value if isinstance(value, list) else [value]
    found = [
        problem
        for entry in entries
        for problem in (
            _in_mapping(entry, _ENTRY, required=("topic",))
            if isinstance(entry, dict)
            else ["is to be a list of objects"]
        )
    ]
    return "; ".join(found) if found or entries else "is empty"


_SHARED: _Keys = {
    "avty": ("availability", _availability),
    "avty_mode": ("availability_mode", _one_of("all", "any", "latest")),
    "avty_t": ("availability_topic", _topic_name),
    "avty_tpl": ("availability_template", _template),
    "pl_avail": ("payload_available", _any_text),
    "pl_not_avail": ("payload_not_available", _any_text),
    "e": ("encoding", _one_of("utf-8")),
    "qos": ("qos", _one_of(0, 1, 2)),
    "stat_t": ("state_topic", _topic_name),
    "cmd_t": ("command_topic", _topic_name),
}
_DEVICE: _Keys = {
    "ids": ("identifiers", _identifiers),
    "cns": ("connections", _connections),
    "name": ("name", _text),
    "mf": ("manufacturer", _text),
    "mdl": ("model", _text),
    "mdl_id": ("model_id", _text),
    "hw": ("hw_version", _text),
    "sw": ("sw_version", _text),
    "sn": ("serial_number", _text),
    "sa": ("suggested_area", _text),
    "cu": ("configuration_url", _url("http", "https", "homeassistant")),
    "via_device": ("via_device", _text),
}
_ORIGIN: _Keys = {
    "name": ("name", _text),
    "sw": ("sw_version", _text),
    "url": ("support_url", _url("http", "https")),
}
_ROOT: _Keys = {
    **_SHARED,
    "dev": ("device", lambda value: None),
    "o": ("origin", lambda value: None),
    "cmps": ("components", lambda value: None),
}
_COMMON: _Keys = {
    **{key: value for key, value in _SHARED.items() if key not in ("stat_t", "cmd_t")},
    "p": ("platform", _text),
    "uniq_id": ("unique_id", _text),
    "name": ("name", _name),
    "def_ent_id": ("default_entity_id", _text),
    "en": ("enabled_by_default", _boolean),
    "ent_pic": ("entity_picture", _url("http", "https")),
    "ic": ("icon", lambda v: _text(v) or (None if ":" in v else "is to be like mdi:fire")),
    "json_attr_t": ("json_attributes_topic", _topic_name),
    "json_attr_tpl": ("json_attributes_template", _attributes),
}
_READ: _Keys = {
    **_COMMON,
    "stat_t": _SHARED["stat_t"],
    "val_tpl": ("value_template", _template),
    "exp_aft": ("expire_after", _seconds),
    "frc_upd": ("force_update", _boolean),
    "ent_cat": ("entity_category", _one_of("diagnostic")),
}
_PLATFORMS: dict[str, _Keys] = {
    "sensor": {
        **_READ,
        "dev_cla": ("device_class", _one_of("enum", *_SENSOR_CLASSES)),
        "unit_of_meas": ("unit_of_measurement", _text),
        "stat_cla": ("state_class", _one_of(*sorted(_ANY_STATE))),
        "sug_dsp_prc": ("suggested_display_precision", _whole),
        "ops": ("options", _identifiers),
        "lrst_val_tpl": ("last_reset_value_template", _template),
    },
    "binary_sensor": {
        **_READ,
        "dev_cla": ("device_class", _one_of(*_BINARY_CLASSES)),
        "pl_on": ("payload_on", _text),
        "pl_off": ("payload_off", _text),
        "off_dly": ("off_delay", _seconds),
    },
    "update": {
        **_COMMON,
        "stat_t": _SHARED["stat_t"],
        "val_tpl": ("value_template", _of_an_update),
        "cmd_t": _SHARED["cmd_t"],
        "pl_inst": ("payload_install", _text),
        "dev_cla": ("device_class", _one_of("firmware")),
        "ent_cat": ("entity_category", _one_of("config", "diagnostic")),
    },
    "button": {
        **_COMMON,
        "cmd_t": _SHARED["cmd_t"],
        "cmd_tpl": ("command_template", _template),
        "dev_cla": ("device_class", _one_of(*_BUTTON_CLASSES)),
        "ent_cat": ("entity_category", _one_of("config", "diagnostic")),
        "pl_prs": ("payload_press", _any_text),
        "ret": ("retain", _boolean),
    },
}

# --- the message


def _in_mapping(
    mapping: dict[str, Any], keys: _Keys, *, required: tuple[str, ...] = ()
) -> Iterator[str]:
    """Keys that are unknown, there twice, or missing; values that are not right."""
    full = _in_full(mapping, keys)
    checks = dict(keys.values())
    for name, values in full.items():
        if name not in checks:
            yield f"unknown key {name!r}"
        elif len(values) > 1:
            yield f"{name} is there in short and in full"
        elif wrong := checks[name](values[0]):
            yield f"{name} {wrong}: {values[0]!r}"
    yield from (f"{name} is missing" for name in required if name not in full)


def _in_full(mapping: dict[str, Any], keys: _Keys) -> dict[str, list[Any]]:
    """Each key in full, and what it is given."""
    full: dict[str, list[Any]] = {}
    for key, value in mapping.items():
        full.setdefault(keys[key][0] if key in keys else key, []).append(value)
    return full


def _long(mapping: dict[str, Any], keys: _Keys) -> dict[str, Any]:
    return {name: values[0] for name, values in _in_full(mapping, keys).items()}


def _in_parts(root: dict[str, Any]) -> Iterator[str]:
    """The device and the origin."""
    for part, keys, required in (("device", _DEVICE, ("name",)), ("origin", _ORIGIN, ("name",))):
        if isinstance(root.get(part), dict):
            yield from (f"{part}: {p}" for p in _in_mapping(root[part], keys, required=required))
        elif part in root:
            yield f"{part} is to be an object"
    device = root.get("device")
    if isinstance(device, dict):
        device = _long(device, _DEVICE)
        if not (device.get("identifiers") or device.get("connections")):
            yield "device: it has neither identifiers nor connections"


def _in_message(message: dict[str, Any]) -> Iterator[str]:
    yield from _in_mapping(message, _ROOT, required=("device", "origin", "components"))
    root = _long(message, _ROOT)
    yield from _in_availability(root)
    yield from _in_parts(root)
    components = root.get("components", {})
    if not isinstance(components, dict):
        yield "components is to be an object"
        return
    shared = {k: v for k, v in root.items() if k in dict(_SHARED.values())}
    for key, component in components.items():
        yield from (f"components {key!r}: {p}" for p in _in_component(key, component, shared))
    yield from _twice(components)


# Of others: Home Assistant drops it.
_OF_OTHERS: _Keys = {"stat_val_tpl": ("state_value_template", _template)}


def _in_single(platform: str, message: dict[str, Any]) -> Iterator[str]:
    """The message of one component has its device and origin beside its own keys."""
    parts = {"dev": _ROOT["dev"], "o": _ROOT["o"]}
    yield from _in_parts(_long(message, parts))
    own = {k: v for k, v in message.items() if k not in (*parts, "device", "origin", *_OF_OTHERS)}
    others = {k: v for k, v in message.items() if k in _OF_OTHERS}
    yield from _in_mapping(others, _OF_OTHERS)
    if "p" in own or "platform" in own:
        yield "its platform is in its topic"
    yield from _in_component("x", {**own, "p": platform}, {})


def _in_component(key: str, component: Any, shared: dict[str, Any]) -> Iterator[str]:
    # A blank in the key, and Home Assistant does not find the component again to remove it.
    if not re.fullmatch(r"[a-zA-Z0-9_.-]+", key):
        yield "its key is to be of letters, digits, _, - and ."
    if not isinstance(component, dict):
        yield "is to be an object"
        return
    platform = component.get("p", component.get("platform"))
    if platform not in _PLATFORMS:
        yield f"its platform is {platform!r}, and there are {', '.join(_PLATFORMS)}"
        return
    if len(component) == 1:
        return  # it is taken back
    keys = _PLATFORMS[platform]
    needs = "command_topic" if platform == "button" else "state_topic"
    required = ("unique_id", "name") if needs in shared else ("unique_id", "name", needs)
    yield from _in_mapping(component, keys, required=required)
    full = _long(component, keys)
    yield from _in_availability({**shared, **full})
    if not re.fullmatch(rf"{platform}\.[a-z0-9_]+", full.get("default_entity_id", f"{platform}.x")):
        yield f"default_entity_id is to be like {platform}.garden_temperature"
    if platform == "sensor":
        yield from _in_class(full)


def _in_availability(full: dict[str, Any]) -> Iterator[str]:
    entries = full.get("availability", [])
    if "availability_topic" in full and "availability" in full:
        yield "availability and availability_topic exclude each other"
    if isinstance(entries, list) and len(entries) > 1 and full.get("availability_mode") != "all":
        yield "availability_mode is to be all, or the topic that spoke last decides"


def _in_class(full: dict[str, Any]) -> Iterator[str]:
    """Whether device class, unit and state class of a sensor go together."""
    name, unit = full.get("device_class"), full.get("unit_of_measurement")
    state_class = full.get("state_class")
    if "options" in full and (name != "enum" or unit or state_class):
        yield "options are for the device class enum, without unit and state class"
    if name not in _SENSOR_CLASSES:
        return
    units, state_classes = _SENSOR_CLASSES[name]
    if unit not in units:
        yield f"the unit {unit!r} does not go with the device class {name}"
    if state_class is not None and state_class not in state_classes:
        yield f"the state class {state_class!r} does not go with the device class {name}"


def _twice(components: dict[str, Any]) -> Iterator[str]:
    """Unique ids that are not; names of one entity id, of which one gets a number."""
    slug = partial(re.sub, "[^a-z0-9]+", "_")
    of: dict[str, Callable[[str], str]] = {"unique_id": str, "name": lambda n: slug(n.lower())}
    for name, same in of.items():
        values = Counter(
            same(str(full[name]))
            for component in components.values()
            if isinstance(component, dict)
            and name in (full := _long(component, _COMMON))
            and full[name] is not None
        )
        yield from (f"{name} {v!r} is there {n} times" for v, n in values.items() if n > 1)
