"""The core of what a node promises, on every broker and in every version of MQTT.

On mosquitto with each `protocol`, and on amqtt. With one of these it is tried on another broker
instead, in all versions:

    SENSOR_NODE_TEST_BROKER=127.0.0.1:1883      one that runs; it is not restarted
    SENSOR_NODE_TEST_BROKER_COMMAND='...'       serves on 127.0.0.1:$PORT until it is killed; what
                                                it writes can go to the folder $FOLDER
    SENSOR_NODE_TEST_BROKER_LOGIN=user:password with either, where it wants a login
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import MQTTProtocolVersion
from ports import free_port
from support import (
    PATIENCE_S,
    Mosquitto,
    NodeProcess,
    Subscriber,
    dead_letters,
    replaced,
    sysfs_config,
    wait_until,
)
from test_delivery import fill_log

RUNNING = os.environ.get("SENSOR_NODE_TEST_BROKER", "")
COMMAND = os.environ.get("SENSOR_NODE_TEST_BROKER_COMMAND", "")
LOGIN = os.environ.get("SENSOR_NODE_TEST_BROKER_LOGIN", "")

AMQTT = """
import asyncio, os
from amqtt.broker import Broker
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

async def serve():
    passwords = os.path.join(os.environ["FOLDER"], "passwords")
    with open(passwords, "w") as file:
        file.write("u:" + PasswordHash([Argon2Hasher()]).hash("right"))
    plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": passwords}}
    listener = {"type": "tcp", "bind": f"127.0.0.1:{os.environ['PORT']}"}
    await Broker({"listeners": {"default": listener}, "plugins": plugins}).start()
    await asyncio.Event().wait()

asyncio.run(serve())
"""


class Launched:
    """A broker that a command starts, and that signals end with all that it has started."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        # Some take ten seconds to listen: meanwhile nobody is given the port. A broker that can be
        # killed and started again at once sets SO_REUSEADDR, and so gets it.
        self.port = free_port()
        self._folder = folder
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        env = {**os.environ, "PORT": str(self.port), "FOLDER": str(self._folder)}
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=env, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            try:
                self._process.wait(30)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)


class Place:
    """A broker, and the version in which the node speaks to it."""

    def __init__(self, broker: Any, protocol: str, *, address: str = "", login: str = "") -> None:
        self.broker = broker
        self.protocol = protocol
        host, _, port = address.rpartition(":")
        self.host = host or "127.0.0.1"
        self.port: int = int(port) if port else broker.port
        self.user, _, self.password = login.partition(":")

    @property
    def version(self) -> MQTTProtocolVersion:
        """In which observers speak to it."""
        return mqtt.MQTTv5 if self.protocol == "5" else mqtt.MQTTv311

    def speaks(self, version: MQTTProtocolVersion) -> bool:
        """Whether it grants a subscription in this version."""
        with contextlib.suppress(OSError, AssertionError):
            Observer(self, "nobody", version=version, patience_s=2).close()
            return True
        return False

    def wait_until_it_answers(self) -> None:
        """Some brokers listen long before they can talk."""
        wait_until(
            lambda: self.speaks(mqtt.MQTTv311) or self.speaks(mqtt.MQTTv5), 60, "the broker answers"
        )

    def config(self, file: Path, *, password: str = "") -> str:
        """One sensor at 5 Hz, under a name of its own, so that nothing is left from before."""
        name = f"n{uuid.uuid4().hex[:8]}"
        keys = f'protocol = "{self.protocol}"\n'
        if self.user:
            keys += f'username = "{self.user}"\npassword = "{password or self.password}"\n'
        config = sysfs_config(self.port, {"s": file}, interval="0.2s", mqtt=keys)
        config += '[outbox]\nhistory_interval = "1s"\n'
        return replaced(config, ('"test"', f'"{name}"'), ("127.0.0.1", self.host))


class Observer(Subscriber):
    """A subscriber in the version that is tried (3.1.1 for `auto`), to the topics of one node.

    To `sensors/NODE/#`, or to `topics` below the node's, by name.
    """

    def __init__(
        self,
        place: Place,
        node: str,
        *topics: str,
        version: MQTTProtocolVersion | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.node = node
        self.base = f"sensors/{node}"
        self._subscriptions = [(f"{self.base}/{topic}", 1) for topic in topics or ("#",)]
        self.messages: list[tuple[str, str, bool]] = []
        self.times: list[float] = []
        self.subscribed = 0
        self._ready = threading.Event()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            protocol=version or place.version,
            client_id=f"observer-{uuid.uuid4().hex[:8]}",
        )
        if place.user:
            self.client.username_pw_set(place.user, place.password)
        self.client.on_message = self._arrived
        self.client.on_connect = self._connected
        self.client.on_subscribe = self._granted
        self.client.reconnect_delay_set(1, 1)
        self.client.connect(place.host, place.port, 60)
        self.client.loop_start()
        if not self._ready.wait(patience_s):
            self.close()
            raise AssertionError("no SUBACK")

    def _connected(self, client: Any, userdata: Any, flags: Any, reason: Any, *_: Any) -> None:
        if not reason.is_failure:
            client.subscribe(self._subscriptions)

    def _granted(self, *_: Any) -> None:
        self.subscribed += 1
        self._ready.set()

    def state(self) -> dict[str, Any]:
        """The newest state of the sensor; empty before there is one."""
        states = self.states("s", self.node)
        return states[-1] if states else {}

    def numbers(self) -> list[int]:
        """The seq of every reading in the history, in order of arrival."""
        return [reading["seq"] for reading in self.history(self.node)]

    def kept(self) -> dict[str, str]:
        """What came as retained: topic below the node's -> payload."""
        prefix = f"{self.base}/"
        return {
            topic.removeprefix(prefix): payload
            for topic, payload, kept in list(self.messages)
            if kept and topic.startswith(prefix)
        }

    def fence(self) -> None:
        """Until all that the broker had before is here."""
        mark = uuid.uuid4().hex
        self.client.publish(f"{self.base}/fence", mark, 1)
        self.wait_for(f"{self.base}/fence", mark)


