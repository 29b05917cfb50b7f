"""`[homeassistant] form = "components"`: what Domoticz and older openHAB understand of a node.

Each is asked through an oracle: the rules of its source, written down here once more. Domoticz:
`hardware/MQTTAutoDiscover.cpp` (commit 0162f31f). openHAB: `HaID.java`, `MappingJsonReader.java`,
`ComponentFactory.java` and the components of `org.openhab.binding.mqtt.homeassistant` (openHAB 2.5
to 5.1). What Home Assistant takes is in `homeassistant_schema.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from doctor_run import doctor
from homeassistant_schema import problems_in
from jinja2 import Environment
from support import Mosquitto, Subscriber, retained, sysfs_config, wait_until
from test_homeassistant import EVERYTHING, in_process, load, message

from drivers.registry import driver_names, find_driver
from node.cli.main import main
from node.homeassistant import announcer
from node.homeassistant.forms import (
    MIGRATION,
    component_in,
    component_topic,
    is_discovery,
    payloads_of,
)
from node.system.node_ids import device_id
from node.watch.discovery import Discovered, discovery_filters

DEVICE = "sn0123456789ab"
APART = '[homeassistant]\nform = "components"\n'
LOGIN = 'username = "node"'
ONE_ALARM = """
[[sensor]]
id = "air"
driver = "dht22"
pin = 4
[[sensor.channel.temperature.alarm]]
name = "too-warm"
above = 30
"""


def apart(tmp_path: Path, text: str) -> dict[str, dict[str, Any]]:
    """Topic -> message, of every component that a configuration has."""
    whole = message(load(tmp_path, text), EVERYTHING)
    made = payloads_of(whole, "homeassistant", DEVICE, apart=True)
    assert len(made) == len(whole["cmps"])
    return {topic: json.loads(payload) for topic, payload in made.items()}


def one(messages: dict[str, dict[str, Any]], ends: str) -> tuple[str, dict[str, Any]]:
    (found,) = [topic for topic in messages if topic.endswith(f"/{ends}/config")]
    return found, messages[found]


# -- Home Assistant


@pytest.mark.parametrize("driver", driver_names())
def test_the_messages_of_every_driver_are_what_home_assistant_documents(tmp_path, driver):
    text = f'[[sensor]]\nid = "s-1"\n{find_driver(driver).example}\n'
    for pin, other in enumerate(("air", "attic"), start=23):  # those of the example of `agree`
        text += f'[[sensor]]\nid = "{other}"\ndriver = "dht22"\npin = {pin}\n' * (driver == "agree")
    for topic, made in apart(tmp_path, text).items():
        payload = json.dumps(made).encode()
        assert problems_in(topic, payload) == []
        assert is_discovery(topic, "homeassistant", DEVICE)
        found = component_in(topic, payload, "homeassistant", DEVICE)
        assert found is not None
        assert found[1]["uniq_id"] == f"{DEVICE}.{found[0]}"


def test_what_home_assistant_would_not_take_is_found(tmp_path):
    """Negative control of the oracle above."""
    topic, made = one(apart(tmp_path, ONE_ALARM), "air--temperature")
    for spoilt in (
        {**made, "p": "sensor"},
        {**made, "unit_of_meas": "bar"},
        {key: value for key, value in made.items() if key != "stat_t"},
        {**made, "dev": {"name": "test"}},
        {**made, "temperature": 1},
    ):
        assert problems_in(topic, json.dumps(spoilt).encode())
    assert problems_in(topic.replace("air--", "air."), json.dumps(made).encode())


@pytest.mark.parametrize(
    ("ends", "payload", "state"),
    [
        ("alarm--air--too-warm", {"state": "on", "value": 31.0}, "on"),
        ("alarm--air--too-warm", {"state": "off", "value": 9.1}, "off"),
        ("alarm--air--too-warm", {"state": "unknown", "value": None}, "None"),
        ("under_voltage", {"under_voltage": True}, "true"),
        ("under_voltage", {"under_voltage": False}, "false"),
        ("under_voltage", {"under_voltage": None}, "None"),
        ("under_voltage", {}, ""),
        ("under_voltage", None, "None"),
        ("alarm--air--too-warm", None, "None"),
    ],
)
def test_the_templates_of_binary_sensors_say_on_off_or_unknown(tmp_path, ends, payload, state):
    """Home Assistant takes None for unknown, and nothing of an empty text.

    A topic that is emptied gives a template no `value_json`.
    """
    json_given = {} if payload is None else {"value_json": payload}
    _, made = one(apart(tmp_path, ONE_ALARM), ends)
    rendered = (
        Environment(autoescape=True)
        .from_string(made["val_tpl"])
        .render(value=json.dumps(payload) if json_given else "", **json_given)
    )
    assert rendered == state
    assert {"on": made["pl_on"], "true": made["pl_on"]}.get(state, rendered) == rendered


def test_no_two_components_have_one_topic():
    keys = ["a.b", "a--b", "a-.b", "a.-b", "a.b.c", "a--b.c", "a.b--c", "a-b.c", "a.b-c", "a_b.c"]
    topics = {component_topic("homeassistant", DEVICE, "sensor", key) for key in keys}
    assert len(topics) == len(keys)
    assert all(is_discovery(topic, "homeassistant", DEVICE) for topic in topics)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("homeassistant/sensor/sn0123456789ab-entities/a--b/config", b"{"),
        ("homeassistant/sensor/sn0123456789ab-entities/a--b/config", b"[" * 100_000),
        (
            "homeassistant/sensor/sn0123456789ab-entities/a--b/config",
            b'{"uniq_id":"sn0123456789ab.a.c"}',
        ),
        (
            "homeassistant/light/sn0123456789ab-entities/a--b/config",
            b'{"uniq_id":"sn0123456789ab.a.b"}',
        ),
        ("homeassistant/sensor/sn0123456789ab-entities/a--b/config", b'{"uniq_id":"another.a.b"}'),
        ("homeassistant/sensor/sn0123456789ab-entities/a--b/config", b'{"uniq_id":7}'),
        ("homeassistant/sensor/sn0123456789ab-entities/a--b/config", MIGRATION),
    ],
)
def test_what_others_have_written_is_no_component_of_ours(topic, payload):
    assert component_in(topic, payload, "homeassistant", DEVICE) is None


# -- Domoticz


class Domoticz:
    """One entity there: `on_auto_discovery_message` and what it does with a state."""

    COMPONENTS = frozenset(
        {
            *("binary_sensor", "button", "climate", "cover", "fan", "light", "lock", "number"),
            *("select", "sensor", "switch"),
        }
    )

    def __init__(self, topic: str, made: dict[str, Any]) -> None:
        prefix, component, *ids, object_id, action = topic.split("/")
        assert (prefix, action, len(ids)) == ("homeassistant", "config", 1)
        self.skipped = (
            component not in self.COMPONENTS
            or object_id == "restart"
            or (component == "sensor" and re.search(r"_(min|max)$|^(min|max)_|_alarm", object_id))
        )
        self.component = component
        self.unique_id = made["uniq_id"]
        assert made["dev"]["ids"][0] == DEVICE
        assert made["dev"]["name"]
        assert made["name"]
        if component == "sensor":
            assert made["stat_t"], "A sensor should have a state_topic!"
        self.availability = made["avty"][-1]["t"]
        self.template = self.cleaned(made.get("val_tpl", ""))
        self.state_template = self.cleaned(made.get("stat_val_tpl", ""))
        self.on, self.off = made.get("pl_on", ""), made.get("pl_off", "")
        self.press = made.get("pl_prs")

    @staticmethod
    def cleaned(template: str) -> str:
        """`CleanValueTemplate`, without what it strips of if and of calculations."""
        text = re.sub(r"[{}'\"]", "", template)
        return text.partition("|")[0].partition(".split(")[0].partition("if value_json.")[0].strip()

    @staticmethod
    def looked_up(root: dict[str, Any], template: str) -> str:
        """`GetValueFromTemplate`: a path of keys in brackets, or with dots."""
        if "value_json." in template:
            keys = template.partition("value_json.")[2].split(".")
        elif "value_json[" in template:
            keys = re.findall(r"\[([^]]*)\]", template)
        else:
            keys = [template]
        found: Any = root
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
            if found is None:
                return ""
        return str(found).lower() if isinstance(found, bool) else str(found)

    def value(self, payload: dict[str, Any]) -> str:
        """`handle_auto_discovery_sensor_message`; "" leaves the value as it is."""
        return self.looked_up(payload, self.template)

    def is_on(self, payload: dict[str, Any]) -> bool | None:
        """`InsertUpdateSwitch`; None leaves the switch as it is."""
        command = self.value(payload)
        if not command:
            return None
        if self.state_template and (state := self.looked_up(payload, self.state_template)):
            command = state
        elif payload.get("value") is not None:
            command = str(payload["value"])
            if command not in (self.on, self.off):
                return int(float(command)) != 0  # "Set Level"
        return command == self.on or command in ("on", "ON", "true")


def test_domoticz_finds_every_value(tmp_path):
    messages = apart(tmp_path, ONE_ALARM)
    found = [Domoticz(topic, made) for topic, made in messages.items()]
    assert [each.unique_id for each in found if each.skipped] == [f"{DEVICE}.restart"]
    assert len({each.unique_id for each in found}) == len(messages)
    state = {"temperature": 21.5, "humidity": None, "time": "...", "seq": 1}
    health = {"outbox_readings": 3, "cpu_temperature": 48.3, "started": "2026-11-24T03:13:00Z"}
    for ends, payload, value in (
        ("air--temperature", state, "21.5"),
        ("air--humidity", state, ""),
        ("outbox", health, "3"),
        ("cpu_temperature", health, "48.3"),
        ("uptime", health, "2026-11-24T03:13:00Z"),
    ):
        assert Domoticz(*one(messages, ends)).value(payload) == value
    assert Domoticz(*one(messages, "air--temperature")).availability.endswith("air/availability")
    assert Domoticz(*one(messages, "read")).press == "", "which reads every sensor"


@pytest.mark.parametrize(
    ("ends", "payload", "is_on"),
    [
        ("alarm--air--too-warm", {"state": "on", "value": 31.0}, True),
        ("alarm--air--too-warm", {"state": "off", "value": 9.1}, False),
        ("alarm--air--too-warm", {"state": "unknown", "value": None}, False),
        ("under_voltage", {"under_voltage": True}, True),
        ("under_voltage", {"under_voltage": False}, False),
        ("under_voltage", {"under_voltage": None}, None),
    ],
)
def test_domoticz_shows_what_is_on(tmp_path, ends, payload, is_on):
    assert Domoticz(*one(apart(tmp_path, ONE_ALARM), ends)).is_on(payload) is is_on


def test_domoticz_would_misread_the_words_of_the_device_message(tmp_path):
    """Negative control of the oracle: why binary sensors are written in another way."""
    components = message(load(tmp_path, ONE_ALARM), EVERYTHING)["cmps"]
    topic, made = one(apart(tmp_path, ONE_ALARM), "alarm--air--too-warm")
    words = components["alarm.air.too-warm"]["val_tpl"]
    assert Domoticz(topic, {**made, "val_tpl": words}).is_on({"state": "on"}) is None
    plain = {key: value for key, value in made.items() if key != "stat_val_tpl"}
    assert Domoticz(topic, plain).is_on({"state": "off", "value": 9.1}) is True, "a level of 9"
    topic, made = one(apart(tmp_path, ONE_ALARM), "under_voltage")
    as_before = {**made, "pl_on": "False", "pl_off": "True"}
    assert Domoticz(topic, as_before).is_on({"under_voltage": True}) is True


# -- openHAB


def test_openhab_makes_a_thing_of_the_node(tmp_path):
    """`HaID`: four or five levels, and `config`; a group id of letters, digits and underscores."""
    known = ("binary_sensor", "button", "sensor")  # of `ComponentFactory`
    groups = set()
    for topic, made in apart(tmp_path, ONE_ALARM).items():
        levels = topic.split("/")
        assert len(levels) == 5
        assert levels[-1] == "config"
        assert levels[1] in known
        group = levels[3].replace("-", "_")
        assert re.fullmatch(r"\w+", group)
        groups.add((levels[1], group))
        assert made["dev"]["ids"] == [DEVICE], "what makes one Thing of the components"
        assert made["cmd_t" if levels[1] == "button" else "stat_t"]
        assert made["avty_mode"] == "all"
    assert len(groups) == len(apart(tmp_path, ONE_ALARM))


# -- what others learn of it


def test_the_views_learn_units_from_components(tmp_path):
    discovered = Discovered()
    for topic, made in apart(tmp_path, ONE_ALARM).items():
        discovered.learn(topic, json.dumps(made).encode())
    assert discovered.unit("sensors/test/air/state", "temperature") == "°C"
    assert discovered.expires_s("sensors/test/air/state", "humidity") == 150
    assert discovery_filters("homeassistant")[1] == "homeassistant/+/+/+/config"


# -- the node


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Home Assistant gets less time between two messages."""
    monkeypatch.setattr(announcer, "SETTLE_S", 0.2)


