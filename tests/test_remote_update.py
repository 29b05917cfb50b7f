"""Updates from afar, up to where root takes over (from there: service/check_remote_update.py).

Bundles are fetched from a real server, or come in pieces; root is a file that the test writes.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import FakeClock, sysfs_config, wait_until
from test_remote_commands import Operator

from node import __version__
from node.mqtt.rate_limit import PER_S
from node.updates import staging
from node.updates.fetch import Unreachable, fetch_into
from node.updates.request import Offer, is_among, parse_offer
from node.updates.updater import (
    ENDED_WITHIN_S,
    NEXT_PIECE_WITHIN_S,
    PIECE_EVERY_S,
    TAKEN_UP_WITHIN_S,
    Reply,
    Updater,
)

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SIGNATURE = "untrusted comment: x\nRUQ\ntrusted comment: y\nAAA\n"
REPLY = Reply("answers/mine", b"42")


def named(**changes: Any) -> bytes:
    """The payload of the command for CONTENT."""
    about = {"bundle": DIGEST, "size": len(CONTENT), "version": "9.0.0", "signature": SIGNATURE}
    return json.dumps({**about, **changes}).encode()


def piece_of(offset: int, piece: bytes, digest: str = DIGEST) -> bytes:
    """The payload of the command for a piece."""
    return f"{offset} {digest[:16]} ".encode() + base64.b64encode(piece)


class Node:
    """An updater, the loop that it calls, and a folder that root looks into."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self.url = url
        self.clock = FakeClock()
        self.calls: list[Callable[[], None]] = []
        self.answers: list[tuple[Reply, dict[str, Any]]] = []
        self.of_pieces: list[dict[str, Any]] = []
        self.connected = True
        self.start()

    def start(self) -> None:
        self.updater = Updater(
            self.url,
            self.clock,
            state_dir=self.folder,
            device="dev1",
            later=self.calls.append,
            answer=self.answer,
            changed=lambda: None,
        )

    def answer(self, name: str, reply: Reply, content: dict[str, Any]) -> bool:
        if name == "update-piece":
            self.of_pieces.append(content)
        elif self.connected:
            self.answers.append((reply, content))
        return self.connected

    def ask(self, payload: bytes) -> dict[str, Any]:
        return self.updater.command(payload, REPLY)

    def piece(self, offset: int, piece: bytes, digest: str = DIGEST) -> dict[str, Any]:
        return self.raw_piece(piece_of(offset, piece, digest))

    def raw_piece(self, payload: bytes) -> dict[str, Any]:
        """The answer, which comes a little later."""
        self.updater.piece(payload, REPLY)
        self.look(PIECE_EVERY_S)
        return self.of_pieces.pop()

    def send_all(self) -> None:
        for offset in range(0, len(CONTENT), 4096):
            assert self.piece(offset, CONTENT[offset : offset + 4096])["ok"]

    def turn(self) -> str:
        """The loop calls what a thread has finished; the state after it."""
        wait_until(lambda: self.calls)
        self.calls.pop(0)()
        return self.state

    def look(self, later_s: float = 2.0) -> str:
        self.clock.now_s += later_s
        self.updater.look(self.clock.monotonic())
        return self.state

    @property
    def state(self) -> str:
        return self.updater.health.state

    def request(self) -> list[str]:
        return (self.folder / "update-request").read_text().split()

    def root_says(self, state: str, text: str) -> str:
        """What becomes of the request: the state after it."""
        report = {"request": self.request()[0], "state": state, "text": text, "release": "x"}
        (self.folder / "update-report.json").write_text(json.dumps(report))
        return self.look()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_bundle_in_pieces_is_handed_to_root(node):
    answer = node.ask(named())
    assert (answer["state"], answer["received"]) == ("receiving", 0)
    node.send_all()
    assert node.updater.health.update_percentage == 60
    assert node.turn() == "staged"
    assert (node.folder / "update.bundle").read_bytes() == CONTENT
    assert (node.folder / "update.bundle.minisig").read_text() == SIGNATURE
    request, digest = node.request()
    assert digest == DIGEST
    assert len(request) == 16


