"""Commands over MQTT, to the real node: done, answered or refused, and in no reading's way."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support import (
    CONNECT,
    PATIENCE_S,
    PUBLISH,
    Mosquitto,
    NodeProcess,
    ScriptedBroker,
    Subscriber,
    dead_letters,
    puback,
    published_topic,
    retained,
    running,
    stop_loop,
    sysfs_config,
    taken_s,
    wait_until,
)

from node.mqtt.rate_limit import BURST, FLOOD, PER_S, RateLimit, Verdict


class Operator:
    """A client that commands a node, and keeps the answers."""

    def __init__(self, port: int, version: MQTTProtocolVersion = mqtt.MQTTv5) -> None:
        self.answers: list[tuple[str, dict[str, Any], bytes]] = []
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=version)
        self.client.on_message = self._arrived
        self.subscribed = False
        self.client.on_subscribe = lambda *_: setattr(self, "subscribed", True)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        self.client.subscribe([("sensors/test/cmd/+/result/#", 1), ("answers/#", 1)])
        self.client.subscribe("sensors/test/status", 1)
        self._node_listens = False
        wait_until(lambda: self.subscribed)

    def _arrived(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.topic == "sensors/test/status":
            self._node_listens = message.payload == b"online"
            return
        correlation = getattr(message.properties, "CorrelationData", b"")
        assert not message.retain
        self.answers.append((message.topic, json.loads(message.payload), correlation))

    def wait_for_node(self) -> None:
        """A node subscribes before it says that it is online."""
        wait_until(lambda: self._node_listens)

    def send(self, name: str, payload: bytes = b"", **options: Any) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if "response" in options:
            properties.ResponseTopic = options["response"]
            properties.CorrelationData = options["correlation"]
        topic, keep = f"sensors/test/cmd/{name}", options.get("retain", False)
        if self.client.protocol == mqtt.MQTTv5:
            self.client.publish(topic, payload, options.get("qos", 1), keep, properties)
        else:
            self.client.publish(topic, payload, options.get("qos", 1), keep)

    def ask(self, name: str, payload: bytes = b"", **options: Any) -> dict[str, Any]:
        """Send a command; its answer on the result topic."""
        self.wait_for_node()
        before = len(self.answers)
        self.send(name, payload, **options)
        topic, answer, _ = wait_until(lambda: self.answers[before:], what=f"answer to {name}")[0]
        assert topic == f"sensors/test/cmd/{name}/result"
        assert answer["command"] == name
        return dict(answer)

    def close(self) -> None:
        self.client.disconnect()
        stop_loop(self.client)


@pytest.fixture
def operator(broker: Mosquitto) -> Iterator[Operator]:
    made = Operator(broker.port)
    yield made
    made.close()


@pytest.fixture
def node(
    broker: Mosquitto,
    operator: Operator,
    start_node: Callable[..., NodeProcess],
    temperature_file: Path,
) -> NodeProcess:
    """A node that reads "s" and "t" once an hour, and has nothing at "broken"."""
    other = temperature_file.with_name("other")
    other.write_text("4000\n")
    files = {"s": temperature_file, "t": other, "broken": Path("/nowhere/temp1_input")}
    config = sysfs_config(broker.port, files, interval="1h") + "[status_led]\npin = 17\n"
    started = start_node(config, env={"GPIOZERO_PIN_FACTORY": "mock"})
    for name in ("s", "t"):
        started.wait_for_log(f"{name} (sysfs): online")
    operator.wait_for_node()
    wait_until(
        lambda: {"sensors/test/s/state", "sensors/test/t/state"} <= retained(broker.port).keys()
    )
    return started


@pytest.mark.usefixtures("node")
def test_read_reads_every_sensor_now(operator, broker, temperature_file):
    """An ordinary reading comes of it, with a seq, though none is due for an hour."""
    kept = retained(broker.port)
    before = {json.loads(kept[f"sensors/test/{name}/state"])["seq"] for name in ("s", "t")}
    assert before == {1, 2}
    temperature_file.write_text("23500\n")
    answer = operator.ask("read")
    assert answer["sensors"]["s"] == {"temperature": 23.5}
    assert answer["sensors"]["t"] == {"temperature": 4.0}
    assert "does not exist" in answer["sensors"]["broken"]["error"]
    assert answer["ok"] is False
    state = json.loads(retained(broker.port)["sensors/test/s/state"])
    assert state["temperature"] == 23.5
    assert state["seq"] in (3, 4), "two sensors on two buses: either may be the first"


@pytest.mark.parametrize("payload", [b"t", b" t ", b"t,t", b"t\n"])
@pytest.mark.usefixtures("node")
def test_read_reads_those_that_are_named(operator, payload):
    answer = operator.ask("read", payload)
    assert answer["ok"] is True
    assert list(answer["sensors"]) == ["t"]


@pytest.mark.parametrize("response", ["answers/mine", "sensors/test/cmd/read/result/mine"])
@pytest.mark.usefixtures("node")
def test_the_answer_goes_to_the_response_topic_with_its_correlation(operator, response):
    """Where an ACL is as narrow as it should be, below the result topic."""
    operator.send("read", b"s", response=response, correlation=b"\x00\x2a")
    topic, answer, correlation = wait_until(lambda: operator.answers)[0]
    assert (topic, correlation) == (response, b"\x00\x2a")
    assert answer["sensors"]["s"]["temperature"] == 21.5


@pytest.mark.parametrize("retain", [True, False])
def test_a_property_that_paho_cannot_read_costs_its_message_alone(
    broker, operator, start_node, temperature_file, retain
):
    """U+FEFF, which MQTT 5 allows: retained, it would end every connection of the node."""
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "answers/\ufeffme"
    if retain:
        operator.client.publish("sensors/test/cmd/fly", b"x", 1, True, properties)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    operator.wait_for_node()
    for _ in range(0 if retain else 30):  # more than a broker leaves unacknowledged
        operator.client.publish("sensors/test/cmd/fly", b"x", 1, False, properties)
        time.sleep(0.21)  # so that none is above what the node lets in
    assert operator.ask("read")["sensors"]["s"] == {"temperature": 21.5}
    assert not node.log_lines("lost")


def test_mqtt_3_1_1_has_the_result_topic(broker, start_node, temperature_file):
    start_node(
        sysfs_config(broker.port, {"s": temperature_file}, interval="1h", mqtt='protocol = "3.1.1"')
    ).wait_for_log("s (sysfs): online")
    operator = Operator(broker.port, mqtt.MQTTv311)
    try:
        assert operator.ask("read")["sensors"]["s"]["temperature"] == 21.5
    finally:
        operator.close()


def test_identify_blinks_the_led(node, operator):
    answer = operator.ask("identify")
    assert answer == {"command": "identify", "ok": True, "seconds": 10.0}
    node.wait_for_log("this is test")


def test_restart_is_answered_and_ends_the_process_in_good_order(node, operator, broker):
    """Exit code 0, `offline` said, the readings of before kept; the service starts it anew."""
    assert operator.ask("restart") == {"command": "restart", "ok": True}
    assert node.process.wait(PATIENCE_S) == 0
    kept = retained(broker.port)
    assert kept["sensors/test/status"] == "offline"
    assert "stopping: told to restart by a command" in node.log
    assert "sensors/test/cmd/restart/result" not in kept


@pytest.mark.parametrize(
    ("name", "payload", "reason"),
    [
        ("fly", b"", "unknown command; known are read, identify, restart, replay"),
        # Off by default.
        ("config", b"get", "unknown command; known are read, identify, restart, replay"),
        ("replay", b"", "its payload must be: STREAM FIRST LAST, with two numbers (seq)"),
        ("replay", b"s 1 x", "its payload must be: STREAM FIRST LAST, with two numbers (seq)"),
        ("replay", b"s 0 1", "the first reading must be 1 or more, and not after the last"),
        ("replay", b"s 2 1", "the first reading must be 1 or more, and not after the last"),
        ("replay", b"s 1 5001", "more than 5000 readings at once"),
        ("read", b"u", "unknown sensor u; configured: s, t, broken"),
        ("read", b"\x1b[2J", "unknown sensor '\\x1b[2J'; configured: s, t, broken"),
        ("read", b"\xff\xfe", "its payload is not UTF-8"),
        ("read", b"s " * 600, "its payload is larger than 1024 bytes"),
        ("identify", b"now", "it takes no payload"),
        ("restart", b"{}", "it takes no payload"),
    ],
)
def test_a_command_that_cannot_be_done_is_refused_with_a_reason(
    node, operator, name, payload, reason
):
    answer = operator.ask(name, payload)
    assert answer == {"command": name, "ok": False, "error": reason}
    assert f"the command {name} is refused: {reason}" in node.log
    assert operator.ask("read", b"s")["ok"], "and the node goes on"


def test_a_retained_command_is_ignored_when_it_comes_and_on_every_connection(
    broker, operator, start_node, temperature_file
):
    """It would be done for ever. (One without a payload cannot be kept, and is ignored too.)"""
    operator.send("read", b"s", retain=True)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    node.wait_for_log("a command 'read' is ignored: it is retained")
    operator.wait_for_node()
    operator.send("restart", retain=True)
    node.wait_for_log("a command 'restart' is ignored: it is retained")
    assert operator.ask("identify")["command"] == "identify"
    assert [answer["command"] for _, answer, _ in operator.answers] == ["identify"]
    assert node.process.poll() is None
    operator.send("restart", retain=False)
    assert node.process.wait(PATIENCE_S) == 0, "the same one, not retained"


@pytest.mark.parametrize("retain", [True, False])
@pytest.mark.parametrize("response", ["/" * 220, "a/" * 60, "answers/" + "x" * 1015 + "ä"])
def test_no_answer_is_published_where_a_broker_would_end_the_connection(
    broker, operator, start_node, temperature_file, response, retain
):
    """mosquitto does over more than 200 levels; one that is retained would come back each time."""
    options = {"response": response, "correlation": b"1"}
    operator.send("read", b"s", retain=retain, **options)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    operator.wait_for_node()
    if not retain:
        operator.send("read", b"s", **options)
    node.wait_for_log("retained" if retain else "has more than 50 levels and 1024 bytes")
    assert operator.ask("read", b"s")["ok"]
    assert len(node.log_lines("connected to")) == 1


@pytest.mark.parametrize(
    "response",
    ["sensors/test/status", "sensors/other/s/state", "homeassistant/status", "$SYS/x", "a/\xad"],
)
def test_no_answer_is_sent_where_it_would_be_taken_for_something_else(
    node, operator, subscribe, broker, response
):
    listener = subscribe(broker.port, "#")
    operator.send("read", b"s", response=response, correlation=b"1")
    node.wait_for_log("is not allowed for answers")
    operator.ask("read", b"s")
    assert not [text for topic, text, _ in listener.messages if topic == response and "{" in text]


def test_answers_that_the_broker_denies_fill_neither_log_nor_dead_letters(
    tmp_path, start_node, temperature_file
):
    """Their topics are chosen by whoever commands: another one each time, of any length."""
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite sensors/#\ntopic readwrite homeassistant/#\n")
    broker = Mosquitto(tmp_path, f"acl_file {acl}").start()
    operator = Operator(broker.port)
    try:
        node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
        operator.wait_for_node()
        for number in range(5):
            response = f"denied/{number}/{'x' * 1000}"
            operator.send("read", b"s", response=response, correlation=b"1")
        assert operator.ask("read", b"s")["ok"]
        node.wait_for_log("the broker rejected an answer on 'denied/0/xxx")
        assert len(node.log_lines("the broker rejected")) == 1
        assert len(node.log) < 2000
        node.terminate()
        assert not dead_letters(node.state_dir)
    finally:
        operator.close()
        broker.stop()


def test_only_what_is_allowed_is_done(broker, operator, start_node, temperature_file):
    config = sysfs_config(broker.port, {"s": temperature_file})
    node = start_node(config + '[commands]\nallow = ["read"]\n')
    node.wait_for_log("connected to")
    assert operator.ask("read")["ok"]
    refusal = operator.ask("restart")
    assert refusal["error"] == "[commands] does not allow it"
    assert node.process.poll() is None


def test_a_node_whose_commands_are_switched_off_hears_none(
    broker, operator, start_node, temperature_file, subscribe
):
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.2s")
    node = start_node(config + "[commands]\nenabled = false\n")
    subscriber.wait_for_states("s", 1)
    operator.wait_for_node()
    operator.send("restart")
    seen = len(subscriber.states("s"))
    subscriber.wait_for_states("s", seen + 5)
    assert node.process.poll() is None
    assert not operator.answers


def test_restart_waits_until_each_sensor_was_read(broker, operator, start_node, temperature_file):
    """Somebody may answer each `online` with it: a slow sensor would never be read."""
    slow = temperature_file.with_name("slow")
    os.mkfifo(slow)  # whoever opens it waits for a writer (fifo(7))
    node = start_node(sysfs_config(broker.port, {"s": temperature_file, "slow": slow}))
    node.wait_for_log("s (sysfs): online")
    refusal = "it has just started, and has not read slow yet; try again later"
    assert operator.ask("restart")["error"] == refusal
    assert node.process.poll() is None
    slow.write_text("4000\n")
    node.wait_for_log("slow (sysfs): online")
    assert operator.ask("restart")["ok"]
    assert node.process.wait(PATIENCE_S) == 0


def test_identify_without_an_led_says_so(broker, operator, start_node, temperature_file):
    start_node(sysfs_config(broker.port, {"s": temperature_file})).wait_for_log("connected to")
    assert "[status_led] is not configured" in operator.ask("identify")["error"]


@pytest.mark.real_time(seconds=10)
def test_a_flood_of_commands_delays_no_reading(
    broker, operator, start_node, temperature_file, tmp_path
):
    """Ten thousand of them: no slot of the grid is missed, and they are not listened to any more.

    Commands are heard again on the next connection (and a minute later, see below). A node beside
    it, which hears none, tells how many slots are missed for the machine's other tasks.
    """
    files = {f"s{number}": temperature_file.with_name(f"temp{number}") for number in range(5)}
    for file in files.values():
        file.write_text("20000\n")
    config = sysfs_config(broker.port, files, interval="0.5s")
    node = start_node(config)
    (tmp_path / "beside").mkdir()
    quiet = config.replace('"test"', '"beside"') + "[commands]\nenabled = false\n"
    with running(NodeProcess(tmp_path / "beside", quiet)) as beside:
        for each in (node, beside):
            each.wait_for_log("s4 (sysfs): online")
        operator.wait_for_node()
        listeners = [ReadingsOf(broker.port, name) for name in ("test", "beside")]
        for _ in range(10_000):
            operator.send("read", qos=0)
        node.wait_for_log("too many commands: ignoring all of them for 60 s")
        time.sleep(8)
    missed, missed_beside = (listener.missed_slots(0.5) for listener in listeners)
    assert missed <= missed_beside + 4, "of about eighty"
    assert len(operator.answers) <= BURST + 10
    assert len(node.log_lines("WARNING")) == 1, "said once"
    broker.stop()
    broker.start()
    wait_until(lambda: len(node.log_lines("connected to")) == 2)
    wait_until(operator.client.is_connected)
    operator.answers.clear()
    operator.client.subscribe("sensors/test/cmd/+/result", 1)

    def asked():
        operator.send("read")
        time.sleep(0.5)
        return operator.answers

    wait_until(asked)


class ReadingsOf:
    """When each reading of a node with five sensors was taken, from its state topics."""

    def __init__(self, port: int, name: str) -> None:

        self._name = name
        self._subscriber = Subscriber(port, f"sensors/{name}/+/state")

    def missed_slots(self, interval_s: float) -> int:
        """By the node's own clock; its sensors have had at least fifty readings together."""
        self._subscriber.close()
        gaps_s: list[float] = []
        for number in range(5):
            taken = [taken_s(state) for state in self._subscriber.states(f"s{number}", self._name)]
            gaps_s += [after - before for before, after in itertools.pairwise(taken)]
        missed = sum(round(gap_s / interval_s) - 1 for gap_s in gaps_s)
        assert len(gaps_s) + missed > 50
        return missed