def name_of(config: str) -> str:
    return config.split('name = "')[1].split('"', maxsplit=1)[0]


def places() -> list[tuple[str, str]]:
    if RUNNING or COMMAND:
        return [("another", protocol) for protocol in ("5", "3.1.1", "auto")]
    return [*(("mosquitto", p) for p in ("5", "3.1.1", "auto")), ("amqtt", "3.1.1")]


@pytest.fixture(scope="module", params=places(), ids=" ".join)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A broker for all the tests of this file."""
    kind, protocol = request.param
    folder = tmp_path_factory.mktemp(kind)
    broker: Any = None
    if kind == "mosquitto":
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), "u", "right"], check=True)
        broker = Mosquitto(folder, f"password_file {passwords}", "allow_anonymous false")
    elif kind == "amqtt":
        broker = Launched(folder, [sys.executable, "-c", AMQTT])
    elif COMMAND:
        broker = Launched(folder, ["sh", "-c", COMMAND])
    try:
        if broker is not None:
            broker.start()
        login = LOGIN if kind == "another" else "u:right"
        it = Place(broker, protocol, address=RUNNING if broker is None else "", login=login)
        it.wait_until_it_answers()
        if kind == "another" and not it.speaks(it.version):
            pytest.skip(f"this broker does not speak MQTT {protocol}")
        yield it
    finally:
        if broker is not None:
            broker.stop()


RETAINED = ("status", "s/availability", "s/state", "health")
"""Topics below the node's; what comes late asks for them by name, for not every broker looks for
retained messages by wildcard."""


@pytest.fixture
def observe(place: Place) -> Iterator[Callable[..., Observer]]:
    """Makes observers of the node of a configuration, closed at the end."""
    made: list[Observer] = []

    def make(config: str, *topics: str) -> Observer:
        made.append(Observer(place, name_of(config), *topics))
        return made[-1]

    yield make
    for observer in made:
        observer.close()


def test_what_is_retained_is_there_for_who_comes_late(place, observe, start_node, temperature_file):
    """Status, availability, the newest state, health; not history. All of it comes live too."""
    config = place.config(temperature_file)
    early = observe(config)
    node = start_node(config)
    wait_until(lambda: early.state().get("temperature") == 21.5)
    temperature_file.write_text("22250\n")
    wait_until(lambda: early.state()["temperature"] == 22.25)
    wait_until(early.numbers, what="history")
    late = observe(config, *RETAINED, "history", "fence")
    wait_until(lambda: set(late.kept()) >= set(RETAINED), what="four retained topics")
    late.fence()
    kept = late.kept()
    assert set(kept) == set(RETAINED)
    assert (kept["status"], kept["s/availability"]) == ("online", "online")
    assert json.loads(kept["s/state"])["temperature"] == 22.25
    assert json.loads(kept["health"])["problems"] == []
    temperature_file.unlink()
    early.wait_for(f"{early.base}/s/availability", "offline")
    numbers = [state["seq"] for state in early.states("s", early.node)]
    assert numbers == sorted(set(numbers))
    assert "the broker rejected" not in node.log
    expected = place.protocol
    if expected == "auto" and isinstance(place.broker, Mosquitto):
        expected = "5"
    assert f", MQTT {expected}".removesuffix("auto") in node.log


def test_a_wildcard_finds_what_is_retained(place, observe, start_node, temperature_file):
    """As `sensor-node watch` and dashboards ask for it, which know of no names before."""
    config = place.config(temperature_file)
    early = observe(config)
    start_node(config)
    topics = {f"{early.base}/{topic}" for topic in RETAINED}
    wait_until(lambda: {topic for topic, _, _ in list(early.messages)} >= topics)
    late = observe(config)
    wait_until(lambda: set(late.kept()) >= set(RETAINED), what="four retained topics")


def test_a_killed_node_is_offline_by_its_will(place, observe, start_node, temperature_file):
    """For those who are there, and for those who come later."""
    config = place.config(temperature_file)
    early = observe(config)
    node = start_node(config)
    early.wait_for(f"{early.base}/status", "online")
    node.kill()
    early.wait_for(f"{early.base}/status", "offline")
    late = observe(config, "status")
    wait_until(lambda: late.kept().get("status") == "offline")


def test_a_clean_stop_says_offline_once(place, observe, start_node, temperature_file):
    """By the node's own message; the broker discards the will."""
    config = place.config(temperature_file)
    observer = observe(config)
    node = start_node(config)
    observer.wait_for(f"{observer.base}/status", "online")
    wait_until(observer.state)
    assert node.terminate() == 0
    observer.fence()
    assert observer.on(f"{observer.base}/status") == ["online", "offline"]
    late = observe(config, "status")
    wait_until(lambda: late.kept().get("status") == "offline")


