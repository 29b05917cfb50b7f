"""The Debian package in a booted Debian: in, newer, out, purged; and in the place of install.sh."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from check_install import STATUS, accounts, files
from check_update import own_driver
from conftest import MakeWheel, configure
from container import CHECKOUT, Container, wait_for
from support import Mosquitto, Subscriber, wait_until

CACHE = Path(os.environ.get("SENSOR_NODE_TEST_CACHE", ""))
CONFIG = "/etc/sensor-node/node.toml"
SERVICE, PAGE = "sensor-node.service", "sensor-node-web.service"
UNITS = (SERVICE, PAGE, "sensor-node-config.path")
_BEFORE = "2cd8325"
"""The commit whose installation is taken over; of 24 November 2026."""

PlaceDeb = Callable[[Container, str], str]


@pytest.fixture(scope="module")
def place_deb(
    wheels: Path, make_wheel: MakeWheel, tmp_path_factory: pytest.TempPathFactory
) -> PlaceDeb:
    """Builds a version of the package, into a system; returns its path there."""
    folder = tmp_path_factory.mktemp("debs")
    made: dict[str, Path] = {}

    def place(system: Container, version: str) -> str:
        if version not in made:
            made[version] = build(make_wheel(version), folder)
        target = system.file(f"/srv/{made[version].name}")
        target.write_bytes(made[version].read_bytes())
        return f"/srv/{made[version].name}"

    return place


def build(wheel: Path, folder: Path, **environment: str) -> Path:
    """Without compression, which takes half a minute and shows nothing here."""
    done = subprocess.run(
        [
            *(sys.executable, str(CHECKOUT / "deploy/build-deb"), "--wheel", str(wheel)),
            *("--output", str(folder), "--cache", str(CACHE)),
        ],
        env={**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "none", **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Path(done.stdout.splitlines()[-1])


def dpkg(system: Container, *arguments: str) -> str:
    """What it says; at a question it would end with a failure, as nobody can answer."""
    return system.run("dpkg", *arguments).stdout


def verified(system: Container) -> list[str]:
    """Files that are not as in the package; this system has no documents at all."""
    lines = dpkg(system, "--verify", "sensor-node").splitlines()
    return [line for line in lines if "/usr/share/" not in line]


def enabled(system: Container, unit: str = SERVICE) -> str:
    return system.run("systemctl", "is-enabled", unit, check=False).stdout.strip()


def failed_units(system: Container) -> str:
    return system.run("systemctl", "--failed", "--plain", "--no-legend").stdout


def streams_and_seqs(subscriber: Subscriber) -> tuple[set[str], list[int]]:
    readings = subscriber.history("box")
    return {reading["stream"] for reading in readings}, sorted({r["seq"] for r in readings})


def no_gap(subscriber: Subscriber) -> bool:
    streams, seqs = streams_and_seqs(subscriber)
    return len(streams) == 1 and seqs == list(range(seqs[0], seqs[-1] + 1))


def arrives_beyond(subscriber: Subscriber, seq: int) -> bool:
    return bool(subscriber.history("box")) and streams_and_seqs(subscriber)[1][-1] > seq


@pytest.fixture
def seen(house_broker: Mosquitto) -> Iterator[Subscriber]:
    subscriber = Subscriber(house_broker.port)
    yield subscriber
    subscriber.close()


def test_the_life_of_a_package(system, house_broker, seen, place_deb):
    before, accounts_before = files(system), accounts(system)
    said = dpkg(system, "--install", place_deb(system, "0.1.0"))
    assert "sudo sensor-node init\n" in said
    nothing_runs_before_there_is_a_broker(system)

    configure(system, house_broker.port)
    config = system.file(CONFIG).read_text()
    system.run("systemctl", "start", "sensor-node")
    wait_until(lambda: seen.states("t", "box"), 30, "a reading")
    it_runs_as_install_sh_lets_it_run(system)

    said = dpkg(system, "--install", place_deb(system, "0.2.0"))
    assert "sensor-node init" not in said
    wait_for(lambda: seen.health("box")["version"] == "0.2.0", 30)
    assert system.file(CONFIG).read_text() == config
    newest = seen.states("t", "box")[-1]["seq"]
    wait_for(lambda: arrives_beyond(seen, newest), 90, "history of the new version")
    assert no_gap(seen)
    # A node that was stopped stays so through an upgrade, and one that was disabled, too.
    system.run("systemctl", "disable", "--now", SERVICE)
    dpkg(system, "--install", place_deb(system, "0.2.0"))
    assert (enabled(system), system.show("ActiveState")) == ("disabled", "inactive")
    system.run("systemctl", "enable", "--now", SERVICE)

    answer = system.run("/checkout/deploy/install.sh", check=False)
    assert answer.returncode == 1
    assert "update and remove it with apt" in answer.stdout

    dpkg(system, "--remove", "sensor-node")
    seen.wait_for(STATUS, "offline")
    assert system.file(CONFIG).read_text() == config
    left = files(system) - before - {"/srv/t"}
    ours = ("/etc/sensor-node", "/var/lib/sensor-node", "/etc/systemd/system/", "/srv/sensor-node_")
    dpkgs = ("/var/lib/dpkg/", "/var/log/")
    assert {path for path in left if not path.startswith((*ours, *dpkgs))} == set()
    newest = seen.states("t", "box")[-1]["seq"]

    dpkg(system, "--install", place_deb(system, "0.2.0"))
    seen.wait_for(STATUS, "online", 30)
    wait_until(lambda: seen.states("t", "box")[-1]["seq"] > newest, 20, "the next seq")
    said = dpkg(system, "--purge", "sensor-node")
    assert "removing /var/lib/sensor-node (" in said
    assert "outbox.db" in said
    assert "removing /etc/sensor-node (node.toml )" in said
    left = files(system) - before - {"/srv/t"}
    assert {p for p in left if not p.startswith(("/srv/sensor-node_", *dpkgs))} == set()
    # As with every package of Debian, the user stays: its number is not given to another.
    assert accounts(system) != accounts_before
    assert failed_units(system) == ""


def nothing_runs_before_there_is_a_broker(system: Container) -> None:
    """At this start and at the next; and no unit has failed for it."""
    system.run("systemctl", "start", SERVICE, PAGE)
    assert [system.show("ActiveState", unit) for unit in (SERVICE, PAGE)] == ["inactive"] * 2
    assert not system.file(CONFIG).exists()
    assert [enabled(system, unit) for unit in UNITS] == ["enabled"] * 3
    assert failed_units(system) == ""
    assert verified(system) == []


def it_runs_as_install_sh_lets_it_run(system: Container) -> None:
    """The same user, groups and sandbox; byte code is there, so that no start compiles."""
    assert system.show("User") == "sensor-node"
    ours = CHECKOUT / "deploy/sensor-node.service"
    assert unit_lines(system.file("/usr/lib/systemd/system/sensor-node.service")) == [
        line.replace("/opt/sensor-node/bin/", "/usr/bin/") for line in unit_lines(ours)
    ]
    process = system.show("MainPID")
    groups = system.run("grep", "^Groups:", f"/proc/{process}/status").stdout
    assert len(groups.split()) > 5
    package = "/usr/lib/sensor-node/lib/python3/site-packages"
    sources = list(system.file(f"{package}/node").rglob("*.py"))
    compiled = list(system.file(f"{package}/node").rglob("__pycache__/*.pyc"))
    assert len(compiled) == len(sources) > 100
    system.file("/srv/every.toml").write_text(
        '[mqtt]\nhost = "localhost"\n'
        '[[sensor]]\nid = "a"\ndriver = "bme280"\n[[sensor]]\nid = "b"\ndriver = "dht22"\npin = 4\n'
    )
    said = system.run("sensor-node", "read", "--simulate", "--config", "/srv/every.toml").stdout
    system.file("/srv/every.toml").unlink()
    assert "pressure" in said


def unit_lines(file: Path) -> list[str]:
    """Settings alone."""
    lines = file.read_text().splitlines()
    added = ("ConditionPathExists=", "Documentation=")
    return [line for line in lines if line and not line.startswith(("#", *added))]


# -- after install.sh --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed_long_ago(
    place: Callable[[], AbstractContextManager[Path]], wheels: Path, house_broker: Mosquitto
) -> Iterator[Container]:
    """A system with a node by the install.sh of an earlier commit."""
    git = ("git", "-c", "safe.directory=*", "-C", str(CHECKOUT))
    archive = subprocess.run([*git, "archive", _BEFORE], capture_output=True, check=False)
    if archive.returncode != 0:
        pytest.skip(f"not run: needs a checkout with the history of git ({_BEFORE})")
    with place() as folder:
        system = Container(folder, wheels)
        try:
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
                tar.extractall(system.file("/srv/before"), filter="data")
            system.run("cp", "-r", "/wheels", "/srv/wheels")
            # Without ours: it builds its own.
            system.run("sh", "-c", "rm /srv/wheels/pi_sensor_node-*.whl")
            configure(system, house_broker.port)
            system.run("/srv/before/deploy/install.sh", "--wheels", "/srv/wheels")
            yield system
        finally:
            system.remove()


def test_upgrades_of_a_computer_that_began_with_install_sh(
    installed_long_ago, seen, place_deb, tmp_path
):
    """From that commit by today's install.sh, and from there to the package: one log, no gap."""
    system = installed_long_ago
    wait_until(lambda: seen.history("box"), 90, "history of the earlier commit")
    streams, _ = streams_and_seqs(seen)

    said = system.run("/checkout/deploy/install.sh", "--wheels", "/wheels").stdout
    assert "is healthy, and stays" in said
    own = own_driver(tmp_path, "1.0", "return {'temperature': 21.0}")
    system.file(f"/srv/{own.name}").write_bytes(own.read_bytes())
    system.file("/etc/sensor-node/packages.txt").write_text(f"/srv/{own.name}  # ours\n")
    system.run("/checkout/deploy/install.sh", "--wheels", "/wheels")
    with system.file(CONFIG).open("a") as config:
        config.write('[[sensor]]\nid = "own"\ndriver = "greenhouse"\ninterval = "1s"\n')
    system.drop_in("RestartSec=1")
    system.run("systemctl", "restart", SERVICE)
    wait_for(lambda: seen.states("own", "box"), 30, "a reading of the owner's driver")

    deb = place_deb(system, "0.3.0")
    what_would_harm_is_refused(system, deb)
    config = system.file(CONFIG).read_text()
    said = dpkg(system, "--install", deb)
    assert (
        "packages of your own are now in /usr/local/lib/sensor-node: greenhouse-probe 1.0" in said
    )
    wait_for(lambda: seen.health("box")["version"] == "0.3.0", 30)
    assert seen.health("box")["problems"] == []
    assert system.file(CONFIG).read_text() == config
    assert not system.file("/opt/sensor-node").exists()
    assert system.run("sh", "-c", "command -v sensor-node").stdout.strip() == "/usr/bin/sensor-node"
    # Debian 12 names it by the link /lib.
    assert system.show("FragmentPath").endswith("/lib/systemd/system/sensor-node.service")
    assert "test.conf" in system.show("DropInPaths"), "the owner's own settings stay"
    assert enabled(system) == "enabled"
    assert enabled(system, "sensor-node-update.service") in ("not-found", "")
    assert system.show("ActiveState", "sensor-node-config.path") == "active"
    newest = streams_and_seqs(seen)[1][-1]
    wait_for(lambda: arrives_beyond(seen, newest + 3), 90, "history of the package's node")
    assert no_gap(seen)
    assert streams_and_seqs(seen)[0] == streams
    assert seen.health("box")["sensors"]["own"]["online"]
    assert failed_units(system) == ""
    assert verified(system) == []


