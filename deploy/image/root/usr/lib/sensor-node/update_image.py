#!/usr/bin/python3 -I
"""Updates the system of the card: a bundle goes into the other slot, is tried, and kept or undone.

    /opt/sensor-node/update BUNDLE      by hand, as root
    ... --back                          try the system again that ran before
    ... --staged                        the bundle that the node has staged
    ... --judge                         in a trial: keep the system, or go back
    ... --verdict                       after a trial: say how it ended

    /var/lib/sensor-node-image/keys/            the keys that sign bundles
    /var/lib/sensor-node-image/trial.json       a system is on trial, or was
    /var/lib/sensor-node-image/other.json       what is in the other slot, if that is a whole system

The system that runs is never written to. The other slot is written, read again and compared with
the signed digest; then it is on trial (slots.py), and the Pi restarts. If the new system does not
start, or the node is not well in it, the old one runs again. A power cut at any moment leaves one
that works. Files in /var and on the FAT partition belong to both.

Runs as root on the system's python3.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).resolve().parent))  # python3 -I leaves it out

import slots
from card import BOOT
from node_watch import Before, look_before, systemctl, watch
from safe_files import open_lock, write_file
from update_parts import trust
from update_parts.minisign import Unfit, parse_key
from update_parts.staged import BUNDLE, count_attempt, drop_request, read_request, write_report
from update_parts.take import take
from write_slot import Impossible, keep_machine_id, write_system

__all__ = ["install", "judge", "verdict"]

# ruff: noqa: T201

STORE = Path("/var/lib/sensor-node-image")
KEYS = STORE / "keys"
TRUST = STORE / "update-trust.json"
INCOMING = STORE / "incoming"
ATTEMPTS = STORE / "staged-attempts"
TRIAL = STORE / "trial.json"
OTHER = STORE / "other.json"
LOCK = STORE / "update.lock"
STATE = Path("/var/lib/sensor-node")
NOTICE = STATE / "update-undone"
"""A sentence for the `problems` of the node's health (node/system/update_notice.py)."""
ABOUT = Path("/usr/lib/sensor-node/image.json")
"""What the system that runs is; the build has written it."""
CARD_KEYS = BOOT / "update-keys"
"""The owner's keys."""
MACHINE_ID = Path("/etc/machine-id")
DEADLINE = Path("/run/sensor-node-trial.pid")
"""The process that ends a trial which nobody has ended (deploy/image/hooks/trial-deadline)."""

TRIES = 3
"""How often a system on trial is started."""
MOST_ATTEMPTS = 3
"""How often a bundle that the node has staged is begun again after a power cut."""
WITHIN_S = 600.0
"""How long the node in a new system has until it must be well: a Wi-Fi, and a clock, take time."""


def install(bundle: Path, *, unsigned: bool, force: bool, digest: str = "") -> dict[str, Any]:
    """Write the system of a bundle into the other slot; return what is in there.

    `digest`: the SHA-256 that the bundle has to have, if that is known.

    Raises:
        Impossible, Unfit: it is not taken; the message says why.
        OSError: the card cannot be written to, for example.
    """
    slot = slots.other(_running())
    take_owners_keys()
    keys = trust.installed_keys(KEYS)
    if not keys and not unsigned:
        raise Impossible(
            f"nothing says who made {bundle.name}: put the public key of its publisher, a .pub "
            "file, into the folder update-keys of the card's drive SENSOR-NODE"
        )
    about = json.loads(ABOUT.read_text(encoding="utf-8"))
    computer = trust.this_computer(about["version"], layout=about["layout"], kernel=about["kernel"])
    record = None if unsigned else trust.Record(TRUST)
    shutil.rmtree(INCOMING, ignore_errors=True)  # leftovers of an interrupted installation
    INCOMING.mkdir(mode=0o700)
    try:
        taken = take(bundle, INCOMING, keys, record, computer, force=force, digest=digest)
        for remark in taken.remarks:
            say(remark)
        OTHER.unlink(missing_ok=True)
        write_system(taken, slots.partition(slot), say)
        keep_machine_id(MACHINE_ID, slots.partition(slot), INCOMING)
        if taken.signer:
            for said in trust.change_keys(KEYS, keys, taken.signer, taken.manifest):
                say(said)
    finally:
        shutil.rmtree(INCOMING, ignore_errors=True)
    content = {"slot": slot, "version": taken.manifest.version}
    write(OTHER, content)
    return content


