"""The command `config` to the service: root's file, the unit that writes it, and killed trials."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from conftest import configure
from container import Container, wait_for
from support import Mosquitto, replaced, stop_loop

FILE = "/etc/sensor-node/node.toml"
STATE = "/var/lib/sensor-node"
TOPIC = "sensors/box/cmd/config"
PASSWORD = "sesame-1"
ALLOWED = f'''username = "box"
password = "{PASSWORD}"  # of the house
[commands]
config = true
config_broker = true
'''


class Operator:
    """A client that commands the node, and keeps its answers."""

    def __init__(self, port: int) -> None:
        self.answers: list[dict[str, Any]] = []
        self.online = False
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._arrived
        self._client.connect("127.0.0.1", port)
        self._client.subscribe([(f"{TOPIC}/result", 1), ("sensors/box/status", 1)])
        self._client.loop_start()

    def _arrived(self, _client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.topic.endswith("status"):
            self.online = message.payload == b"online"
        else:
            self.answers.append(json.loads(message.payload))

    def ask(self, payload: str) -> dict[str, Any]:
        wait_for(lambda: self.online, 60, "the node is online")
        before = len(self.answers)
        self._client.publish(TOPIC, payload, 1)
        return dict(wait_for(lambda: self.answers[before:], 60, "an answer")[0])

    def set(self, *changes: tuple[str, str], seconds: int) -> dict[str, Any]:
        """Get the text, change it, and set that; the first answer."""
        shown = self.ask("get")
        text = replaced(shown["text"], *changes)
        return self.ask(f"set {shown['sha256']} {seconds}\n{text}")

    def outcome(self, state: str = "") -> dict[str, Any]:
        """The answer at the end of a trial; it has to be this one."""
        found: dict[str, Any] = wait_for(
            lambda: [a for a in self.answers if a.get("state") in ("kept", "undone")],
            180,
            "the trial ends",
        )[-1]
        self.answers.clear()
        assert state in ("", found["state"]), found
        return found

    def close(self) -> None:
        self._client.disconnect()
        stop_loop(self._client)


@pytest.fixture(scope="module")
def node(system: Container, house_broker: Mosquitto) -> Container:
    configure(system, house_broker.port, ALLOWED)
    system.run("/checkout/deploy/install.sh", "--wheels", "/wheels")
    system.drop_in("RestartSec=1")
    system.run("systemctl", "restart", "sensor-node")
    return system


@pytest.fixture
def operator(node: Container, house_broker: Mosquitto) -> Iterator[Operator]:
    made = Operator(house_broker.port)
    yield made
    made.close()


@pytest.fixture
def file(node: Container) -> Path:
    return node.file(FILE)


def owner(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_uid, status.st_gid, status.st_mode & 0o777


def test_a_good_one_is_written_by_roots_service(node, operator, file):
    """It stays root's, and only the node's group may read it; the node's process goes on."""
    before, process, mine = file.read_text(), node.show("MainPID"), owner(file)
    assert operator.set(('interval = "1s"', 'interval = "2s"'), seconds=60)["state"] == "trial"
    operator.outcome("kept")
    assert file.read_text() == replaced(before, ('interval = "1s"', 'interval = "2s"'))
    assert owner(file) == mine
    assert mine[0] == 0
    assert (node.show("MainPID"), node.show("NRestarts")) == (process, "0")
    assert "after its trial" in node.journal("sensor-node-config")
    assert not node.file(f"{STATE}/config-request.json").exists()


def test_one_that_cuts_the_node_off_or_reads_nothing_comes_back(node, operator, file):
    before = file.read_text()
    operator.set(('host = "localhost"', 'host = "nowhere.invalid"'), seconds=12)
    assert "does not reach the broker" in operator.outcome("undone")["error"]
    operator.set(('path = "/srv/t"', 'path = "/sys/nothing"'), seconds=12)
    why = operator.outcome("undone")["error"]
    assert "the sensor t does not read" in why
    assert file.read_text() == before
    status = json.loads(node.run("sensor-node", "status", "--json").stdout)
    assert f"the configuration from afar was undone: {why}" in status["health"]["problems"]


@pytest.mark.parametrize("step", ["staged", "running", "read", "placing"])
def test_a_kill_at_each_step_leaves_the_old_or_the_new_one(node, operator, file, step):
    """systemd starts it again; it says what became of the trial."""
    before = file.read_text()
    record = node.file(f"{STATE}/config-trial.json")
    now = re.search('interval = "(.)s"', before)
    assert now is not None
    intervals = (now[0], f'interval = "{int(now[1]) % 5 + 1}s"')
    if step == "placing":
        node.run("systemctl", "stop", "sensor-node-config.path")  # so that it waits
    operator.set(intervals, seconds=40 if step != "placing" else 16)
    wanted = "running" if step == "read" else step
    if step != "staged":
        wait_for(lambda: f'"state":"{wanted}"' in record.read_text(), 90, step)
    if step == "read":
        wait_for(lambda: "t (sysfs): online" in node.journal().rpartition("on trial")[2], 60)
    node.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "sensor-node")
    if step == "placing":
        node.run("systemctl", "start", "sensor-node-config.path")
    found = operator.outcome()
    new = replaced(before, intervals)
    assert file.read_text() == (new if found["state"] == "kept" else before)
    if step in ("running", "read"):
        assert found["state"] == "undone"
    assert PASSWORD not in record.read_text()


def test_a_power_cut_during_the_trial_is_undone_at_boot(node, operator, file):
    before = file.read_text()
    operator.set(('keepalive = "5s"', 'keepalive = "6s"'), seconds=600)
    record = node.file(f"{STATE}/config-trial.json")
    wait_for(lambda: '"state":"running"' in record.read_text(), 60, "it runs")
    operator.online = False
    node.cut_power()
    node.boot()
    assert "ended during its trial" in operator.outcome("undone")["error"]
    assert file.read_text() == before


def test_roots_service_refuses_what_the_nodes_user_makes_up(node, file):
    """That user may write any request, and a link to what only root may read."""
    before = file.read_text()
    request = f"{STATE}/config-request.json"
    evil = replaced(
        before, ('username = "box"', 'username = "box"\npassword_command = ["/bin/sh"]')
    )
    made = {"base": node.run("sha256sum", FILE).stdout.split()[0], "text": evil}
    node.file(f"{STATE}/evil").write_text(json.dumps(made))
    for how in (f"cp {STATE}/evil {request}", f"ln -sf /etc/shadow {request}"):
        as_user = ["setpriv", "--reuid=sensor-node", "--regid=sensor-node", "--init-groups"]
        node.run(*as_user, "sh", "-c", how)
        node.run("systemctl", "start", "sensor-node-config.service", check=False)
        assert file.read_text() == before
    assert node.journal("sensor-node-config").count("is refused") >= 2
    node.run("rm", "-f", request, f"{STATE}/evil")


def test_no_secret_is_in_any_journal(node):
    for unit in ("sensor-node", "sensor-node-config"):
        assert PASSWORD not in node.journal(unit)


def test_the_units_are_right_and_may_hardly_do_anything(node):
    units = ["sensor-node-config.path", "sensor-node-config.service"]
    assert node.run("systemd-analyze", "verify", *units).stdout == ""
    file = "/checkout/deploy/sensor-node-config.service"
    node.run("systemd-analyze", "security", "--offline=true", "--threshold=25", file)