def kept(port: int) -> dict[str, str]:
    return {t: p for t, p in retained(port, "homeassistant/#").items() if t.endswith("/config")}


def one_node(port: int, more: str = "", ids: str = "air", mqtt: str = "") -> str:
    sensors = "".join(
        f'[[sensor]]\nid = "{name}"\ndriver = "cpu"\ninterval = "1h"\n' for name in ids.split()
    )
    return sysfs_config(port, {}, mqtt=mqtt) + sensors + more


def test_each_form_replaces_the_other(broker, subscribe, tmp_path):
    """As Home Assistant documents it: it lets go, it gets the new ones, the former ones go."""
    subscriber: Subscriber = subscribe(broker.port, "homeassistant/#")
    device = f"homeassistant/device/{device_id(tmp_path / 'state')}/config"
    with in_process(tmp_path, one_node(broker.port)):
        wait_until(lambda: [*kept(broker.port)] == [device])
    for more in (APART, ""):
        before = sorted(kept(broker.port))
        count = len(before)
        subscriber.messages.clear()

        def said() -> list[tuple[str, str]]:
            new = [(t, p) for t, p, was_kept in list(subscriber.messages) if not was_kept]
            return [(topic, payload) for topic, payload in new if topic.endswith("/config")]

        with in_process(tmp_path, one_node(broker.port, more)):
            wait_until(partial(removed, said, count))
            assert (device in kept(broker.port)) is not bool(more)
        went = said()
        assert sorted(went[:count]) == [(topic, MIGRATION.decode()) for topic in before]
        assert sorted(went[-count:]) == [(topic, "") for topic in before]
        assert all(payload and topic not in before for topic, payload in went[count:-count])
        assert all(problems_in(topic, payload.encode()) == [] for topic, payload in went)