def test_who_asked_hears_of_the_end_from_the_new_version(node):
    """The process that was asked is gone by then, and there may be no connection yet."""
    node.ask(named())
    node.send_all()
    node.turn()
    assert node.root_says("installing", "it is installed") == "installing"
    assert node.root_says("trial", "9.0.0 is on trial") == "trial"
    assert node.answers == []
    node.connected = False
    node.start()
    assert node.state == "trial"
    assert node.root_says("kept", "9.0.0 is healthy, and stays") == "kept"
    assert node.updater.next_due_s < float("inf"), "somebody waits for the answer"
    node.connected = True
    node.look()
    [(reply, content)] = node.answers
    assert reply == REPLY
    assert (content["ok"], content["state"]) == (True, "kept")
    node.start()
    node.look()
    assert len(node.answers) == 1, "once"
    assert node.updater.next_due_s == float("inf"), "nothing is looked at any more"


@pytest.mark.parametrize("state", ["undone", "refused"])
def test_what_root_does_not_keep_is_not_ok_and_may_be_tried_again(node, state):
    node.ask(named())
    node.send_all()
    node.turn()
    assert node.root_says(state, "it has not committed a reading") == state
    [(_, content)] = node.answers
    assert (content["ok"], content["text"]) == (False, "it has not committed a reading")
    assert node.updater.health.latest_version == "9.0.0"
    assert node.ask(b"install")["state"] == "receiving"


def test_a_report_on_another_request_is_not_ours(node):
    node.ask(named())
    node.send_all()
    node.turn()
    report = {"request": "0" * 16, "state": "kept", "text": "older"}
    (node.folder / "update-report.json").write_text(json.dumps(report))
    assert node.look() == "staged"
    (node.folder / "update-report.json").write_text("{")
    assert node.look() == "staged"


def test_root_that_does_not_come_is_named(node):
    node.ask(named())
    node.send_all()
    node.turn()
    assert node.look(TAKEN_UP_WITHIN_S + 1) == "failed"
    assert "is sensor-node-staged.path active?" in node.updater.health.text
    assert [file.name for file in node.folder.iterdir()] == ["update-state.json"]


def test_root_that_never_ends_is_not_waited_for_for_ever(node):
    """Its disk may be full, so that it cannot report."""
    node.ask(named())
    node.send_all()
    node.turn()
    node.root_says("installing", "it is installed")
    assert node.look(ENDED_WITHIN_S - 1) == "installing"
    assert node.look(10) == "failed"
    assert node.ask(b"install")["state"] == "receiving"


# -- pieces


def test_a_piece_that_does_not_follow_says_where_to_go_on(node):
    node.ask(named())
    node.piece(0, CONTENT[:1000])
    for offset in (0, 999, 1001):
        answer = node.piece(offset, b"x")
        assert (answer["ok"], answer["received"]) == (False, 1000)
        assert answer["error"] == f"it begins at {offset}, and 1000 bytes are there"
    assert "goes beyond" in node.piece(1000, bytes(len(CONTENT)))["error"]
    assert "is awaited is" in node.piece(1000, b"x", digest="0" * 64)["error"]
    for word in ("-1", "x", "1" * 13, "\u0663"):
        payload = f"{word} {DIGEST} eA==".encode()
        assert node.raw_piece(payload)["error"] == "a piece is: OFFSET DIGEST BASE64"
    for payload in (b"", b"x", b"\xff \xff", f"1000 {DIGEST} ?".encode()):
        assert not node.raw_piece(payload)["ok"]
    assert node.piece(1000, CONTENT[1000:])["ok"]
    assert node.turn() == "staged"


def test_answers_to_pieces_are_apart(node):
    """So that the pieces stay below what the rate limit lets in; the order is kept."""
    node.ask(named())
    for offset in range(0, 3000, 1000):
        node.updater.piece(piece_of(offset, CONTENT[offset : offset + 1000]), REPLY)
    assert node.of_pieces == []
    times = []
    while len(node.of_pieces) < 3:
        before = len(node.of_pieces)
        node.clock.now_s = node.updater.next_due_s
        node.look(0.0)
        assert len(node.of_pieces) == before + 1
        times.append(node.clock.now_s)
    assert [answer["received"] for answer in node.of_pieces] == [1000, 2000, 3000]
    assert times[1] - times[0] == times[2] - times[1] == PIECE_EVERY_S > 1 / PER_S


