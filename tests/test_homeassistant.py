"""Home Assistant's discovery: the message, and what the node does about it, against a broker.

What a real Home Assistant makes of it is in `tests/homeassistant/`.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from homeassistant_schema import problems_in
from jinja2 import Environment
from paho.mqtt import publish
from support import (
    PATIENCE_S,
    Mosquitto,
    NodeProcess,
    dead_letters,
    replaced,
    retained,
    sysfs_config,
    taken_s,
    wait_until,
)

from drivers.hardware import HardwareBoard
from drivers.registry import driver_names, find_driver
from node.config import load as configuration
from node.config.schema import ChannelTable, Config
from node.filters import ChannelFilters
from node.health import UpdateHealth
from node.homeassistant import announcer
from node.homeassistant.discovery import (
    AnnouncedChannel,
    AnnouncedSensor,
    device_message,
    discovery_topic,
)
from node.homeassistant.sensor_keys import sensor_keys
from node.loop import Node
from node.report import node_topics
from node.system import node_ids
from node.system.clock import SystemClock
from node.system.host import Vitals
from node.system.node_ids import device_id

NOTHING = Vitals(cpu_temperature=None, wifi_dbm=None, under_voltage=None, throttled=None)
EVERYTHING = Vitals(cpu_temperature=48.3, wifi_dbm=-52, under_voltage=False, throttled=False)


def load(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "node.toml"
    file.write_text('[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\n' + text)
    return configuration.load(file)


def message(config: Config, vitals: Vitals = NOTHING, *, has_led: bool = True) -> dict[str, Any]:
    """The discovery message for a configuration."""
    keys = sensor_keys(config.sensors, None)
    sensors = []
    for table in config.sensors:
        channels = []
        for channel in table.channels:
            pipeline = ChannelFilters(channel, table.channel.get(channel.name, ChannelTable()))
            channels.append(
                AnnouncedChannel(
                    channel.name,
                    pipeline.unit,
                    pipeline.decimals,
                    diagnostic=channel.diagnostic,
                )
            )
        sensors.append(AnnouncedSensor(table, keys[table.id], tuple(channels)))
    made = device_message(
        config, "sn0123456789ab", sensors, vitals, "Raspberry Pi 4", has_led=has_led
    )
    payload = msgspec.json.encode(made)
    assert problems_in(discovery_topic("homeassistant", "sn0123456789ab"), payload) == []
    decoded: dict[str, Any] = json.loads(payload)
    return decoded


@pytest.mark.parametrize("payload", ["json", "plain", "both"])
@pytest.mark.parametrize("driver", driver_names())
def test_the_message_for_every_driver_is_what_home_assistant_documents(tmp_path, driver, payload):
    example = find_driver(driver).example
    mqtt = f'payload = "{payload}"\n[[sensor]]\nid = "s-1"\n{example}\n'
    for pin, other in enumerate(("air", "attic"), start=23):  # those of the example of `agree`
        mqtt += f'[[sensor]]\nid = "{other}"\ndriver = "dht22"\npin = {pin}\n' * (driver == "agree")
    components = message(load(tmp_path, mqtt), EVERYTHING)["cmps"]
    for channel in find_driver(driver).channels:
        if f"s-1.{channel.name}" in components:
            assert components[f"s-1.{channel.name}"]["unit_of_meas"] == channel.unit


def test_a_channel_has_its_unit_precision_class_and_times(tmp_path):
    config = load(
        tmp_path,
        '[[sensor]]\nid = "air"\ndriver = "bme280"\ninterval = "20s"\n'
        '[sensor.channel.temperature]\nunit = "°F"\ndecimals = 3\n',
    )
    components = message(config)["cmps"]
    assert components["air.temperature"] == {
        "p": "sensor",
        "name": "Air temperature",
        "stat_cla": "measurement",
        "unit_of_meas": "°F",
        "sug_dsp_prc": 3,
        "exp_aft": 120,
        "avty": [{"t": "sensors/test/status"}, {"t": "sensors/test/air/availability"}],
        "dev_cla": "temperature",
        "stat_t": "sensors/test/air/state",
        "val_tpl": "{{ value_json['temperature'] | default('') }}",
        "uniq_id": "sn0123456789ab.air.temperature",
    }
    assert components["air.humidity"]["dev_cla"] == "humidity"
    assert components["air.pressure"]["dev_cla"] == "atmospheric_pressure"


def test_an_alarm_is_a_binary_sensor_and_acknowledged_by_a_button(tmp_path):
    """Its class says what is wrong; it does not depend on whether its sensor is available."""
    sensor = '[[sensor]]\nid = "air"\ndriver = "dht22"\npin = 4\n[sensor.channel.temperature]\n'
    header = "[[sensor.channel.temperature.alarm]]\n"
    alarms = 'name = "too-warm"\nabove = 30\n' + header + 'name = "icy"\nbelow = 0\n'
    alarms += header + 'name = "odd"\nrate = "5/min"\nno_value = "5m"\n'
    components = message(load(tmp_path, sensor + header + alarms))["cmps"]
    warm = components["alarm.air.too-warm"]
    assert warm["stat_t"] == warm["json_attr_t"] == "sensors/test/air/alarm/too-warm"
    assert (warm["name"], warm["uniq_id"]) == ("Air too-warm", "sn0123456789ab.alarm.air.too-warm")
    assert "avty" not in warm
    classes = [components[f"alarm.air.{name}"]["dev_cla"] for name in ("too-warm", "icy", "odd")]
    assert classes == ["heat", "cold", "problem"]
    assert components["acknowledge"]["cmd_t"] == "sensors/test/cmd/acknowledge"
    assert "acknowledge" not in message(load(tmp_path, sensor))["cmps"]


@pytest.mark.parametrize(
    ("payload", "channel", "expires_s"),
    [
        ("json", "temperature", 3 * 10 + 60),
        ("plain", "temperature", 3 * (300 + 10) + 60),
        ("plain", "humidity", 3 * 10 + 60),
    ],
)
def test_a_value_that_is_published_on_a_change_may_be_silent_for_longer(
    tmp_path, payload, channel, expires_s
):
    """With plain values; in a state, the humidity that is always told brings it along."""
    config = load(
        tmp_path,
        f'payload = "{payload}"\n[[sensor]]\nid = "air"\ndriver = "dht22"\npin = 4\n'
        'interval = "10s"\n[sensor.channel.temperature]\ndelta = 0.5\nheartbeat = "5m"\n',
    )
    assert message(config)["cmps"][f"air.{channel}"]["exp_aft"] == expires_s


def test_what_the_computer_cannot_tell_is_not_announced(tmp_path):
    config = load(tmp_path, "")
    few, many = message(config, NOTHING)["cmps"], message(config, EVERYTHING)["cmps"]
    assert set(many) - set(few) == {"cpu_temperature", "wifi", "under_voltage", "throttled"}
    assert {"uptime", "outbox", "rejected", "read", "identify", "restart"} == set(few)
    diagnostic = {key for key, c in many.items() if c.get("ent_cat") == "diagnostic"}
    assert diagnostic == set(many) - {"read", "restart"}


def test_uptime_is_the_time_of_the_start_so_that_it_stays_the_same(tmp_path):
    uptime = message(load(tmp_path, ""))["cmps"]["uptime"]
    assert uptime["dev_cla"] == "timestamp"
    assert uptime["val_tpl"] == "{{ value_json['started'] | default('') }}"
    assert not {"unit_of_meas", "stat_cla", "sug_dsp_prc"} & set(uptime)


def test_only_allowed_commands_have_a_button(tmp_path):
    some = message(load(tmp_path, '[commands]\nallow = ["read"]\n'))["cmps"]
    assert [key for key, c in some.items() if c["p"] == "button"] == ["read"]
    none = message(load(tmp_path, "[commands]\nenabled = false\n"))["cmps"]
    assert not [key for key, c in none.items() if c["p"] == "button"]


def test_a_node_with_a_publishers_key_is_an_update_entity(tmp_path):
    """Home Assistant drops a state with a key that it does not know, or null for a text."""
    assert "update" not in message(load(tmp_path, ""))["cmps"]
    (tmp_path / "update-keys").mkdir()
    (tmp_path / "update-keys" / "first.pub").touch()
    sent = message(load(tmp_path, ""))
    update = sent["cmps"]["update"]
    assert (update["p"], update["stat_t"]) == ("update", "sensors/test/health")
    assert (update["cmd_t"], update["pl_inst"]) == ("sensors/test/cmd/update", "install")
    assert (
        problems_in("homeassistant/device/sn0123456789ab/config", json.dumps(sent).encode()) == []
    )
    template = Environment().from_string(update["val_tpl"])
    health = UpdateHealth(installed_version="0.1.0", latest_version="0.2.0", text="it can be")
    shown = json.loads(template.render(value_json={"update": msgspec.to_builtins(health)}))
    assert shown == {
        "installed_version": "0.1.0",
        "latest_version": "0.2.0",
        "in_progress": False,
        "update_percentage": None,
        "release_summary": "it can be",
    }
    others: list[dict[str, Any]] = [{}, {"update": None}]
    assert [template.render(value_json=other) for other in others] == ["", ""]
    assert template.render() == ""
    assert "update" not in message(load(tmp_path, '[commands]\nallow = ["read"]\n'))["cmps"]


def test_a_node_without_a_led_has_no_button_to_blink_it(tmp_path):
    config = load(tmp_path, "")
    assert "identify" in message(config)["cmps"]
    assert set(message(config)["cmps"]) - set(message(config, has_led=False)["cmps"]) == {
        "identify"
    }


@pytest.mark.parametrize(("led", "has_button"), [("", False), ("[status_led]\npin = 17\n", True)])
def test_the_button_is_there_with_the_led(broker, start_node, topic, led, has_button):
    start_node(sysfs_config(broker.port, {}) + led, "--simulate").wait_for_log("connected to")
    assert ("identify" in discovery(broker.port, topic)["cmps"]) is has_button


def test_a_led_that_cannot_be_used_has_no_button(broker, start_node, topic):
    """Its pin is taken, or there is no chip of pins, as on this computer."""
    node = start_node(sysfs_config(broker.port, {}) + "[status_led]\npin = 17\n")
    node.wait_for_log("[status_led] pin 17 cannot be used")
    assert "identify" not in discovery(broker.port, topic)["cmps"]


def test_the_configuration_url_is_a_link_of_the_device(tmp_path):
    config = load(tmp_path, '[homeassistant]\nconfiguration_url = "https://wiki.lan/node"\n')
    assert message(config)["dev"]["cu"] == "https://wiki.lan/node"
    with pytest.raises(configuration.ConfigError, match="1 problems") as caught:
        load(tmp_path, '[homeassistant]\nconfiguration_url = "wiki"\n')
    assert "http://" in caught.value.problems[0].message


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://192.168.1.5:8080x/", "with a number as port"),
        ("http://host:99999/", "its port is invalid"),
        ("http://host:0/", "its port is invalid"),
        ("http://host:-1/", "with a number as port"),
        ("http://host:+80/", "with a number as port"),
        ("http://host:80:80/", "with a number as port"),
        ("http://host:８０/", "with a number as port"),
        ("http://[::1/", "like http://HOST"),
        ("http://[::1]x/", "like http://HOST"),
        ("http://[1.2.3.4]/", "like http://HOST"),
        ("http://[a:b]/", "its host is invalid"),
        ("http://host]/", "like http://HOST"),
        ("http://:80/", "its host is invalid"),
        ("http://user@/", "its host is invalid"),
        ("http:///page", "its host is invalid"),
        ("http://a..b/", "its host is invalid"),
        ("http://1.2.3.456/", "its host is invalid: not a complete IP address"),
        ("http://ho%20st/", "its host is invalid"),
        ("http://host/a b", "write %20 for a space"),
        ("http://host/a\\u0085", "control character"),
        ("ftp://host/", 'begins with "http://"'),
        ("http://host/" + 200 * "a", "at most 200 characters"),
    ],
)
def test_an_address_that_home_assistant_refuses_is_refused_here(tmp_path, url, problem):
    """It would refuse the whole device over it, and say so in its own log alone."""
    with pytest.raises(configuration.ConfigError) as caught:
        load(tmp_path, f'[homeassistant]\nconfiguration_url = "{url}"\n')
    (found,) = caught.value.problems
    assert problem in found.message
    assert found.line == 6


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "http://host:/",
        "http://host:65535?a=[1]#b",
        "https://user@192.168.1.5:8080/",
        "http://[::1]:80/a",
        "http://[fe80::1]",
        "http://münchen.lan./ä",
    ],
)
def test_an_address_that_home_assistant_takes_is_taken_here(tmp_path, url):
    config = load(tmp_path, f'[homeassistant]\nconfiguration_url = "{url}"\n')
    assert message(config)["dev"]["cu"] == url


@pytest.mark.parametrize("name", ["", "my pi", "-", "a:b", "[pi", "pi/1", "a" * 64])
def test_a_computer_of_an_odd_name_has_no_link_that_would_be_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    config = load(tmp_path, '[web]\nenabled = true\nhost = "0.0.0.0"\n')
    assert "cu" not in message(config)["dev"]


@pytest.mark.parametrize("char", ["\\u0080", "\\u009f", "\\ufdd0", "\\uffff", "\\U0001fffe"])
@pytest.mark.parametrize("key", ["[mqtt]\nhost = 'h'\nbase_topic", "[homeassistant]\nprefix"])
def test_a_topic_that_home_assistant_refuses_is_refused_here(tmp_path, key, char):
    file = tmp_path / "node.toml"
    rest = "" if key.startswith("[mqtt]") else "[mqtt]\nhost = 'h'\n"
    file.write_text(f'{rest}{key} = "a/b{char}"\n', encoding="utf-8")
    with pytest.raises(configuration.ConfigError, match="1 problems"):
        configuration.load(file)


@pytest.mark.parametrize(
    ("web", "link"),
    [
        ("", False),
        ("[web]\nenabled = true\n", False),
        ('[web]\nenabled = true\nhost = "localhost"\n', False),
        ('[web]\nhost = "0.0.0.0"\n', False),
        ('[web]\nenabled = true\nhost = "0.0.0.0"\nport = 8123\n', True),
    ],
)
def test_the_device_links_to_the_status_page_where_others_can_reach_it(tmp_path, web, link):
    host = socket.gethostname().partition(".")[0]
    expected = f"http://{host}.local:8123/" if link else None
    assert message(load(tmp_path, web))["dev"].get("cu") == expected
    set_by_hand = web + '[homeassistant]\nconfiguration_url = "http://a.lan/"\n'
    assert message(load(tmp_path, set_by_hand))["dev"]["cu"] == "http://a.lan/"


def names(config: Config) -> dict[str, str]:
    return {key: c["name"] for key, c in message(config, EVERYTHING)["cmps"].items()}


def sensor(name: str, rest: str) -> str:
    return f'[[sensor]]\nid = "{name}"\n{rest}\n'


@pytest.mark.parametrize(
    ("name", "driver", "shown"),
    [
        ("t", "cpu", {"t.temperature": "T temperature"}),
        ("temp", "cpu", {"temp.temperature": "Temp temperature"}),
        ("temperature", "cpu", {"temperature.temperature": "Temperature"}),
        ("a", "mlx90614", {"a.temperature": "A temperature", "a.ambient": "A ambient"}),
        ("cold", "max31855", {"cold.cold_junction": "Cold junction"}),
        ("co", "scd4x", {"co.co2": "Co CO2"}),
    ],
)
def test_an_id_is_in_the_name_unless_the_channel_begins_with_that_word(
    tmp_path, name, driver, shown
):
    select = "\nselect = 0" if driver == "max31855" else ""
    of_sensor = names(load(tmp_path, sensor(name, f'driver = "{driver}"{select}')))
    assert {key: of_sensor[key] for key in shown} == shown


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (
            ["processor"],
            {
                "processor.temperature": "Processor temperature",
                "cpu_temperature": "Node processor temperature",
            },
        ),
        (
            ["node_processor", "processor"],
            {
                "node_processor.temperature": "Node processor temperature",
                "cpu_temperature": "Node processor temperature 2",
            },
        ),
        (
            ["North-Wall", "north_wall", "north-wall"],
            {
                "North-Wall.temperature": "North-Wall temperature",
                "north_wall.temperature": "North wall temperature 2",
                "north-wall.temperature": "North-wall temperature 3",
            },
        ),
        (["-", "_"], {"-.temperature": "- temperature", "_.temperature": "Temperature 2"}),
    ],
    ids=["as the node", "as the node, twice", "but for case and dashes", "without a letter"],
)
def test_names_that_home_assistant_would_number_are_told_apart(tmp_path, ids, shown):
    """In the order of the configuration, so that the same one always has the number."""
    tables = "".join(
        sensor(name, f'driver = "mcp9808"\naddress = {24 + number}')
        for number, name in enumerate(ids)
    )
    of_all = names(load(tmp_path, tables))
    assert {key: of_all[key] for key in shown} == shown


TWO = '[[sensor]]\nid = "{}"\ndriver = "dht22"\npin = 4\n[[sensor]]\nid = "{}"\ndriver = "cpu"\n'


@pytest.mark.parametrize(
    ("after", "keys"),
    [
        (TWO.format("air", "cpu"), {"air": "air", "cpu": "cpu"}),
        (TWO.format("attic", "cpu"), {"attic": "air", "cpu": "cpu"}),
        (replaced(TWO.format("air", "cpu"), ("= 4", "= 5")), {"air": "air", "cpu": "cpu"}),
        (TWO.format("attic", "air"), {"attic": "attic", "air": "air"}),
        (TWO.format("cpu", "new"), {"cpu": "cpu", "new": "new"}),
        (replaced(TWO.format("attic", "cpu"), ("= 4", "= 5")), {"attic": "attic", "cpu": "cpu"}),
    ],
    ids=["the same", "renamed", "wired elsewhere", "id taken", "id moved", "another sensor"],
)
def test_a_sensor_is_known_by_its_id_and_by_its_wiring(tmp_path, after, keys):
    """Either may change, and Home Assistant has the same entity."""
    state = tmp_path / "state"
    sensor_keys(load(tmp_path, TWO.format("air", "cpu")).sensors, state)
    assert sensor_keys(load(tmp_path, after).sensors, state) == keys
    assert sensor_keys(load(tmp_path, after).sensors, state) == keys, "and from then on"


def test_a_renamed_sensor_leaves_its_id_to_a_new_one(tmp_path):
    state = tmp_path / "state"
    sensor_keys(load(tmp_path, TWO.format("air", "cpu")).sensors, state)
    sensor_keys(load(tmp_path, TWO.format("attic", "cpu")).sensors, state)
    three = TWO.format("attic", "cpu") + '[[sensor]]\nid = "air"\ndriver = "dht11"\npin = 7\n'
    keys = sensor_keys(load(tmp_path, three).sensors, state)
    assert keys == {"attic": "air", "cpu": "cpu", "air": "air-2"}


@pytest.mark.parametrize("content", [b"", b"[{", b'[{"id": 1}]', b"\xff\xfe"])
def test_a_damaged_memory_of_keys_is_said_and_begun_anew(tmp_path, caplog, content):
    state = tmp_path / "state"
    state.mkdir()
    (state / "identities.json").write_bytes(content)
    sensors = load(tmp_path, TWO.format("air", "cpu")).sensors
    assert sensor_keys(sensors, state) == {"air": "air", "cpu": "cpu"}
    assert "identities.json cannot be read" in caplog.text
    caplog.clear()
    assert sensor_keys(sensors, state) == {"air": "air", "cpu": "cpu"}
    assert not caplog.text


def test_without_a_writable_folder_every_key_is_the_id(tmp_path, caplog):
    (tmp_path / "state").write_text("a file, not a folder")
    sensors = load(tmp_path, TWO.format("air", "cpu")).sensors
    assert sensor_keys(sensors, tmp_path / "state") == {"air": "air", "cpu": "cpu"}
    assert "identities.json cannot be" in caplog.text


def discovery(port: int, topic: str) -> dict[str, Any]:
    """The message that the broker has, once it has one."""
    payload = wait_until(lambda: retained(port, "homeassistant/#").get(topic))
    decoded: dict[str, Any] = json.loads(payload)
    return decoded


@pytest.fixture
def topic(tmp_path: Path) -> str:
    """The discovery topic of the nodes that a test starts."""
    return discovery_topic("homeassistant", device_id(tmp_path / "state"))


@contextmanager
def in_process(folder: Path, text: str) -> Iterator[None]:
    """A node in this process, so that a test can shorten what it waits for."""
    file = folder / "in-process.toml"
    file.write_text(text)
    node = Node(
        configuration.load(file),
        HardwareBoard(),
        SystemClock(),
        client_id="in-process",
        state_dir=folder / "state",
    )
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        yield
    finally:
        node.stop("the test ends")
        thread.join(PATIENCE_S)
    assert not thread.is_alive()


def start_two(start_node: Callable[..., NodeProcess], port: int, ids: str = "air water") -> Any:
    tables = "".join(
        f'[[sensor]]\nid = "{name}"\ndriver = "bme280"\naddress = {address}\ninterval = "1h"\n'
        for name, address in zip(ids.split(), ("0x76", "0x77"), strict=False)
    )
    node = start_node(sysfs_config(port, {}) + tables, "--simulate")
    node.wait_for_log("connected to")
    # Written down right before it is sent, with all that goes with it.
    known = node.state_dir / "topics.json"
    wait_until(lambda: known.exists() and "sensors/test/status" in known.read_text())
    return node


def test_the_node_announces_itself_right_and_retained(broker, start_node, topic):
    start_two(start_node, broker.port)
    announced = discovery(broker.port, topic)
    assert problems_in(topic, json.dumps(announced).encode()) == []
    assert {"air.temperature", "water.pressure", "restart"} <= set(announced["cmps"])


def test_another_name_is_the_same_device(broker, start_node, topic):
    """Of the same state directory: every unique id is what it was, and the topic too."""
    first = start_two(start_node, broker.port)
    before = discovery(broker.port, topic)
    first.terminate()
    config = replaced(first.config.read_text(), ('name = "test"', 'name = "attic"'))
    start_node(config, "--simulate").wait_for_log("connected to")
    wait_until(lambda: discovery(broker.port, topic)["dev"]["name"] == "attic")
    after = discovery(broker.port, topic)
    assert after["dev"]["ids"] == before["dev"]["ids"]
    assert {k: c["uniq_id"] for k, c in after["cmps"].items()} == {
        k: c["uniq_id"] for k, c in before["cmps"].items()
    }
    assert after["cmps"]["air.humidity"]["stat_t"] == "sensors/attic/air/state"


def moved(folder: Path, state: Path) -> None:
    """Copy a state directory, as to another card; a node may be writing a file there."""
    not_copied = shutil.ignore_patterns("node.lock", ".sensor-node-*.new")
    shutil.copytree(state, folder / "state", ignore=not_copied)


@pytest.mark.parametrize("also_renamed", [False, True])
def test_a_copied_state_directory_is_the_same_device(
    broker, start_node, topic, tmp_path, monkeypatch, also_renamed
):
    """In another place, on a computer with another machine-id, whatever the node's name."""
    old = start_two(start_node, broker.port)
    before = discovery(broker.port, topic)
    old.kill()
    new_card = tmp_path / "new-card"
    new_card.mkdir()
    moved(new_card, tmp_path / "state")
    (tmp_path / "machine-id").write_text("00112233445566778899aabbccddeeff")
    monkeypatch.setattr(node_ids, "_MACHINE_ID", tmp_path / "machine-id")
    cpu = '[[sensor]]\nid = "new"\ndriver = "cpu"\ninterval = "1h"\n'
    config = sysfs_config(broker.port, {}) + cpu
    name = "attic" if also_renamed else "test"
    with in_process(new_card, replaced(config, ('name = "test"', f'name = "{name}"'))):
        wait_until(lambda: "new.temperature" in discovery(broker.port, topic)["cmps"])
        after = discovery(broker.port, topic)
    assert after["dev"]["ids"] == before["dev"]["ids"]
    assert after["dev"]["name"] == name
    assert len(retained(broker.port, "homeassistant/#")) == 1


