"""The health of a node: one row a field, read by all who show it, and by other versions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support import sysfs_config

from node.health import Health, SensorHealth, host_texts, shown_fields
from node.homeassistant.discovery import is_of_host
from node.mqtt.events import Connected, Disconnected
from node.mqtt.reasons import UNSPECIFIED, Reason
from node.mqtt.spread import SHORT_LIFE_S, SHORT_LIVES
from node.report.node_topics import StartTime
from node.system.clock import utc_text
from node.system.host import Vitals

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", [field.encode_name for field in msgspec.structs.fields(Health)])
def test_every_field_is_documented(name):
    text = (ROOT / "node" / "mqtt" / "README.md").read_text()
    assert f"`{name}`" in text.partition("`health` is an object of")[2]


def test_every_metric_of_it_says_what_it_is():
    """`/metrics` documents itself (# HELP)."""
    rows = [row for row in shown_fields().values() if row.metric]
    assert rows
    assert all(row.help.endswith(".") for row in rows)


def test_health_of_an_older_node_can_be_read():
    """With nothing but what identifies it."""
    old = msgspec.json.decode(b'{"process": 7, "sensors": {"air": {"online": true}}}', type=Health)
    assert (old.process, old.connected, old.mqtt_version) == (7, False, None)
    assert old.sensors == {"air": SensorHealth(online=True)}


def test_health_of_a_newer_node_can_be_read():
    """What is not known here is left out."""
    new = msgspec.json.encode({**msgspec.to_builtins(Health(process=7)), "fans": [1200]})
    assert msgspec.json.decode(new, type=Health) == Health(process=7)


def test_what_is_known_of_the_computer_is_a_row_each():
    """A field of `Vitals` is in `Health` by the same name, and says that it may be missing."""
    rows = shown_fields()
    of_host = {field for field, row in rows.items() if row.of_host}
    assert of_host == {field.name for field in msgspec.structs.fields(Vitals)}
    assert all(is_of_host(rows[field].component) for field in of_host)
    assert not is_of_host("uptime")


def test_the_start_is_one_text_whatever_the_clocks_do(clock):
    """A row of Home Assistant's database for each jitter of a second would be one a minute."""
    start, at_s = StartTime(clock), clock.wall_s
    said = set()
    for shift_s in (0.0, 0.4, 0.6, -0.6, 1.4, -0.3, 1.9):
        clock.now_s += 60
        clock.wall_s = at_s + (clock.now_s - 1000) + shift_s
        said.add(start.text())
    assert said == {utc_text(round(at_s) * 1000)}
    clock.in_sync = False
    assert start.text() in said, "it was known"


def test_the_start_is_not_known_before_the_clock_and_follows_it_when_it_is_set(clock):
    clock.in_sync = False
    clock.wall_s = 0.0
    start = StartTime(clock)
    clock.now_s += 30
    assert start.text() is None
    clock.in_sync = True
    clock.wall_s = 1_790_000_030.2
    assert start.text() == utc_text(1_790_000_000_000)
    clock.now_s += 60
    clock.wall_s += 60 + 3600
    assert start.text() == utc_text(1_790_003_600_000)


def test_what_is_known_of_the_computer_in_words():
    assert host_texts(Health()) == []
    assert host_texts(Health(cpu_temperature=47.25, wifi_dbm=-61, under_voltage=True)) == [
        ("processor temperature", "47.2 °C"),
        ("Wi-Fi signal", "-61 dBm"),
        ("under-voltage", "yes"),
    ]


def test_connections_that_do_not_last_are_counted_until_one_does(clock, mqtt_link):
    """The doctor finds a fight over the client id by that."""

    def up() -> None:
        mqtt_link.follow(Connected(0, refused=None, window=20, max_packet_bytes=1000))

    for attempt in range(1, SHORT_LIVES + 1):
        up()
        clock.now_s += 0.5
        mqtt_link.follow(Disconnected(0, attempt, Reason(UNSPECIFIED, "any")))
    assert mqtt_link.short_connections == SHORT_LIVES
    up()
    assert mqtt_link.short_connections == SHORT_LIVES
    assert mqtt_link.mqtt_version == "5"
    clock.now_s += SHORT_LIFE_S + 1
    assert mqtt_link.short_connections == 0


def test_health_of_a_real_node(broker, subscribe, start_node, temperature_file):
    """Real hardware; connected, in the version that both know."""
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": temperature_file}))
    health = subscriber.health()
    assert (health["connected"], health["mqtt_version"], health["simulated"]) == (True, "5", False)


def test_health_of_a_simulated_node_says_so(broker, subscribe, start_node, temperature_file):
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, mqtt='protocol = "3.1.1"')
    start_node(config, "--simulate")
    health = subscriber.health()
    assert (health["mqtt_version"], health["simulated"]) == ("3.1.1", True)
