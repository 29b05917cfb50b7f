"""The checker of discovery messages: it lets a right one pass, and finds what is wrong with others.

What is said of Home Assistant here was seen in core 2026.11.0: see `homeassistant/`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from homeassistant_schema import problems_in

TOPIC = "homeassistant/device/sn0123456789ab/config"
_TEMPLATE = "{{ value_json['temperature'] | default('') }}"

RIGHT: dict[str, Any] = {
    "dev": {
        "ids": ["sn0123456789ab"],
        "name": "greenhouse",
        "mf": "sensor-node",
        "mdl": "Raspberry Pi 4 Model B Rev 1.4",
        "sw": "0.1.0",
        "cu": "http://greenhouse.lan:8080/",
    },
    "o": {"name": "sensor-node", "sw": "0.1.0", "url": "https://example.org/sensor-node"},
    "qos": 1,
    "avty": [{"t": "sensors/greenhouse/status"}],
    "avty_mode": "all",
    "cmps": {
        "air.temperature": {
            "p": "sensor",
            "uniq_id": "sn0123456789ab.air.temperature",
            "name": "Air temperature",
            "stat_t": "sensors/greenhouse/air/state",
            "val_tpl": _TEMPLATE,
            "dev_cla": "temperature",
            "unit_of_meas": "°C",
            "stat_cla": "measurement",
            "sug_dsp_prc": 1,
            "exp_aft": 150,
            "avty": [
                {"t": "sensors/greenhouse/status"},
                {"t": "sensors/greenhouse/air/availability"},
            ],
        },
        "gas.gas_resistance": {
            "platform": "sensor",
            "unique_id": "sn0123456789ab.gas.gas_resistance",
            "name": "Gas resistance",
            "state_topic": "sensors/greenhouse/gas/gas_resistance",
            "value_template": "{{ value or none }}",
            "unit_of_measurement": "Ω",
            "state_class": "measurement",
            "availability": [{"topic": "sensors/greenhouse/status", "payload_available": "online"}],
        },
        "throttled": {
            "p": "binary_sensor",
            "uniq_id": "sn0123456789ab.throttled",
            "name": "Throttled",
            "stat_t": "sensors/greenhouse/health",
            "val_tpl": "{{ 'ON' if value_json['throttled'] | default(false) else 'OFF' }}",
            "dev_cla": "problem",
            "ent_cat": "diagnostic",
        },
        "restart": {
            "p": "button",
            "uniq_id": "sn0123456789ab.restart",
            "name": "Restart",
            "cmd_t": "sensors/greenhouse/cmd/restart",
            "pl_prs": "",
            "dev_cla": "restart",
            "ent_cat": "config",
        },
        "tank.temperature": {"p": "sensor"},
    },
}


def _spoilt(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
    """The right message, after `change(message, the component of the temperature)`."""
    message = copy.deepcopy(RIGHT)
    change(message, message["cmps"]["air.temperature"])
    return json.dumps(message).encode()


def test_a_right_message_passes() -> None:
    """In short keys and in full ones, with a component that is taken back."""
    assert problems_in(TOPIC, json.dumps(RIGHT).encode()) == []


def test_an_empty_payload_passes() -> None:
    """It takes the device back."""
    assert problems_in(TOPIC, b"") == []


@pytest.mark.parametrize(
    "topic",
    [
        "homeassistant/device/config",
        "homeassistant/device/a.b/config",
        "homeassistant/sensor/a/config",
        "homeassistant/device/a/b/c/config",
    ],
)
def test_another_topic_is_found(topic: str) -> None:
    """Home Assistant does not listen to it, or takes it for something else."""
    assert problems_in(topic, b"") == [f"{topic!r} is no topic of discovery"]


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"dev": {}, "dev": {}}', "'dev' is there twice"),
        (b'{"dev": NaN}', "NaN is no JSON"),
        (b"\xff\xfe{", "not JSON"),
    ],
)
def test_what_is_no_object_is_found(payload: bytes, problem: str) -> None:
    """Rather than raised."""
    (found,) = problems_in(TOPIC, payload)
    assert problem in found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        # of the whole message: Home Assistant refuses all of it
        (lambda m, c: m.pop("dev"), "device is missing"),
        (lambda m, c: m.pop("o"), "origin is missing"),
        (lambda m, c: m.pop("cmps"), "components is missing"),
        (lambda m, c: m["dev"].pop("ids"), "device: it has neither identifiers nor connections"),
        (lambda m, c: m["dev"].update(ids=[]), "device: identifiers is to be"),
        (lambda m, c: m["dev"].pop("name"), "device: name is missing"),
        (lambda m, c: m["dev"].update(url="http://x"), "device: unknown key 'url'"),
        (lambda m, c: m["dev"].update(cu="greenhouse.lan"), "device: configuration_url is to be"),
        (lambda m, c: m["dev"].update(cu="http://a:80x/"), "device: configuration_url is to be"),
        (lambda m, c: m["dev"].update(cu="http://a:99999/"), "device: configuration_url is to be"),
        (lambda m, c: m["dev"].update(cu="http://[::1/"), "device: configuration_url is to be"),
        (lambda m, c: m["dev"].update(cu="http://:80/"), "device: configuration_url is to be"),
        (lambda m, c: m["dev"].update(sw=1), "device: sw_version is to be a text"),
        (lambda m, c: m["o"].pop("name"), "origin: name is missing"),
        (lambda m, c: m["o"].update(support="x"), "origin: unknown key 'support'"),
        (lambda m, c: m.update(exp_aft=60), "unknown key 'exp_aft'"),
        (lambda m, c: m.update(avty=[]), "availability is empty"),
        (lambda m, c: m.update(avty=[{"t": "a/+"}]), "has a character that a topic may not have"),
        (lambda m, c: m.update(avty=[{"topik": "a"}]), "unknown key 'topik'; topic is missing"),
        (lambda m, c: m.update(avty_t="a"), "availability and availability_topic exclude"),
        (lambda m, c: m.update(availability=[{"t": "a"}]), "availability is there in short and in"),
        (lambda m, c: m.update(avty_mode="every"), "availability_mode is to be one of all, any"),
        (lambda m, c: m.pop("avty_mode"), "availability_mode is to be all"),
        (lambda m, c: m.update(qos=True), "qos is to be one of 0, 1, 2"),
        (lambda m, c: c.pop("uniq_id"), "unique_id is missing"),
        (lambda m, c: c.pop("p"), "its platform is None"),
        (lambda m, c: c.update(p="thermometer"), "its platform is 'thermometer'"),
        # of one component: it is missing, does not work, or is not what it should be
        (lambda m, c: m["cmps"].update({"air co2": c}), "its key is to be of letters"),
        (lambda m, c: c.pop("stat_t"), "state_topic is missing"),
        (lambda m, c: m["cmps"]["restart"].pop("cmd_t"), "command_topic is missing"),
        (lambda m, c: c.update(cmd_t="a"), "unknown key 'cmd_t'"),
        (lambda m, c: c.update(object_id="a"), "unknown key 'object_id'"),
        (lambda m, c: c.update(unit="°C"), "unknown key 'unit'"),
        (lambda m, c: c.update(unit_of_meas="ppm"), "'ppm' does not go with the device class temp"),
        (lambda m, c: c.pop("unit_of_meas"), "None does not go with the device class temperature"),
        (lambda m, c: c.update(unit_of_meas="C"), "'C' does not go with the device class"),
        (lambda m, c: c.update(dev_cla="temp"), "device_class is to be one of"),
        (lambda m, c: c.update(stat_cla="measured"), "state_class is to be one of"),
        (lambda m, c: c.update(stat_cla="total"), "'total' does not go with the device class"),
        (lambda m, c: c.update(ent_cat="config"), "entity_category is to be one of diagnostic"),
        (lambda m, c: c.update(exp_aft="150"), "expire_after is to be a whole number"),
        (lambda m, c: c.update(exp_aft=0), "expire_after is to be above 0"),
        (lambda m, c: c.update(sug_dsp_prc=-1), "suggested_display_precision is to be"),
        (lambda m, c: c.update(def_ent_id="air"), "default_entity_id is to be like sensor."),
        (lambda m, c: c.update(stat_t="a/#"), "has a character that a topic may not have"),
        (lambda m, c: c.update(stat_t=""), "state_topic is to be a topic"),
        (lambda m, c: c.pop("name"), "name is missing"),
        (lambda m, c: c.update(name="Restart"), "name 'restart' is there 2 times"),
        (lambda m, c: c.update(name="Gas-resistance"), "name 'gas_resistance' is there 2 times"),
        (lambda m, c: c.update(uniq_id="sn0123456789ab.restart"), "unique_id 'sn0123456789ab.res"),
        (lambda m, c: c.update(ops=["a"]), "options are for the device class enum"),
        (lambda m, c: c.update(val_tpl="{{ value_json['x'] }}"), "value_template is to be like"),
        (lambda m, c: c.update(val_tpl="{{ value_json.x | default('') }}"), "value_template is to"),
        (lambda m, c: c.update(val_tpl="{{ states('sun.sun') }}"), "value_template is to be like"),
        (lambda m, c: c.update(val_tpl="{% if 1 %}{{ value }}{% endif %}"), "value_template is to"),
        (lambda m, c: c.update(val_tpl="{{ value_json['x'] | default(''"), "value_template is to"),
    ],
)
def test_what_is_spoilt_is_found(
    change: Callable[[dict[str, Any], dict[str, Any]], object], problem: str
) -> None:
    """Each in a message that is right but for that."""
    found = problems_in(TOPIC, _spoilt(change))
    assert any(problem in one for one in found), found