def test_a_copy_of_a_card_that_runs_beside_the_first_becomes_a_device_of_its_own(
    broker, subscribe, start_node, topic, tmp_path
):
    """The first one keeps its device; the copy says so, and is another from its next start on."""
    first = start_two(start_node, broker.port)
    assert discovery(broker.port, topic)["dev"]["name"] == "test"
    copy = tmp_path / "copy"
    copy.mkdir()
    moved(copy, tmp_path / "state")
    config = sysfs_config(broker.port, {}) + '[[sensor]]\nid = "cpu"\ndriver = "cpu"\n'
    config = replaced(config, ('name = "test"', 'name = "copy"'))
    healths = subscribe(broker.port, "sensors/copy/health")

    def problems() -> list[str]:
        payloads = healths.on("sensors/copy/health")
        found: list[str] = json.loads(payloads[-1])["problems"] if payloads else []
        return found

    with in_process(copy, config):
        first.wait_for_log("sensors/copy is a copy of this card")
        wait_until(problems)
        assert "this card is a copy of that of sensors/test" in problems()[0]
        assert "restart this node" in problems()[0]
        wait_until(lambda: discovery(broker.port, topic)["dev"]["name"] == "test")
        publish.single("homeassistant/status", "online", hostname="127.0.0.1", port=broker.port)
        publish.single("sensors/copy/cmd/read", hostname="127.0.0.1", port=broker.port)
    own = discovery_topic("homeassistant", device_id(copy / "state"))
    assert own != topic
    with in_process(copy, config):
        assert discovery(broker.port, own)["dev"]["name"] == "copy"
        wait_until(lambda: healths.on("sensors/copy/health") and problems() == [])
    kept = retained(broker.port, "homeassistant/#")
    assert json.loads(kept[topic])["dev"]["name"] == "test"
    assert "taking back" not in first.log


