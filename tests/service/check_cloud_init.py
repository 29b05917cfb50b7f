"""A new card with deploy/cloud-init: Debian's cloud-init in a booted system, without a keyboard.

Raspberry Pi OS asks for a user at its first boot, on a screen (userconfig.service of its package
userconf-pi). Debian has no such unit, so the checks bring one that waits in the same way.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from conftest import configuration
from container import CHECKOUT, CLOUD_ROOT_TAR, Container, wait_for
from support import Mosquitto, Subscriber, replaced

USER_DATA = (CHECKOUT / "deploy/cloud-init/user-data").read_text()
STATUS = "/boot/firmware/sensor-node-status.txt"
RELEASE = "/opt/sensor-node/current"
DIALOG = """\
[Unit]
Description=User configuration dialog
[Service]
Type=oneshot
ExecStart=sleep infinity
[Install]
WantedBy=multi-user.target
"""
WITHOUT_THE_MASK = ("  - [systemctl, mask, --now, userconfig.service]\n", "")
PATIENCE_S = 180

Place = Callable[[], AbstractContextManager[Path]]


class Card:
    """The first partition of a new card, and the rest of Raspberry Pi OS that counts here."""

    def __init__(self, wheels: Path, port: int, *changes: tuple[str, str]) -> None:
        self._wheels = wheels
        node = configuration(port).replace("\n", "\n      ")
        # The sensor's file; what there is in the place of the example.
        start = USER_DATA.index("      [mqtt]")
        end = USER_DATA.index("  # The buses to switch on")
        text = f"{USER_DATA[:start]}      {node}\n{USER_DATA[end:]}"
        self._user_data = replaced(text, *changes) + "runcmd:\n  - touch /var/final-stage\n"

    def write(self, root: Path) -> None:
        """Put everything where a card has it."""
        boot = root / "boot/firmware"
        boot.mkdir(parents=True)
        parts = ["node", "drivers", "deploy", "pyproject.toml", "README.md", "LICENSE"]
        archive = ["tar", "-czf", str(boot / "sensor-node.tar.gz"), "--directory", str(CHECKOUT)]
        archive += ["--transform=flags=r;s,^,sensor-node/,", "--exclude=__pycache__", *parts]
        subprocess.run(archive, check=True)
        seed = root / "var/lib/cloud/seed/nocloud"
        seed.mkdir(parents=True)
        (seed / "user-data").write_text(self._user_data)
        (seed / "meta-data").write_text("instance-id: rpios-image\n")
        (root / "etc/cloud/cloud.cfg.d/99.cfg").write_text(
            "datasource_list: [NoCloud]\nnetwork: {config: disabled}\n"
        )
        units = root / "etc/systemd/system"
        (root / "usr/lib/systemd/system/userconfig.service").write_text(DIALOG)
        wanted = units / "multi-user.target.wants"
        wanted.mkdir(exist_ok=True)
        (wanted / "userconfig.service").symlink_to("/usr/lib/systemd/system/userconfig.service")
        # Half a minute between attempts is for a Pi.
        drop_in = units / "sensor-node-install.service.d"
        drop_in.mkdir()
        (drop_in / "test.conf").write_text("[Service]\nRestartSec=1\n")
        (root / "srv/t").write_text("21500\n")

    def bring_wheels(self, root: Path) -> None:
        """The network is there at last: what it would have, in the folder that stands in for it."""
        folder = root / "boot/firmware/wheels.new"
        shutil.copytree(self._wheels, folder)
        folder.rename(folder.with_name("wheels"))


@pytest.fixture
def boots(
    place: Place, wheels: Path, house_broker: Mosquitto
) -> Iterator[Callable[..., Container]]:
    """Boot a card; it is up when the early stages of cloud-init are over."""
    with place() as folder:
        made: list[Container] = []

        def boot(card: Card, *also: Callable[[Path], None]) -> Container:
            def change(root: Path) -> None:
                card.write(root)
                for write in also:
                    write(root)

            container = Container(
                folder, wheels, change=change, tar=CLOUD_ROOT_TAR, up_when=_configured
            )
            made.append(container)
            return container

        try:
            yield boot
        finally:
            for container in made:
                container.remove()


def _configured(container: Container) -> bool:
    done = container.run("systemctl", "is-active", "cloud-config.target", check=False)
    return done.stdout.strip() == "active"


def _said(container: Container) -> str:
    file = container.file(STATUS)
    return file.read_text() if file.exists() else ""


def _is_installed(container: Container) -> bool:
    return "sensor-node is installed." in _said(container)


def test_it_installs_without_a_keyboard_and_publishes(boots, wheels, house_broker):
    """The dialog is out of the way, everything of the first boot runs, and nothing is left."""
    card = Card(wheels, house_broker.port)
    container = boots(card, card.bring_wheels, _with_config_txt)
    wait_for(lambda: _is_installed(container), PATIENCE_S, "installed")
    container.wait_for_reboot()
    subscriber = Subscriber(house_broker.port)
    wait_for(lambda: subscriber.states("t", "box"), 30, "a reading")
    subscriber.close()
    wait_for(lambda: _final(container), 60, "the last stage")
    assert "starts again, for the buses" in _said(container)
    assert "dtparam=i2c_arm=on" in container.file("/boot/firmware/config.txt").read_text()
    assert not container.file("/opt/sensor-node-source").exists()
    assert not container.file("/etc/systemd/system/sensor-node-install.service").exists()


def _with_config_txt(root: Path) -> None:
    """A Pi has one, and boots again for the buses that are switched on there."""
    (root / "boot/firmware/config.txt").write_text("[all]\n")


def _final(container: Container) -> bool:
    return container.file("/var/final-stage").exists()


def test_the_dialog_would_have_held_up_the_last_stage(boots, wheels, house_broker):
    """The control: with the dialog in place the commands of the last stage do not run."""
    container = boots(Card(wheels, house_broker.port, WITHOUT_THE_MASK))
    wait_for(lambda: _said(container), PATIENCE_S, "a first attempt")
    assert container.show("ActiveState", "userconfig") == "activating"
    assert not _final(container)
    container.run("systemctl", "mask", "--now", "userconfig.service")
    wait_for(lambda: _final(container), 60, "the last stage")


def test_it_tries_again_until_the_network_is_there(boots, wheels, house_broker):
    """Two attempts fail, as with a late network or a mirror that fails, and say so on the card."""
    card = Card(wheels, house_broker.port)
    container = boots(card)
    wait_for(lambda: re.search(r"not installed yet.*attempt 2\b", _said(container)), PATIENCE_S)
    assert "The last of what it said:" in _said(container)
    assert not os.path.lexists(container.file(RELEASE))
    card.bring_wheels(container.root)
    wait_for(lambda: _is_installed(container), PATIENCE_S, "installed")


def test_a_power_cut_in_the_midst_costs_no_more_than_time(boots, wheels, house_broker):
    card = Card(wheels, house_broker.port)
    container = boots(card, card.bring_wheels)
    releases = container.file("/opt/sensor-node/releases")
    wait_for(lambda: releases.exists() and any(releases.iterdir()), PATIENCE_S, "a release begun")
    container.cut_power()
    assert not os.path.lexists(container.file(RELEASE))
    container.boot()
    wait_for(lambda: _is_installed(container), PATIENCE_S, "installed")
    subscriber = Subscriber(house_broker.port)
    wait_for(lambda: subscriber.states("t", "box"), 30, "a reading")
    subscriber.close()


def test_a_card_that_is_installed_is_left_alone(boots, wheels, house_broker):
    """bootcmd runs at each boot."""
    card = Card(wheels, house_broker.port)
    container = boots(card, card.bring_wheels)
    wait_for(lambda: _is_installed(container), PATIENCE_S, "installed")
    container.power_off()
    container.file(STATUS).unlink()
    container.boot()
    wait_for(lambda: _final(container), 60, "the last stage")
    wait_for(lambda: container.show("ActiveState") == "active", 30, "the node")
    assert not container.file(STATUS).exists()
    assert not container.file("/opt/sensor-node-source").exists()
