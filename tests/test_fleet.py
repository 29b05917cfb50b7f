"""The page of all nodes, from messages alone: conditions, ages, order, and bounds."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.watch.payloads import Message
from node.watch.rows import WatchTime
from node.web import api
from node.web.document import Assets
from node.web.fleet import MAX_CHANNELS, MAX_NODES, Fleet, FleetNode, FleetSensor, FleetView
from node.web.fleet_page import NODES_PER_PAGE, fleet_page

UTC_S = 1_790_000_000.0
EVIL = "<img src=x onerror=alert(1)>\"'&\x1b[31m\u202e"
ASSETS = Assets(style="/page.css", script="/page.js")


def at(second: float) -> WatchTime:
    return WatchTime(second, UTC_S + second)


class Heard:
    """A fleet, and what it hears."""

    def __init__(self) -> None:
        self.fleet = Fleet("sensors")

    def say(self, topic: str, payload: Any, second: float = 0.0, *, retained: bool = False) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        self.fleet.add(Message(f"sensors/{topic}", text.encode(), retained), at(second))

    def discover(self, node: str, *, expires_s: Any = None, page: Any = None) -> None:
        component = {
            "stat_t": f"sensors/{node}/air/state",
            "val_tpl": "{{ value_json['temperature'] }}",
            "unit_of_meas": "°C",
            "exp_aft": expires_s,
        }
        message = {"dev": {"cu": page}, "cmps": {"air": component}}
        topic = f"homeassistant/device/{node}/config"
        self.fleet.model.discovered.learn(topic, json.dumps(message).encode())

    def node(self, name: str, second: float = 0.0, **health: Any) -> None:
        """A node that is online with one sensor, and with health."""
        self.say(f"{name}/status", "online", second)
        self.say(f"{name}/air/state", {"temperature": 21.5}, second)
        self.say(f"{name}/air/availability", "online", second)
        self.say(f"{name}/health", {"version": "1.2.3", **health}, second)

    def view(self, second: float = 0.0, *, connected: bool = True) -> FleetView:
        return self.fleet.view(at(second), connected=connected, link="connected, MQTT 5")

    def only(self, second: float = 0.0, **options: Any) -> FleetNode:
        (node,) = self.view(second, **options).nodes
        return node

    def sensor(self, second: float = 0.0) -> FleetSensor:
        (sensor,) = self.only(second).sensors
        return sensor


@pytest.fixture
def heard() -> Heard:
    return Heard()


def current(node: FleetNode) -> list[bool]:
    return [not channel.why for sensor in node.sensors for channel in sensor.channels]


# -- conditions


def test_a_node_in_order_is_online_and_its_values_are_current(heard):
    heard.node("a")
    node = heard.only()
    assert (node.condition, node.words, node.version) == ("online", "online", "1.2.3")
    assert current(node) == [True]
    assert heard.view().well


@pytest.mark.parametrize(
    ("topic", "payload", "condition", "words"),
    [
        ("a/status", "offline", "offline", "offline"),
        ("a/status", "", "unknown", "unknown"),
        ("a/status", "perhaps", "unknown", "unknown"),
        ("a/air/availability", "offline", "sensors-offline", "1 of 1 sensor offline"),
        ("a/air/availability", "", "sensors-unknown", "1 of 1 sensor unknown"),
        ("a/health", "", "no-health", "online, no health"),
        ("a/health", "{", "no-health", "online, no health"),
        ("a/health", {"problems": "x"}, "no-health", "online, no health"),
        ("a/health", {"problems": ["disk"]}, "problems", "online, with problems"),
        ("a/health", {"simulated": True}, "simulated", "online, simulated"),
        ("a/air/state", {"temperature": 1, "simulated": True}, "simulated", "online, simulated"),
    ],
)
def test_the_condition_is_the_worst_of_the_node(heard, topic, payload, condition, words):
    heard.node("a")
    heard.say(topic, payload)
    node = heard.only()
    assert (node.condition, node.words) == (condition, words)
    assert not heard.view().well


def test_a_node_without_any_sensor_is_not_in_order(heard):
    heard.say("a/status", "online")
    heard.say("a/health", {})
    assert (heard.only().condition, heard.only().words) == ("sensors-unknown", "online, no sensor")


def test_a_value_of_a_node_that_is_offline_is_old_and_says_so(heard):
    heard.node("a", problems=["under-voltage"])
    heard.say("a/status", "offline")
    node = heard.only()
    assert current(node) == [False]
    assert node.sensors[0].why == "node offline"
    assert node.problems == (), "they are those of before"


def test_without_the_broker_nothing_is_current(heard):
    heard.node("a")
    node = heard.only(connected=False)
    assert (node.condition, current(node)) == ("unknown", [False])
    assert not heard.view(connected=False).well


def test_after_a_lost_connection_only_new_messages_say_what_is_online(heard):
    heard.node("a")
    heard.fleet.forget_status()
    assert (heard.only().condition, current(heard.only())) == ("unknown", [False])
    heard.node("a")
    assert heard.only().condition == "online"


def test_health_that_has_stopped_is_no_health(heard):
    """A node sends it every minute."""
    heard.node("a")
    heard.discover("a", expires_s=1000)
    assert heard.only(299).condition == "online"
    assert heard.only(301).condition == "no-health"


def test_retained_health_is_as_old_as_it_says(heard):
    heard.node("a")
    health = {"time": "2026-09-21T14:13:20Z", "clock": "synced"}
    heard.say("a/health", health, 1000, retained=True)
    age_s = heard.only(1000).health_age_s
    assert age_s == pytest.approx(1000.0)


# -- ages


def test_a_value_is_valid_as_long_as_discovery_says(heard):
    heard.node("a")
    heard.discover("a", expires_s=90)
    assert heard.sensor(90).state == "online"
    assert (heard.sensor(91).state, heard.sensor(91).why) == ("offline", "too old")
    assert current(heard.only(91)) == [False]


def test_without_discovery_it_is_valid_for_three_intervals_and_a_minute(heard):
    heard.node("a", 0)
    heard.say("a/air/state", {"temperature": 1}, 10)
    assert heard.sensor(10 + 90).state == "online"
    assert heard.sensor(10 + 91).state == "offline"


def test_where_nothing_says_how_often_it_comes_it_is_valid_for_an_hour(heard):
    heard.node("a")
    assert heard.sensor(3600).state == "online"
    assert heard.sensor(3601).state == "offline"


def test_a_retained_value_of_an_unknown_age_is_not_current(heard):
    heard.node("a")
    heard.say("a/air/state", {"temperature": 2, "clock": "unsynced"}, retained=True)
    assert (heard.sensor().state, heard.sensor().why) == ("unknown", "age unknown")
    heard.say("a/air/state", {"temperature": 2, "clock": "unsynced"}, 5)
    assert heard.sensor(5).state == "online"


def test_a_value_from_the_future_is_not_current(heard):
    heard.node("a")
    heard.say("a/air/state", {"temperature": 2, "time": "2036-01-01T00:00:00Z", "clock": "synced"})
    assert heard.sensor().state == "unknown"
    assert "a clock is wrong" in heard.sensor().why


def test_one_old_channel_is_old_alone(heard):
    """With payload = "plain" each channel has a topic of its own."""
    heard.say("a/status", "online")
    heard.say("a/air/availability", "online")
    heard.say("a/air/humidity", "40", 0)
    heard.say("a/air/temperature", "20", 5000)
    sensor = heard.sensor(5000)
    assert sensor.state == "online"
    assert {c.name: c.why for c in sensor.channels} == {"humidity": "too old", "temperature": ""}


# -- order, links, errors


def alarm(**more: Any) -> dict[str, Any]:
    """An alarm that is on, as its topic has it."""
    known = {"state": "on", "acknowledged": False, "condition": "above", "limit": 8.0, "unit": "°C"}
    since = {"value": 9.1, "since": "2026-11-24T03:13:00.123Z", "clock": "synced", "seq": 77}
    return {**known, **since, **more}


def test_an_alarm_that_is_on_is_shown_until_it_is_off_or_gone(heard):
    heard.node("greenhouse")
    heard.say("greenhouse/air/alarm/too-warm", alarm())
    heard.say("greenhouse/air/alarm/silent", alarm(state="off"))
    (shown,) = heard.sensor().alarms
    assert shown.name == "too-warm"
    assert shown.text == "above 8 °C, 9.1, since 2026-11-24T03:13:00.123Z"
    assert (heard.only().condition, heard.only().words) == ("alarm", "1 alarm")
    assert [channel.name for channel in heard.sensor().channels] == ["temperature"]
    assert "Alarm too-warm: above 8 °C, 9.1, since" in fleet_page(heard.view(), "", 1, ASSETS)
    (told,) = api.fleet_answer(heard.view(), "b")["nodes"][0]["sensors"]
    assert list(told["alarms"]) == ["too-warm"]
    heard.say("greenhouse/air/alarm/too-warm", alarm(acknowledged=True))
    assert heard.only().words == "1 alarm, acknowledged"
    heard.say("greenhouse/air/alarm/silent", alarm())
    assert heard.only().words == "2 alarms"
    heard.say("greenhouse/status", "offline")
    assert (heard.only().condition, heard.only().words) == ("offline", "offline, 2 alarms")
    heard.say("greenhouse/status", "online")
    heard.say("greenhouse/air/alarm/silent", "")
    heard.say("greenhouse/air/alarm/too-warm", alarm(state="unknown"))
    assert (heard.only().condition, heard.sensor().alarms) == ("online", ())


def test_a_node_with_an_alarm_comes_first_among_its_like(heard):
    for name in ("a", "b", "c", "d"):
        heard.node(name)
    heard.say("b/status", "offline")
    heard.say("c/status", "offline")
    heard.say("c/air/alarm/too-warm", alarm())
    heard.say("d/air/alarm/too-warm", alarm())
    assert [node.name for node in heard.view().nodes] == ["d", "c", "b", "a"]


def test_alarms_are_bounded_and_escaped(heard):
    for number in range(30):
        heard.say(f"n/air/alarm/{number:02}", alarm(condition=EVIL * 50))
    heard.say("n/air/alarm/wrong", {"state": "on", "limit": "8"})
    heard.say("n/air/alarm/wrong-too", "on")
    assert len(heard.sensor().alarms) == 20
    assert heard.view().full
    assert "<img" not in fleet_page(heard.view(), "", 1, ASSETS)
    assert all(len(one.text) <= 400 for one in heard.sensor().alarms)
    other = Heard()
    for number in range(MAX_NODES + 10):
        other.say(f"n{number}/air/alarm/x", alarm())
    assert other.view().full


def test_those_in_most_trouble_come_first_then_by_name(heard):
    for name in ("d", "b", "c", "a", "e"):
        heard.node(name)
    heard.say("e/status", "offline")
    heard.say("d/air/availability", "offline")
    heard.say("c/health", "")
    assert [node.name for node in heard.view().nodes] == ["e", "d", "c", "a", "b"]
    assert heard.view().online == 4


def test_sensors_stand_in_the_order_of_the_configuration(heard):
    for sensor in ("b", "c", "a"):
        heard.say(f"n/{sensor}/availability", "offline")
    errors = {"c": {"last_error": "no answer; check the wires"}, "a": {}}
    heard.say("n/health", {"sensors": errors})
    sensors = heard.only().sensors
    assert [sensor.id for sensor in sensors] == ["c", "a", "b"]
    assert sensors[0].last_error == "no answer; check the wires"


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("http://greenhouse.local:8080/", "http://greenhouse.local:8080/"),
        ("https://[fd00::1]/x", "https://[fd00::1]/x"),
        ("javascript:alert(1)", ""),
        ("http://a b/", ""),
        ("http://x/" + "y" * 5000, ""),
        ("//elsewhere", ""),
        (["http://x"], ""),
        (None, ""),
    ],
)
def test_only_the_address_of_a_web_page_is_a_link(heard, page, shown):
    heard.node("a")
    heard.discover("a", page=page)
    assert heard.only().page == shown
    html = fleet_page(heard.view(), "", 1, ASSETS)
    assert html.count('rel="noreferrer noopener"') == bool(shown)


def test_what_the_page_must_not_tell_is_masked(heard):
    heard.fleet = Fleet("sensors", masked=lambda text: text.replace("secret.example", "..."))
    heard.node("a", problems=["secret.example is far"])
    heard.say("a/air/availability", "offline")
    heard.say("a/health", {"sensors": {"air": {"last_error": "ask secret.example"}}})
    assert heard.sensor().last_error == "ask ..."


# -- bounds


def test_hostile_names_and_payloads_are_escaped_and_cut(heard):
    heard.say(f"{EVIL}/status", "online")
    heard.say(f"{EVIL}/{EVIL}/state", {EVIL: 1, "x" * 400: 2, "text": EVIL, "huge": 10**299})
    heard.say(f"{EVIL}/plain/{EVIL}", EVIL * 20)
    heard.say(f"{EVIL}/health", {"version": EVIL, "problems": [EVIL * 20] * 99})
    html = fleet_page(heard.view(), EVIL, 1, ASSETS)
    assert "<img" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html
    assert len(html) < 20_000
    node = heard.only()
    assert len(node.problems) == 10
    assert max(map(len, (node.name, node.version))) <= 64
    assert all(len(c.name) <= 64 for s in node.sensors for c in s.channels)


def test_a_flood_of_nodes_hides_no_node_that_was_there(heard):
    heard.node("z-first")
    for number in range(MAX_NODES + 50):
        heard.say(f"a{number}/status", "online")
        heard.say(f"b{number}/health", {})
    view = heard.view()
    assert len(view.nodes) == MAX_NODES
    assert view.full
    assert "z-first" in {node.name for node in view.nodes}
    assert "some is left out" in fleet_page(view, "", 1, ASSETS)


def test_a_flood_of_channels_is_bounded_and_said(heard):
    for number in range(MAX_CHANNELS // 50 + 20):
        heard.say(f"n/s{number}/state", {f"c{channel}": 1 for channel in range(50)})
    view = heard.view()
    assert view.full
    assert sum(len(sensor.channels) for sensor in view.nodes[0].sensors) == MAX_CHANNELS
    html = fleet_page(view, "", 1, ASSETS)
    assert len(html) < 300_000
    assert "more sensors" in html
    assert "more channels" in html


def test_a_key_as_long_as_a_payload_is_not_kept(heard):
    heard.say("n/air/state", {"k" * 100_000: 1, "temperature": 2})
    assert [channel.name for channel in heard.sensor().channels] == ["temperature"]
    assert heard.view().full


def test_discovery_that_blows_a_topic_up_is_not_kept(heard):
    """`~` stands for a base of any length, in every component."""
    parts = {str(n): {"stat_t": "~/x", "unit_of_meas": "V", "exp_aft": 5} for n in range(400)}
    message = {"~": "b" * 200_000, "cmps": parts, "dev": {"cu": "http://x/"}}
    discovered = heard.fleet.model.discovered
    discovered.learn("homeassistant/device/x/config", json.dumps(message).encode())
    assert discovered.unit("b" * 200_000 + "/x", "") is None


def test_many_nodes_are_on_several_pages(heard):
    for number in range(NODES_PER_PAGE + 1):
        heard.node(f"n{number:03}")
    first, second, beyond = (fleet_page(heard.view(), "", page, ASSETS) for page in (1, 2, 99))
    assert "1 of 2" in first
    assert f"n{NODES_PER_PAGE:03}" in second
    assert f"n{NODES_PER_PAGE:03}" not in first
    assert beyond == second


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["problems", "sensors", "air", "last_error", "time", "clock", "dev"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["n/status", "n/health", "n/air/state", "n/air/availability", "n/a/b"]),
            anything.map(lambda content: json.dumps(content).encode()) | st.binary(max_size=40),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_no_message_breaks_the_page(messages):
    fleet = Fleet("sensors")
    for topic, payload, retained in messages:
        fleet.add(Message(f"sensors/{topic}", payload, retained), at(0))
        fleet.model.discovered.learn("homeassistant/device/n/config", payload)
    view = fleet.view(at(1), connected=True, link="connected, MQTT 5")
    assert fleet_page(view, "", 1, ASSETS).startswith("<!doctype html>")
    assert msgspec.json.decode(api.encoded(api.fleet_answer(view, "")))["connected"] is True
