"""The unit under a systemd of its own: notify, watchdog, restarts, credentials, and what it may."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import configure
from container import Container, wait_for
from support import Mosquitto, Subscriber, wait_until

STATUS = "sensors/box/status"
_QUICK = "WatchdogSec=3\nRestartSec=1"


@pytest.fixture(scope="module")
def node(system: Container, house_broker: Mosquitto) -> Container:
    """A system with the node installed, as its user would."""
    configure(system, house_broker.port)
    system.run("/checkout/deploy/install.sh", "--wheels", "/wheels")
    system.drop_in(_QUICK, name="quick")
    system.run("systemctl", "restart", "sensor-node")
    return system


@pytest.fixture
def seen(
    node: Container,
    house_broker: Mosquitto,
) -> Iterator[Subscriber]:
    """A subscriber, when the node is online."""
    subscriber = Subscriber(house_broker.port)
    subscriber.wait_for(STATUS, "online", 20)
    yield subscriber
    subscriber.close()


@pytest.fixture
def with_settings(node: Container) -> Iterator[Callable[[str], None]]:
    """Restarts the node with other settings of its unit; at the end, without."""

    def restart(text: str) -> None:
        node.drop_in(text)
        node.run("systemctl", "restart", "sensor-node")

    yield restart
    node.file("/etc/systemd/system/sensor-node.service.d/test.conf").unlink()
    node.run("systemctl", "daemon-reload")
    node.run("systemctl", "restart", "sensor-node")


def main_process(node: Container) -> str:
    return node.show("MainPID")


def send_signal(node: Container, name: str) -> None:
    node.run("systemctl", "kill", "--kill-whom=main", f"--signal={name}", "sensor-node")


def went_offline_and_online(subscriber: Subscriber, since: int) -> bool:
    """Whether the node's status has done so after its first `since` values."""
    return subscriber.on(STATUS)[since:] == ["offline", "online"]


def test_readings_arrive_and_systemctl_status_says_so(node, seen):
    wait_until(lambda: len(seen.states("t", "box")) >= 2, 10, "two readings")
    assert seen.states("t", "box")[-1]["temperature"] == 21.5
    wait_for(lambda: node.show("StatusText") == "connected, 1 of 1 sensors online", 5)
    assert node.show("Type") == "notify"


def test_status_is_right_as_soon_as_the_service_is_up(node):
    """Once `systemctl` has returned (Type=notify): this process, its name, version and broker."""
    commands = "systemctl restart sensor-node && sensor-node status --json && sensor-node status"
    as_json, _, text = node.run("sh", "-c", commands).stdout.partition("\n")
    status = json.loads(as_json)
    assert status["health"] is not None, text
    assert status["health"]["process"] == status["process"] == int(main_process(node))
    assert status["health"]["version"] == node.run("sensor-node", "--version").stdout.split()[-1]
    lines = text.splitlines()
    assert lines[0] == f"node     box, runs as process {main_process(node)}"
    assert any(line.startswith("broker   ") for line in lines)


def test_a_killed_node_is_offline_and_comes_back(node, seen):
    """The will is published; systemd starts it again, and no reading is given a seq twice."""
    before, restarts = len(seen.on(STATUS)), int(node.show("NRestarts"))
    send_signal(node, "KILL")
    wait_until(lambda: went_offline_and_online(seen, before), 15, "offline, then online")
    assert int(node.show("NRestarts")) == restarts + 1


def test_a_frozen_node_is_restarted_by_the_watchdog(node, seen):
    before = len(seen.on(STATUS))
    frozen = main_process(node)
    send_signal(node, "STOP")
    wait_until(lambda: went_offline_and_online(seen, before), 20, "offline, then online")
    assert main_process(node) != frozen
    assert "Watchdog timeout" in node.journal()


def test_without_the_watchdog_a_frozen_node_stays_so(node, seen, with_settings):
    """The control of the test above."""
    with_settings("WatchdogSec=0")
    frozen = main_process(node)
    send_signal(node, "STOP")
    seen.wait_for(STATUS, "offline", 15)  # by 1.5 keepalives
    assert main_process(node) == frozen
    assert node.show("ActiveState") == "active"
    send_signal(node, "KILL")


def test_an_invalid_configuration_is_not_tried_again(node, seen):
    """Exit code 78; whatever else it ends with, it is restarted (the tests above)."""
    file = node.file("/etc/sensor-node/node.toml")
    valid = file.read_text()
    file.write_text(valid + "\nnonsense = 1\n")
    node.run("systemctl", "restart", "sensor-node", check=False)
    wait_for(lambda: node.show("ActiveState") == "failed", 10)
    assert (node.show("ExecMainStatus"), node.show("NRestarts")) == ("78", "0")
    assert "nonsense" in node.journal()
    file.write_text(valid)
    node.run("systemctl", "start", "sensor-node")
    seen.wait_for(STATUS, "online")


def test_a_restart_command_brings_back_another_process(node, seen):
    before, old = len(seen.on(STATUS)), main_process(node)
    seen.client.publish("sensors/box/cmd/restart", b"", qos=1)
    wait_until(lambda: went_offline_and_online(seen, before), 15, "offline, then online")
    assert main_process(node) not in (old, "0")


