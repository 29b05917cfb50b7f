"""Which bundles this computer takes: its keys, what it has taken before, and its clock.

/etc/sensor-node/update-keys/*.pub      the keys, written by root, or by a bundle that brings one
/opt/sensor-node/update-trust.json      per key the newest bundle that was taken
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from safe_files import write_file

from update_parts.bundle import PLATFORMS, Manifest, version_order
from update_parts.clock import SystemClock
from update_parts.minisign import PublicKey, Unfit, parse_key, parse_signature, verify

__all__ = [
    "Computer",
    "Record",
    "change_keys",
    "clock_is_set",
    "installed_keys",
    "refusals",
    "signer_of",
    "this_computer",
    "wait_for_clock",
]

CLOCK_S = 300.0
"""How long a bundle that the node has staged waits for the clock to be set."""
_LOOK_EVERY_S = 3.0

_SYNCED = Path("/run/systemd/timesync/synchronized")
"""Exists since systemd-timesyncd has set the clock (systemd-timesyncd(8))."""


class Computer(NamedTuple):
    """What a bundle has to fit."""

    version: str
    """The version of the node that runs; "" without one."""
    platform: str
    python: str
    utc_s: float
    clock_is_set: bool
    layout: int = 0
    """The number of the layout of the image's card; 0 without an image."""
    kernel: str = ""
    """The Debian suite of the image's kernel."""


def this_computer(version: str, *, layout: int = 0, kernel: str = "") -> Computer:
    """Return the facts on this computer; `layout` and `kernel` are of the image's card."""
    multiarch = sysconfig.get_config_var("MULTIARCH")
    known = [name for name, python_name in PLATFORMS.items() if python_name == multiarch]
    return Computer(
        version=version,
        platform=known[0] if known else str(multiarch),
        python=f"3.{sys.version_info.minor}",
        utc_s=time.time(),
        clock_is_set=clock_is_set(),
        layout=layout,
        kernel=kernel,
    )


def clock_is_set() -> bool:
    """Return whether a time server or a hardware clock has set the clock of this computer."""
    return _SYNCED.exists() or SystemClock().synced()


def wait_for_clock() -> None:
    """Wait until the clock is set: after a boot a Pi may not know yet whether a bundle is fresh.

    After `CLOCK_S` without a clock the bundle is judged, and refused, without one.
    """
    end_s = time.monotonic() + CLOCK_S
    while not clock_is_set() and time.monotonic() < end_s:
        time.sleep(_LOOK_EVERY_S)


# -- keys


def installed_keys(folder: Path, *, owner: int = 0) -> dict[str, PublicKey]:
    """Return the keys of a folder by their ids; none where there is no folder.

    `owner`: the number of the user who alone may change them, root.

    Raises:
        Unfit: others than root may change the keys, or a file is not a key.
    """
    if not folder.is_dir():
        return {}
    keys = {}
    files = sorted(folder.glob("*.pub"))
    for path in (folder.parent, folder, *files):
        status = path.stat()
        if status.st_uid != owner or status.st_mode & 0o022:
            raise Unfit(
                f"{path} may be changed by others than root, and with it who may make updates: "
                f"sudo chown root {path} && sudo chmod go-w {path}"
            )
    for file in files:
        key = parse_key(file.read_text(encoding="utf-8", errors="replace"), str(file))
        keys[key.id] = key
    return keys


def signer_of(bundle: Path, keys: dict[str, PublicKey]) -> str:
    """Verify the signature that lies beside a bundle; return the id of the key.

    Raises:
        Unfit: it is by another key, or does not fit.
    """
    file = bundle.with_name(bundle.name + ".minisig")
    signature = parse_signature(file.read_text(encoding="utf-8", errors="replace"), file.name)
    key = keys.get(signature.key_id)
    if key is None:
        raise Unfit(
            f"{bundle.name} is signed with the key {signature.key_id}, and this node trusts "
            f"{', '.join(keys)} alone: take a bundle of its publisher"
        )
    with bundle.open("rb") as stream:
        verify(stream, signature, key, bundle.name)
    return key.id


def change_keys(
    folder: Path, keys: dict[str, PublicKey], signer: str, manifest: Manifest
) -> list[str]:
    """Trust the new keys of a bundle, and those it revokes no more; return what was done.

    A new key is there before an old one goes, so a power cut leaves one of the two.

    Raises:
        Unfit: no key would be left.
    """
    new = {key.id: key for key in manifest.new_keys}
    gone = [name for name in keys if name in manifest.revoked_keys]
    if not ({*keys, *new} - {*manifest.revoked_keys}):
        raise Unfit("the bundle revokes every key that this node has, and brings no other")
    said = []
    for name, key in new.items():
        if name not in keys and name not in manifest.revoked_keys:
            text = f"untrusted comment: brought by a bundle signed with {signer}\n{key.text}\n"
            write_file(folder / f"{name}.pub", text.encode(), mode=0o644)
            said.append(f"the key {name} is trusted from now on")
    for file in folder.glob("*.pub"):
        name = parse_key(file.read_text(encoding="utf-8"), str(file)).id
        if name in gone:
            file.replace(file.with_suffix(".revoked"))
            said.append(f"the key {name} is revoked")
    return said