def removed(said: Callable[[], list[tuple[str, str]]], count: int) -> bool:
    return sum(not payload for _, payload in said()) == count


def test_a_component_that_is_gone_is_removed(broker, tmp_path):
    """Also where the broker does not send what it keeps to a subscriber to a wildcard."""
    with in_process(tmp_path, one_node(broker.port, APART, "air water")):
        wait_until(lambda: any("water" in topic for topic in kept(broker.port)))
    with in_process(tmp_path, one_node(broker.port, APART)):
        wait_until(lambda: not any("water" in topic for topic in kept(broker.port)))
        assert any("/air--" in topic for topic in kept(broker.port))


def limited(folder: Path, *lines: str) -> Mosquitto:
    """A broker where others may everything, and the node what the lines say."""
    own = ["topic readwrite #", "user node", "topic readwrite sensors/#", *lines]
    (folder / "acl").write_text("\n".join(own) + "\n")
    return Mosquitto(folder, f"acl_file {folder}/acl").start()


def test_a_broker_that_keeps_wildcards_to_itself_gets_no_leftovers(tmp_path):
    """What the node has published on is written down in its state directory."""
    every = f"homeassistant/+/{device_id(tmp_path / 'state')}-entities/+/config"
    mosquitto = limited(tmp_path, f"topic write {every}")
    try:
        with in_process(tmp_path, one_node(mosquitto.port, APART, "air water", LOGIN)):
            wait_until(lambda: any("water" in topic for topic in kept(mosquitto.port)))
        with in_process(tmp_path, one_node(mosquitto.port, APART, mqtt=LOGIN)):
            wait_until(lambda: not any("water" in topic for topic in kept(mosquitto.port)))
            assert any("/air--" in topic for topic in kept(mosquitto.port))
    finally:
        mosquitto.stop()