def test_more_pieces_than_are_answered_cost_no_memory(node):
    for _ in range(1000):
        node.updater.piece(b"x", REPLY)
    node.look(1000)
    assert len(node.of_pieces) == 20


def test_who_missed_an_answer_may_ask_how_much_has_come(node):
    node.ask(named())
    node.piece(0, CONTENT[:1000])
    assert node.ask(b"")["received"] == 1000
    node.piece(1000, CONTENT[1000:])
    node.turn()
    assert node.ask(b"")["received"] == len(CONTENT), "with root"
    assert node.piece(0, CONTENT)["received"] == len(CONTENT)


def test_pieces_go_on_after_a_restart(node):
    node.ask(named())
    node.piece(0, CONTENT[:1000])
    node.start()
    assert node.ask(named())["received"] == 1000
    (node.folder / "update.part").write_bytes(CONTENT)  # and it was killed before the last step
    node.start()
    assert node.turn() == "staged"


def test_a_bundle_with_another_digest_is_not_handed_to_root(node):
    node.ask(named())
    node.piece(0, bytes(len(CONTENT)))
    assert node.turn() == "failed"
    assert "its SHA-256 is another one" in node.updater.health.text
    assert [file.name for file in node.folder.iterdir()] == ["update-state.json"]


def test_pieces_that_stop_coming_are_given_up(node):
    node.ask(named())
    node.piece(0, CONTENT[:1000])
    assert node.look(NEXT_PIECE_WITHIN_S - 1) == "receiving"
    node.piece(1000, CONTENT[1000:2000])
    assert node.look(NEXT_PIECE_WITHIN_S - 1) == "receiving"
    assert node.look(10) == "failed"
    assert not (node.folder / "update.part").exists()
    assert node.answers[0][1]["text"] == "no piece has come for an hour"


def test_a_link_in_the_place_of_the_part_is_not_followed(node, tmp_path):
    """Another user of the folder, if there is one, must not have the node write elsewhere."""
    node.ask(named())
    (tmp_path / "elsewhere").touch()
    (tmp_path / "update.part").symlink_to(tmp_path / "elsewhere")
    assert not node.piece(0, b"x")["ok"]
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_a_disk_without_room_is_refused_with_numbers(node, monkeypatch):
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(ValueError, match=r"it needs 100 MB on the disk, and 1 MB are free"):
        node.ask(named())


# -- what is asked


@pytest.mark.parametrize(
    "payload",
    [
        b"now",
        b"{}",
        b"[" * 3000,
        named(bundle="x"),
        named(size=0),
        named(size=(300 << 20) + 1),
        named(version="../9"),
        named(signature="x"),
        named(file="../x"),
        named(file="a/b"),
        named(file=".bundle"),
        named(share=101),
        named(force=True),
    ],
)
def test_a_payload_that_makes_no_sense_is_refused(node, payload):
    with pytest.raises(ValueError, match="its payload must be install, cancel, nothing, or a"):
        node.ask(payload)
    assert node.state == "idle"


def test_a_second_update_is_refused_while_one_is_under_way(node):
    node.ask(named())
    other = named(bundle="0" * 64)
    with pytest.raises(ValueError, match=r"9\.0\.0 is under way \(receiving\): cancel it first"):
        node.ask(other)
    node.send_all()
    node.turn()
    with pytest.raises(ValueError, match=r"is under way \(staged\): wait for its end"):
        node.ask(other)


def test_an_update_can_be_cancelled_until_root_has_it(node):
    with pytest.raises(ValueError, match="no update is under way"):
        node.ask(b"cancel")
    node.ask(named())
    node.piece(0, CONTENT[:1000])
    assert node.ask(b" cancel\n")["state"] == "idle"
    assert not (node.folder / "update.part").exists()
    node.ask(named())
    node.send_all()
    node.turn()
    assert node.ask(b"cancel")["state"] == "idle"
    assert not (node.folder / "update-request").exists()
    node.ask(named())
    node.send_all()
    node.turn()
    (node.folder / "update-request").unlink()  # root has taken it up
    with pytest.raises(ValueError, match="root installs it already"):
        node.ask(b"cancel")


