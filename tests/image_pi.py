"""A card with two slots, as files, and a Pi that starts from it: for the tests of its updates.

Run as a program, it is a Pi whose power is cut while it installs what the node has staged:

    image_pi.py FOLDER LINES [--arm-first]

It ends without a word before the given line of the updater's own code is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bundle_support import CREATED_S, EXPIRES_S, Key, utc
from image_support import DEPLOY, on_the_pi
from update_parts import trust
from update_parts.bundle import write_bundle

updater, slots, node_watch = on_the_pi("update_image"), on_the_pi("slots"), on_the_pi("node_watch")

__all__ = ["Pi", "make_system", "slots", "updater"]

MACHINE_ID = "0123456789abcdef0123456789abcdef"
SLOT_BYTES = 3 << 20


def make_system(file: Path, content: str, *, size: int = 2 << 20) -> Path:
    """A root file system with a few files, in the form of the image's."""
    folder = file.with_suffix(".files")
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/machine-id").write_text("")
    (folder / "version").write_text(content)
    (folder / "filling").write_bytes(hashlib.shake_128(content.encode()).digest(size // 4))
    command = [
        "mkfs.ext4",
        "-q",
        "-d",
        str(folder),
        "-O",
        "^has_journal",
        str(file),
        f"{size >> 10}k",
    ]
    subprocess.run(command, check=True)
    shutil.rmtree(folder)
    return file


class Pi:
    """The folders and devices of a Pi; they outlive its process, as a card does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card = folder / "card"
        self.devices = {slot: folder / f"slot-{slot}" for slot in slots.SLOTS}
        self.boot_keys = folder / "boot/update-keys"
        self.store, self.state = folder / "store", folder / "state"
        self.command_line = folder / "cmdline"
        self.restarts = 0
        self.before = node_watch.Before(["air"], True)
        self.wrong = ""
        """What is wrong with the node in the system that runs."""
        if not self.card.exists():
            for made in (self.boot_keys, self.store, self.state):
                made.mkdir(parents=True)
            self.card.write_bytes(bytes(4 << 20))
            for device in self.devices.values():
                device.write_bytes(bytes(SLOT_BYTES))
            self.write_into("a", make_system(folder / "old", "0.1.0"))
            (folder / "machine-id").write_text(f"{MACHINE_ID}\n")
            self.start()

    def take_the_place_of_the_computer(self, put: Callable[[Any, str, Any], None]) -> None:
        """Have the updater find this Pi; `put` replaces an attribute, as `setattr` does."""
        put(slots, "_COMMAND_LINE", self.command_line)
        put(slots, "disk", lambda: self.card)
        put(slots, "partition", self.devices.__getitem__)
        put(updater, "STORE", self.store)
        put(updater, "STATE", self.state)
        for name in ("KEYS", "TRUST", "INCOMING", "ATTEMPTS", "TRIAL", "OTHER", "LOCK"):
            put(updater, name, self.store / getattr(updater, name).name)
        put(updater, "NOTICE", self.state / "update-undone")
        put(updater, "ABOUT", self.folder / "image.json")
        put(updater, "CARD_KEYS", self.boot_keys)
        put(updater, "MACHINE_ID", self.folder / "machine-id")
        put(updater, "DEADLINE", self.folder / "deadline.pid")
        put(trust, "CLOCK_S", 0.0)
        put(updater, "systemctl", self._systemctl)
        put(updater, "look_before", lambda: self.before)
        put(updater, "watch", lambda _before, _within_s: self.wrong)
        put(trust, "installed_keys", partial(trust.installed_keys, owner=os.getuid()))
        put(trust, "clock_is_set", lambda: True)
        put(trust, "this_computer", _a_pi)

    def _systemctl(self, *arguments: str) -> str:
        self.restarts += arguments == ("reboot",)
        return ""

    # -- the card

    def write_into(self, slot: str, system: Path) -> None:
        with self.devices[slot].open("r+b") as device:
            device.write(system.read_bytes())

    def shown(self, slot: str, file: str) -> str:
        """A file of the system in a slot; "" if it is not there."""
        done = subprocess.run(
            ["debugfs", "-R", f"cat {file}", self.devices[slot]], capture_output=True, check=False
        )
        return done.stdout.decode(errors="replace")

    def is_whole(self, slot: str) -> bool:
        """Whether the system in a slot is one, and all of it is there."""
        version = self.shown(slot, "/version")
        filling = hashlib.shake_128(version.encode()).hexdigest((2 << 20) // 4)
        done = subprocess.run(
            ["debugfs", "-R", "cat /filling", self.devices[slot]], capture_output=True, check=False
        )
        return bool(version) and done.stdout.hex() == filling

    def start(self, *, without: str = "") -> str:
        """Start as boot.cmd does it; return the slot. tests/boot runs the boot loader itself.

        `without`: a slot without a kernel.
        """
        record = slots.Record(self.card)
        slot: str = record.good
        words = ""
        if trial := record.trial:
            record.begin_trial(trial.slot, trial.tries - 1)
            if trial.slot != without:
                slot, words = trial.slot, " sensor_node.trial"
        self.command_line.write_text(f"ro sensor_node.slot={slot}{words}\n")
        about = {"version": self.shown(slot, "/version"), "layout": 1, "kernel": "trixie"}
        (self.folder / "image.json").write_text(json.dumps(about))
        return slot

    # -- bundles

    def trust(self, key: Key) -> None:
        shutil.copy(key.public, self.boot_keys / "mine.pub")

    def bundle(
        self,
        key: Key,
        version: str = "0.2.0",
        *,
        system_facts: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> Path:
        """A bundle of a system of that version; `facts` replace keys of its manifest."""
        system = self.folder / f"system-{version}"
        if not system.exists():
            make_system(system, version)
        content = self.folder / "to-pack"
        shutil.rmtree(content, ignore_errors=True)
        content.mkdir()
        subprocess.run(["zstd", "-q", "-1", system, "-o", content / "rootfs.zst"], check=True)
        about = {
            "version": version,
            "counter": 7,
            "created": utc(CREATED_S),
            "expires": utc(EXPIRES_S),
            "minimum": "0.1.0",
            "platform": "arm64",
            "python": "3.14",
            "new_keys": [],
            "revoked_keys": [],
            "system": {
                "layout": 1,
                "kernel": "trixie",
                "sha256": hashlib.sha256(system.read_bytes()).hexdigest(),
                "bytes": system.stat().st_size,
                **(system_facts or {}),
            },
            **facts,
        }
        file = self.folder / f"sensor-node-{version}-image-trixie.bundle"
        write_bundle(file, about, content, epoch=CREATED_S)
        key.sign(file)
        return file

    def stage(self, bundle: Path, request: str = "12345678") -> None:
        """Do as the node does when a bundle has come."""
        for suffix in ("", ".minisig"):
            shutil.copy(f"{bundle}{suffix}", self.state / f"update.bundle{suffix}")
        digest = hashlib.sha256(bundle.read_bytes()).hexdigest()
        (self.state / "update-request").write_text(f"{request} {digest}")

    @property
    def report(self) -> dict[str, Any]:
        """What root has said last to the node."""
        file = self.state / "update-report.json"
        return dict(json.loads(file.read_text())) if file.exists() else {}


def _a_pi(version: str, **facts: Any) -> trust.Computer:
    """A Pi whose clock says that the bundles of these tests are fresh."""
    return trust.Computer(version, "arm64", "3.13", CREATED_S + 60.0, True, **facts)


# -- the power cut


def main() -> None:
    """Install what is staged, and end before the given line of the updater's own code."""
    folder, left = Path(sys.argv[1]), int(sys.argv[2])
    pi = Pi(folder)
    pi.take_the_place_of_the_computer(setattr)
    if "--arm-first" in sys.argv:
        write_system = updater.write_system

        def armed_first(*arguments: Any) -> None:
            slots.Record(pi.card).begin_trial("b", 3)
            write_system(*arguments)

        updater.write_system = armed_first
    ours = {str(DEPLOY / "update_parts"), str(Path(updater.__file__).parent)}

    def count(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if os.path.dirname(frame.f_code.co_filename) not in ours:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os._exit(9)
        return count

    sys.settrace(count)
    updater.install_staged()
    sys.settrace(None)
    print(int(sys.argv[2]) - left)  # noqa: T201, how many lines there were


if __name__ == "__main__":
    main()
