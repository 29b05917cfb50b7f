"""The command `config` to the real node: what it sets is tried, and kept only if that goes well."""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from support import Mosquitto, NodeProcess, replaced, retained, sysfs_config, wait_until
from test_remote_commands import Operator

PASSWORD = "sesame-1"
SECRETS = [PASSWORD, "sesame-2"]
BAD_S, GOOD_S = 10, 40
"""How long the trials last: those that go wrong, and those that could end sooner."""


@pytest.fixture
def operator(broker: Mosquitto) -> Iterator[Operator]:
    made = Operator(broker.port)
    yield made
    made.close()


@pytest.fixture
def text(broker: Mosquitto, temperature_file: Path) -> str:
    """A configuration with a secret in a key, and one in a comment."""
    login = f'username = "greenhouse"\npassword = "{PASSWORD}"\n'
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="1s", mqtt=login)
    return f"# The password was sesame-2 once.\n{config}# at the end\n[commands]\nconfig = true\n"


@pytest.fixture
def node(text: str, operator: Operator, start_node: Callable[..., NodeProcess]) -> NodeProcess:
    return ready(start_node(text), operator)


def ready(node: NodeProcess, operator: Operator) -> NodeProcess:
    node.wait_for_log("s (sysfs): online")
    operator.wait_for_node()
    return node


def answers(operator: Operator, state: str) -> list[dict[str, Any]]:
    return [answer for _, answer, _ in operator.answers if answer.get("state") == state]


def set_(operator: Operator, sha256: str, text: str, seconds: int = GOOD_S) -> dict[str, Any]:
    return operator.ask("config", f"set {sha256} {seconds}\n{text}".encode())


def outcome(operator: Operator, state: str) -> dict[str, Any]:
    return dict(wait_until(lambda: answers(operator, state), 100, what=state)[0])


def wrong_texts_are_answered_as_check_would(
    operator: Operator, node: NodeProcess, text: str
) -> None:
    assert "its payload must be" in operator.ask("config", b"set")["error"]
    shown = operator.ask("config", b"get")
    sent = replaced(shown["text"], ("keepalive", "keepalife"), ('driver = "sysfs"', 'driver = "x"'))
    answer = set_(operator, shown["sha256"], sent)
    assert answer["error"] == "the text has 2 problems"
    lines = sent.splitlines()
    assert [problem["line"] for problem in answer["problems"]] == [
        lines.index('keepalife = "5s"') + 1,
        lines.index('driver = "x"') + 1,
    ]
    assert "did you mean keepalive" in answer["problems"][0]["message"]
    operator.send("config", f"set {shown['sha256']}\n{shown['text']}".encode(), retain=True)
    node.wait_for_log("a command 'config' is ignored: it is retained")
    operator.send("config", b"", retain=True)
    assert node.config.read_text() == text


def nothing_secret(node: NodeProcess, operator: Operator, broker: Mosquitto) -> None:
    said = node.log_file.read_text() + str(operator.answers) + str(retained(broker.port))
    assert not [secret for secret in SECRETS if secret in said]


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        yield made


def test_a_good_one_is_tried_and_kept(operator, broker, text, start_node, notified):
    """Comments stay, and so does the process; get then has it, and says how the trial went.

    Before that: what is wrong is refused with the problems that `check` would find.
    """
    node = ready(start_node(text, env={"NOTIFY_SOCKET": notified.getsockname()}), operator)
    wrong_texts_are_answered_as_check_would(operator, node, text)
    shown = operator.ask("config", b"get")
    assert shown["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert "# at the end" in shown["text"]
    sent = replaced(shown["text"], ('"1s"', '"2s"'))
    trial = set_(operator, shown["sha256"], sent)
    assert (trial["ok"], trial["state"], trial["seconds"]) == (True, "trial", GOOD_S)
    kept = outcome(operator, "kept")
    wanted = replaced(text, ('"1s"', '"2s"'))
    assert node.config.read_text() == wanted
    assert kept["sha256"] == trial["sha256"] == hashlib.sha256(wanted.encode()).hexdigest()
    again = operator.ask("config")
    assert again["last"] == {"state": "kept", "sha256": kept["sha256"], "why": ""}
    assert set_(operator, again["sha256"], again["text"])["state"] == "unchanged"
    assert set_(operator, shown["sha256"], sent)["error"].startswith("it is not based on")
    assert node.process.poll() is None
    notified.setblocking(False)
    told = []
    with contextlib.suppress(BlockingIOError):
        while True:
            told.append(notified.recv(1000).decode())
    assert told.count("READY=1") == 2
    assert "STOPPING=1" not in told, "systemd would end the process"
    nothing_secret(node, operator, broker)


def test_one_that_cuts_the_node_off_comes_back(operator, broker, text, start_node):
    """The broker that it names is not there: only the old one can say so."""
    text = replaced(text, ("config = true", "config = true\nconfig_broker = true"))
    node = ready(start_node(text), operator)
    shown = operator.ask("config", b"get")
    port = f"port = {broker.port}"
    sent = replaced(shown["text"], (port, f"port = {free_port()}"))
    payload = f"set {shown['sha256']} {BAD_S}\n{sent}".encode()
    operator.send("config", payload, response="answers/mine", correlation=b"7")
    undone = outcome(operator, "undone")
    mine = [(topic, correlation) for topic, _, correlation in operator.answers[-2:]]
    assert mine == [("answers/mine", b"7")] * 2, "the trial, and its outcome"
    assert undone["ok"] is False
    assert "does not reach the broker" in undone["error"]
    assert node.config.read_text() == text
    node.wait_for_log("back to the configuration from before the trial")
    assert operator.ask("config")["last"]["why"] == undone["error"]
    nothing_secret(node, operator, broker)


def test_a_power_cut_during_the_trial_ends_it(operator, text, start_node, node):
    """The next start is on the file, and says what became of the trial."""
    shown = operator.ask("config", b"get")
    set_(operator, shown["sha256"], replaced(shown["text"], ('"1s"', '"2s"')))
    node.wait_for_log("is on trial")
    node.kill()
    assert node.config.read_text() == text
    start_node(text)
    assert "ended during its trial" in outcome(operator, "undone")["error"]
    assert node.config.read_text() == text