@pytest.mark.parametrize("content", [b"", b"[", b'{"id":"sn1/#"}', b"\xff"])
def test_a_damaged_device_file_is_said_and_written_again(
    broker, start_node, tmp_path, topic, content
):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/device.json").write_bytes(content)
    node = start_two(start_node, broker.port)
    assert "device.json cannot be read" in node.log
    assert discovery(broker.port, topic)
    assert discovery_topic("homeassistant", device_id(tmp_path / "state")) == topic
    assert json.loads((tmp_path / "state/device.json").read_bytes())["id"] in topic


def test_a_sensor_that_is_gone_is_taken_back(broker, start_node, topic, subscribe):
    """With its platform alone, a while after it was announced once more; others stay whole."""
    start_two(start_node, broker.port).terminate()
    subscriber = subscribe(broker.port, "homeassistant/#")
    wait_until(lambda: subscriber.messages)
    node = start_two(start_node, broker.port, "air")
    node.wait_for_log("removing from Home Assistant: water.humidity")
    wait_until(lambda: '{"p":"sensor"}' in subscriber.on(topic)[-1])
    whole, removal = (json.loads(text)["cmps"] for text in subscriber.on(topic)[-2:])
    said_s, removed_s = subscriber.times_of(topic)[-2:]
    assert removed_s - said_s > announcer.SETTLE_S / 2, (
        "Home Assistant has to have set them up by then"
    )
    assert "uniq_id" in whole["water.temperature"]
    assert removal["water.temperature"] == {"p": "sensor"}
    assert removal["air.temperature"] == whole["air.temperature"]
    assert problems_in(topic, subscriber.on(topic)[-1].encode()) == []