def take_owners_keys() -> None:
    """Take over the keys that the owner has put on the card; drop those that are gone from there.

    A key that a bundle has revoked is not taken again.
    """
    KEYS.mkdir(mode=0o755, exist_ok=True)
    wanted = {}
    # macOS leaves `._update.pub` beside it.
    for file in sorted(CARD_KEYS.glob("[!.]*.[Pp][Uu][Bb]")):
        text = file.read_text(encoding="utf-8-sig", errors="replace")
        wanted[f"card-{parse_key(text, file.name).id}"] = text
    for name, text in wanted.items():
        if not (KEYS / f"{name}.revoked").exists():
            write_file(KEYS / f"{name}.pub", text.encode(), mode=0o644)
    for file in KEYS.glob("card-*"):
        if file.stem not in wanted:
            file.unlink()


# -- the trial


def begin(content: dict[str, Any], request: str = "") -> None:
    """Put the system in the other slot on trial, and restart."""
    before = look_before()
    about = json.loads(ABOUT.read_text(encoding="utf-8"))
    trial = {
        "slot": content["slot"],
        "version": content["version"],
        "previous": {"slot": _running(), "version": about["version"]},
        "online": before.online,
        "connected": before.connected,
        "request": request,
        "undo": "",
    }
    write(TRIAL, trial)
    slots.Record(slots.disk()).begin_trial(content["slot"], TRIES)
    text = f"{content['version']} is on trial in slot {content['slot']}: this Pi restarts"
    if request:
        drop_request(STATE)
        write_report(STATE, request, "trial", text, content["version"])
    with contextlib.suppress(OSError):
        NOTICE.unlink(missing_ok=True)
    say(text)
    systemctl("reboot")


def judge() -> None:
    """End the trial of the system that runs: keep it, or restart into the old one."""
    record = slots.Record(slots.disk())
    trial = read(TRIAL)
    wrong = "nothing says what to look at"
    if trial:
        before = Before(trial["online"], trial["connected"])
        wrong = watch(before, WITHIN_S)
    if not wrong:
        record.keep(slots.running())
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(DEADLINE.read_text(encoding="ascii")), signal.SIGTERM)
        verdict()
        return
    say(f"{trial.get('version')} does not stay: {wrong}")
    write(TRIAL, {**trial, "undo": wrong})
    record.end_trial()
    systemctl("reboot")


def verdict() -> None:
    """Say how the trial has ended: that of the system that runs, or one that did not start.

    There may be tries left: U-Boot goes back at once if it cannot load the system.
    """
    trial = read(TRIAL)
    running, record = slots.running(), slots.Record(slots.disk())
    if not trial:
        return
    version, previous = trial["version"], trial["previous"]
    if running == trial["slot"]:
        record.keep(running)  # again, in case the power was cut in between
        state, text = "kept", f"{version} is healthy, and stays"
        write(OTHER, previous)
    elif not trial["undo"] and record.newest_trial is None:
        say(f"the trial of {version} has not begun, because the power was cut")
        TRIAL.unlink()  # what the node has staged is still there, and is begun again
        return
    else:
        why = trial["undo"] or "this Pi did not start with it"
        state = "undone"
        text = f"the update to {version} was undone: {why}; {previous['version']} runs again"
        with contextlib.suppress(OSError):
            write_file(NOTICE, f"{text}\n".encode(), mode=0o644)
        OTHER.unlink(missing_ok=True)
    say(text)
    if trial["request"]:
        drop_request(STATE)  # if the power was cut when the trial began
        write_report(STATE, trial["request"], state, text, version)
    TRIAL.unlink()
    record.end_trial()


