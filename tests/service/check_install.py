"""`deploy/install.sh` in a booted Debian, without the network: in, again, newer, out, in again."""

from __future__ import annotations

import os
import pty

from conftest import MakeWheel, configure
from container import Container
from support import Subscriber, wait_until

INSTALL = "/checkout/deploy/install.sh"
CONFIG = "/etc/sensor-node/node.toml"
STATUS = "sensors/box/status"
_DATA = ("/etc/sensor-node", "/var/lib/sensor-node")


def install(system: Container, *options: str) -> str:
    return system.run(INSTALL, "--wheels", "/wheels", *options).stdout


def files(system: Container) -> set[str]:
    """All there are, without those that a running system makes on its own."""
    found = system.run(
        *("find", "/", "-xdev", "(", "-path", "/var/log/journal", "-o", "-path", "/run", "-o"),
        *("-path", "/tmp", "-o", "-path", "/var/tmp", "-o", "-path", "/var/lib/systemd", ")"),
        *("-prune", "-o", "-print"),
    ).stdout
    return set(found.splitlines())


def accounts(system: Container) -> list[str]:
    return [system.file(f"/etc/{name}").read_text() for name in ("passwd", "group")]


def main_process(system: Container) -> str:
    return system.show("MainPID")


def test_from_nothing_to_readings_and_back(system, house_broker, make_wheel):
    """What a user does in the life of an installation, in one system."""
    before, accounts_before = files(system), accounts(system)
    assert system.run(INSTALL, "--uninstall").stdout == "sensor-node is gone\n", (
        "and nothing is left"
    )

    said = install(system)
    assert "an example of a configuration is in /etc/sensor-node/node.toml" in said
    assert system.show("ActiveState") == "inactive", "the example is nobody's broker"
    said = system.run(INSTALL, "--uninstall").stdout
    assert said.endswith("your data is left: /etc/sensor-node\n"), "no log was ever begun"
    said = install(system)
    assert system.file(CONFIG).stat().st_mode & 0o777 == 0o640
    assert "valid" in system.run("sensor-node", "check").stdout

    configure(system, house_broker.port)
    subscriber = Subscriber(house_broker.port)
    assert "sensor-node runs" in install(system)
    wait_until(lambda: subscriber.states("t", "box"), 20, "a reading")
    assert subscriber.states("t", "box")[-1]["temperature"] == 21.5

    again_changes_nothing(system)
    a_newer_one_takes_over(system, subscriber, make_wheel)
    newest = subscriber.states("t", "box")[-1]["seq"]

    said = system.run(INSTALL, "--uninstall").stdout
    assert "your data is left: /etc/sensor-node, /var/lib/sensor-node\n" in said
    subscriber.wait_for(STATUS, "offline")
    left = files(system) - before - {"/srv/t"}
    assert {path for path in left if not path.startswith(_DATA)} == set()
    assert "/var/lib/sensor-node/outbox.db" in left
    assert before - files(system) == set()
    assert accounts(system) == accounts_before
    assert "sensor-node" not in system.run("systemctl", "list-unit-files").stdout
    said = system.run(INSTALL, "--uninstall").stdout
    assert (
        said == "sensor-node is gone; your data is left: /etc/sensor-node, /var/lib/sensor-node\n"
    )

    install(system)
    subscriber.wait_for(STATUS, "online", 20)
    wait_until(lambda: subscriber.states("t", "box")[-1]["seq"] > newest, 10, "the next seq")
    subscriber.close()


def again_changes_nothing(system: Container) -> None:
    """Run a second time: same files, same process, the user's configuration untouched."""
    release = system.file("/opt/sensor-node/releases")
    shape = {str(f): f.lstat().st_mtime_ns for f in release.rglob("*")}
    config, process = system.file(CONFIG).read_text(), main_process(system)
    said = install(system)
    assert "stays as it is" in said
    assert "is the version that runs" in said
    assert {str(f): f.lstat().st_mtime_ns for f in release.rglob("*")} == shape
    assert (system.file(CONFIG).read_text(), main_process(system)) == (config, process)


