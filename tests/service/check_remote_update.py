"""Updates from afar, from the command over MQTT to the version that runs, in a booted system.

Bundles come from a server on the loopback, or in pieces; good ones stay, bad ones go.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_support import Key, make_key
from bundles import KEYS, MakeBundle, set_clock
from check_update import FINDS_NO_BROKER, NO_BROKER, READS_NOTHING, STATUS, health_says, undone
from conftest import MakeWheel, configure
from container import Container, wait_for
from paho.mqtt import publish
from support import Mosquitto, Subscriber

RESULT = "sensors/box/cmd/update/result"
PIECE = 24 * 1024
INSTALLED_S = 600
"""How long an installation may take, on a machine that does much else."""


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, network: None) -> Iterator[Any]:
    """Serves a folder, on the loopback that is the container's too."""
    folder = tmp_path_factory.mktemp("server")
    handler = functools.partial(Handler, directory=str(folder))
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.folder = folder  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def node(system: Container, house_broker: Mosquitto, server: Any, key: Key) -> Container:
    url = f'[update]\nurl = "http://127.0.0.1:{server.server_port}/"\n'
    configure(system, house_broker.port, url)
    system.run("mkdir", KEYS)
    system.file(f"{KEYS}/first.pub").write_bytes(key.public.read_bytes())
    set_clock(system)
    system.run("/checkout/deploy/install.sh", "--unsigned", "--wheels", "/wheels")
    return system


@pytest.fixture(scope="module")
def bundle(
    node: Container, make_wheel: MakeWheel, wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> MakeBundle:
    return MakeBundle(node, make_wheel, wheels, tmp_path_factory)


@pytest.fixture
def seen(node: Container, house_broker: Mosquitto) -> Iterator[Subscriber]:
    subscriber = Subscriber(house_broker.port)
    subscriber.wait_for(STATUS, "online", 30)
    yield subscriber
    subscriber.close()


class Operator:
    """Commands the node, and reads the answers."""

    def __init__(self, node: Container, port: int, seen: Subscriber) -> None:
        self.node, self.port, self.seen = node, port, seen

    def send(self, name: str, payload: bytes) -> dict[str, Any]:
        """The answer of the moment."""
        topic = f"sensors/box/cmd/{name}"
        before = len(self.seen.on(f"{topic}/result"))
        publish.single(topic, payload, qos=1, hostname="127.0.0.1", port=self.port)
        wait_for(lambda: self.seen.on(f"{topic}/result")[before:], 30, f"an answer to {name}")
        answer: dict[str, Any] = json.loads(self.seen.on(f"{topic}/result")[before])
        return answer

    def names(self, path: str, version: str, **more: Any) -> dict[str, Any]:
        content = self.node.file(path).read_bytes()
        about = {
            "bundle": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            "version": version,
            "signature": self.node.file(f"{path}.minisig").read_text(),
            **more,
        }
        return self.send("update", json.dumps(about).encode())

    def sends_pieces(self, path: str) -> None:
        """Each after the answer to the one before; one of them twice."""
        content = self.node.file(path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        offset = 0
        while offset < len(content):
            piece = base64.b64encode(content[offset : offset + PIECE])
            payload = f"{offset} {digest[:16]} ".encode() + piece
            try:
                answer = self.send("update-piece", payload)
            except AssertionError:  # its connection was cut by a busy machine, for example
                answer = self.send("update", b"")
            if offset == 0:
                again = self.send("update-piece", payload)
                assert (again["ok"], again["received"]) == (False, answer["received"])
            offset = answer["received"]

    def ends(self) -> dict[str, Any]:
        """The second answer, from whichever version runs then."""

        def newest() -> Any:
            answers = [json.loads(text) for text in self.seen.on(RESULT)]
            ended = ("kept", "undone", "refused", "failed")
            return answers[-1] if answers and answers[-1].get("state") in ended else None

        answer: dict[str, Any] = wait_for(newest, INSTALLED_S, "the end of the update")
        return answer


@pytest.fixture
def operator(node: Container, house_broker: Mosquitto, seen: Subscriber) -> Operator:
    return Operator(node, house_broker.port, seen)


def serve(node: Container, server: Any, path: str) -> str:
    """The name by which the server has it."""
    file = node.file(path)
    (server.folder / file.name).write_bytes(file.read_bytes())
    return file.name


def test_a_bundle_is_fetched_tried_kept_and_answered(node, seen, operator, bundle, key, server):
    path = bundle("0.2.0", key)
    answer = operator.names(path, "0.2.0", file=serve(node, server, path))
    assert (answer["ok"], answer["state"]) == (True, "fetching")
    ended = operator.ends()
    assert (ended["ok"], ended["state"]) == (True, "kept"), ended
    assert ended["installed_version"] == ended["latest_version"] == "0.2.0"
    wait_for(lambda: health_says(seen, "0.2.0"), 30)
    wait_for(lambda: seen.health("box")["update"]["state"] == "kept", 70)


def test_a_bad_version_goes_back_and_says_why(node, seen, operator, bundle, key, server):
    """One that reads nothing; one that finds no broker, and so cannot say anything itself."""
    for version, fault, why in (
        ("0.3.0", READS_NOTHING, "it has not committed a reading"),
        ("0.4.0", FINDS_NO_BROKER, NO_BROKER),
    ):
        path = bundle(version, key, fault)
        operator.names(path, version, file=serve(node, server, path))
        ended = operator.ends()
        assert (ended["ok"], ended["state"]) == (False, "undone"), ended
        assert "was undone" in ended["text"]
        sentence = undone(version, why, "0.2.0")
        wait_for(functools.partial(health_says, seen, "0.2.0", sentence), 30)


def test_a_bundle_of_another_key_is_refused_by_root(node, operator, bundle, tmp_path, server):
    """The node has taken it in; root looks at the signature again."""
    path = bundle("0.5.0", make_key(tmp_path))
    operator.names(path, "0.5.0", file=serve(node, server, path))
    ended = operator.ends()
    assert (ended["ok"], ended["state"]) == (False, "refused"), ended
    assert "is signed with the key" in ended["text"]


def test_a_bundle_in_pieces_is_offered_installed_and_outlives_a_power_cut(
    node, seen, operator, bundle, key
):
    """As by Home Assistant's button; the power is cut while root installs it."""
    path = bundle("0.6.0", key)
    assert operator.names(path, "0.6.0", offer=True)["state"] == "offered"
    assert operator.send("update", b"install")["state"] == "receiving"
    operator.sends_pieces(path)
    wait_for(lambda: list(node.file("/opt/sensor-node").glob("releases/0.6.0-*/bin")), 300)
    node.cut_power()
    node.boot()
    set_clock(node)
    ended = operator.ends()
    assert (ended["ok"], ended["state"]) == (True, "kept"), ended
    wait_for(lambda: health_says(seen, "0.6.0"), 30)
    left = {file.name for file in node.file("/var/lib/sensor-node").glob("update*")}
    assert left == {"update-report.json", "update-state.json"}


def test_nothing_is_taken_without_a_key(node, seen, operator, bundle, key):
    node.file(f"{KEYS}/first.pub").unlink()
    node.run("systemctl", "restart", "sensor-node")
    wait_for(lambda: seen.health("box")["update"] is None, 60)
    assert "unknown command" in operator.names(bundle("0.7.0", key), "0.7.0")["error"]
