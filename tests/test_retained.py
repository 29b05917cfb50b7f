"""What is retained at the broker is of now: whatever has changed, and whatever ended the node."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE_S,
    Mosquitto,
    NodeProcess,
    Proxy,
    Subscriber,
    ledger_in,
    replaced,
    retained,
    sysfs_config,
    wait_until,
)

PROTOCOLS = ["5", "3.1.1"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two kernel attribute files."""
    made = {name: tmp_path / name for name in ("air", "water")}
    for file in made.values():
        file.write_text("21500\n")
    return made


def config_of(port: int, files: dict[str, Path], *lines: str, interval: str = "0.5s") -> str:
    return sysfs_config(port, files, interval=interval, mqtt="\n".join(lines))


def end_by(how: str, node: NodeProcess, broker: Mosquitto) -> None:
    """End a node: in good order, by a crash, or in good order while the broker is away."""
    if how == "kill":
        node.kill()
        wait_until(lambda: "offline" in retained(broker.port).get("sensors/test/status", "offline"))
    elif how == "no broker":
        broker.stop()
        node.wait_for_log("no broker: lost")
        node.terminate()
        broker.start()
    else:
        node.terminate()


def kept(broker: Mosquitto, *, above: str = "#") -> dict[str, str]:
    return {topic: text for topic, text in retained(broker.port, above).items() if text}


@pytest.fixture
def persistent(tmp_path: Path) -> Iterator[Mosquitto]:
    """A mosquitto that still has what is retained when it is started again."""
    lines = ("persistence true", f"persistence_location {tmp_path}/", "autosave_interval 1")
    broker = Mosquitto(tmp_path, *lines).start()
    yield broker
    broker.stop()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["stop", "kill", "no broker"])
def test_a_sensor_that_is_renamed_leaves_nothing_behind(
    persistent, files, start_node, how, protocol
):
    lines = (f'protocol = "{protocol}"',)
    before = config_of(persistent.port, files, *lines)
    node = start_node(before)
    wait_until(lambda: "sensors/test/water/state" in kept(persistent))
    end_by(how, node, persistent)
    start_node(replaced(before, ('id = "water"', 'id = "pond"')))
    wait_until(lambda: "sensors/test/pond/state" in kept(persistent))
    left = [topic for topic in kept(persistent) if "/water/" in topic]
    assert left == []


