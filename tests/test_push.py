"""`sensor-node push`: a bundle reaches a real node, whatever is interrupted; root is played.

What root makes of a bundle is in service/check_remote_update.py.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import itertools
import json
import random
import signal
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_support import DEPLOY, NEEDS_MINISIGN, make_bundle, make_key
from ports import free_port
from support import (
    PATIENCE_S,
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    Subscriber,
    end,
    replaced,
    retained,
    sysfs_config,
    wait_until,
)
from test_remote_update import Node

from node.cli.main import main
from node.config.schema import HostName, MqttTable
from node.mqtt.events import Arrived, Connected, Disconnected, Outgoing
from node.mqtt.leftovers import NoAnswer, NoBroker, Visit
from node.topics import Topics
from node.updates import bundle_file, sender
from node.updates.bundle_file import NotABundle, read_offer
from node.updates.request import parse_offer
from node.updates.sender import Sender, Silent

PIECES = 5
SIGNATURE = "untrusted comment: x\n{}\ntrusted comment: y\n{}\n".format(
    base64.b64encode(b"ED" + bytes(72)).decode(), base64.b64encode(bytes(64)).decode()
)
KEPT = ("kept", "9.0.0-abc is healthy, and stays")


def write_bundle(file: Path, size: int = PIECES * sender.PIECE_BYTES - 9000, **facts: Any) -> Path:
    """A bundle as far as this end looks, of about `size` bytes, and its signature."""
    manifest = {"product": "sensor-node", "version": "9.0.0", **facts}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr("manifest.json", json.dumps(manifest))
        packed.writestr("pi_sensor_node-9.0.0-py3-none-any.whl", random.Random(1).randbytes(size))
    file.with_name(f"{file.name}.minisig").write_text(SIGNATURE)
    return file


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "sensor-node-9.0.0-arm64-py313.bundle")


@pytest.fixture
def start(bundle: Path, start_node: Any, temperature_file: Path) -> Callable[..., Any]:
    """Starts a node with a publisher's key, where the bundle is; `push` has its configuration."""
    keys = bundle.parent / "update-keys"
    keys.mkdir()
    (keys / "first.pub").touch()

    def start(port: int, more: str = "", mqtt: str = "") -> Any:
        return start_node(sysfs_config(port, {"s": temperature_file}, mqtt=mqtt) + more)

    return start


@contextlib.contextmanager
def root(state_dir: Path, state: str, text: str) -> Iterator[None]:
    """What takes up the request of a node, and reports."""
    bundles: list[bytes] = []

    def act() -> None:
        request = state_dir / "update-request"
        wait_until(request.exists, what="a request for root")
        bundles.append((state_dir / "update.bundle").read_bytes())
        report = {"request": request.read_text().split()[0], "state": state, "text": text}
        request.unlink()
        (state_dir / "update-report.json").write_text(json.dumps(report))

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
    assert bundles, "nothing has come"
    [expected] = [f.read_bytes() for f in state_dir.parent.glob("*.bundle")]
    assert bundles[0] == expected


def push(folder: Path, *words: str, node: str = "test") -> int:
    [file] = folder.glob("*.bundle")
    return main(["push", node, str(file), "--config", str(folder / "node.toml"), *words])


class Pieces:
    """Sees what is sent to the node, and calls `then` after so many pieces."""

    def __init__(self, port: int) -> None:
        self.subscriber = Subscriber(port, "sensors/test/cmd/+")

    def offsets(self) -> list[int]:
        topic = "sensors/test/cmd/update-piece"
        return [int(text.split()[0]) for text in self.subscriber.on(topic)]

    def after(self, count: int, then: Callable[[], None]) -> threading.Thread:
        def act() -> None:
            wait_until(lambda: len(self.offsets()) >= count, what=f"{count} pieces")
            then()

        thread = threading.Thread(target=act)
        thread.start()
        return thread


@pytest.fixture
def pieces(broker: Mosquitto) -> Iterator[Pieces]:
    made = Pieces(broker.port)
    yield made
    made.subscriber.close()