def a_newer_one_takes_over(
    system: Container, subscriber: Subscriber, make_wheel: MakeWheel
) -> None:
    """The log is the old one's: the stream goes on, without a gap."""
    wheel = make_wheel("0.2.0")
    copy = system.file(f"/var/tmp/{wheel.name}")
    copy.write_bytes(wheel.read_bytes())
    update = ("/opt/sensor-node/update", "--wheels", "/wheels", "--settle", "2")
    said = system.run(*update, f"/var/tmp/{wheel.name}").stdout
    assert "is healthy, and stays" in said
    wait_until(lambda: subscriber.health("box")["version"] == "0.2.0", 10)
    assert subscriber.health("box")["problems"] == []
    system.run("systemctl", "restart", "sensor-node")  # what is not sent yet is, on connecting
    wait_until(lambda: subscriber.history("box"), 20)
    readings = subscriber.history("box")
    assert len({reading["stream"] for reading in readings}) == 1
    seqs = sorted({reading["seq"] for reading in readings})
    assert seqs == list(range(seqs[0], seqs[-1] + 1))


def test_buses_are_switched_on_when_asked_for_and_off_again(system):
    """config.txt is added to, once, with the original beside it; --uninstall gives it back."""
    config = system.file("/boot/firmware/config.txt")
    config.parent.mkdir(parents=True, exist_ok=True)
    backup = config.with_name("config.txt.before-sensor-node")
    original = "# For more options ...\n#dtparam=i2c_arm=on\n[pi4]\ndtparam=spi=on\n[all]\nfoo=1"
    config.write_text(original)

    said = install(system, "--no-start")
    assert config.read_text() == original, "nobody was asked"
    assert "I2C (GPIO 2 and 3; bme280 and most chips); --i2c switches it on" in said
    assert "SPI" in said, "that of [pi4] is not every Pi's"

    said = install(system, "--no-start", "--i2c")
    assert config.read_text().startswith(original + "\n[all]\n")
    assert config.read_text().count("dtparam=i2c_arm=on") == 2
    assert "dtoverlay" not in config.read_text()
    assert backup.read_text() == original
    assert system.run("test", "-e", "/run/reboot-required").returncode == 0

    once = config.read_text()
    assert "I2C" not in install(system, "--no-start", "--i2c")
    assert config.read_text() == once

    install(system, "--no-start", "--yes")
    assert "\ndtoverlay=w1-gpio\n" in config.read_text()
    assert config.read_text().count("dtparam=i2c_arm=on") == 2
    assert backup.read_text() == original

    system.run(INSTALL, "--uninstall")
    assert config.read_text() == original + "\n"
    assert [f.name for f in config.parent.iterdir()] == ["config.txt"]


def test_on_a_terminal_it_asks(system):
    """Yes to the first, no to the others."""
    config = system.file("/boot/firmware/config.txt")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("")
    ours, theirs = pty.openpty()
    process = system.start(INSTALL, "--wheels", "/wheels", "--no-start", stdin=theirs)
    os.write(ours, b"y\nn\n\n")
    said, _ = process.communicate(timeout=120)
    os.close(ours)
    assert process.returncode == 0, said
    assert "dtparam=i2c_arm=on" in config.read_text()
    assert "dtparam=spi" not in config.read_text()
    assert "dtoverlay=w1" not in config.read_text()
    system.run(INSTALL, "--uninstall")


def test_what_is_missing_is_said_and_nothing_is_left_half_done(system):
    """A folder without what is needed; the node that runs stays what it is."""
    system.run("mkdir", "-p", "/srv/empty")
    answer = system.run(INSTALL, "--wheels", "/srv/empty", check=False)
    assert answer.returncode == 1
    assert list(system.file("/opt/sensor-node/releases").glob("*")) == []
    answer = system.run(INSTALL, "--wheels", "/nowhere", check=False)
    assert "--wheels wants a folder: /nowhere" in answer.stdout
    assert system.run(INSTALL, "--nonsense", check=False).returncode == 2