def test_a_sensor_is_taken_back_though_the_node_ends_before_that(
    broker, start_node, topic, subscribe
):
    """Until then the broker keeps it, for the next start to find."""
    start_two(start_node, broker.port).terminate()
    subscriber = subscribe(broker.port, topic)
    wait_until(lambda: subscriber.messages)
    node = start_two(start_node, broker.port, "air")

    def is_announced_once_more() -> bool:
        *_, (_, newest, is_kept) = subscriber.messages
        return not is_kept and "water.temperature" in json.loads(newest)["cmps"]

    wait_until(is_announced_once_more)
    node.kill()
    assert "taking back" not in node.log
    node = start_two(start_node, broker.port, "air")
    node.wait_for_log("removing from Home Assistant: water.humidity")


def test_what_this_computer_cannot_tell_just_now_is_not_taken_back(broker, start_node, topic):
    """The signal of a radio that has no network at the moment, for one. Nor what others wrote."""
    device = topic.split("/")[2]
    components = {
        "wifi": {"p": "sensor", "uniq_id": f"{device}.wifi"},
        "old.temperature": {"p": "sensor", "uniq_id": f"{device}.old.temperature"},
        "foreign": {"p": "sensor", "uniq_id": "somebody.foreign"},
        "a\nline": {"p": "sensor", "uniq_id": f"{device}.a\nline"},
        "lamp": {"p": "light", "uniq_id": f"{device}.lamp"},
    }
    message = json.dumps({"cmps": components})
    publish.single(topic, message, 1, True, hostname="127.0.0.1", port=broker.port)
    node = start_two(start_node, broker.port)
    node.wait_for_log("removing from Home Assistant: old.temperature\n")
    removed = {"p": "sensor"}
    wait_until(lambda: discovery(broker.port, topic)["cmps"].get("old.temperature") == removed)
    assert not {"wifi", "foreign", "a\nline", "lamp"} & set(discovery(broker.port, topic)["cmps"])


