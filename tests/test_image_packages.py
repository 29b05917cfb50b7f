"""The owner's packages on the image's card: installed without a network, tried, and undone."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_support import DEPLOY, DRIVER, make_wheel, on_the_pi
from ports import free_port
from support import SENSOR_NODE, NodeProcess, wait_until

packages, node_watch = on_the_pi("packages"), on_the_pi("node_watch")


class Pi:
    """The folders of an image, with what the programs would ask of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.card = folder / "card/packages"
        self.store = folder / "store"
        self.settings = folder / "run/packages.conf"
        for made in (self.card, self.store, self.settings.parent):
            made.mkdir(parents=True)
        self.state = {"ActiveState": "active", "MainPID": "7", "NRestarts": "0"}
        self.health: dict[str, Any] | None = {"process": 7, "sensors": {}}
        self.restarted = 0
        self._now_s = 0.0
        monkeypatch.setattr(packages, "FOLDER", self.card)
        monkeypatch.setattr(packages, "STORE", self.store)
        monkeypatch.setattr(packages, "SETTINGS", self.settings)
        monkeypatch.setattr(packages, "PYTHON", sys.executable)
        monkeypatch.setattr(packages, "AS_USER", ())
        monkeypatch.setattr(packages, "_pip", lambda: [sys.executable, "-I", "-m", "pip"])
        monkeypatch.setattr(node_watch, "_health", lambda: self.health)
        monkeypatch.setattr(node_watch, "_state", lambda: self.state)
        monkeypatch.setattr(packages, "systemctl", self._systemctl)
        monkeypatch.setattr(node_watch.time, "monotonic", lambda: self._now_s)
        monkeypatch.setattr(node_watch.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self._now_s += seconds

    def _systemctl(self, *arguments: str) -> str:
        self.restarted += arguments == ("restart", "sensor-node.service")
        return ""

    def put(self, driver: str = DRIVER, version: str = "1.0") -> None:
        """Put a wheel with this driver on the card, in place of others."""
        for old in self.card.iterdir():
            old.unlink()
        file = self.card / f"pond-{version}-py3-none-any.whl"
        file.write_bytes(make_wheel(driver, version))

    def boot(self) -> list[str]:
        return list(packages.install_packages())

    @property
    def driver(self) -> str:
        """The code of the driver in use; "" without one."""
        file = self.store / "current/pond.py"
        return file.read_text() if file.exists() else ""


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pi:
    return Pi(tmp_path, monkeypatch)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wheels are unpacked alone, which is quicker: neither pip nor a driver runs."""

    def unpack(target: Path, wheels: list[Path]) -> None:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as file:
                file.extractall(target)

    monkeypatch.setattr(packages, "_install", unpack)


def test_wheels_on_the_card_are_installed_tried_and_taken_away_with_their_devices(pi):
    pi.put()
    assert pi.boot() == []
    assert pi.driver == DRIVER
    assert "DeviceAllow=char-hidraw rw" in pi.settings.read_text()
    assert (pi.store / "trial.json").exists()
    assert packages.judge() == ""
    assert not (pi.store / "trial.json").exists()
    assert pi.boot() == []
    assert pi.driver == DRIVER, "the next start does nothing"
    (pi.card / "pond-1.0-py3-none-any.whl").unlink()
    assert pi.boot() == []
    assert (pi.driver, pi.settings.read_text()) == ("", "")
    assert [file for file in pi.store.iterdir() if file.is_dir()] == []


def test_a_package_that_cannot_be_loaded_leaves_the_one_before(pi, monkeypatch):
    """It is tried once, and each start says why it is not used."""
    with monkeypatch.context() as quick:
        quick.setattr(packages, "_install", lambda target, _wheels: target.mkdir())
        pi.put()
        pi.boot()
    packages.judge()
    before = packages._current()
    pi.put("raise ValueError('no pond')", "2.0")
    for _ in range(2):
        (problem,) = pi.boot()
        assert re.search("^packages: a driver cannot be loaded: .*no pond", problem)
        assert packages._current() == before


def test_what_is_no_wheel_is_refused(pi):
    (pi.card / "pond-1.0-py3-none-any.whl").write_text("no zip")
    (problem,) = pi.boot()
    assert "pip does not install them" in problem
    assert pi.driver == ""


def crashes(pi: Pi) -> None:
    pi.state["NRestarts"] = "3"


def hangs(pi: Pi) -> None:
    pi.health = {"process": 6, "sensors": {}}


def reads_no_more(pi: Pi) -> None:
    failing = {"ok": 0, "failed": 3, "last_error": "no answer"}
    pi.health = {"process": 7, "sensors": {"air": failing}}


@pytest.mark.usefixtures("unpacked")
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (crashes, "the node does not stay up"),
        (hangs, "does not report its state"),
        (reads_no_more, "the sensor air does not read any more (no answer)"),
    ],
)
def test_packages_that_the_node_is_not_well_with_are_taken_out(
    pi: Pi, fault: Callable[[Pi], None], why: str
):
    pi.health = {"process": 7, "sensors": {"air": {"online": True, "ok": 5}}}
    pi.put()
    pi.boot()
    fault(pi)
    problem = packages.judge()
    assert why in problem
    assert (pi.driver, pi.restarted) == ("", 1)
    (again,) = pi.boot()
    assert why in again, "it is not tried again, and status.txt says why"
    pi.put(DRIVER + "\n", "1.1")
    assert pi.boot() == [], "another one is"


@pytest.mark.usefixtures("unpacked")
def test_a_trial_that_power_cuts_interrupt_ends_at_last(pi):
    pi.put()
    for _ in range(packages.MOST_TRIALS):
        assert pi.boot() == []
        assert pi.driver == DRIVER
    (problem,) = pi.boot()
    assert "interrupted 3 times" in problem
    assert pi.driver == ""
    assert packages.judge() == "", "there is nothing to judge any more"


def test_the_node_is_asked_for_its_own_state_by_a_unit_with_another_folder(tmp_path, monkeypatch):
    """systemd sets STATE_DIRECTORY for the judge's unit, and `status` looks there by itself."""
    config = f"""
        [mqtt]
        host = "127.0.0.1"
        port = {free_port()}
        [[sensor]]
        id = "air"
        driver = "dht22"
        pin = 4
    """
    assert node_watch.STATUS[-2:] == ("--state-dir", "/var/lib/sensor-node")
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "judge"))
    monkeypatch.setattr(node_watch, "AS_USER", ())
    node = NodeProcess(tmp_path, config, "--simulate")
    try:
        status = (SENSOR_NODE, *node_watch.STATUS[1:-1], str(node.state_dir))
        monkeypatch.setattr(node_watch, "STATUS", status)
        wait_until(lambda: (node_watch._health() or {}).get("process") == node.process.pid)
    finally:
        node.kill()


def test_the_problems_are_in_status_txt(tmp_path, monkeypatch):
    status = on_the_pi("status")
    file = tmp_path / "problems.json"
    file.write_text(json.dumps(["packages: pip does not install them"]))
    monkeypatch.setattr(status, "PACKAGE_PROBLEMS", file)
    assert "packages: pip does not install them" in status._panel_problems()


def test_the_nodes_python_looks_where_they_are_installed():
    """The build writes the line, and this program the folder."""
    assert '"/var/lib/sensor-node-packages/current"' in (DEPLOY / "image/tree.py").read_text()
    program = DEPLOY / "image/root/usr/lib/sensor-node/packages.py"
    assert 'Path("/var/lib/sensor-node-packages")' in program.read_text()