def test_a_node_that_is_not_to_be_seen_removes_every_component(broker, tmp_path):
    with in_process(tmp_path, one_node(broker.port, APART)):
        wait_until(lambda: len(kept(broker.port)) > 3)
    (tmp_path / "state/topics.json").unlink()
    hidden = f"{APART}enabled = false\n"
    with in_process(tmp_path, one_node(broker.port, hidden)):
        wait_until(lambda: not kept(broker.port))


def test_forget_removes_every_component(broker, tmp_path, capsys):
    config = tmp_path / "in-process.toml"
    with in_process(tmp_path, one_node(broker.port, APART)):
        wait_until(lambda: len(kept(broker.port)) > 3)
    assert main(["forget", "test", "--yes", "--config", str(config)]) == 0
    assert kept(broker.port) == {}
    assert "homeassistant/sensor/" in capsys.readouterr().out


@pytest.mark.parametrize("allowed", [True, False])
def test_the_acl_of_deploy_allows_the_components(tmp_path, subscribe, allowed):
    """Its line for the form; and the one for the device alone, which the node says in one line."""
    device = device_id(tmp_path / "state")
    every, whole = (
        f"homeassistant/+/{device}-entities/+/config",
        f"homeassistant/device/{device}/config",
    )
    given = every if allowed else whole
    lines = Path(__file__).parents[1].joinpath("deploy/mosquitto.acl").read_text()
    assert f"topic readwrite {every.replace(device, DEVICE)}" in lines
    mosquitto = limited(tmp_path, f"topic readwrite {given}")
    try:
        subscriber = subscribe(mosquitto.port, "sensors/test/health")
        config = one_node(mosquitto.port, APART, mqtt=LOGIN)
        with in_process(tmp_path, config):

            def problems() -> list[str]:
                healths = subscriber.on("sensors/test/health")
                found: list[str] = json.loads(healths[-1])["problems"] if healths else []
                return found

            if allowed:
                wait_until(lambda: len(kept(mosquitto.port)) > 3 and subscriber.messages)
                assert problems() == []
            else:
                wait_until(problems)
                (problem,) = problems()
                assert re.search(r"/config and \d+ more: Not authorized; allow the topic", problem)
        report = doctor(tmp_path, config)
        denied = [t for t in report.denied("may publish") if t.startswith("homeassistant/")]
        assert bool(denied) is not allowed
    finally:
        mosquitto.stop()