def test_home_assistant_that_starts_is_told_everything(broker, start_node, topic, subscribe):
    """Its birth message: discovery, availability and states once more, within some seconds."""
    node = start_two(start_node, broker.port)
    node.wait_for_log("water (bme280): online")
    subscriber = subscribe(broker.port, "#")
    for sensor in ("air", "water"):  # what else was to come on connecting was before that
        subscriber.wait_for(f"sensors/test/{sensor}/availability", "online")
        wait_until(partial(lambda sensor: subscriber.on(f"sensors/test/{sensor}/state"), sensor))
    subscriber.messages.clear()
    publish.single("homeassistant/status", "online", hostname="127.0.0.1", port=broker.port)
    others = ("homeassistant/status", "sensors/test/health", "sensors/test/history")

    def news() -> list[str]:
        """Not what the broker had kept."""
        return [t for t, _, kept in list(subscriber.messages) if not kept and t not in others]

    wait_until(lambda: "sensors/test/water/availability" in news(), 10)
    assert news()[:5] == [
        topic,
        *(
            f"sensors/test/{s}/{what}"
            for s in ("air", "water")
            for what in ("state", "availability")
        ),
    ]
    subscriber.messages.clear()
    publish.single("homeassistant/status", "offline", hostname="127.0.0.1", port=broker.port)
    publish.single("sensors/test/cmd/read", "air", hostname="127.0.0.1", port=broker.port)
    wait_until(lambda: subscriber.on("sensors/test/cmd/read/result"))
    assert not subscriber.on(topic), "its end says nothing"


