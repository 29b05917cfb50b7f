"""The node as a process against a real mosquitto: what a subscriber sees, in good times."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import (
    CONNECT,
    PATIENCE_S,
    PUBLISH,
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    ScriptedBroker,
    dead_letters,
    output_until,
    puback,
    published_topic,
    replaced,
    retained,
    sysfs_config,
    taken_s,
    wait_until,
)

SIMULATED = """
[node]
name = "test"
[mqtt]
host = "127.0.0.1"
port = {port}
payload = "{payload}"
[[sensor]]
id = "air"
driver = "dht22"
pin = 4
interval = "2s"
[[sensor]]
id = "water"
driver = "ds18b20"
interval = "1s"
[[sensor]]
id = "box"
driver = "bme280"
address = 0x76
interval = "1s"
[[sensor]]
id = "probe"
driver = "mcp3008"
interval = "1s"
[[sensor]]
id = "cpu"
driver = "cpu"
interval = "1s"
"""
SENSORS = ("air", "water", "box", "probe", "cpu")


def test_every_simulated_sensor_arrives_as_a_state(broker, subscribe, start_node):
    """JSON with a key per channel, then time, clock, seq, and that it is not real; retained."""
    subscriber = subscribe(broker.port)
    start_node(SIMULATED.format(port=broker.port, payload="json"), "--simulate")
    for sensor in SENSORS:
        subscriber.wait_for_states(sensor, 2)
        subscriber.wait_for(f"sensors/test/{sensor}/availability", "online")
    state = subscriber.states("box")[-1]
    assert list(state)[-5:] == ["time", "clock", "seq", "stream", "simulated"]
    assert list(state)[:-5] == ["temperature", "humidity", "pressure"]
    assert state["clock"] in ("synced", "unsynced")
    assert state["time"].endswith("Z")
    assert subscriber.on("sensors/test/status") == ["online"]
    assert set(retained(broker.port)) >= {f"sensors/test/{s}/state" for s in SENSORS}


def test_seq_only_moves_forward(broker, subscribe, start_node):
    subscriber = subscribe(broker.port)
    start_node(SIMULATED.format(port=broker.port, payload="json"), "--simulate")
    subscriber.wait_for_states("water", 4)
    for sensor in SENSORS:
        numbers = [state["seq"] for state in subscriber.states(sensor)]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(("payload", "has_states"), [("plain", False), ("both", True)])
def test_plain_values_have_a_topic_each(broker, subscribe, start_node, payload, has_states):
    subscriber = subscribe(broker.port)
    start_node(SIMULATED.format(port=broker.port, payload=payload), "--simulate")
    # The pressure comes last of a reading; with the second one all of the first is there.
    wait_until(lambda: len(subscriber.on("sensors/test/box/pressure")) >= 2)
    kept = retained(broker.port)
    assert ("sensors/test/box/state" in kept) == has_states
    for channel in ("temperature", "humidity", "pressure"):
        assert float(kept[f"sensors/test/box/{channel}"]) > 0


def test_first_readings_come_at_once(broker, subscribe, start_node, temperature_file):
    """Not after one interval."""
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="1h"))
    subscriber.wait_for_states("s", 1)
    assert subscriber.states("s")[0]["temperature"] == 21.5


def test_a_late_subscriber_has_the_newest_state_at_once(
    broker, subscribe, start_node, temperature_file
):
    early = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": temperature_file}))
    early.wait_for_states("s", 1)
    temperature_file.write_text("22250\n")
    wait_until(lambda: early.states("s")[-1]["temperature"] == 22.25)
    kept = retained(broker.port)
    assert json.loads(kept["sensors/test/s/state"])["temperature"] == 22.25
    assert kept["sensors/test/s/availability"] == "online"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_says_offline_and_exits_with_0(
    broker, subscribe, start_node, temperature_file, number
):
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    subscriber.wait_for_states("s", 1)
    node.process.send_signal(number)
    assert node.process.wait(PATIENCE_S) == 0
    subscriber.wait_for("sensors/test/status", "offline")
    assert subscriber.on("sensors/test/status") == ["online", "offline"], "the will came too"
    assert "stopping: " + signal.Signals(number).name in node.log


def test_a_killed_node_is_offline_by_its_will(broker, subscribe, start_node, temperature_file):
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    subscriber.wait_for_states("s", 1)
    assert subscriber.on("sensors/test/status") == ["online"]
    node.kill()
    subscriber.wait_for("sensors/test/status", "offline")
    assert retained(broker.port)["sensors/test/status"] == "offline"


@pytest.mark.real_time(seconds=15)
def test_a_frozen_node_is_offline_by_its_will(broker, subscribe, start_node, temperature_file):
    """The broker hears nothing for one and a half keepalives of 5 s."""
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    subscriber.wait_for_states("s", 1)
    node.process.send_signal(signal.SIGSTOP)
    try:
        subscriber.wait_for("sensors/test/status", "offline", seconds=15)
    finally:
        node.process.send_signal(signal.SIGCONT)
    subscriber.wait_for("sensors/test/status", "online")


@pytest.mark.real_time(seconds=15)
def test_an_idle_node_keeps_its_connection(broker, subscribe, start_node, temperature_file):
    """Its own pings are enough for two and a half keepalives without a reading."""
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="1h"))
    subscriber.wait_for_states("s", 1)
    time.sleep(12.5)
    assert subscriber.on("sensors/test/status") == ["online"]


def test_a_retained_reading_expires_when_nothing_renews_it(
    broker, subscribe, start_node, temperature_file
):
    """retain_for, or three intervals where that is longer; status and availability stay."""
    subscriber = subscribe(broker.port)
    node = start_node(
        sysfs_config(
            broker.port, {"s": temperature_file}, interval="0.5s", mqtt='retain_for = "2s"'
        )
    )
    subscriber.wait_for_states("s", 6)
    assert "sensors/test/s/state" in retained(broker.port), "renewed by each reading"
    node.kill()
    time.sleep(4)
    kept = retained(broker.port)
    assert "sensors/test/s/state" not in kept
    assert "sensors/test/s/availability" in kept


def test_readings_are_kept_for_ever_with_retain_for_0(
    broker, subscribe, start_node, temperature_file
):
    """Negative control of the expiry."""
    subscriber = subscribe(broker.port)
    node = start_node(
        sysfs_config(broker.port, {"s": temperature_file}, interval="0.5s", mqtt="retain_for = 0")
    )
    subscriber.wait_for_states("s", 1)
    node.kill()
    time.sleep(4)
    assert "sensors/test/s/state" in retained(broker.port)


def test_delta_and_heartbeat_hold_messages_back(broker, subscribe, start_node, temperature_file):
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.2s")
    config += '[sensor.channel.temperature]\ndelta = 0.5\nheartbeat = "2s"\n'
    start_node(config)
    subscriber.wait_for_states("s", 1)
    temperature_file.write_text("21700\n")  # less than delta
    subscriber.wait_for_states("s", 2)
    temperature_file.write_text("25000\n")
    written_s = time.time()
    wait_until(lambda: subscriber.states("s")[-1]["temperature"] == 25.0)
    first, second, *others = subscriber.states("s")
    changed = next(state for state in others if state["temperature"] == 25.0)
    assert taken_s(second) - taken_s(first) > 1.5, "only the heartbeat brought it"
    assert taken_s(changed) - written_s < 1.0, "and not this"


def answering(version_5: bool) -> Callable[[int, bytes], bytes | None]:
    """A scripted broker's answers; a 3.1.1 one refuses protocol level 5 (3.1.1, §3.2.2.3)."""

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            level = body[6]
            if version_5:
                return b"\x20\x03\x00\x00\x00"
            return b"\x20\x02\x00\x00" if level == 4 else b"\x20\x02\x00\x01"
        return puback(body) if kind == PUBLISH else None

    return answer