CHANGES: dict[str, tuple[str, str, list[str]]] = {
    "payload": ('payload = "both"', 'payload = "json"', ["air/temperature"]),
    "payload, the other way": ('payload = "both"', 'payload = "plain"', ["air/state"]),
    "base topic": ('base_topic = "sensors"', 'base_topic = "house/attic"', ["status", "health"]),
    "name": ('name = "test"', 'name = "attic"', ["status", "health", "air/state"]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_whatever_changes_the_old_topics_are_emptied(broker, files, start_node, how, change):
    old, new, gone = CHANGES[change]
    before = config_of(broker.port, files, 'base_topic = "sensors"', 'payload = "both"')
    node = start_node(before)
    topics = {f"sensors/test/{topic}" for topic in gone}
    wait_until(lambda: topics <= set(kept(broker)))
    end_by(how, node, broker)
    start_node(replaced(before, (old, new)))
    wait_until(lambda: not topics & set(kept(broker)), what=f"{topics} are gone")
    if change in ("name", "base topic"):
        wait_until(lambda: not [t for t in kept(broker) if t.startswith("sensors/test/")])
        wait_until(lambda: any(t.endswith("/air/state") for t in kept(broker)))


def test_another_prefix_of_home_assistant_leaves_no_device_behind(broker, files, start_node):
    before = config_of(broker.port, files) + '\n[homeassistant]\nprefix = "homeassistant"\n'
    node = start_node(before)
    wait_until(lambda: [t for t in kept(broker) if t.startswith("homeassistant/device/")])
    node.kill()
    start_node(replaced(before, ('prefix = "homeassistant"', 'prefix = "ha"')))
    wait_until(lambda: [t for t in kept(broker) if t.startswith("ha/device/")])
    assert not [t for t in kept(broker) if t.startswith("homeassistant/device/")]


def test_channels_that_a_sensor_has_no_more_are_emptied(broker, start_node):
    """A BME280 gives way to a DS18B20 under one id, with plain values."""
    config = (
        f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n'
        'payload = "plain"\n[[sensor]]\nid = "s"\ndriver = "bme280"\naddress = 0x76\n'
        'interval = "0.5s"\n'
    )
    node = start_node(config, "--simulate")
    wait_until(lambda: "sensors/test/s/humidity" in kept(broker))
    node.terminate()
    other = replaced(config, ('driver = "bme280"\naddress = 0x76', 'driver = "ds18b20"'))
    start_node(other, "--simulate").wait_for_log("s (ds18b20): online")
    wait_until(lambda: "online" in kept(broker).get("sensors/test/s/availability", ""))
    assert {t for t in kept(broker) if "/s/" in t} == {
        "sensors/test/s/availability",
        "sensors/test/s/temperature",
    }


def test_a_plain_value_of_an_earlier_life_is_not_online_with_the_others(
    broker, tmp_path, start_node, subscribe
):
    """A folder of the kernel's that has lost a channel meanwhile."""
    folder = tmp_path / "hwmon"
    folder.mkdir()
    (folder / "name").write_text("chip\n")
    for name in ("temp1_input", "humidity1_input"):
        (folder / name).write_text("21500\n")
    config = replaced(
        sysfs_config(broker.port, {"s": folder}, interval="0.5s", mqtt='payload = "plain"'),
    )
    node = start_node(config)
    wait_until(lambda: "sensors/test/s/humidity" in kept(broker), what=node.log)
    subscriber = subscribe(broker.port)
    node.kill()
    subscriber.wait_for("sensors/test/status", "offline")
    (folder / "humidity1_input").unlink()
    start_node(config)
    availability = "sensors/test/s/availability"
    # The retained one of the earlier life is online too: this life says offline first.
    wait_until(lambda: subscriber.on(availability)[-2:] == ["offline", "online"])
    assert "sensors/test/s/humidity" not in kept(broker)


# -- the instant after a crash


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", ["kill", "cut"])
def test_no_old_value_is_ever_seen_with_status_and_availability_online(
    broker, files, start_node, subscribe, how, protocol
):
    """As one who follows the topics sees them, in their order."""
    proxy = Proxy(broker.port)
    config = config_of(proxy.port, files, f'protocol = "{protocol}"', interval="1s")
    node = start_node(config)
    subscriber = subscribe(broker.port)
    subscriber.wait_for_states("air", 2)
    subscriber.wait_for("sensors/test/water/availability", "online")
    if how == "kill":
        node.kill()
    else:
        proxy.cut()
    subscriber.wait_for("sensors/test/status", "offline")
    for file in files.values():
        file.write_text("35000\n")
    seen = len(subscriber.messages)
    if how == "kill":
        start_node(config)
    else:
        taken = ledger_in(node.state_dir).last_seq
        wait_until(lambda: ledger_in(node.state_dir).last_seq >= taken + 4)
        proxy.mend()
    wait_until(lambda: online_again(subscriber, seen), what="all is online again")
    assert [value for value in looks_current(subscriber, seen) if value == 21.5] == []
    proxy.close()


def online_again(subscriber: Subscriber, seen: int) -> bool:
    said = {topic: text for topic, text, _ in subscriber.messages[seen:]}
    names = ["status", "air/availability", "water/availability"]
    return all(said.get(f"sensors/test/{name}") == "online" for name in names)


def looks_current(subscriber: Subscriber, seen: int) -> Iterator[float]:
    """Every value that status and availability both call online, from the message `seen` on."""
    now: dict[str, str] = {}
    for number, (topic, text, _) in enumerate(subscriber.messages):
        now[topic] = text
        if number < seen or now.get("sensors/test/status") != "online":
            continue
        for name in ("air", "water"):
            if now.get(f"sensors/test/{name}/availability") == "online":
                yield json.loads(now[f"sensors/test/{name}/state"])["temperature"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hundred_sensors_keep_the_order_too(broker, tmp_path, start_node, subscribe, protocol):
    """More than fit into a window: every availability is offline before the status is online."""
    files = {f"s{number}": tmp_path / f"t{number}" for number in range(100)}
    for file in files.values():
        file.write_text("21500\n")
    config = config_of(broker.port, files, f'protocol = "{protocol}"', interval="5s")
    node = start_node(config)

    def count() -> int:
        return sum(t.endswith("/availability") and v == "online" for t, v in kept(broker).items())

    wait_until(lambda: count() == 100)
    node.kill()
    subscriber = subscribe(broker.port)
    seen = len(subscriber.messages)
    start_node(config)
    subscriber.wait_for("sensors/test/status", "online")
    said = [(topic, text) for topic, text, _ in subscriber.messages[seen:]]
    before = said[: said.index(("sensors/test/status", "online"))]
    offline = {topic for topic, text in before if text == "offline" and "availability" in topic}
    assert len(offline) == 100
    wait_until(lambda: count() == 100)
    topics = [text.count("(QoS 1)") for text in broker.log_file.read_text().split("Received ")]
    assert sum(topics) > 2 * 100
    assert max(topics) == 8, "topics in a SUBSCRIBE; some brokers accept no more"
    assert sum(number == 8 for number in topics) == 2 * 12


# -- two nodes of one name, and copies of a card


def other_node(folder: Path, config: str, **options: Any) -> NodeProcess:
    folder.mkdir(exist_ok=True)
    return NodeProcess(folder, config, **options)


def on_another_computer(folder: Path) -> tuple[str, ...]:
    """The program, where /etc/machine-id is another."""
    file = folder / "machine-id"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    code = "from pathlib import Path; from node.system import node_ids; "
    code += f"node_ids._MACHINE_ID = Path({str(file)!r}); "
    code += "import sys; from node.cli.main import main; sys.exit(main())"
    return (sys.executable, "-c", code)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_two_nodes_of_one_name_are_noticed_and_the_one_that_lives_stays_online(
    broker, files, tmp_path, start_node, subscribe, protocol
):
    lines = f'protocol = "{protocol}"'
    config = config_of(broker.port, files, lines) + '\n[outbox]\nhistory_interval = "0.5s"\n'
    first = start_node(config)
    subscriber = subscribe(broker.port)
    subscriber.wait_for_states("air", 1)
    second = other_node(tmp_path / "second", config, program=on_another_computer(tmp_path))
    try:
        first.wait_for_log("another node is named test at this broker")
        wait_until(lambda: len({r["stream"] for r in subscriber.history()}) == 2)
        second.kill()
        wait_until(lambda: "offline" in subscriber.on("sensors/test/status")[1:])
        subscriber.wait_for("sensors/test/status", "online")
        subscriber.wait_for("sensors/test/air/availability", "online")
        wait_until(lambda: any("named test" in p for p in subscriber.health()["problems"]))
        assert len(first.log_lines("another node is named")) == 1
        streams = {r["stream"] for r in subscriber.history()}
        assert len(streams) == 2
        for stream in streams:  # none is mixed with, or hidden by, one of the other's
            seqs = [r["seq"] for r in subscriber.history() if r["stream"] == stream]
            assert sorted(set(seqs)) == list(range(1, max(seqs) + 1))
    finally:
        second.kill()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_node_alone_speaks_of_no_other(broker, files, start_node, subscribe, protocol):
    """Negative control: through losses of the link, restarts and its own will."""
    proxy = Proxy(broker.port)
    config = config_of(proxy.port, files, f'protocol = "{protocol}"')
    subscriber = subscribe(broker.port)
    node = start_node(config)
    for _ in range(3):
        subscriber.wait_for("sensors/test/status", "online")
        proxy.cut()
        subscriber.wait_for("sensors/test/status", "offline")
        proxy.mend()
    subscriber.wait_for("sensors/test/status", "online")
    node.kill()
    node = start_node(config)
    subscriber.wait_for("sensors/test/status", "online")
    assert "another node" not in node.log_file.read_text()
    assert subscriber.health()["problems"] == []
    proxy.close()


def test_a_restored_card_begins_a_new_stream(broker, files, tmp_path, start_node, subscribe):
    """Else a consumer that drops (stream, seq) twice would drop what is new."""
    config = config_of(broker.port, files) + '\n[outbox]\nhistory_interval = "0.5s"\n'
    subscriber = subscribe(broker.port)
    node = start_node(config)
    subscriber.wait_for_states("air", 3)
    node.terminate()
    shutil.copytree(node.state_dir, tmp_path / "copy")
    node = start_node(config)
    subscriber.wait_for_states("air", 9)
    node.kill()
    shutil.rmtree(node.state_dir)
    shutil.move(tmp_path / "copy", node.state_dir)
    seen = len(subscriber.history())
    node = start_node(config)
    node.wait_for_log("the card was restored from a copy")
    wait_until(lambda: len(subscriber.history()) >= seen + 6)
    before = {(r["stream"], r["seq"]): r["time"] for r in subscriber.history()[:seen]}
    for reading in subscriber.history()[seen:]:
        key = reading["stream"], reading["seq"]
        assert before.get(key, reading["time"]) == reading["time"], "another one under its number"
    streams = [state["stream"] for state in subscriber.states("air")]
    assert streams[-1] != streams[0]


def test_a_restart_begins_no_stream(broker, files, start_node, subscribe):
    """Negative control: nothing was restored."""
    subscriber = subscribe(broker.port)
    config = config_of(broker.port, files)
    for count, how in ((3, "kill"), (6, "stop"), (9, "stop")):
        node = start_node(config)
        subscriber.wait_for_states("air", count)
        node.kill() if how == "kill" else node.terminate()
        assert "another stream" not in node.log
    assert len({state["stream"] for state in subscriber.states("air")}) == 1
    unsubscribed = broker.log_file.read_text().count("UNSUBSCRIBE from")
    assert unsubscribed == 3, "its own states are not heard beyond the beginning"


def test_a_copied_card_with_another_name_leaves_the_original_alone(
    broker, files, tmp_path, start_node, subscribe
):
    """The original lives: its status is online, and nothing of it is emptied."""
    config = config_of(broker.port, files)
    first = start_node(config)
    subscriber = subscribe(broker.port)
    subscriber.wait_for_states("air", 2)
    (tmp_path / "second").mkdir()
    being_written = shutil.ignore_patterns(".sensor-node-*.new")
    shutil.copytree(first.state_dir, tmp_path / "second" / "state", ignore=being_written)
    second = other_node(tmp_path / "second", replaced(config, ('name = "test"', 'name = "copy"')))
    try:
        wait_until(lambda: subscriber.states("air", "copy"))
        there = kept(broker, above="sensors/test/#")
        assert there["sensors/test/status"] == "online"
        assert {"sensors/test/air/state", "sensors/test/water/availability"} <= set(there)
    finally:
        second.kill()


@pytest.mark.real_time(seconds=10)
def test_an_old_name_is_emptied_once_its_will_has_come(broker, files, start_node):
    """After a power cut the broker still says that the old name is online, for a while."""
    proxy = Proxy(broker.port)
    config = config_of(proxy.port, files)
    node = start_node(config)
    wait_until(lambda: "sensors/test/water/state" in kept(broker))
    proxy.blackhole()
    node.process.send_signal(signal.SIGKILL)
    node.process.wait(PATIENCE_S)
    renamed = config_of(broker.port, files)
    start_node(replaced(renamed, ('name = "test"', 'name = "attic"')))
    wait_until(lambda: "sensors/attic/air/state" in kept(broker))
    wait_until(lambda: not kept(broker, above="sensors/test/#"), what="the old name is gone")
    proxy.close()


def test_online_expires_at_a_broker_that_comes_back_alone(broker, files, start_node):
    """MQTT 5: broker and node die together, and nobody can say `offline`."""
    start_node(config_of(broker.port, files))
    wait_until(lambda: kept(broker).get("sensors/test/status") == "online")
    expiry = expiry_of(broker.port, "sensors/test/status")
    assert expiry is not None
    assert 120 < expiry <= 180


def expiry_of(port: int, topic: str) -> int | None:
    """The Message Expiry Interval that a retained message still has, in seconds."""
    found: list[int | None] = []
    subscriber = Subscriber(port, "no/such/topic")
    subscriber.client.on_message = lambda _client, _data, message: found.append(
        getattr(message.properties, "MessageExpiryInterval", None)
    )
    subscriber.client.subscribe(topic, 1)
    wait_until(lambda: found)
    subscriber.close()
    return found[0]