def times_begun(node: NodeProcess) -> int:
    """How often the node, and those before it, have begun to receive a bundle."""
    return node.log_file.read_text().count("update: receiving")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for an hour."""
    monkeypatch.setattr(sender, "SILENT_S", PATIENCE_S)


# -- from one end to the other


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_bundle_is_sent_and_kept(tmp_path, start, bundle, subscribe, protocol):
    """With the broker's ACL of the deployment, as an operator."""
    acl = tmp_path / "acl"
    acl.write_text((DEPLOY / "mosquitto.acl").read_text().replace("greenhouse", "test"))
    mosquitto = Mosquitto(tmp_path, f"acl_file {acl}").start()
    try:
        mqtt = f'protocol = "{protocol}"\nusername = "test"\npassword = "x"\n'
        node = start(mosquitto.port, mqtt=mqtt)
        config = tmp_path / "operator.toml"
        text = replaced((tmp_path / "node.toml").read_text(), ('"test"', '"operator"'), times=2)
        config.write_text(text)
        reader = {"username": "dashboard", "password": "x"}
        answers = subscribe(mosquitto.port, "sensors/test/cmd/+/result/#", **reader)
        with root(node.state_dir, *KEPT):
            done = subprocess.run(
                [SENSOR_NODE, "push", "test", str(bundle), "--config", str(config)],
                capture_output=True,
                text=True,
                timeout=3 * PATIENCE_S,
                check=False,
            )
    finally:
        mosquitto.stop()
    assert (done.returncode, done.stdout) == (0, f"test: kept: {KEPT[1]}\n"), done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == f"{bundle.name} (0.1 MB, version 9.0.0) is for test"
    percents = [line for line in lines if line.endswith(" %")]
    assert percents[0] == "test: 0 %"
    assert percents[-1] == "test: 100 %"
    assert len(percents) == PIECES + 1
    ends = {topic.partition("/result")[2].partition("-")[0] for topic, _, _ in answers.messages}
    assert ends == {"/push" if protocol == "5" else ""}, "to this command alone, in MQTT 5"


def test_progress_is_one_line_of_a_terminal(broker, start, tmp_path, capsys, monkeypatch):
    """The cursor is at its beginning when something else is written."""
    node = start(broker.port)
    monkeypatch.setattr("node.commands.push.is_plain", lambda _stream: False)
    with root(node.state_dir, "undone", "it does not reach the broker"):
        assert push(tmp_path) == 1
    shown = capsys.readouterr()
    assert "\x1b[Ktest: 100 % of 0.1 MB\r" in shown.err
    assert " of 0.1 MB\n" not in shown.err
    assert shown.err.endswith("\x1b[Ktest: undone: it does not reach the broker\n")
    assert shown.out == ""


# -- interruptions