# -- what the node has staged


def install_staged() -> None:
    """Install the bundle that the node has staged; after a power cut, again from the beginning."""
    request = read_request(STATE)
    if request is None:
        drop_request(STATE)
        return
    if read(TRIAL).get("request") == request.id:  # as in verdict()
        drop_request(STATE)
        return
    try:
        if count_attempt(ATTEMPTS, request.id) > MOST_ATTEMPTS:
            raise Impossible(f"its installation was interrupted {MOST_ATTEMPTS} times")
        text = "the system is verified and written to the card"
        write_report(STATE, request.id, "installing", text)
        trust.wait_for_clock()
        content = install(STATE / BUNDLE, unsigned=False, force=False, digest=request.digest)
        begin(content, request.id)
        return
    except (Impossible, Unfit, OSError) as error:
        text = str(error)
    say(f"the bundle that the node has staged is refused: {text}")
    drop_request(STATE)
    write_report(STATE, request.id, "refused", text)


# -- this computer


def _running() -> str:
    """Return the slot that runs, if it is the good one.

    Raises:
        Impossible: a trial is under way.
    """
    running, record = slots.running(), slots.Record(slots.disk())
    if not running:
        raise Impossible(
            "this system was not started by u-boot.bin, which chooses the slot: put the line "
            "kernel=u-boot.bin back into config.txt"
        )
    if TRIAL.exists() or record.trial is not None:
        raise Impossible(
            "a system is on trial; wait for its end (journalctl -u sensor-node-image-judge)"
        )
    if running != record.good:
        raise Impossible(
            f"slot {record.good} cannot be started, so the older slot {running} runs, and nothing "
            "is written over: flash the card"
        )
    return running


def read(file: Path) -> dict[str, Any]:
    """Return the content of a file of ours; {} without it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(file: Path, content: dict[str, Any]) -> None:
    """Write a file of ours."""
    write_file(file, json.dumps(content).encode(), mode=0o644)


def say(text: str) -> None:
    """Tell who has asked, or the journal."""
    print(text, flush=True)


def fail(text: str) -> NoReturn:
    """End with an error."""
    print(f"update: {text}", file=sys.stderr)
    sys.exit(1)


def main() -> int:
    """Do what the arguments ask for."""
    parser = argparse.ArgumentParser(
        prog="update",
        description="Install a system on the card, and go back if the node is not well in it.",
        epilog="example: /opt/sensor-node/update sensor-node-0.2.0-image-trixie.bundle",
    )
    parser.add_argument("bundle", nargs="?", type=Path, help="the bundle of an image")
    parser.add_argument(
        "--unsigned", action="store_true", help="install what no key of this card vouches for"
    )
    parser.add_argument(
        "--force", action="store_true", help="take a bundle that is old, or has expired"
    )
    parser.add_argument("--back", action="store_true", help="try the system that ran before")
    for name in ("--staged", "--judge", "--verdict"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        fail("this needs root")
    STORE.mkdir(mode=0o755, exist_ok=True)
    if arguments.judge or arguments.verdict:
        (judge if arguments.judge else verdict)()
        return 0
    ours = open_lock(LOCK)
    try:
        fcntl.flock(ours, fcntl.LOCK_EX | (0 if arguments.staged else fcntl.LOCK_NB))
    except BlockingIOError:
        fail("another update is running")
    if arguments.staged:
        install_staged()
        return 0
    try:
        begin(_wanted(arguments))
    except (Impossible, Unfit, OSError) as error:
        fail(str(error))
    return 0


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.back:
        _running()
        if not (content := read(OTHER)):
            raise Impossible("the other slot has no system to go back to")
        return content
    if arguments.bundle is None:
        raise Impossible("name the bundle of an image")
    bundle = arguments.bundle.resolve()
    return install(bundle, unsigned=arguments.unsigned, force=arguments.force)


if __name__ == "__main__":
    sys.exit(main())