@pytest.mark.parametrize(
    ("settings", "why", "remedy"),
    [
        ("max_packet_size 3000", "exceed the broker's maximum packet size of 3000; ", "raise that"),
        ("acl_file acl", "Not authorized; ", "allow the topic in the broker's ACL"),
    ],
    ids=["too large", "denied"],
)
def test_a_discovery_message_that_the_broker_does_not_take_is_a_problem_of_health(
    tmp_path, start_node, subscribe, topic, settings, why, remedy
):
    """With what to do about it, once; readings go on, and nothing is a dead letter."""
    (tmp_path / "acl").write_text("topic readwrite sensors/#\n")
    mosquitto = Mosquitto(tmp_path, settings.replace("acl_file ", f"acl_file {tmp_path}/"))
    mosquitto.start()
    try:
        subscriber = subscribe(mosquitto.port, "sensors/#")
        node = start_two(start_node, mosquitto.port)

        def problems() -> list[str]:
            found: list[str] = json.loads(subscriber.on("sensors/test/health")[-1])["problems"]
            return found

        wait_until(lambda: subscriber.on("sensors/test/health") and problems())
        (problem,) = problems()
        assert problem.startswith(f"the broker rejected {topic}: ")
        assert why in problem
        assert problem.endswith(f"{remedy}, or set [homeassistant] enabled = false")
        assert node.log.count(problem) == 1
        subscriber.wait_for_states("water", 1)
        node.terminate()
        assert dead_letters(node.state_dir) == []
    finally:
        mosquitto.stop()