def topics_until(broker: ScriptedBroker, count: int) -> list[str]:
    topics: list[str] = []

    def enough() -> bool:
        while not broker.packets.empty():
            kind, body = broker.packets.get()
            if kind == PUBLISH:
                topics.append(published_topic(body))
        return len(topics) >= count

    wait_until(enough, what=f"{count} messages")
    return topics


def test_the_order_on_connecting(start_node, tmp_path):
    """Availability offline, status, discovery, each state and its availability, health, history;
    over more than a window."""
    files = {}
    for number in range(15):
        files[f"s{number:02}"] = tmp_path / f"t{number}"
        files[f"s{number:02}"].write_text("20000\n")
    started: list[NodeProcess] = []

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:  # the readings are there before the connection is
            wait_until(lambda: started and len(started[0].log_lines("online")) == len(files))
        return answering(True)(kind, body)

    broker = ScriptedBroker(answer)
    started.append(start_node(sysfs_config(broker.port, files, interval="1h")))
    topics = topics_until(broker, 49)
    assert topics.pop(16).startswith("homeassistant/device/")
    assert topics == [
        *(f"sensors/test/{name}/availability" for name in files),
        "sensors/test/status",
        *(f"sensors/test/{name}/{what}" for name in files for what in ("state", "availability")),
        "sensors/test/health",
        "sensors/test/history",
    ]


def test_a_broker_that_knows_only_3_1_1_is_spoken_to_in_3_1_1(start_node, temperature_file):
    broker = ScriptedBroker(answering(version_5=False))
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    topics_until(broker, 3)
    assert "MQTT 3.1.1" in node.log
    assert len(node.log_lines("connected")) == 1