def test_check_shows_the_topics_of_the_form(tmp_path, capsys):
    file = tmp_path / "node.toml"
    file.write_text(f'[mqtt]\nhost = "b"\n{ONE_ALARM}\n{APART}')
    assert main(["check", str(file), "--state-dir", str(tmp_path / "state"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    every = f"homeassistant/+/{found['device']}-entities/+/config"
    assert every in [row["topic"] for row in found["topics"]]
    assert every in [row["topic"] for row in found["received"]]
    file.write_text(f'[mqtt]\nhost = "b"\n{ONE_ALARM}\n[homeassistant]\nform = "device-s"\n')
    assert main(["check", str(file)]) == 78
    assert "expected one of device, components" in capsys.readouterr().err


def test_a_message_says_all_that_the_one_of_the_device_says(tmp_path):
    whole = message(load(tmp_path, ONE_ALARM), EVERYTHING)
    for topic, made in apart(tmp_path, ONE_ALARM).items():
        key = made["uniq_id"].removeprefix(f"{DEVICE}.")
        component = {**whole["cmps"][key]}
        assert component.pop("p") == topic.split("/")[1]
        shared = {k: v for k, v in whole.items() if k != "cmps"}
        expected = {**shared, **component}
        if topic.split("/")[1] == "binary_sensor":
            for reworded in ("val_tpl", "pl_on", "pl_off", "stat_val_tpl"):
                made.pop(reworded, None)
                expected.pop(reworded, None)
        assert msgspec.json.encode(made) == msgspec.json.encode(
            {key: expected[key] for key in made}
        )
        assert made.keys() == expected.keys()