def test_more_than_the_intake_takes_is_dropped_and_a_flood_is_told(clock):
    rate_limit = RateLimit(clock, unlimited="own".__eq__)
    verdicts = [rate_limit.judge("cmd") for _ in range(BURST + FLOOD)]
    assert verdicts == [Verdict.TAKEN] * BURST + [Verdict.DROPPED] * (FLOOD - 1) + [Verdict.FLOODED]
    assert rate_limit.judge("own", retained=True) is Verdict.TAKEN
    assert rate_limit.judge("own", retained=True) is Verdict.DROPPED, "one a connection"
    rate_limit.begin_connection()
    assert rate_limit.judge("own", retained=True) is Verdict.TAKEN
    assert rate_limit.judge("own") is Verdict.DROPPED
    clock.now_s += 2.0
    later = [rate_limit.judge("cmd") for _ in range(BURST)]
    assert later.count(Verdict.TAKEN) == 2 * PER_S


@pytest.mark.real_time(seconds=20)
def test_an_extra_read_gives_way_to_what_is_due_on_its_bus(broker, operator, start_node, subscribe):
    """Two chips on one I2C bus: a read of "rare" takes 1.2 s, "due" is read every 3 s.

    One that was begun at once, three times in turn, would hold "due" up.
    """
    subscriber = subscribe(broker.port)
    tables = "".join(
        f'[[sensor]]\nid = "{name}"\ndriver = "bme280"\naddress = {address}\n'
        f'interval = "{interval}"\n'
        for name, address, interval in (("due", "0x76", "3s"), ("rare", "0x77", "1h"))
    )
    fault = '[[simulation.fault]]\nsensor = "rare"\nkind = "slow"\namount = 0.05\n'
    node = start_node(sysfs_config(broker.port, {}) + tables + fault, "--simulate")
    node.wait_for_log("rare (bme280): online")
    subscriber.wait_for_states("due", 2)
    for _ in range(3):
        subscriber.wait_for_states("due", len(subscriber.states("due")) + 1)
        time.sleep(2.4)  # so late that "due" would have to wait until 3.6 s
        assert operator.ask("read", b"rare")["ok"]
    subscriber.wait_for_states("due", len(subscriber.states("due")) + 1)
    times = [taken_s(state) for state in subscriber.states("due")[2:]]
    gaps_s = [after - before for before, after in itertools.pairwise(times)]
    assert gaps_s == pytest.approx([3.0] * len(gaps_s), abs=0.5)