def test_a_broker_that_closes_on_mqtt_5_is_spoken_to_in_3_1_1(start_node, temperature_file):
    """What brokers did before MQTT 5 said how to refuse."""

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT and body[6] == 5:
            return b"close"
        return answering(version_5=False)(kind, body)

    broker = ScriptedBroker(answer)
    start_node(sysfs_config(broker.port, {"s": temperature_file}))
    topics_until(broker, 3)


def test_protocol_5_is_not_fallen_back_from(start_node, temperature_file):
    broker = ScriptedBroker(answering(version_5=False))
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}, mqtt='protocol = "5"'))
    node.wait_for_log("Unsupported protocol version")
    time.sleep(2.5)
    assert "connected to" not in node.log


def test_one_message_per_topic_is_in_flight_and_the_newest_follows(start_node, temperature_file):
    """A broker that acknowledges late never sees an older value after a newer one."""
    held: list[bytes] = []

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == PUBLISH and published_topic(body).endswith("/state"):
            held.append(body)
            time.sleep(0.5)
        return answering(True)(kind, body)

    broker = ScriptedBroker(answer)
    start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="0.1s"))
    wait_until(lambda: len(held) >= 5)
    numbers = [json.loads(body[body.index(b"{") :])["seq"] for body in held]
    assert numbers == sorted(set(numbers))
    assert max(b - a for a, b in itertools.pairwise(numbers)) >= 3, "conflated"


def test_the_brokers_receive_maximum_is_kept(start_node, tmp_path):
    """MQTT 5, §3.2.2.3.3: never more unacknowledged messages than it says, here 3, to the end."""
    files = {}
    for number in range(10):
        files[f"s{number}"] = tmp_path / f"t{number}"
        files[f"s{number}"].write_text("20000\n")
    unacknowledged = most = 0

    def acknowledge(body: bytes) -> None:
        nonlocal unacknowledged
        unacknowledged -= 1
        assert broker.newest is not None
        with contextlib.suppress(OSError):
            broker.newest.sendall(puback(body))

    def answer(kind: int, body: bytes) -> bytes | None:
        nonlocal unacknowledged, most
        if kind == CONNECT:
            return b"\x20\x06\x00\x00\x03\x21\x00\x03"
        if kind == PUBLISH:
            unacknowledged += 1
            most = max(most, unacknowledged)
            threading.Timer(0.02, acknowledge, [body]).start()
        return None

    broker = ScriptedBroker(answer)
    node = start_node(sysfs_config(broker.port, files, interval="0.3s"))
    topics_until(broker, 60)
    node.terminate()
    assert most == 3, "in the goodbye too"


def test_a_message_above_the_brokers_maximum_is_dropped_and_said(start_node, tmp_path):
    """Maximum Packet Size 100 in CONNACK: the state is too long, the rest goes on."""
    file = tmp_path / "t"
    file.write_text("20000\n")

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            return b"\x20\x08\x00\x00\x05\x27\x00\x00\x00\x64"
        return puback(body) if kind == PUBLISH else None

    broker = ScriptedBroker(answer)
    config = sysfs_config(broker.port, {"s": file}, interval="0.2s")
    node = start_node(config + '[outbox]\nhistory_interval = "0.2s"\n')
    node.wait_for_log("exceed the broker's maximum packet size")
    assert set(topics_until(broker, 2)) == {"sensors/test/status", "sensors/test/s/availability"}
    wait_until(lambda: len(node.log_lines("maximum packet size")) >= 4)
    time.sleep(1)
    lines = node.log_lines("maximum packet size")
    assert len(lines) == 4, "state, health, discovery and history, once each"
    node.terminate()
    letters = dead_letters(node.state_dir)
    assert {topic for topic, _, _ in letters if not topic.startswith("homeassistant/")} == {
        "sensors/test/s/state",
        "sensors/test/history",
        "sensors/test/health",
    }
    assert all("maximum packet size" in reason for _, _, reason in letters)


def test_topics_the_broker_denies_are_said_once(tmp_path, start_node, temperature_file):
    acl = tmp_path / "acl"
    acl.write_text(
        "topic readwrite sensors/test/status\ntopic readwrite sensors/test/+/availability\n"
    )
    mosquitto = Mosquitto(tmp_path, f"acl_file {acl}").start()
    try:
        config = sysfs_config(mosquitto.port, {"s": temperature_file}, interval="0.2s")
        node = start_node(config + '[outbox]\nhistory_interval = "0.2s"\n')
        node.wait_for_log("the broker rejected sensors/test/s/state: Not authorized")
        wait_until(lambda: len(node.log_lines("the broker rejected")) >= 4)

        def refused(topic: str) -> int:
            return sum(letter[0] == topic for letter in dead_letters(node.state_dir))

        # Often, and said once.
        wait_until(lambda: refused("sensors/test/s/state") >= 4)
        lines = node.log_lines("the broker rejected")
        assert len(lines) == 4, "state, health, discovery and history, once each"
        assert any("or set [homeassistant] enabled = false" in line for line in lines)
        node.terminate()
        letters = dead_letters(node.state_dir)
        assert not refused("sensors/test/history"), "readings wait until the ACL is mended"
        assert all("Not authorized" in reason for _, _, reason in letters)
    finally:
        mosquitto.stop()