def what_would_harm_is_refused(system: Container, deb: str) -> None:
    """Each in words, with the node as it was: a trial, a drop-in, a configuration."""
    process = system.show("MainPID")
    obstacles = {
        "/opt/sensor-node/trial.json": ("{}", "is on trial; wait for its end"),
        "/etc/systemd/system/sensor-node.service.d/own.conf": (
            "[Service]\nEnvironment=A=/opt/sensor-node/bin/x\n",
            "these files name it",
        ),
    }
    for name, (text, words) in obstacles.items():
        system.file(name).write_text(text)
        answer = system.run("dpkg", "--install", deb, check=False)
        assert answer.returncode != 0
        assert words in answer.stdout
        system.file(name).unlink()
    valid = system.file(CONFIG).read_text()
    system.file(CONFIG).write_text(valid + "nonsense = 1\n")
    answer = system.run("dpkg", "--install", deb, check=False)
    assert answer.returncode != 0
    assert "rejects the configuration, so the node in /opt/sensor-node runs on" in answer.stdout
    assert "sudo dpkg --configure sensor-node" in answer.stdout
    # Even gone again, with all that is the package's, it has not harmed that node.
    assert "are left to the node in /opt/sensor-node" in dpkg(system, "--purge", "sensor-node")
    assert system.file("/var/lib/sensor-node/outbox.db").exists()
    system.file(CONFIG).write_text(valid)
    assert (system.show("MainPID"), system.show("ActiveState")) == (process, "active")


def test_two_builds_are_one_package(place_deb, make_wheel, wheels, tmp_path):
    """Byte for byte, in another folder and with another umask."""
    wheel = make_wheel("0.4.0")
    epoch = {"SOURCE_DATE_EPOCH": "1800000000"}
    one = build(wheel, tmp_path / "one", **epoch)
    before = os.umask(0o077)
    try:
        other = build(wheel, tmp_path / "other", **epoch)
    finally:
        os.umask(before)
    assert one.read_bytes() == other.read_bytes()
