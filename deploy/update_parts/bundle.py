"""A bundle: every wheel of a release for one kind of computer, and a manifest, in one file.

    sensor-node-0.2.0-arm64-py313.bundle            a zip file, without compression
        manifest.json                               what it is, and the digest of each wheel
        pi_sensor_node-0.2.0-py3-none-any.whl, ...
    sensor-node-0.2.0-arm64-py313.bundle.minisig    minisign's signature of that file

The bundle of an image has a whole system in place of the wheels: `rootfs.zst`, a root file system.

The signature is of the file as it is, so nothing of it is parsed before it is verified.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from update_parts.minisign import PublicKey, Unfit, parse_key

__all__ = [
    "BLUETOOTH",
    "EXTRAS",
    "MAX_BYTES",
    "PLATFORMS",
    "ROOT_FILE",
    "SUFFIX",
    "Manifest",
    "System",
    "open_root",
    "read_manifest",
    "sha256",
    "unpack",
    "version_order",
    "write_bundle",
]

EXTRAS, BLUETOOTH = "chips,modbus,view,web", "ble-encrypted"
"""The extras of the project that a node gets, and the one that a 32-bit computer gets if needed."""
SUFFIX = ".bundle"
MAX_BYTES = 300 << 20
"""The largest bundle that is taken; all that the node needs are some 30 MB."""
PLATFORMS = {
    "amd64": "x86_64-linux-gnu",
    "arm64": "aarch64-linux-gnu",
    "armhf": "arm-linux-gnueabihf",
}
"""Debian's name of a kind of computer -> Python's (sysconfig, MULTIARCH)."""
ROOT_FILE = "rootfs.zst"
_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 1 << 20
_PRODUCT, _FORMAT = "sensor-node", 1
_VERSION = re.compile(
    r"(?:([0-9]+)!)?([0-9]+(?:\.[0-9]+)*)(?:(a|b|rc)([0-9]+))?(?:\.post([0-9]+))?"
    r"(?:\.dev([0-9]+))?(?:\+[A-Za-z0-9._]+)?"
)
_WHEEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*\.whl")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MAX_COUNTER = 2**53
"""A number that every reader of JSON has exactly."""


class System(NamedTuple):
    """The root file system in the bundle of an image; each field is a key of `system`."""

    layout: int
    """The number of the card's layout that it is for (deploy/image/disk.py)."""
    kernel: str
    """The Debian suite of its kernel: the boot loader's files on the card have to fit it."""
    sha256: str
    """Of the file system, uncompressed."""
    bytes: int


class Manifest(NamedTuple):
    """What a bundle says of itself; each field is a key of `manifest.json`."""

    version: str
    counter: int
    """Counts the releases: a bundle with a lower one than was taken before is an old one."""
    created: float
    """Seconds since 1970."""
    expires: float | None
    """From when nobody should take it as the newest, in seconds since 1970; None: never."""
    minimum: str
    """The oldest version from which it may be applied."""
    platform: str
    """A key of PLATFORMS."""
    python: str
    """The version of Python that the wheels are for: 3.13."""
    wheels: dict[str, str]
    """File name -> SHA-256; empty in the bundle of an image."""
    system: System | None = None
    """What the bundle of an image has."""
    new_keys: tuple[PublicKey, ...] = ()
    """Keys to be trusted from now on."""
    revoked_keys: tuple[str, ...] = ()
    """Ids of keys that are not to be trusted any more."""


def version_order(version: str) -> tuple[Any, ...]:
    """Return what orders versions (PEP 440): 0.10.0 after 0.9.0, and after 0.10.0rc1.

    Raises:
        Unfit: the text is not a version.
    """
    found = _VERSION.fullmatch(version)
    if found is None:
        raise Unfit(f"{version!r} is not a version")
    epoch, numbers, kind, pre, post, dev = found.groups()
    parts = [int(number) for number in numbers.split(".")]
    while parts and parts[-1] == 0:
        parts.pop()
    without_kind = -1 if dev and not post else 3
    stage = ("a", "b", "rc").index(kind) if kind else without_kind
    last = math.inf if dev is None else int(dev)
    return int(epoch or 0), parts, stage, int(pre or 0), int(post or -1), last


def write_bundle(
    file: Path, facts: Mapping[str, Any], contents: Path, *, epoch: int
) -> dict[str, Any]:
    """Write a bundle of all wheels of a folder, or of the root file system in it.

    `facts`: the keys of the manifest without the wheels, times as text. `epoch`: the time of every
    file in it, in seconds since 1970, so that the same wheels make the same bundle. Return its
    manifest.

    Raises:
        Unfit: the bundle would be refused.
    """
    wheels = sorted(contents.glob("*.whl"))
    manifest = {"product": _PRODUCT, "format": _FORMAT, **facts}
    manifest["wheels"] = {wheel.name: sha256(wheel) for wheel in wheels}
    text = json.dumps(manifest, indent=1)
    parse_manifest(text.encode(), str(file))
    moment = datetime.fromtimestamp(epoch, UTC).timetuple()[:6]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as packed:
        packed.writestr(zipfile.ZipInfo(_MANIFEST, moment), text)
        for member in wheels or [contents / ROOT_FILE]:
            with member.open("rb") as source:
                size = member.stat().st_size
                info = zipfile.ZipInfo(member.name, moment)
                info.file_size = size
                with packed.open(info, "w") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    return manifest


