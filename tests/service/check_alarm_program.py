"""The program of an alarm under a systemd of its own: what its unit allows, and that it ends."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from conftest import configure
from container import CHECKOUT, Container, wait_for
from support import Mosquitto

UNIT = "sensor-node-alarm@"
ATTACK = "/usr/local/bin/alarm_attack.py"
PASSWORD = "/etc/sensor-node/mqtt.password"
ALARM = """
[[sensor.channel.temperature.alarm]]
name = "{name}"
above = 20
exec = {program}
"""


@pytest.fixture(scope="module")
def node(system: Container, house_broker: Mosquitto) -> Container:
    """A system with the node installed, with a password in a file of its user's."""
    shutil.copy(CHECKOUT / "tests/alarm_attack.py", system.file(ATTACK))
    configure(system, house_broker.port)
    password = system.file(PASSWORD)
    password.write_text("geheim\n")
    system.run("/checkout/deploy/install.sh", "--wheels", "/wheels")
    system.run("chown", "sensor-node", PASSWORD)
    system.run("chmod", "600", PASSWORD)
    return system


def raise_alarm(node: Container, broker: Mosquitto, name: str, *program: str) -> None:
    """Restart the node with a new alarm, which is on at once and runs the program."""
    login = f'username = "u"\npassword_file = "{PASSWORD}"\n'
    configure(node, broker.port, login)
    file = node.file("/etc/sensor-node/node.toml")
    file.write_text(file.read_text() + ALARM.format(name=name, program=json.dumps(program)))
    node.run("systemctl", "restart", "sensor-node")
    wait_for(lambda: f"ALARM t/{name}: " in node.journal(), 60)


def said(node: Container) -> str:
    told: str = node.run("journalctl", "--no-pager", "-o", "cat", "-t", "sensor-node-alarm").stdout
    return told


def attack(node: Container, broker: Mosquitto, name: str) -> dict[str, Any]:
    """What the program of a new alarm has reached."""
    before = said(node).count("ATTACK ")
    secrets = [PASSWORD, "/etc/sensor-node/node.toml", "/proc/1/environ"]
    words = [*secrets, "--", "/var/lib/sensor-node", "127.0.0.1", str(broker.port), "100"]
    raise_alarm(node, broker, name, "/usr/bin/python3", ATTACK, *words)
    wait_for(lambda: said(node).count("ATTACK ") > before, 60)
    line = [line for line in said(node).splitlines() if line.startswith("ATTACK ")][-1]
    found: dict[str, Any] = json.loads(line.removeprefix("ATTACK "))
    return found


def processes_of(node: Container, pattern: str) -> str:
    """The command lines with a pattern, which must not fit itself."""
    script = f"grep -al '{pattern}' /proc/[0-9]*/cmdline; true"
    listed: str = node.run("sh", "-c", script).stdout
    return listed


def units(node: Container) -> str:
    """The runs that systemd knows of."""
    listed: str = node.run("systemctl", "list-units", "--all", "--no-legend", f"{UNIT}*").stdout
    return listed.strip()


def test_a_program_reaches_neither_secrets_nor_the_log_nor_the_network(node, house_broker):
    found = attack(node, house_broker, "first")
    assert not [text for text in found["secrets"] if text.startswith("got")]
    assert not found["log"].startswith("got")
    assert not found["write"].startswith("got")
    assert found["connect"] == "Address family not supported by protocol"
    assert not [text for text in found["environments"] if "STATE_DIRECTORY" in text]
    assert found["user"] not in (0, int(node.run("id", "-u", "sensor-node").stdout))
    assert 16 <= found["started"] <= 64  # 32 where the container may use the controller `pids`
    wait_for(lambda: units(node) == "", 20, "nothing that it has started is left")
    assert processes_of(node, "[a]larm_attack") == ""


def test_a_drop_in_gives_it_what_deploy_readme_says(node, house_broker):
    """A network, a secret, a folder. It is the control of the test above, too."""
    text = (CHECKOUT / "deploy/README.md").read_text().partition("edit sensor-node-alarm@")[2]
    node.drop_in(text.partition("[Service]\n")[2].partition("```")[0], UNIT)
    node.file("/etc/sensor-node/alarm.token").write_text("told to nobody else\n")
    found = attack(node, house_broker, "second")
    script = 'cat "$CREDENTIALS_DIRECTORY/token" >&2; touch "$STATE_DIRECTORY/x" && echo kept >&2'
    raise_alarm(node, house_broker, "third", "/bin/sh", "-c", script)
    wait_for(lambda: "told to nobody else\nkept\n" in said(node), 30)
    node.file(f"/etc/systemd/system/{UNIT}.service.d/test.conf").unlink()
    node.run("systemctl", "daemon-reload")
    assert found["connect"] == "got 'connected'"
    assert not [text for text in found["secrets"] if text.startswith("got")]


def test_one_that_runs_for_ever_is_ended_with_all_that_it_has_started(node, house_broker):
    script = "setsid sleep 4711 & exec sleep 4711"
    raise_alarm(node, house_broker, "fourth", "/bin/sh", "-c", script)
    wait_for(lambda: processes_of(node, "471[1]").count("cmdline") == 2, 30)
    wait_for(lambda: "/bin/sh was ended: it ran longer than 30 s" in node.journal(), 60)
    wait_for(lambda: units(node) == "", 20)
    assert processes_of(node, "471[1]") == ""


def test_only_the_node_may_ask_and_the_unit_leaves_little_open(node):
    shown = node.run("stat", "--format=%a %U", "/run/sensor-node-alarm.socket").stdout
    assert shown == "600 sensor-node\n"
    file = "/checkout/deploy/sensor-node-alarm@.service"
    node.run("systemd-analyze", "security", "--offline=true", "--threshold=5", file)
    files = [f"/etc/systemd/system/sensor-node-alarm{end}" for end in (".socket", "@.service")]
    assert node.run("systemd-analyze", "verify", *files).stdout == ""


def test_uninstall_takes_it_away(node):
    node.run("/checkout/deploy/install.sh", "--uninstall")
    units = node.file("/etc/systemd/system").glob("sensor-node-alarm*")
    assert not [unit for unit in units if unit.is_file()]
    assert node.run("test", "-e", "/run/sensor-node-alarm.socket", check=False).returncode == 1