def test_a_bundle_that_is_offered_waits_for_install(node):
    """As by the button of Home Assistant."""
    with pytest.raises(ValueError, match="no bundle has been offered"):
        node.ask(b"install")
    assert node.ask(named(offer=True))["state"] == "offered"
    node.start()
    health = node.updater.health
    assert (health.installed_version, health.latest_version) == (__version__, "9.0.0")
    assert not health.in_progress
    assert node.ask(b"")["state"] == "offered", "asking changes nothing"
    assert node.ask(b"install")["state"] == "receiving"
    assert node.updater.health.in_progress


def test_a_share_is_of_the_same_nodes_and_grows():
    nodes = [f"node-{number}" for number in range(2000)]
    among = {
        share: {name for name in nodes if is_among(name, parse_offer(named(share=share)))}
        for share in (0, 10, 50, 100)
    }
    assert among[0] == set()
    assert among[100] == {*nodes}
    assert among[10] < among[50]
    assert 140 < len(among[10]) < 260
    assert 900 < len(among[50]) < 1100
    other = {n for n in nodes if is_among(n, parse_offer(named(share=10, bundle="0" * 64)))}
    assert other != among[10], "not always the same nodes first"


def test_a_node_outside_of_the_share_says_so(node):
    answer = node.ask(named(share=0))
    assert answer["state"] == "held back"
    assert answer["text"] == "this node is not among the 0 % that the bundle is for"
    assert node.state == "idle"


# -- fetching


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /good, and misbehaves elsewhere."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.breaks_at = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append((self.path, wanted))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/good")
            self.end_headers()
            return
        if self.path not in ("/good", "/endless", "/no-ranges", "/x/good"):
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        start = 0 if self.path == "/no-ranges" else start
        self.send_response(206 if start else 200)
        self.end_headers()
        content = CONTENT[start:] + (bytes(1 << 20) if self.path == "/endless" else b"")
        breaks_at, self.server.breaks_at = self.server.breaks_at, 0
        self.wfile.write(content[: breaks_at or None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("payload", [named(), b"install"])
def test_a_node_of_the_debian_package_is_updated_by_apt(node, monkeypatch, payload):
    """There nothing takes a bundle from the node, which would wait for root in vain."""
    monkeypatch.setattr(sys, "prefix", "/usr/lib/sensor-node")
    with pytest.raises(ValueError, match="this node is a Debian package, which apt updates"):
        node.ask(payload)
    assert not list(node.folder.glob("update.*"))
    assert node.ask(b"")["state"] == "idle"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_RETRY_S", (0.0, 0.0))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", ["good", "endless", "no-ranges"])
def test_a_bundle_is_fetched_and_goes_on_where_it_broke(server, tmp_path, path):
    """And not a byte more than it has."""
    server.breaks_at = 5000
    node = Node(tmp_path, server.url)
    assert node.ask(named(file=path))["state"] == "fetching"
    assert node.turn() == "staged"
    assert (tmp_path / "update.bundle").read_bytes() == CONTENT
    assert server.asked == [(f"/{path}", None), (f"/{path}", "bytes=5000-")]


@pytest.mark.usefixtures("impatient")
def test_fetching_goes_on_after_a_restart(server, tmp_path):
    node = Node(tmp_path, f"{server.url}/x/")
    (tmp_path / "update-state.json").write_text(
        json.dumps({"state": "fetching", "offer": json.loads(named(file="good")), "request": "1"})
    )
    (tmp_path / "update.part").write_bytes(CONTENT[:100])
    node.start()
    assert node.turn() == "staged"
    assert server.asked == [("/x/good", "bytes=100-")]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("missing", "missing cannot be fetched: the server answers 404 Not Found"),
        ("moved", "moved cannot be fetched: the server answers 302 Found"),
    ],
)
def test_what_cannot_be_fetched_is_named(server, tmp_path, path, words):
    node = Node(tmp_path, server.url)
    node.ask(named(file=path))
    assert node.turn() == "failed"
    assert node.updater.health.text == words
    assert {asked for asked, _ in server.asked} == {f"/{path}"}, "a redirection is not followed"
    assert not (tmp_path / "update.part").exists()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_not_there_is_named(tmp_path):
    node = Node(tmp_path, "http://127.0.0.1:1")
    node.ask(named(file="good"))
    assert node.turn() == "failed"
    assert "good cannot be fetched: the server cannot be reached" in node.updater.health.text