def read_manifest(file: Path) -> Manifest:
    """Return the manifest of a bundle.

    Raises:
        Unfit: the file is not a bundle, or its manifest cannot be understood.
    """
    try:
        with zipfile.ZipFile(file) as packed:
            if packed.getinfo(_MANIFEST).file_size > _MAX_MANIFEST_BYTES:
                raise Unfit(f"the manifest of {file.name} is too large: make the bundle again")
            content = packed.read(_MANIFEST)
    except (OSError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise Unfit(f"{file.name} is not a bundle of sensor-node ({error})") from error
    return parse_manifest(content, file.name)


def parse_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest that is written in a `manifest.json`.

    Raises:
        Unfit: it cannot be understood, or is one of something else.
    """
    try:
        keys = json.loads(content)
        if keys["product"] != _PRODUCT:
            raise Unfit(f"{where} is a bundle of {keys['product']!r}, not of {_PRODUCT}")
        if keys["format"] != _FORMAT:
            raise Unfit(
                f"{where} has format {keys['format']!r} and not {_FORMAT}: install a newer "
                "updater first, by deploy/install.sh"
            )
        return _manifest(keys, where)
    except KeyError as error:
        raise Unfit(f"the manifest of {where} lacks {error}: make the bundle again") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise Unfit(f"the manifest of {where} is not valid ({error})") from None


def _manifest(keys: dict[str, Any], where: str) -> Manifest:
    counter, wheels = keys["counter"], dict(keys["wheels"])
    if type(counter) is not int or not 0 <= counter <= _MAX_COUNTER:
        raise ValueError(f"counter is {counter!r}")
    for version in (keys["version"], keys["minimum"]):
        if not _VERSION.fullmatch(version):
            raise ValueError(f"{version!r} is not a version")
    if keys["platform"] not in PLATFORMS:
        raise ValueError(f"platform is {keys['platform']!r}: {', '.join(PLATFORMS)}")
    if not re.fullmatch(r"3\.[0-9]+", keys["python"]):
        raise ValueError(f"python is {keys['python']!r}")
    for name, digest in wheels.items():
        if not _WHEEL.fullmatch(name) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{name!r}: {digest!r} is not a wheel and its digest")
    system = _system(keys["system"]) if "system" in keys else None
    ours = f"pi_sensor_node-{keys['version']}-"
    if system is not None:
        if wheels:
            raise ValueError("it has a system and wheels: one of them")
    elif sum(name.startswith("pi_sensor_node-") for name in wheels) != 1 or not any(
        name.startswith(ours) for name in wheels
    ):
        raise ValueError(f"it must have one wheel of the node, {ours}*.whl")
    revoked = tuple(keys["revoked_keys"])
    if not all(re.fullmatch("[0-9A-F]{1,16}", name) for name in revoked):
        raise ValueError(f"revoked_keys is {revoked!r}")
    return Manifest(
        version=keys["version"],
        counter=counter,
        created=_time(keys["created"]),
        expires=None if keys["expires"] is None else _time(keys["expires"]),
        minimum=keys["minimum"],
        platform=keys["platform"],
        python=keys["python"],
        wheels=wheels,
        system=system,
        new_keys=tuple(parse_key(text, f"a new key of {where}") for text in keys["new_keys"]),
        revoked_keys=revoked,
    )


def _system(keys: Mapping[str, Any]) -> System:
    system = System(keys["layout"], keys["kernel"], keys["sha256"], keys["bytes"])
    numbers = (system.layout, system.bytes)
    if not all(type(number) is int and 0 < number <= _MAX_COUNTER for number in numbers):
        raise ValueError(f"layout and bytes of the system are {numbers}")
    if not re.fullmatch("[0-9a-f]{64}", system.sha256) or not re.fullmatch(
        r"[a-z-]+", system.kernel
    ):
        raise ValueError(
            f"kernel and sha256 of the system are {system.kernel!r}, {system.sha256!r}"
        )
    return system


def _time(text: str) -> float:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC).timestamp()


def unpack(file: Path, manifest: Manifest, folder: Path) -> None:
    """Unpack the wheels of a bundle into a folder, each with the digest of the manifest.

    Raises:
        Unfit: a wheel is missing, is another, or is there without being in the manifest.
        OSError: the disk is full, for example.
    """
    try:
        with zipfile.ZipFile(file) as packed:
            members = [member for member in packed.infolist() if member.filename != _MANIFEST]
            names = [member.filename for member in members]
            if sorted(names) != sorted(manifest.wheels):
                odd = sorted({*names} ^ {*manifest.wheels}) or sorted(names)
                raise Unfit(f"{file.name} and its manifest do not name the same wheels: {odd[0]}")
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED:  # so its size is that of the bundle
                    raise Unfit(
                        f"{file.name}: {member.filename} is compressed; make the bundle again"
                    )
                target = folder / member.filename
                with packed.open(member) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                if sha256(target) != manifest.wheels[member.filename]:
                    raise Unfit(f"{file.name}: {member.filename} is not the wheel of the manifest")
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise Unfit(f"{file.name} cannot be unpacked: {error}") from error


@contextmanager
def open_root(file: Path) -> Iterator[IO[bytes]]:
    """Open the root file system in the bundle of an image: compressed, a stream of zstd.

    Raises:
        Unfit: the bundle has none, or is damaged.
    """
    try:
        with zipfile.ZipFile(file) as packed, packed.open(ROOT_FILE) as stream:
            yield stream
    except (KeyError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise Unfit(f"{file.name} has no root file system that can be read: {error}") from error


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