@pytest.mark.real_time(seconds=15)
def test_an_extra_read_leaves_a_sensor_its_rest_before_its_own_turn(
    broker, operator, start_node, subscribe
):
    """A DHT22 is asked every 2 s at most: a read within 2 s of its turn is that turn."""
    subscriber = subscribe(broker.port)
    table = '[[sensor]]\nid = "air"\ndriver = "dht22"\npin = 4\ninterval = "4s"\n'
    start_node(sysfs_config(broker.port, {}) + table, "--simulate")
    subscriber.wait_for_states("air", 2)  # the first one takes longer
    time.sleep(2.95)
    assert operator.ask("read")["ok"]
    subscriber.wait_for_states("air", 4)
    times = [taken_s(state) for state in subscriber.states("air")[1:]]
    gaps_s = [after - before for before, after in itertools.pairwise(times)]
    # Read at once it would be 2.95 s, and its own turn put off by the rest of the chip 5.05 s.
    assert all(3.1 < gap_s < 4.9 for gap_s in gaps_s), gaps_s


def test_a_broker_without_wildcards_gets_the_readings_all_the_same(start_node, temperature_file):
    """It closes the connection over a subscription with one; commands are not heard there."""
    published: list[str] = []
    subscribe_, closing = 8, b"\xe0\x02\xa2\x00"

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            return b"\x20\x05\x00\x00\x02\x28\x00"  # Wildcard Subscription Available: 0
        if kind == subscribe_:
            return closing if b"+" in body else b"\x90\x04" + body[:2] + b"\x00\x01"
        if kind == PUBLISH:
            published.append(published_topic(body))
            return puback(body)
        return None

    broker = ScriptedBroker(answer)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    node.wait_for_log(
        "subscription to sensors/test/cmd/+: it does not support subscriptions with wildcards\n"
    )
    wait_until(lambda: published.count("sensors/test/s/state") > 2)
    assert broker.connections == 1
    broker.close()


