"""The status page's unit under a systemd of its own: when it runs, and what it may not do."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import configure
from container import Container, wait_for
from support import Mosquitto

UNIT = "sensor-node-web.service"
ASK = (
    "import urllib.request as r; "
    "print(r.urlopen('http://127.0.0.1:8080/api/v1/now', timeout=5).read().decode())"
)


@pytest.fixture(scope="module")
def node(system: Container, house_broker: Mosquitto) -> Container:
    configure(system, house_broker.port)
    system.run("/checkout/deploy/install.sh", "--wheels", "/wheels")
    return system


def web_shows(node: Container, name: str) -> str:
    return node.show(name, UNIT)


def said(node: Container, *command: str) -> str:
    """Standard output of a command."""
    output: str = node.run(*command).stdout
    return output


def enable(node: Container, broker: Mosquitto, more: str = "") -> None:
    configure(node, broker.port, f"[web]\nenabled = true\n{more}")
    done = node.run("systemctl", "restart", "sensor-node", UNIT, check=False)
    assert done.returncode == 0, node.journal(UNIT)


def asked(node: Container) -> dict[str, Any]:
    """What the page says; of one that does not listen (yet), nothing of interest."""
    done = node.run("python3", "-c", ASK, check=False)
    if done.returncode != 0:
        return {"node": {"state": done.stdout}, "sensors": [{"state": done.stdout}]}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_it_is_passed_over_while_it_is_not_enabled(node):
    """Installed, enabled in systemd, not in the configuration: no failure, and no restarts."""
    assert said(node, "systemctl", "is-enabled", UNIT).strip() == "enabled"
    wait_for(lambda: web_shows(node, "ActiveState") == "inactive", 20)
    assert web_shows(node, "Result") == "exec-condition"
    assert web_shows(node, "NRestarts") == "0"
    assert "sensor-node-web" not in said(node, "systemctl", "--failed", "--no-legend")


def test_it_serves_what_the_node_has_read_and_can_write_nothing(node, house_broker):
    enable(node, house_broker)
    wait_for(lambda: web_shows(node, "ActiveState") == "active", 30)
    wait_for(lambda: asked(node)["sensors"][0]["state"] == "online", 20)
    assert asked(node)["sensors"][0]["channels"][0]["text"] == "21.5"
    assert asked(node)["node"]["state"] == "running"
    assert web_shows(node, "StatusText") == "serves http://127.0.0.1:8080/"
    process = web_shows(node, "MainPID")
    within = ("nsenter", "--target", process, "--mount")
    for folder in ("/var/lib/sensor-node", "/etc/sensor-node", "/opt/sensor-node", "/usr"):
        done = said(node, *within, "sh", "-c", f"touch {folder}/x 2>&1; true")
        assert "Read-only file system" in done, folder
    status = said(node, "cat", f"/proc/{process}/status")
    assert re.search(r"CapEff:\s+0+\n", status)
    assert re.search(r"NoNewPrivs:\s+1\n", status)
    assert re.search(r"Seccomp:\s+2\n", status)
    devices = said(node, *within, "ls", "/dev").split()
    assert not [name for name in devices if name.startswith(("i2c", "spi", "gpio", "sd", "mem"))]


@pytest.mark.usefixtures("house_broker")
def test_a_frozen_page_is_restarted_and_the_node_is_not_disturbed(node):
    node.file(f"/etc/systemd/system/{UNIT}.d").mkdir(exist_ok=True)
    node.file(f"/etc/systemd/system/{UNIT}.d/quick.conf").write_text(
        "[Service]\nWatchdogSec=10\nRestartSec=1\n"
    )
    node.run("systemctl", "daemon-reload")
    node.run("systemctl", "restart", UNIT)
    before, nodes = web_shows(node, "MainPID"), node.show("MainPID")
    node.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", UNIT)
    wait_for(lambda: web_shows(node, "MainPID") not in (before, "0"), 40)
    wait_for(lambda: asked(node)["node"]["state"] == "running", 20)
    assert node.show("MainPID") == nodes


def test_it_is_there_when_the_node_is_not(node):
    node.run("systemctl", "stop", "sensor-node")
    wait_for(lambda: asked(node)["node"]["state"] == "stopped", 20)
    node.run("systemctl", "start", "sensor-node")
    wait_for(lambda: asked(node)["sensors"][0]["state"] == "online", 20)


def test_the_unit_leaves_little_open(node):
    told = said(node, "systemd-analyze", "security", "--no-pager", UNIT)
    match = re.search(r"exposure level for \S+: ([\d.]+)", told)
    assert match is not None
    assert float(match[1]) <= 1.2


def test_uninstall_takes_it_away(node):
    node.run("/checkout/deploy/install.sh", "--uninstall")
    assert not node.file(f"/etc/systemd/system/{UNIT}").exists()
    assert "sensor-node-web" not in said(node, "systemctl", "list-units", "--all", "--no-legend")