def test_a_discovery_message_that_is_taken_again_is_no_problem_any_more(
    tmp_path, start_node, subscribe, topic
):
    """The limit was raised, and the broker started again."""
    mosquitto = Mosquitto(tmp_path, "max_packet_size 3000").start()
    node = start_two(start_node, mosquitto.port)
    node.wait_for_log("rejected homeassistant")
    mosquitto.stop()
    again = Mosquitto(tmp_path, port=mosquitto.port).start()
    try:
        subscriber = subscribe(again.port, "sensors/test/health")
        assert discovery(again.port, topic)

        def problems() -> list[str]:
            healths = subscriber.on("sensors/test/health")
            found: list[str] = json.loads(healths[-1])["problems"] if healths else ["none yet"]
            return found

        wait_until(lambda: problems() == [])
    finally:
        again.stop()


def test_a_node_that_is_not_to_be_seen_takes_itself_back(broker, start_node, subscribe, topic):
    """Once: Home Assistant warns of a second time."""
    first = start_two(start_node, broker.port)
    assert discovery(broker.port, topic)
    first.terminate()
    subscriber = subscribe(broker.port, "#")
    config = first.config.read_text() + "[homeassistant]\nenabled = false\n"
    node = start_node(config, "--simulate")
    node.wait_for_log("removing the node from Home Assistant")
    wait_until(lambda: topic not in retained(broker.port, "homeassistant/#"))
    publish.single("sensors/test/cmd/read", "air", hostname="127.0.0.1", port=broker.port)
    wait_until(lambda: subscriber.on("sensors/test/cmd/read/result"))
    assert subscriber.on(topic)[1:] == [""], "after what was retained"


def test_channels_that_turn_up_later_are_announced(broker, start_node, topic, tmp_path):
    """A folder of the kernel's tells what it has when it is read."""
    folder = tmp_path / "iio"
    folder.mkdir()
    (folder / "in_temp_input").write_text("21500\n")
    (folder / "in_humidityrelative_input").write_text("48000\n")
    start_node(sysfs_config(broker.port, {"s": folder}))
    wait_until(lambda: "s.humidity" in discovery(broker.port, topic)["cmps"])
    assert problems_in(topic, json.dumps(discovery(broker.port, topic)).encode()) == []


def test_a_channel_that_stays_away_is_null_in_the_state(broker, subscribe, start_node, tmp_path):
    """After three intervals, and not before: then Home Assistant shows it as unknown."""
    folder = tmp_path / "hwmon"
    folder.mkdir()
    for number in (1, 2):
        (folder / f"temp{number}_input").write_text("21500\n")
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": folder}, interval="0.2s"))
    wait_until(lambda: subscriber.states("s") and "temperature2" in subscriber.states("s")[-1])
    (folder / "temp2_input").write_text("nonsense\n")
    wait_until(lambda: subscriber.states("s")[-1].get("temperature2", 0) is None)
    states = subscriber.states("s")
    first_null = next(n for n, state in enumerate(states) if state.get("temperature2", 0) is None)
    last_good = max(n for n, state in enumerate(states[:first_null]) if "temperature2" in state)
    for state in states[last_good + 1 : first_null]:
        assert taken_s(state) - taken_s(states[last_good]) < 0.65
    assert taken_s(states[first_null]) - taken_s(states[last_good]) > 0.6
    (folder / "temp2_input").write_text("22500\n")
    wait_until(lambda: subscriber.states("s")[-1].get("temperature2") == 22.5)


def test_a_sensor_is_online_again_only_after_its_value(broker, subscribe, start_node, tmp_path):
    """Else the value of before would look current for a moment, and be recorded as such."""
    file = tmp_path / "t"
    file.write_text("21500\n")
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": file}, interval="0.2s"))
    subscriber.wait_for("sensors/test/s/availability", "online")
    file.unlink()
    subscriber.wait_for("sensors/test/s/availability", "offline")
    file.write_text("33000\n")
    subscriber.wait_for("sensors/test/s/availability", "online")
    topics = [topic.rpartition("/")[2] for topic, _, _ in subscriber.messages]
    back = len(topics) - 1 - topics[::-1].index("availability")
    newest = [text for topic, text, _ in subscriber.messages[:back] if topic.endswith("/s/state")]
    assert json.loads(newest[-1])["temperature"] == 33.0