def test_a_password_comes_as_a_credential(node, with_settings, tmp_path):
    """LoadCredential=: the file is root's alone, and the broker refuses who does not know it."""
    file = node.file("/etc/sensor-node/node.toml")
    before = file.read_text()
    users = tmp_path / "users"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "box", "secret"], check=True)
    broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {users}").start()
    subscriber = Subscriber(broker.port, username="box", password="secret")
    try:
        configure(node, broker.port, 'username = "box"')
        password = node.file("/etc/credential")
        password.write_text("secret\n")
        password.chmod(0o600)
        with_settings("LoadCredential=mqtt.password:/etc/credential")
        subscriber.wait_for(STATUS, "online")
        password.write_text("wrong\n")
        node.run("systemctl", "restart", "sensor-node")
        wait_for(lambda: "refuses the user" in node.journal(), 10)
    finally:
        file.write_text(before)
        subscriber.close()
        broker.stop()


@pytest.fixture(scope="module")
def probe(node: Container) -> Callable[..., dict[str, object]]:
    """What a program may that runs as the node does, with a class of devices of this kernel.

    /dev/probe-named is a device of a class that the unit is given by its name, as it is the
    buses; /dev/probe-other is one of another class. There is nothing behind them: whoever may open
    them is told ENXIO.
    """
    numbers = dict(line.split()[::-1] for line in devices())
    named, other = [name for name in ("ptp", "pps", "watchdog", "hidraw") if name in numbers][:2]
    node.run("install", "-d", "-m", "1777", "/srv/everybodys")
    node.file("/srv/probe.py").write_text(Path(__file__).with_name("probe.py").read_text())

    def look(*settings: str) -> dict[str, object]:
        for device, name in (("named", named), ("other", other)):
            node.run("rm", "-f", f"/dev/probe-{device}")
            node.run("mknod", "-m", "660", f"/dev/probe-{device}", "c", numbers[name], "200")
            node.run("chgrp", "i2c", f"/dev/probe-{device}")
        lines = ["Type=exec", "Restart=no", "WatchdogSec=0", f"DeviceAllow=char-{named} rw"]
        lines += [
            "ExecStart=",
            "ExecStart=/opt/sensor-node/current/bin/python /srv/probe.py",
            *settings,
        ]
        node.drop_in("\n".join(lines), name="zz-probe")
        found = node.file("/var/lib/sensor-node/probe.json")
        try:
            node.run("systemctl", "restart", "sensor-node")
            wait_for(lambda: found.exists() and node.show("ActiveState") != "active", 10)
            answer: dict[str, object] = json.loads(found.read_text())
        finally:
            node.file("/etc/systemd/system/sensor-node.service.d/zz-probe.conf").unlink()
            found.unlink(missing_ok=True)
            node.run("systemctl", "daemon-reload")
            node.run("systemctl", "restart", "sensor-node")
        return answer

    return look


def devices() -> list[str]:
    """`MAJOR NAME` of the character devices of this kernel."""
    text = Path("/proc/devices").read_text().split("\n\n")[0]
    return [line for line in text.splitlines()[1:] if len(line.split()) == 2]


def test_the_unit_lets_the_node_do_what_it_must(probe):
    may = probe()
    assert may["open /dev/probe-named"] == "ENXIO"
    assert set(may["groups"]) == {"sensor-node", "bluetooth", "dialout", "gpio", "i2c", "spi"}
    assert may["adjtimex"] >= 0, "whether NTP keeps the clock"
    assert may["message queue"] == "works", "pulseio's helper is spoken to by one"
    assert may["ctypes callback"] == "works"
    assert may["sqlite"] == "works"
    assert may["system bus"] == "owned: False", "bluetoothd is asked by it; there is none here"
    assert may["decrypt"] == "works", "what Bluetooth thermometers encrypt"
    assert may["child"] == "works", "the DHT's process"
    assert may["localhost"], "names resolve"
    assert may["read /proc/cpuinfo"] == may["read /proc/sys/kernel/random/boot_id"] == "works"


def test_the_unit_lets_it_do_nothing_else(probe):
    may = probe()
    assert may["open /dev/probe-other"] == "EPERM"
    assert may["set the clock"] == "EPERM"
    assert may["capabilities"] == 0
    assert may["write /srv/everybodys"] == "EROFS"
    assert may["list /root"] == may["list /home"] == "EACCES"
    assert may["unshare"] == may["raise priority"] == "EPERM"
    for family in ("AF_PACKET", "AF_NETLINK", "AF_BLUETOOTH"):
        assert may[f"socket of {family}"] == "EAFNOSUPPORT"
    assert may["mode of a new file"] == "0o640"
    assert may["other processes"] == 0


def test_without_its_settings_it_could(probe):
    """The control: what is refused above is refused by the unit."""
    may = probe(
        "DevicePolicy=auto\nDeviceAllow=\nProtectSystem=no\nProtectProc=default",
        "RestrictAddressFamilies=\nSystemCallFilter=\nUMask=0022",
    )
    assert may["open /dev/probe-other"] == "ENXIO"
    assert may["socket of AF_NETLINK"] == "works"
    assert may["write /srv/everybodys"] == "works"
    assert may["mode of a new file"] == "0o644"
    assert may["other processes"] > 0


def test_systemd_finds_nothing_wrong_with_the_units(node):
    """`verify` exits 0 on a key that it does not know: it must say nothing at all."""
    units = ["sensor-node.service", "sensor-node-update.service"]
    assert node.run("systemd-analyze", "verify", *units).stdout == ""


def test_the_exposure_of_the_unit_is_low(node):
    file = "/checkout/deploy/sensor-node.service"
    node.run("systemd-analyze", "security", "--offline=true", "--threshold=20", file)


@pytest.mark.usefixtures("seen")
def test_a_command_by_hand_finds_the_node(node):
    """`sensor-node` is on the PATH, and sees what the service does."""
    status = json.loads(node.run("sensor-node", "status", "--json").stdout)
    assert str(status["process"]) == main_process(node)
    assert status["sensors"]["t"]["values"] == {"temperature": 21.5}
