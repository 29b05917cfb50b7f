"""Updates of the image's system, on QEMU's `virt` machine, with the power cut in between.

Each bundle is the image itself with something changed. It is served on this machine, named to the
node over MQTT, and signed with a key that lies on the card.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bundle_support
from machine import Machine
from release_parts.bundles import make_image_bundle
from report import Report
from support import Subscriber, wait_until
from virt import BOOT_S, config, wait_for

__all__ = ["run_updates"]

_SERVER = ("10.0.2.101", 8000)
"""Where the guest finds the bundles."""
_NODE = "greenhouse"
_UPDATE_S = 900.0
"""How long an update may take, with its restart, on a machine that does much else."""
_SENSOR = ["eth0/mtu"]


class _Offer(NamedTuple):
    """A bundle on the server, and what the node is told of it."""

    version: str
    payload: str


class Updates:
    """A card with a key, the server, and the bundles."""

    def __init__(self, machine: Machine, seen: Subscriber, image: Path, folder: Path) -> None:
        self.machine = machine
        self.seen = seen
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._image = image
        self._facts = json.loads(image.with_suffix(".manifest.json").read_text())
        self._key = bundle_support.make_key(folder)
        self._counter = 1

    @contextlib.contextmanager
    def server(self) -> Iterator[None]:
        handler = functools.partial(_Quiet, directory=str(self.folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            self.machine.servers[_SERVER] = server.server_port
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield
            server.shutdown()
            thread.join()

    def prepare_card(self) -> None:
        card = self.machine.card
        card.write("ssh.txt", self.machine.make_ssh_key())
        card.make_folder("update-keys")
        card.write("update-keys/mine.pub", self._key.public.read_text())
        url = f'\n[update]\nurl = "http://{_SERVER[0]}:{_SERVER[1]}"\n'
        card.write("sensor-node.toml", config(_NODE, _SENSOR, every="1s", more=url))

    def offer(self, version: str, changes: str = "") -> _Offer:
        """Put a bundle of the image on the server, with changes, which are commands of debugfs."""
        root = self.folder / "root"
        subprocess.run(
            ["cp", "--sparse=always", self._image.with_suffix(".rootfs"), root], check=True
        )
        about = self.folder / "about"
        facts = {"layout": self._facts["layout"], "kernel": self._facts["kernel_suite"]}
        about.write_text(json.dumps({**facts, "version": version}))
        place = "/usr/lib/sensor-node/image.json"
        commands = f"rm {place}\nwrite {about} {place}\n{changes}\n"
        command = ["debugfs", "-w", "-f", "-", str(root)]
        subprocess.run(command, input=commands, text=True, check=True, capture_output=True)
        self._counter += 1
        facts = {
            "version": version,
            "counter": self._counter,
            "created": bundle_support.utc(int(time.time())),
            "expires": None,
            "minimum": "0.1.0",
            "new_keys": [],
            "revoked_keys": [],
        }
        bundle = make_image_bundle(
            self.folder, root, self._facts, facts, epoch=int(time.time()), level=6
        )
        root.unlink()
        self._key.sign(bundle)
        offer = {
            "file": bundle.name,
            "version": version,
            "bundle": hashlib.sha256(bundle.read_bytes()).hexdigest(),
            "size": bundle.stat().st_size,
            "signature": bundle.with_name(f"{bundle.name}.minisig").read_text(),
        }
        return _Offer(version, json.dumps(offer))

    def ask_for(self, offer: _Offer) -> None:
        self.set_clock()
        topic = f"sensors/{_NODE}/cmd/update"
        self.seen.client.publish(topic, offer.payload, 1).wait_for_publish(30)

    def set_clock(self) -> None:
        """Nobody sets the clock here, and an update waits for that."""
        folder = "/run/systemd/timesync"
        self.machine.run(f"mkdir -p {folder} && touch {folder}/synchronized")

    def ends(self, version: str) -> dict[str, Any]:
        """Wait for the end of the update to a version; return what health says of it."""

        def ended() -> Any:
            update = self._said()
            over = update.get("state") in ("kept", "undone", "refused", "failed")
            return update if over and version in json.dumps(update) else None

        wait_for(self.machine, ended, _UPDATE_S)
        return self._said()

    def _said(self) -> dict[str, Any]:
        payloads = self.seen.on(f"sensors/{_NODE}/health")
        return (json.loads(payloads[-1])["update"] or {}) if payloads else {}

    @property
    def slot(self) -> str:
        words = self.machine.run("cat /proc/cmdline").split()
        return next(word[-1] for word in words if word.startswith("sensor_node.slot="))

    def wait_until_it_runs(self) -> None:
        """Wait for a system that is not on trial, or not any more."""
        wait_for(self.machine, self._runs, _UPDATE_S)

    def _runs(self) -> bool:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            file = "/var/lib/sensor-node-image/trial.json"  # the judge deletes it, or the verdict
            return "no trial" in self.machine.run(f"[ -e {file} ] || echo no trial", seconds=60)
        return False


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


_TRIAL_S = 60
"""After so many seconds a trial that hangs is ended here; twenty minutes on a Pi."""
# What makes a system that must not stay.
_FAULTS = {
    "whose node does not start": ("rm /opt/sensor-node/bin/python3", "does not"),
    "without a kernel": ("rm /boot/vmlinuz", "did not start with it"),
}


def run_updates(machine: Machine, seen: Subscriber, report: Report, image: Path, cuts: int) -> None:
    """Good and bad systems, and so many power cuts in good ones."""
    updates = Updates(machine, seen, image, machine.folder / "served")
    updates.prepare_card()
    with updates.server():
        report.say("updates: the card as it is flashed")
        machine.power_on()
        wait_for(machine, lambda: seen.states("s0", _NODE), BOOT_S)
        machine_id = machine.run("cat /etc/machine-id")
        with report.check("a system that is well stays", vital=True) as figures:
            began_s = time.monotonic()
            updates.ask_for(updates.offer("0.2.0"))
            said = updates.ends("0.2.0")
            assert said["state"] == "kept", said
            assert updates.slot == "b"
            assert machine.run("cat /etc/machine-id") == machine_id
            assert "0.2.0" in machine.run("cat /usr/lib/sensor-node/image.json")
            figures.append(f"{time.monotonic() - began_s:.0f} s")
        for number, (what, (changes, why)) in enumerate(_FAULTS.items(), 3):
            with report.check(f"a system {what} is undone") as figures:
                began_s = time.monotonic()
                updates.ask_for(updates.offer(f"0.{number}.0", changes))
                said = updates.ends(f"0.{number}.0")
                assert said["state"] == "undone", said
                assert why in said["text"], said
                assert updates.slot == "b"
                figures.append(f"{time.monotonic() - began_s:.0f} s")
                figures.append(said["text"].partition("undone: ")[2])
        _hang(updates, report)
        _cut_power(updates, report, cuts)
    machine.cut_power()


def _hang(updates: Updates, report: Report) -> None:
    """Without an init, a shell is the first process, and waits for somebody to type."""
    machine, card = updates.machine, updates.machine.card
    machine.cut_power()
    words = card.read("cmdline.txt").strip()
    card.write("cmdline.txt", f"{words} sensor_node.trial_s={_TRIAL_S}\n")
    machine.power_on()
    updates.wait_until_it_runs()
    with report.check("a system that hangs at its start is ended and undone") as figures:
        updates.ask_for(updates.offer("0.9.0", "rm /usr/lib/systemd/systemd"))
        starts = "sensor-node: slot a sensor_node.trial"
        for tries in (1, 2):
            began_s = time.monotonic()
            wait_for(
                machine, lambda n=tries: machine.all_of_console().count(starts) == n, _UPDATE_S
            )
        figures.append(f"the next try after {time.monotonic() - began_s:.0f} s")
        for _ in range(2):  # its owner does not wait
            machine.cut_power()
            machine.power_on()
            wait_for(machine, lambda: "sensor-node: slot" in machine.all_of_console(), BOOT_S)
        updates.wait_until_it_runs()
        said = updates.ends("0.9.0")
        assert (said["state"], updates.slot) == ("undone", "b"), said
        assert "did not start with it" in said["text"], said
    machine.cut_power()
    card.write("cmdline.txt", f"{words}\n")
    machine.power_on()


def _cut_power(updates: Updates, report: Report, cuts: int) -> None:
    machine, chance = updates.machine, random.Random(cuts)
    with report.check(f"after a power cut at any of {cuts} moments a whole system runs") as figures:
        slots = []
        for number in range(cuts):
            version = f"1.{number}.0"
            updates.wait_until_it_runs()
            updates.ask_for(updates.offer(version))
            time.sleep(chance.uniform(0, 100))
            machine.cut_power()
            machine.power_on()
            updates.wait_until_it_runs()
            updates.set_clock()
            said = updates.ends(version)
            assert said["state"] in ("kept", "undone"), said
            updates.wait_until_it_runs()
            version_now = json.loads(machine.run("cat /usr/lib/sensor-node/image.json"))["version"]
            assert (version_now == version) == (said["state"] == "kept"), (version_now, said)
            slots.append(f"{updates.slot} {said['state']}")
        figures.append(", ".join(slots))
    with report.check("and no reading is missing after all that"):
        wait_until(lambda: updates.seen.history(_NODE), 60)
        newest = max(reading["seq"] for reading in updates.seen.history(_NODE))
        wait_until(
            lambda: max(r["seq"] for r in updates.seen.history(_NODE)) > newest + 5, 180, "more"
        )
        readings = updates.seen.history(_NODE)
        numbers = {reading["seq"] for reading in readings}
        assert sorted(set(range(1, newest)) - numbers) == []
        assert len({reading["stream"] for reading in readings}) == 1