def test_a_clean_stop_takes_every_sensor_offline(broker, subscribe, start_node):
    """More of them than there is room for at once; the node itself is first."""
    tables = "".join(
        f'[[sensor]]\nid = "s{number}"\ndriver = "dht22"\npin = {number}\ninterval = "1h"\n'
        for number in range(2, 28)
    )
    node = start_node(sysfs_config(broker.port, {}) + tables, "--simulate")
    names = [f"sensors/test/s{number}/availability" for number in range(2, 28)]

    def are_online() -> bool:
        kept = retained(broker.port)
        return all(kept.get(name) == "online" for name in names)

    wait_until(are_online)
    subscriber = subscribe(broker.port)
    assert node.terminate() == 0
    kept = retained(broker.port)
    assert {kept[name] for name in names} == {"offline"}
    for name in names:
        subscriber.wait_for(name, "offline")
    live = [topic for topic, text, was_kept in subscriber.messages if not was_kept]
    assert live.index("sensors/test/status") < min(map(live.index, names))


def test_nobody_sees_a_value_of_before_when_a_node_is_started_again(
    broker, subscribe, start_node, tmp_path
):
    """After a clean stop: the sensor is offline until it has a value, whatever is retained."""
    file = tmp_path / "t"
    file.write_text("21500\n")
    config = sysfs_config(broker.port, {"s": file})
    first = start_node(config)
    wait_until(lambda: retained(broker.port).get("sensors/test/s/availability") == "online")
    first.terminate()
    subscriber = subscribe(broker.port)
    file.unlink()
    start_node(config)
    subscriber.wait_for("sensors/test/status", "online")
    wait_until(lambda: len(subscriber.on("sensors/test/s/availability")) >= 2)
    assert set(subscriber.on("sensors/test/s/availability")) == {"offline"}


def test_a_state_directory_that_is_a_loop_of_links_has_an_id_all_the_same(tmp_path):
    """The node runs there, with its log in memory."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert device_id(tmp_path / "a").startswith("sn")


def test_births_one_after_the_other_are_answered_once(broker, start_node, topic, subscribe):
    """Whoever may publish them could have everything sent anew, again and again."""
    start_two(start_node, broker.port).wait_for_log("water (bme280): online")
    subscriber = subscribe(broker.port, "homeassistant/#")
    wait_until(lambda: subscriber.on(topic))
    until_s = time.monotonic() + 8  # far from when the next birth would be answered
    while time.monotonic() < until_s:
        publish.single("homeassistant/status", "online", hostname="127.0.0.1", port=broker.port)
        time.sleep(0.2)
    wait_until(lambda: len(subscriber.on(topic)) >= 2)
    assert len(subscriber.on(topic)) == 2


def test_what_is_just_being_sent_is_no_backlog(broker, subscribe, tmp_path, monkeypatch):
    """Health and history are due together: health says what is left to be sent after that."""
    monkeypatch.setattr(node_topics, "HEALTH_EVERY_S", 2.0)
    files = {f"s{number}": tmp_path / f"t{number}" for number in range(5)}
    for file in files.values():
        file.write_text("21500\n")
    subscriber = subscribe(broker.port)

    def newest() -> list[tuple[int, int]]:
        """Of the newest healths: readings committed, and readings to be sent."""
        healths = map(json.loads, subscriber.on("sensors/test/health")[-3:])
        return [(health["committed"], health["outbox_readings"]) for health in healths]

    def are_without_backlog() -> bool:
        return [left for committed, left in newest() if committed] == [0, 0, 0]

    config = sysfs_config(broker.port, files, interval="2s")
    with in_process(tmp_path, config + '[outbox]\nhistory_interval = "2s"\n'):
        wait_until(are_without_backlog, 60)
        assert len({committed for committed, _ in newest()}) == 3, "each is of another round"


@pytest.mark.parametrize("says", [["online"], ["offline", "online"]], ids=["was off", "ran"])
def test_what_was_removed_does_not_come_back_with_each_start_of_home_assistant(
    broker, subscribe, start_node, topic, tmp_path, monkeypatch, says
):
    """One that was off then has to hear of it once, to remove it; one that ran has removed it."""
    for name, short in (("SETTLE_S", 0.2), ("BIRTHS_EVERY_S", 0), ("MAX_BIRTH_DELAY_S", 0)):
        monkeypatch.setattr(announcer, name, short)
    start_two(start_node, broker.port).terminate()
    water = '[[sensor]]\nid = "water"\ndriver = "cpu"\ninterval = "1h"\n'
    subscriber = subscribe(broker.port, topic)

    def announced() -> list[dict[str, Any]]:
        return [json.loads(text)["cmps"] for text in subscriber.on(topic)]

    def are_removed(times: int) -> bool:
        removals = [c for c in announced() if c.get("air.humidity") == {"p": "sensor"}]
        return len(removals) >= times

    def say(word: str) -> None:
        publish.single("homeassistant/status", word, 1, hostname="127.0.0.1", port=broker.port)

    with in_process(tmp_path, sysfs_config(broker.port, {}) + water):
        wait_until(lambda: are_removed(1))
        for word in says:
            say(word)
        if says == ["online"]:
            wait_until(lambda: are_removed(2))
        else:
            wait_until(lambda: "air.humidity" not in announced()[-1])
        count = len(announced())
        say("offline")
        say("online")
        wait_until(lambda: len(announced()) > count)
        assert "air.humidity" not in announced()[-1]