def test_an_answer_that_its_correlation_makes_too_large_costs_no_connection(
    tmp_path, start_node, temperature_file
):
    """The asker gets none; the broker would end the connection over it."""
    mosquitto = Mosquitto(tmp_path, "max_packet_size 2000").start()
    operator = Operator(mosquitto.port)
    try:
        node = start_node(sysfs_config(mosquitto.port, {"s": temperature_file}, interval="1h"))
        node.wait_for_log("s (sysfs): online")
        operator.wait_for_node()
        operator.send("read", response="answers/r", correlation=b"x" * 1940)
        node.wait_for_log("rejected an answer on 'answers/r'")
        operator.send("read", response="answers/r", correlation=b"small")
        wait_until(lambda: operator.answers, what="the answer that is small enough")
        assert operator.answers[0][2] == b"small"
        assert not node.log_lines("reconnecting")
    finally:
        operator.close()
        mosquitto.stop()


@pytest.mark.real_time(seconds=15)
def test_replay_sends_readings_of_the_log_again(broker, operator, start_node, subscribe, tmp_path):
    """Those of the stream that the broker has had; then the answer, and nothing twice besides."""
    files = {name: tmp_path / name for name in ("s", "t")}
    for file in files.values():
        file.write_text("21500\n")
    config = sysfs_config(broker.port, files, interval="0.2s")
    start_node(config + '\n[outbox]\nhistory_interval = "0.5s"\ndrain_rate = 1000\n')
    everything = subscribe(broker.port)
    wait_until(lambda: len(everything.history()) > 120)
    stream = everything.history()[0]["stream"]
    first_time = everything.history()[:119]
    answer = operator.ask("replay", f"{stream} 3 118".encode())
    assert answer == {
        "command": "replay",
        "ok": True,
        "stream": stream,
        "first": 3,
        "last": 118,
        "readings": 116,
        "stream_begins": 1,
    }
    everything.wait_for_states("s", 70)
    seqs = [reading["seq"] for reading in everything.history()]
    for reading in first_time[2:118]:
        assert seqs.count(reading["seq"]) == 2
        assert everything.history().count(reading) == 2, "with its time, and the same values"
    assert seqs.count(2) == seqs.count(119) == 1
    assert operator.ask("replay", b"another 1 5")["readings"] == 0


def test_a_replay_asks_for_nothing_that_comes_by_itself(broker, operator, start_node):
    """Readings that the broker has not had are no part of it, however large the numbers are."""
    node = start_node(sysfs_config(broker.port, {}, interval="1s"))
    node.wait_for_log("connected to")
    operator.wait_for_node()
    answer = operator.ask("replay", b"s 7 9")
    assert (answer["ok"], answer["readings"], answer["stream_begins"]) == (True, 0, None)