def wait_for_reading(node: NodeProcess, observer: Observer, seq: int) -> None:
    wait_until(
        lambda: observer.numbers()[-1:] >= [seq], 20, f"reading {seq} as history; {node.log}"
    )


def test_a_broker_that_is_killed_leaves_no_gap(place, observe, start_node, temperature_file):
    """What was read without it comes as history, in order; what was retained is there again."""
    if place.broker is None:
        pytest.skip("the broker is not ours to restart")
    config = place.config(temperature_file)
    observer = observe(config)
    node = start_node(config)
    wait_until(observer.numbers, what="history")
    known = len(observer.numbers())
    wait_until(lambda: len(observer.numbers()) > known)  # nothing is on its way, for a second
    place.broker.stop(signal.SIGKILL)
    node.wait_for_log("no broker: lost")
    before = observer.state()["seq"]
    temperature_file.write_text("30000\n")
    time.sleep(2)  # without a broker
    node.process.send_signal(signal.SIGSTOP)  # the observer shall be first
    try:
        again = observer.subscribed + 1
        place.broker.start()
        place.wait_until_it_answers()
        wait_until(lambda: observer.subscribed >= again, what="the observer is back")
    finally:
        node.process.send_signal(signal.SIGCONT)
    wait_until(lambda: observer.state()["temperature"] == 30.0)
    newest = observer.state()["seq"]
    assert newest > before + 5
    wait_for_reading(node, observer, newest)
    numbers = observer.numbers()
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1)), "no gap"
    first_times = list(dict.fromkeys(numbers))
    assert first_times == sorted(first_times), "no older one after a newer one"
    late = observe(config, *RETAINED)
    wait_until(lambda: set(late.kept()) == set(RETAINED))
    assert late.kept()["status"] == "online"
    assert {reading["stream"] for reading in observer.history(observer.node)} != set()
    versions = {line.rpartition(", ")[2] for line in node.log_lines("connected to")}
    assert len(node.log_lines("connected to")) >= 2
    assert len(versions) == 1, "it is spoken to as before"


def test_a_backlog_arrives_whole_and_in_order(place, observe, start_node, tmp_path):
    """Three thousand readings of ten sensors, fifty a message, each once."""
    file = tmp_path / "temp1_input"
    file.write_text("21500\n")
    fill_log(tmp_path / "state", 3000)
    config = replaced(place.config(file), ('\ninterval = "0.2s"', '\ninterval = "1h"'))
    observer = observe(config)
    node = start_node(config)
    wait_for_reading(node, observer, 3001)
    assert observer.numbers() == list(range(1, 3002))
    assert node.terminate() == 0
    assert dead_letters(node.state_dir) == []


def test_a_wrong_password_is_said_and_a_right_one_gets_in(place, start_node, temperature_file):
    if not place.user:
        pytest.skip("this broker asks for no password")
    wrong = start_node(place.config(temperature_file, password="wrong"))
    wrong.wait_for_log(f'refuses the user "{place.user}"')
    assert "connected to" not in wrong.log
    wrong.kill()
    start_node(place.config(temperature_file)).wait_for_log("connected to")


if RUNNING or COMMAND:  # test_node has these for mosquitto

    def test_a_frozen_node_is_offline_by_its_will(place, observe, start_node, temperature_file):
        config = place.config(temperature_file)
        observer = observe(config)
        node = start_node(config)
        observer.wait_for(f"{observer.base}/status", "online")
        node.process.send_signal(signal.SIGSTOP)
        try:
            observer.wait_for(f"{observer.base}/status", "offline", 20)
        finally:
            node.process.send_signal(signal.SIGCONT)
        observer.wait_for(f"{observer.base}/status", "online")

    def test_a_retained_reading_expires_with_mqtt_5(place, observe, start_node, temperature_file):
        if place.protocol != "5":
            pytest.skip("MQTT 3.1.1 has no expiry")
        config = replaced(
            place.config(temperature_file), ("keepalive", 'retain_for = "2s"\nkeepalive')
        )
        observer = observe(config)
        node = start_node(config)
        wait_until(observer.state)
        node.kill()
        observer.wait_for(f"{observer.base}/status", "offline")
        time.sleep(4)
        late = observe(config, *RETAINED, "fence")
        wait_until(lambda: late.kept().get("status") == "offline")
        late.fence()
        assert "s/state" not in late.kept()
