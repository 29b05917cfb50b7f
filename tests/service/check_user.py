"""A login user with sudo, in no group of ours, types what install.sh prints and the READMEs say.

The commands are taken from the texts themselves, so that the two cannot drift apart: one that is
neither typed here nor among those that cannot be, each with its reason, fails.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from conftest import MakeWheel, configuration
from container import CHECKOUT, Container, wait_for
from support import Mosquitto, Subscriber, wait_until

INSTALL_SH = CHECKOUT / "deploy/install.sh"
CONFIG = "/etc/sensor-node/node.toml"
UPDATE = "sudo /opt/sensor-node/update pi_sensor_node-0.2.0-py3-none-any.whl"

TYPED = {
    "sudo deploy/install.sh": "an example of a configuration is in",
    "sudo sensor-node init": f"Written: {CONFIG}",
    "sudo sensor-node check": "valid",
    "sudo systemctl start sensor-node": "",
    "sudo journalctl -u sensor-node -f": "node box, 1 sensor",
    "git pull && sudo deploy/install.sh": "is the version that runs",
    UPDATE: "is healthy, and stays",
    "sudo systemctl restart sensor-node sensor-node-web": "",
    "sensor-node run --config node.toml --state-dir ./state --last-good ./state/last-good.toml": (
        "node box, 1 sensor"
    ),
}
"""A command of the READMEs -> what it says. They are typed in the order of the texts."""

NOT_TYPED = {
    "python3 -m venv .venv && .venv/bin/pip install '.[demo]'": "needs PyPI; installs no service",
    "./tests/run": "the tests themselves",
    "deploy/build-image": "makes an image of a card, as tests/boot does",
    "deploy/release": "makes the files of a release; test_distribution runs it",
    "echo greenhouse-probe": "check_update has a package of its own, without an index",
    "sudo apt install ./sensor-node": "check_deb installs the package, by dpkg",
    "podman": "tests/oci runs the container",
    "scp release/": "to a Pi with the image; tests/boot updates one",
    "ssh root@": "on a Pi with the image; tests/boot updates one",
    "pip wheel": "on a computer with PyPI; the folder of wheels is made by the fixture",
    "pip download": "as pip wheel",
    "git archive": "on a computer with git, for a card that cloud-init reads",
    "apt install mosquitto": "on the broker's computer, as root; test_security runs that section",
    "openssl": "on the broker's computer; test_security runs it",
    "install -": "on the broker's computer; test_security runs it",
    "mosquitto_passwd": "on the broker's computer; test_security runs it",
    "systemctl restart mosquitto": "on the broker's computer, as root",
    "read -rs SENSOR_NODE_MQTT_PASSWORD": "asks on a terminal; test_security runs it",
    "sensor-node watch --config operator.toml": "test_security runs it",
}
"""How a command begins -> why it is not."""


def commands_of(file: Path) -> list[str]:
    """The commands of the text's ```sh blocks.

    What follows the installation of the package is what follows that by install.sh, too.
    """
    blocks = re.findall(r"```sh\n(.*?)```", file.read_text(), re.DOTALL)
    blocks = [re.sub(r"(?s)(sudo apt install \./[^\n]*\n).*", r"\1", block) for block in blocks]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    bare = (re.sub(r"(^|\s+)# ?.*", "", line).strip() for line in lines)
    return [re.sub(r" {2,}", " ", line) for line in bare if line]


def of_the_readmes() -> list[str]:
    """All of them, each once; those of an installation first, because the rest builds on it."""
    files = ("deploy/README.md", "README.md", "node/config/README.md")
    return list(dict.fromkeys(c for file in files for c in commands_of(CHECKOUT / file)))


def printed_in(said: str, *, indent: int = 2) -> list[str]:
    """The commands that install.sh has told to type: each on a line of its own."""
    return re.findall(rf"(?m)^ {{{indent}}}(\S.*)$", said)


class User:
    """Somebody at a terminal of the container, in a checkout of theirs."""

    def __init__(self, system: Container) -> None:
        self.system = system
        system.run("useradd", "--create-home", "--shell", "/bin/bash", "pi")
        # As Raspberry Pi OS has it for the user of its imager.
        sudoers = system.file("/etc/sudoers.d/010_pi-nopasswd")
        sudoers.write_text("pi ALL=(ALL) NOPASSWD: ALL\n")
        sudoers.chmod(0o440)
        # What a Pi has of the network: pip finds what it needs.
        system.file("/etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        self.checkout = system.file("/home/pi/sensor-node")
        self.checkout.mkdir()
        parts = ["node", "drivers", "deploy", "pyproject.toml", "README.md", "LICENSE"]
        for part in parts:
            subprocess.run(["cp", "-r", str(CHECKOUT / part), str(self.checkout)], check=True)
        system.run("chown", "-R", "pi:pi", "/home/pi/sensor-node")

    def types(self, command: str, *, seconds: float = 0, text: str = "") -> tuple[int, str]:
        """The exit code, and what was said; Ctrl-C after so many seconds, if it goes on till then.

        `text` is what it reads from its standard input.
        """
        if seconds:
            command = (
                f"timeout --signal=INT --kill-after=5 {seconds:g} bash -c {shlex.quote(command)}"
            )
        whole = f"cd sensor-node && {command}"
        process = self.system.start(
            *("runuser", "--login", "pi", "--command", whole), stdin=subprocess.PIPE
        )
        try:
            said, _ = process.communicate(text, timeout=120)
        finally:
            process.kill()
            process.wait()
        return process.returncode, said

    def does(self, command: str, *, seconds: float = 0, text: str = "") -> str:
        """As `types`; fails if the command does."""
        code, said = self.types(command, seconds=seconds, text=text)
        # 124: it went on until the end; 130: by Ctrl-C.
        assert code == 0 or (seconds and code in (124, 130)), f"{command}: {code}\n{said}"
        return said

    def names_the_broker(self, command: str, port: int) -> str:
        """Answer the questions of `init`: two, and Enter for whatever a scan has found."""
        return self.does(command, text=f"box\nlocalhost:{port}\n" + 60 * "\n")

    def edits(self, file: str, text: str) -> None:
        """What `sudo nano FILE` would do; owner and mode stay."""
        self.does(f"sudo tee {file} >/dev/null", text=text)


@pytest.fixture(scope="module")
def user(system: Container) -> User:
    return User(system)


@pytest.fixture
def text(house_broker: Mosquitto, system: Container) -> str:
    system.file("/srv/t").write_text("21500\n")
    return configuration(house_broker.port)


@pytest.fixture
def new_version(user: User, make_wheel: MakeWheel) -> None:
    wheel = make_wheel("0.2.0")
    (user.checkout / wheel.name).write_bytes(wheel.read_bytes())


def test_no_command_of_the_readmes_is_forgotten():
    """Each is typed below, or cannot be; and no reason is left of one that is gone."""
    commands = of_the_readmes()
    for command in commands:
        known = [
            *[c for c in TYPED if c == command],
            *[c for c in NOT_TYPED if command.startswith(c)],
        ]
        assert len(known) == 1, f"{command!r} is typed by no test, and there is no reason why not"
    assert set(TYPED) <= set(commands)
    for beginning in NOT_TYPED:
        assert any(command.startswith(beginning) for command in commands), beginning


def test_what_the_readmes_say(user, text, new_version, house_broker):
    """Word for word, in their order, from an empty system to a status page."""
    subscriber = Subscriber(house_broker.port)
    for command in [c for c in of_the_readmes() if c in TYPED]:
        if command == "sudo sensor-node init":
            assert TYPED[command] in user.names_the_broker(command, house_broker.port)
            user.edits(CONFIG, text)  # with a sensor that a container can have
            continue
        if command.startswith("sensor-node run"):
            (user.checkout / "node.toml").write_text(text)
        if command.endswith("sensor-node-web"):
            user.edits(CONFIG, text + "\n[web]\nenabled = true\n")
        goes_on = command.endswith("-f") or "sensor-node run" in command
        said = user.does(command.removeprefix("git pull && "), seconds=5 if goes_on else 0)
        assert TYPED[command] in said, command
        if command == "sudo systemctl start sensor-node":
            wait_until(lambda: subscriber.states("t", "box"), 20, "a reading")
    subscriber.close()
    assert user.system.show("ActiveState", "sensor-node-web") == "active"
    user.does("sudo deploy/install.sh --uninstall && sudo rm -r /etc/sensor-node")


def test_what_the_installer_prints(user, text, house_broker):
    """Each line that it tells to type, in each case that it tells one."""
    typed = []

    def follows(said: str, seconds: float = 0) -> str:
        [command] = printed_in(said)
        typed.append(command)
        answer: str = user.does(command, seconds=seconds)
        return answer

    [command] = printed_in(user.does("sudo deploy/install.sh"))
    typed.append(command)
    said = user.names_the_broker(command, house_broker.port)
    start, status = printed_in(said, indent=4)
    user.does(start)
    assert user.system.show("ActiveState") == "active"
    wait_until(lambda: f"localhost:{house_broker.port}" in user.does(status), 20, "the broker")
    user.edits(CONFIG, text)

    user.does("sudo systemctl stop sensor-node")
    follows(user.does("sudo deploy/install.sh --no-start"))
    assert user.system.show("ActiveState") == "active"

    user.does("sudo systemctl stop sensor-node")
    assert "node box, 1 sensor" in follows(user.does("sudo deploy/install.sh"), seconds=5)

    user.does("sudo systemctl stop sensor-node")
    user.edits(CONFIG, text + "\n[nonsense]\n")
    code, said = user.types("sudo deploy/install.sh")
    assert code == 1
    assert "nonsense" in follows(said)

    all_there_are = re.findall(r'(?m)^ *say_command "(.*?)"', INSTALL_SH.read_text())
    assert sorted(typed) == sorted(all_there_are)
    user.edits(CONFIG, text)
    user.does("sudo systemctl start sensor-node")


def test_without_sudo_the_printed_line_would_not_do(user):
    """The control, in the words that install.sh had once."""
    user.does("sudo systemctl stop sensor-node")
    code, said = user.types("sensor-node check && sudo systemctl start sensor-node")
    assert code == 78
    assert f"{CONFIG} cannot be read: Permission denied" in said
    assert user.system.show("ActiveState") == "inactive"
    user.does("sudo systemctl start sensor-node")


@pytest.mark.parametrize(
    ("command", "goes_on", "says"),
    [
        ("check", False, "valid"),
        ("check --json", False, '"ok":true'),
        ("status", False, "runs as process"),
        ("doctor", False, "running as process"),
        ("read", False, "21.5"),
        ("read t --json", False, "21.5"),
        ("watch", True, "sensors/box"),
        ("plot t -o -", False, "<svg"),
        ("web", True, "the status page is at http://127.0.0.1:8080/"),
    ],
)
def test_a_command_without_sudo_names_the_one_that_works(user, command, goes_on, says):
    """Whose the file is, and the same command with sudo: which is typed, and works."""
    code, said = user.types(f"sensor-node {command}")
    assert code in (1, 78), said
    whose = r"it belongs to (root|sensor-node) and the group sensor-node"
    assert re.search(rf"({whose}|its folder is closed to this user): sudo ", said), said
    remedy = re.search(r": (sudo sensor-node [^;\n]*)", said)
    assert remedy is not None, said
    assert remedy[1] == f"sudo sensor-node {command}"
    wait_for(lambda: "online" in user.does("sudo sensor-node status"), 20)
    assert says in user.does(remedy[1], seconds=6 if goes_on else 0)


def test_what_needs_no_rights_needs_no_sudo(user):
    for command in ("drivers", "scan --simulate", "read --simulate --config node.toml"):
        user.does(f"sensor-node {command}")