def test_an_interrupted_command_goes_on_when_it_is_started_again(
    broker, start, bundle, tmp_path, pieces
):
    node = start(broker.port)
    command = [SENSOR_NODE, "push", "test", str(bundle), "--config", str(tmp_path / "node.toml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(pieces.offsets()) >= 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        end(process)
    assert (process.returncode, out) == (1, "")
    assert "test keeps what has come for an hour. To go on, start the command again.\n" in err
    cancel = f"mosquitto_pub -h 127.0.0.1 -p {broker.port} -t sensors/test/cmd/update -m cancel\n"
    assert err.endswith(f"To cancel it, with your login: {cancel}")
    with root(node.state_dir, *KEPT):
        assert push(tmp_path) == 0
    assert times_begun(node) == 1
    offsets = pieces.offsets()
    assert offsets == sorted(offsets)
    assert len(offsets) <= PIECES + 1, "one may have been on its way"


def test_a_broker_that_is_restarted_does_not_begin_it_again(
    broker, start, tmp_path, pieces, capsys
):
    node = start(broker.port)

    def restart() -> None:
        broker.stop()
        broker.start()

    disturbance = pieces.after(2, restart)
    with root(node.state_dir, *KEPT):
        assert push(tmp_path) == 0
    disturbance.join()
    assert f"test: kept: {KEPT[1]}\n" in capsys.readouterr().out
    assert times_begun(node) == 1


def test_a_node_that_is_restarted_goes_on_where_it_was(
    broker, start, tmp_path, pieces, monkeypatch
):
    """It is noticed by its `online`: this test does not see a time-out."""
    monkeypatch.setattr(sender, "ANSWER_S", 100 * PATIENCE_S)
    node = start(broker.port)

    def restart() -> None:
        node.kill()
        start(broker.port)

    disturbance = pieces.after(2, restart)
    with root(node.state_dir, *KEPT):
        assert push(tmp_path) == 0
    disturbance.join()
    assert times_begun(node) == 1


def test_a_node_that_does_not_come_back_is_given_up(
    broker, start, tmp_path, pieces, monkeypatch, capsys
):
    monkeypatch.setattr(sender, "ANSWER_S", 0.2)
    monkeypatch.setattr(sender, "SILENT_S", 0.4)
    node = start(broker.port)
    disturbance = pieces.after(2, node.kill)
    assert push(tmp_path) == 1
    disturbance.join()
    [*_, last] = capsys.readouterr().err.splitlines()
    goes_on = "it was receiving, and goes on if the command is started again"
    assert last == f"given up: test is offline; {goes_on}"


def test_an_update_that_is_cancelled_meanwhile_ends(broker, start, tmp_path, pieces, capsys):
    """By another operator, for example."""
    start(broker.port)
    client = pieces.subscriber.client
    disturbance = pieces.after(2, lambda: client.publish("sensors/test/cmd/update", "cancel", 1))
    assert push(tmp_path) == 1
    disturbance.join()
    assert capsys.readouterr().err.endswith("\ntest: cancelled\n")


def test_an_update_that_root_has_already_is_only_waited_for(
    broker, start, tmp_path, pieces, capsys
):
    """The command was ended while root worked."""
    node = start(broker.port)
    interrupted = threading.Event()

    def ended(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sender.Sender, "_next_state", ended)
        assert push(tmp_path) == 1
    assert interrupted.is_set()
    capsys.readouterr()
    sent = len(pieces.offsets())
    wait_until((node.state_dir / "update-request").exists)
    with root(node.state_dir, "refused", "x.bundle is signed with the key 1A, which is not known"):
        assert push(tmp_path) == 1
    assert len(pieces.offsets()) == sent == PIECES
    shown = capsys.readouterr().err
    assert shown.endswith("refused: x.bundle is signed with the key 1A, which is not known\n")
    assert "test: staged: the bundle is there, and waits for root\n" in shown


def test_two_commands_at_once_bring_it_together(broker, start, bundle, tmp_path, capsys):
    node = start(broker.port)
    command = [SENSOR_NODE, "push", "test", str(bundle), "--config", str(tmp_path / "node.toml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        with root(node.state_dir, *KEPT):
            assert push(tmp_path) == 0
        out, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        end(process)
    assert (process.returncode, out) == (0, capsys.readouterr().out)
    assert times_begun(node) == 1


@pytest.mark.parametrize(
    ("limit", "protocol"),
    [
        ("message_size_limit 9000", "5"),
        ("max_packet_size 9000", "5"),
        ("message_size_limit 9000", "3.1.1"),
    ],
)
def test_a_broker_that_takes_little_gets_smaller_pieces(
    start, bundle, tmp_path, monkeypatch, limit, protocol
):
    """It refuses a message, says at first how large one may be, or drops it without a word."""
    monkeypatch.setattr(sender, "ANSWER_S", 0.8)
    write_bundle(bundle, 20_000)
    mosquitto = Mosquitto(tmp_path, limit).start()
    try:
        node = start(mosquitto.port, mqtt=f'protocol = "{protocol}"\n')
        with root(node.state_dir, *KEPT):
            assert push(tmp_path) == 0
    finally:
        mosquitto.stop()


# -- what is not kept


def test_a_node_that_refuses_says_why_and_what_can_be_done(
    broker, start, bundle, tmp_path, subscribe, capsys
):
    start(broker.port)
    client = subscribe(broker.port)
    client.wait_for("sensors/test/status", "online")
    offer = read_offer(bundle)
    other = {**vars_of(offer), "bundle": "0" * 64}
    client.client.publish("sensors/test/cmd/update", json.dumps(other), 1)
    wait_until(lambda: client.on("sensors/test/cmd/update/result"))
    assert push(tmp_path) == 1
    shown = capsys.readouterr().err
    assert "test refuses it: the update to 9.0.0 is under way (receiving): cancel it first" in shown
    assert shown.endswith("-t sensors/test/cmd/update -m cancel\n")


def vars_of(offer: Any) -> dict[str, Any]:
    return {name: getattr(offer, name) for name in offer.__struct_fields__}


@pytest.mark.usefixtures("bundle")
def test_a_node_without_a_key_says_what_it_lacks(
    broker, start_node, temperature_file, tmp_path, capsys
):
    start_node(sysfs_config(broker.port, {"s": temperature_file}))
    assert push(tmp_path) == 1
    shown = capsys.readouterr().err
    assert "test refuses it: unknown command; known are read" in shown
    assert "put the publisher's update.pub into /etc/sensor-node/update-keys" in shown


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "test is not known to the broker: it has nothing on sensors/test/status"),
        ("offline", "test is offline"),
        ("online", "test is online, but does not answer; may this login publish to"),
    ],
)
def test_a_node_that_does_not_answer_is_given_up(
    broker, temperature_file, tmp_path, monkeypatch, subscribe, capsys, status, words
):
    (tmp_path / "node.toml").write_text(sysfs_config(broker.port, {"s": temperature_file}))
    monkeypatch.setattr(sender, "FIRST_ANSWER_S", 0.4)
    monkeypatch.setattr(sender, "ANSWER_S", 0.2)
    if status is not None:
        subscribe(broker.port).client.publish("sensors/test/status", status, 1, retain=True)
        wait_until(lambda: retained(broker.port))
    assert push(tmp_path) == 1
    shown = capsys.readouterr().err
    assert f"{words}" in shown
    assert shown.splitlines()[-1].startswith(f"given up: {words}")
    assert shown.count("; waiting for it\n") == 1, "once"


@pytest.mark.usefixtures("bundle")
def test_a_broker_that_is_away_or_denies_is_named(temperature_file, tmp_path, capsys):
    port = free_port()
    (tmp_path / "node.toml").write_text(sysfs_config(port, {"s": temperature_file}))
    assert push(tmp_path) == 1
    assert f"127.0.0.1:{port}: no broker: " in capsys.readouterr().err
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    mosquitto = Mosquitto(tmp_path, f"acl_file {acl}", port=port).start()
    try:
        assert push(tmp_path) == 1
    finally:
        mosquitto.stop()
    shown = capsys.readouterr().err
    assert "the broker rejected sensors/test/cmd/update: Not authorized; allow this login" in shown


# -- --fetch and --offer


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A server of the bundle's folder."""
    handler = functools.partial(Handler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_bundle_is_offered_and_then_fetched(broker, start, tmp_path, url, pieces, capsys):
    node = start(broker.port, f'\n[update]\nurl = "{url}"\n')
    assert push(tmp_path, "--fetch", "--offer") == 0
    assert capsys.readouterr().out == "test: offered: 9.0.0 can be installed\n"
    with root(node.state_dir, *KEPT):
        assert push(tmp_path, "--fetch") == 0
    assert capsys.readouterr().out == f"test: kept: {KEPT[1]}\n"
    assert pieces.offsets() == []


def test_an_offer_in_pieces_waits_for_a_second_command(broker, start, tmp_path, pieces, capsys):
    node = start(broker.port)
    assert push(tmp_path, "--fetch") == 1
    assert "[update] url does not say from where" in capsys.readouterr().err
    assert push(tmp_path, "--offer") == 0
    shown = capsys.readouterr().out
    assert "When Install was pressed, run this command again without --offer" in shown
    pieces.subscriber.client.publish("sensors/test/cmd/update", "install", 1)
    state = node.state_dir / "update-state.json"
    wait_until(lambda: '"receiving"' in state.read_text())
    assert push(tmp_path, "--fetch") == 1
    assert "it has begun to take this bundle in pieces (0 bytes)" in capsys.readouterr().err
    with root(node.state_dir, *KEPT):
        assert push(tmp_path) == 0


def test_a_node_that_cannot_write_is_not_asked_for_ever(broker, start, tmp_path, pieces, capsys):
    """As with a full disk; here a link is in the way, which the node does not follow."""
    node = start(broker.port)
    assert push(tmp_path, "--offer") == 0
    pieces.subscriber.client.publish("sensors/test/cmd/update", "install", 1)
    wait_until(lambda: times_begun(node))
    (node.state_dir / "update.part").symlink_to(tmp_path / "elsewhere")
    assert push(tmp_path) == 1
    assert "test refuses it: [Errno 40] Too many levels" in capsys.readouterr().err
    assert pieces.offsets() == [0] * 5


# -- lost messages


class LossyVisit:
    """The way to an `Updater`, which loses questions and answers."""

    max_packet_bytes = 1 << 20

    def __init__(self, node: Node, loses: Callable[[], bool]) -> None:
        self.node, self.loses = node, loses

    def begin(self) -> None: ...

    def come_back(self, within_s: float) -> None: ...

    def newest(self, topic: str) -> bytes | None:
        return None

    def ask(self, question: Outgoing, within_s: float, is_answer: Callable[..., bool]) -> None:
        if self.loses():
            raise NoAnswer("the question is lost")
        name = question.topic.rpartition("/")[2]
        try:
            piece = name == "update-piece"
            said = self.node.raw_piece(question.payload) if piece else self.command(question)
        except ValueError as error:
            said = {"ok": False, "error": str(error)}
        if self.loses():
            raise NoAnswer("the answer is lost")
        payload = json.dumps({"command": name, **said}).encode()
        topic, correlation = question.response_topic, question.correlation
        assert is_answer(Arrived(1, topic, payload, False, correlation=correlation))

    def command(self, question: Outgoing) -> dict[str, Any]:
        return {"ok": True, **self.node.ask(question.payload)}

    def hear(self, within_s: float, is_it: Callable[..., bool]) -> None:
        if self.node.state == "receiving":
            assert self.node.turn() == "staged"
        else:
            self.node.root_says(*KEPT)
        raise NoAnswer("nothing in time")


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_the_bundle_arrives(tmp_path, seed):
    node = Node(tmp_path)
    file = write_bundle(tmp_path / "x.bundle", 20_000)
    chance = random.Random(seed)
    visit: Any = LossyVisit(node, lambda: chance.random() < 0.3)
    topics = Topics("sensors", "test")
    seen: list[Any] = []
    sent = Sender(visit, topics, file, read_offer(file), show=seen.append, waits=seen.append)
    sent._piece_bytes = 1000
    assert (sent.send().state, node.state) == ("kept", "kept")
    assert (tmp_path / "update.bundle").read_bytes() == file.read_bytes()


def test_a_node_that_says_that_it_is_online_is_asked_again(tmp_path):
    """It was started again, or said so as it does each minute; neither is worth a word."""
    status = Arrived(1, "sensors/test/status", b"online", False)

    class Renewed(LossyVisit):
        def ask(self, question: Outgoing, within_s: float, is_answer: Callable[..., bool]) -> None:
            if not self.loses() or not is_answer(status):
                super().ask(question, within_s, is_answer)

    loses = itertools.chain([True, True], itertools.repeat(False))
    visit: Any = Renewed(Node(tmp_path), lambda: next(loses))
    file = write_bundle(tmp_path / "x.bundle", 2000)
    waited: list[str] = []
    topics = Topics("sensors", "test")
    sent = Sender(visit, topics, file, read_offer(file), show=lambda _: None, waits=waited.append)
    assert sent.send().state == "kept"
    assert waited == []


def test_pieces_that_never_arrive_are_given_up(tmp_path):
    """An ACL that allows the command, and not the pieces: in MQTT 3.1.1 the broker says nothing."""

    class Deaf(LossyVisit):
        def ask(self, question: Outgoing, within_s: float, is_answer: Callable[..., bool]) -> None:
            if question.topic.endswith("update-piece"):
                raise NoAnswer
            super().ask(question, within_s, is_answer)

    visit: Any = Deaf(Node(tmp_path), lambda: False)
    file = write_bundle(tmp_path / "x.bundle", 2000)
    topics = Topics("sensors", "test")
    sent = Sender(visit, topics, file, read_offer(file), show=lambda _: None, waits=print)
    with pytest.raises(Silent, match="test answers, but no piece of the bundle reaches it; may"):
        sent.send()


def test_a_bundle_that_another_command_has_named_first_is_waited_for(tmp_path, monkeypatch):
    """Between the first question and the announcement, which the node then refuses."""
    monkeypatch.setattr("node.updates.updater.Updater._fetch", lambda _updater: None)
    file = write_bundle(tmp_path / "x.bundle", 2000)
    offer = read_offer(file, fetch=True)

    class Slower(LossyVisit):
        def ask(self, question: Outgoing, within_s: float, is_answer: Callable[..., bool]) -> None:
            super().ask(question, within_s, is_answer)
            if self.node.state == "idle":
                self.node.ask(json.dumps(vars_of(offer)).encode())

        def hear(self, within_s: float, is_it: Callable[..., bool]) -> None:
            raise KeyboardInterrupt

    visit: Any = Slower(Node(tmp_path, "http://127.0.0.1:1"), lambda: False)
    seen: list[Any] = []
    sent = Sender(visit, Topics("sensors", "test"), file, offer, show=seen.append, waits=print)
    with pytest.raises(KeyboardInterrupt):
        sent.send()
    assert seen[-1].state == "fetching"


def test_an_answer_to_an_earlier_question_is_not_a_refusal(tmp_path, monkeypatch):
    """In MQTT 3.1.1; the second announcement is refused, because the first one has arrived."""
    monkeypatch.setattr("node.updates.updater.Updater._fetch", lambda _updater: None)
    file = write_bundle(tmp_path / "x.bundle", 2000)
    node = Node(tmp_path, "http://127.0.0.1:1")
    offer = read_offer(file, fetch=True)
    stale = {"command": "update", "ok": True, "state": "idle", "received": 0}

    class Late(LossyVisit):
        """Its answers are those to the question before, as they may be in MQTT 3.1.1."""

        said = stale

        def ask(self, question: Outgoing, within_s: float, is_answer: Callable[..., bool]) -> None:
            topic, before = question.topic + "/result", self.said
            try:
                self.said = {"command": "update", **self.command(question)}
            except ValueError as error:
                self.said = {"command": "update", "ok": False, "error": str(error)}
            assert is_answer(Arrived(1, topic, json.dumps(before).encode(), False))

        def hear(self, within_s: float, is_it: Callable[..., bool]) -> None:
            looks.append(self.said["ok"])
            if len(looks) == 3:
                raise KeyboardInterrupt
            raise NoAnswer

    seen: list[Any] = []
    looks: list[Any] = []
    visit: Any = Late(node, lambda: False)
    sent = Sender(visit, Topics("sensors", "test"), file, offer, show=seen.append, waits=print)
    with pytest.raises(KeyboardInterrupt):
        sent.send()
    assert looks == [False, True, True], "the refusal was the next answer"
    assert [answer.state for answer in seen[-3:]] == ["fetching"] * 3


def test_a_connection_that_is_lost_with_an_answer_is_made_again(broker):
    """Both were in one turn: the next question notices it, and does not wait in vain."""
    mqtt = MqttTable(host=HostName("127.0.0.1"), port=broker.port)
    visit = Visit(mqtt, None, "visit", ["t"])
    visit.begin()
    try:
        broker.stop()
        wait_until(lambda: any(isinstance(e, Disconnected) for e in visit._events._events))
        visit._events.put(Arrived(1, "t", b"answer", False))
        visit.hear(PATIENCE_S, lambda event: event.payload == b"answer")
        broker.start()
        wait_until(lambda: any(isinstance(e, Connected) for e in visit._events._events))
        with pytest.raises(NoBroker, match="lost"):
            visit.hear(0.1, lambda _event: True)
        with pytest.raises(NoBroker, match="lost"):
            visit.ask(Outgoing("t", b""), 0.1, lambda _event: True)
        visit.come_back(PATIENCE_S)
    finally:
        visit.close()


# -- the files


@NEEDS_MINISIGN
def test_a_real_bundle_is_read(tmp_path):
    file = make_bundle(tmp_path, make_key(tmp_path), version="0.3.0")
    offer = read_offer(file, fetch=True)
    assert (offer.version, offer.size, offer.file) == ("0.3.0", file.stat().st_size, file.name)
    assert offer.bundle == hashlib.sha256(file.read_bytes()).hexdigest()
    assert offer.signature == (tmp_path / f"{file.name}.minisig").read_text()
    assert parse_offer(json.dumps(vars_of(offer)).encode()) == offer


def other_product(file: Path) -> None:
    write_bundle(file, product="lamp")


def odd_version(file: Path) -> None:
    write_bundle(file, version="nine")


def without_version(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("manifest.json", '{"product": "sensor-node"}')


def large_manifest(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("manifest.json", " " * (1 << 20) + "{}")


def signature(text: str) -> Callable[[Path], None]:
    return lambda file: (file.with_name(f"{file.name}.minisig").write_text(text), None)[1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Path.unlink, "x.bundle cannot be read: No such file or directory"),
        (lambda file: file.write_bytes(b""), "is not a bundle: that is a file of 1 to 314572800"),
        (lambda file: file.write_bytes(b"hello"), "is not a bundle of sensor-node (File is not a"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "if it is one, fetch it again"),
        (lambda file: zipfile.ZipFile(file, "w").close(), "(There is no item named 'manifest."),
        (without_version, "is not a bundle of sensor-node (version)"),
        (large_manifest, "the manifest of"),
        (other_product, "is a bundle of 'lamp', not of sensor-node"),
        (odd_version, "is a bundle that no node takes"),
        (lambda file: file.with_name("x.bundle.minisig").unlink(), "the signature"),
        (signature("untrusted comment: minisign public key 1A\nRWQ=\n"), "is not a signature of"),
        (signature(SIGNATURE.replace("RUQ", "RWQ")), "sign it with minisign 0.10 or newer"),
        (signature(SIGNATURE.replace("=", "é")), "is not a signature of minisign"),
        (signature(SIGNATURE + "x" * 2048), "is not a signature of minisign"),
    ],
)
def test_a_wrong_file_is_named_before_anything_is_sent(tmp_path, capsys, spoil, words):
    """No broker is asked: there is none."""
    (tmp_path / "node.toml").write_text(sysfs_config(free_port(), {"s": tmp_path / "x"}))
    file = write_bundle(tmp_path / "x.bundle", 100)
    spoil(file)
    assert main(["push", "test", str(file), "--config", str(tmp_path / "node.toml")]) == 1
    shown = capsys.readouterr().err
    assert words in shown
    assert str(file) in shown
    assert shown.count("\n") == 1


def test_a_bundle_that_is_too_large_or_no_file_is_named(tmp_path, monkeypatch):
    file = write_bundle(tmp_path / "x.bundle", 100)
    monkeypatch.setattr(bundle_file, "MAX_BYTES", 200)
    with pytest.raises(NotABundle, match="that is a file of 1 to 200 bytes"):
        read_offer(file)
    with pytest.raises(NotABundle, match="is not a bundle"):
        read_offer(tmp_path)


def test_a_name_that_no_node_fetches_is_refused(tmp_path):
    file = write_bundle(tmp_path / "a b.bundle", 100)
    assert read_offer(file).file is None
    with pytest.raises(NotABundle, match=r"a node does not fetch a file named 'a b.bundle'"):
        read_offer(file, fetch=True)


def test_a_node_that_is_none_is_wrong_usage():
    with pytest.raises(SystemExit) as ended:
        main(["push", "a/b", "x.bundle"])
    assert ended.value.code == 2