def test_a_server_that_is_too_slow_is_left(server, tmp_path):
    url, never = f"{server.url}/good", threading.Event()
    too_slow = pytest.raises(Unreachable, match="the server is too slow")
    with (tmp_path / "part").open("wb") as part, too_slow:
        fetch_into(part, url, len(CONTENT), never, end_s=0.0)


def test_without_an_address_nothing_is_fetched(node):
    with pytest.raises(ValueError, match=r"\[update\] url does not say from where"):
        node.ask(named(file="good"))


def test_fetching_can_be_cancelled(server, tmp_path, monkeypatch):
    """While it waits for its next attempt."""
    monkeypatch.setattr(staging, "_RETRY_S", (3600.0,))
    node = Node(tmp_path, server.url)
    node.ask(named(file="missing"))
    wait_until(lambda: server.asked)
    node.ask(b"cancel")
    assert node.turn() == "idle"
    assert not (tmp_path / "update.part").exists()


# -- the real node


@pytest.fixture
def operator(broker: Any) -> Iterator[Operator]:
    made = Operator(broker.port)
    yield made
    made.close()


def test_a_node_with_a_key_takes_a_bundle_over_mqtt(
    broker, operator, start_node, subscribe, temperature_file, tmp_path
):
    """Named, in pieces, handed to root; what root makes of it is in health, and is answered."""
    keys = tmp_path / "update-keys"
    keys.mkdir()
    (keys / "first.pub").touch()
    subscriber = subscribe(broker.port)
    started = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    assert operator.ask("update", named(version="9.0.1"))["state"] == "receiving"
    assert operator.ask("update-piece", piece_of(0, CONTENT)) == {
        "command": "update-piece",
        "ok": True,
        "received": len(CONTENT),
    }
    request = wait_until(lambda: _request(tmp_path / "state"), what="a request for root")
    assert "is under way (staged)" in operator.ask("update", named(bundle="0" * 64))["error"]
    before = len(operator.answers)
    report = {"request": request, "state": "undone", "text": "it does not reach the broker"}
    (tmp_path / "state" / "update-report.json").write_text(json.dumps(report))
    topic, answer, _ = wait_until(lambda: operator.answers[before:])[0]
    assert topic == "sensors/test/cmd/update/result"
    assert (answer["command"], answer["ok"]) == ("update", False)
    assert answer["text"] == "it does not reach the broker"
    update = wait_until(lambda: _in_state(subscriber.health()["update"], "undone"))
    assert update["latest_version"] == "9.0.1"
    assert started.terminate() == 0


def _request(state_dir: Path) -> str:
    try:
        return (state_dir / "update-request").read_text().split()[0]
    except (FileNotFoundError, IndexError):
        return ""


def _in_state(update: Any, state: str) -> Any:
    return update if update and update["state"] == state else None


def test_a_node_without_a_key_knows_no_update(
    broker, operator, start_node, subscribe, temperature_file
):
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"s": temperature_file}))
    for name in ("update", "update-piece"):
        assert "unknown command" in operator.ask(name, named())["error"]
    assert subscriber.health()["update"] is None


def test_an_offer_is_what_is_said():
    offer = parse_offer(named(file="sensor-node-9.0.0.bundle", share=2.5, offer=True))
    assert offer == Offer(
        DIGEST, len(CONTENT), "9.0.0", SIGNATURE, "sensor-node-9.0.0.bundle", 2.5, True
    )