@pytest.mark.real_time(seconds=10)
def test_a_healthy_node_logs_next_to_nothing(broker, subscribe, start_node, temperature_file):
    """After the start: not one line in a hundred readings.

    Of five sensors: one that is read ten times a second is offline, and said to be, when the
    machine has no time for the node for 0.3 s.
    """
    files = {f"s{number}": temperature_file.with_name(f"temp{number}") for number in range(5)}
    for file in files.values():
        file.write_text("21500\n")
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, files, interval="0.5s"))
    for name in files:
        subscriber.wait_for_states(name, 2)
    lines = len(node.log.splitlines())
    for name in files:
        subscriber.wait_for_states(name, 22, seconds=10 + PATIENCE_S)
    assert len(node.log.splitlines()) == lines
    assert lines <= 3 + len(files)


def test_a_channel_with_delta_keeps_its_own_heartbeat_on_its_own_topic(
    broker, subscribe, start_node
):
    """The temperature goes out with each reading, and does not count for the humidity."""
    config = SIMULATED.format(port=broker.port, payload="plain").split("[[sensor]]")
    box = config[0] + "[[sensor]]" + replaced(config[3], ("1s", "0.2s"))
    box += '[sensor.channel.humidity]\ndelta = 50\nheartbeat = "1s"\n'
    box += '[outbox]\nhistory_interval = "0.2s"\n'
    subscriber = subscribe(broker.port)
    start_node(box, "--simulate")
    wait_until(lambda: len(subscriber.on("sensors/test/box/temperature")) >= 20)
    told = len(subscriber.on("sensors/test/box/humidity"))
    # How long that took, by the node's own clock: it was before the next reading but one.
    seen = len(subscriber.history())
    wait_until(lambda: len(subscriber.history()) > seen + 1)
    first_s, *_, last_s = map(taken_s, subscriber.history())
    assert 3 <= told <= last_s - first_s + 2


def test_a_plain_value_is_taken_back_when_its_channel_fails(
    broker, subscribe, start_node, tmp_path
):
    """The sensor goes on with its other channel; a subscriber sees no old value."""
    folder = tmp_path / "hwmon0"
    folder.mkdir()
    for name in ("temp1_input", "temp2_input"):
        (folder / name).write_text("21500\n")
    subscriber = subscribe(broker.port)
    node = start_node(
        sysfs_config(broker.port, {"s": folder}, interval="0.3s", mqtt='payload = "plain"')
    )
    wait_until(lambda: "sensors/test/s/temperature2" in retained(broker.port))
    (folder / "temp2_input").write_text("\n")
    subscriber.wait_for("sensors/test/s/temperature2", "")
    assert "sensors/test/s/temperature2" not in retained(broker.port)
    (folder / "temp1_input").unlink()
    subscriber.wait_for("sensors/test/s/availability", "offline")
    time.sleep(0.5)
    assert subscriber.on("sensors/test/s/temperature")[-1] == "21.5", "the sensor is offline as one"
    (folder / "temp1_input").write_text("21500\n")
    subscriber.wait_for("sensors/test/s/availability", "online")
    assert subscriber.on("sensors/test/s/availability")[-1] == "online"
    assert len(node.log_lines("s (sysfs): no temperature2")) == 1


def test_watch_shows_what_arrives(broker, start_node, temperature_file, subscribe):
    """As lines when it is piped, as JSON when asked."""
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="0.2s"))
    subscriber.wait_for_states("s", 1)
    common = [SENSOR_NODE, "watch", "--host", "127.0.0.1", "--port", str(broker.port)]
    output_until(common, lambda out: "sensors/test/s/state temperature 21.5" in out)

    def states_in(out: str) -> list[dict[str, Any]]:
        messages = map(json.loads, out.splitlines())
        return [m for m in messages if m["topic"] == "sensors/test/s/state"]

    out, _ = output_until([*common, "test", "--json"], lambda out: len(states_in(out)) >= 2)
    states = states_in(out)
    assert states[0]["retained"]
    assert not states[-1]["retained"]
    assert states[-1]["payload"]["temperature"] == 21.5