# -- what was taken before


class Record:
    """What the newest bundle of each key was, and the last time that was known.

    The floors are of the keys that are still installed: what a stolen key has signed, a very high
    counter for example, does not count any more once the key is revoked.
    """

    def __init__(self, file: Path) -> None:
        """Read the file; a missing one is that of a computer that has taken no bundle."""
        self._file = file
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            self._keys: dict[str, dict[str, float]] = dict(content["keys"])
            self._time_s = float(content["time"])
        except FileNotFoundError:
            self._keys, self._time_s = {}, 0.0
        except (ValueError, KeyError, TypeError) as error:
            raise Unfit(
                f"{file} is damaged ({error}), and has what protects from old bundles: delete it, "
                "and install the newest bundle"
            ) from None

    def counter(self, keys: Iterable[str]) -> int:
        """Return the highest counter that one of these keys has signed; -1 without any."""
        return int(
            max((self._keys[key]["counter"] for key in keys if key in self._keys), default=-1)
        )

    def time_s(self, keys: Iterable[str]) -> float:
        """Return a time that is past for certain: seconds since 1970."""
        created = [self._keys[key]["created"] for key in keys if key in self._keys]
        return max([self._time_s, *created])

    def take(self, signer: str, manifest: Manifest, computer: Computer) -> None:
        """Note a bundle that is taken."""
        old = self._keys.get(signer, {"counter": -1, "created": 0.0})
        self._keys[signer] = {
            "counter": max(old["counter"], manifest.counter),
            "created": max(old["created"], manifest.created),
        }
        if computer.clock_is_set:
            self._time_s = max(self._time_s, computer.utc_s)
        content = {"keys": self._keys, "time": self._time_s}
        write_file(self._file, json.dumps(content).encode(), mode=0o644)


# -- the judgement


def refusals(
    manifest: Manifest, computer: Computer, record: Record | None, keys: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Return why a bundle must not be taken: what nothing helps against, and what root may force.

    `record` is None for a bundle whose signature was not asked for.
    """
    unfit, old = [], []
    if manifest.platform != computer.platform:
        unfit.append(f"it is for {manifest.platform}, and this computer is {computer.platform}")
    unfit += _of_another_kind(manifest, computer)
    if manifest.system is None and manifest.python != computer.python:
        unfit.append(
            f"it is for Python {manifest.python}, and this system has {computer.python}: take the "
            "bundle for that one"
        )
    if computer.version:
        running = version_order(computer.version)
        if running < version_order(manifest.minimum):
            unfit.append(
                f"it follows {manifest.minimum} or a newer version, and {computer.version} runs "
                "here: install one of those first"
            )
        if version_order(manifest.version) < running:
            old.append(f"its version, {manifest.version}, is older than {computer.version}")
    if record is not None:
        newest = record.counter(keys)
        if manifest.counter < newest:
            old.append(
                f"a newer bundle was taken before (number {newest}; this is {manifest.counter})"
            )
        old += _age(manifest, computer, record.time_s(keys))
    return unfit, old


def _of_another_kind(manifest: Manifest, computer: Computer) -> list[str]:
    """Return why a bundle of wheels, or of a system, is nothing for this computer."""
    system = manifest.system
    if system is None:
        if not computer.layout:
            return []
        return ["it has the wheels for another kind of installation: take the bundle of the image"]
    if not computer.layout:
        return ["it has a system for the image's card: take the bundle of wheels"]
    if system.layout != computer.layout:
        return [
            f"it is for a card of layout {system.layout}, and this card has {computer.layout}: "
            "flash its image"
        ]
    if system.kernel != computer.kernel:
        return [
            f"it has the kernel of {system.kernel}, and this card is made for that of "
            f"{computer.kernel}"
        ]
    return []


def _age(manifest: Manifest, computer: Computer, past_s: float) -> list[str]:
    """Return why a bundle is not fresh. A clock that is not set can only prove that it is not."""
    if manifest.expires is None:
        return []
    until = _day(manifest.expires)
    now_s = max(past_s, computer.utc_s) if computer.clock_is_set else past_s
    if now_s >= manifest.expires:
        return [f"it has expired on {until}, and it is {_day(now_s)}: fetch the newest one"]
    if not computer.clock_is_set:
        return [
            f"it expires on {until}, and the clock of this computer is not set: "
            "wait until it is (timedatectl)"
        ]
    return []


def _day(utc_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(utc_s))
