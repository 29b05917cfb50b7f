"""The releases: how one is made, which one runs, and the switch to another one.

    /opt/sensor-node/releases/0.2.0-1f3a5c70/   a virtual environment with one version of the node

A release is complete, or it is made again from the start: `COMPLETE` is written last. Called by
`deploy/update` to make one, and by `trial` to switch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from update_parts import paths
from update_parts.bundle import BLUETOOTH, EXTRAS, Manifest, version_order
from update_parts.devices import settings_for
from update_parts.system import Impossible, as_user, must, say, sync_folder, systemctl, write

__all__ = [
    "complete_releases",
    "current",
    "forget_releases_but",
    "make_release",
    "newest_wheel",
    "open_devices",
    "switch_to",
]

COMPLETE = "complete"
"""A file that marks a release as complete."""
DEVICES = "devices.conf"
"""A file of a release: its `paths.DROP_IN`, empty where none is needed."""
SAY_EVERY_S = 20.0
"""How often an installation says what it does."""
_HAS_BLUETOOTH = re.compile(r"^\s*driver\s*=\s*\"ble\"", re.MULTILINE)


def make_release(source: Path, wheels: Path | None, bundle: Manifest | None = None) -> str:
    """Install `source`, a wheel or a checkout, as a release, unless it exists. Return its name.

    With the manifest of a bundle, the wheels that it names are in the folder of `source`.
    """
    version, digest = identify(source)
    if bundle is not None:
        digest = hashlib.sha256(json.dumps(sorted(bundle.wheels.items())).encode()).hexdigest()
    if packages := own_packages():
        digest = hashlib.sha256(f"{digest}\0{packages}".encode()).hexdigest()
    name = f"{version}-{digest[:8]}"
    release = paths.RELEASES / name
    if (release / COMPLETE).exists():
        say(f"{name} is installed already")
        return name
    shutil.rmtree(release, ignore_errors=True)  # leftovers of an interrupted installation
    say(f"installing {name} into {release} (some minutes on a small Pi) ...")
    paths.RELEASES.mkdir(parents=True, exist_ok=True)
    try:
        # The system's packages are needed for Debian's python3-lgpio: not every Pi has a wheel.
        must([sys.executable, "-I", "-m", "venv", "--system-site-packages", str(release)])
        with tempfile.TemporaryDirectory(prefix="sensor-node-") as folder:
            pip_install(release, copied(source, Path(folder)), wheels, bundle)
        isolate(release / "bin" / "sensor-node")
        told = must([str(release / "bin" / "sensor-node"), "--version"]).strip()
        write(release / DEVICES, device_settings(release) if own_packages() else "")
    except BaseException:
        shutil.rmtree(release, ignore_errors=True)
        raise
    say(f"installed: {told}")
    must(["sync", "--file-system", str(release)])
    write(release / COMPLETE, told + "\n")
    return name


def identify(source: Path) -> tuple[str, str]:
    """Return the version, and a digest of the files that would be installed."""
    digest = hashlib.sha256()
    if source.is_dir():
        if not (source / "pyproject.toml").exists():
            raise Impossible(f"{source} is neither a wheel nor a checkout of sensor-node")
        code = [
            file
            for part in ("node", "drivers")
            for file in (source / part).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        ]
        for file in (source / "pyproject.toml", *sorted(code)):
            digest.update(f"{file.relative_to(source)}\0".encode() + file.read_bytes())
        text = (source / "node" / "__init__.py").read_text(encoding="utf-8")
        version = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
        return file_name(version[1] if version else ""), digest.hexdigest()
    parts = source.name.split("-")
    if source.suffix != ".whl" or parts[0] != "pi_sensor_node" or not source.is_file():
        raise Impossible(f"{source} is not a wheel of sensor-node (pi_sensor_node-*.whl)")
    try:
        with zipfile.ZipFile(source) as wheel:
            for member in sorted(wheel.namelist()):
                if not member.endswith("/RECORD"):
                    digest.update(f"{member}\0".encode() + wheel.read(member))
    except (OSError, zipfile.BadZipFile) as error:
        raise Impossible(f"{source} cannot be read: {error}") from error
    return file_name(parts[1]), digest.hexdigest()


def file_name(version: str) -> str:
    """Return the version, which becomes a part of a file's name.

    Raises:
        Impossible: the text is not a version (PEP 440), and may lead out of the folder.
    """
    if not re.fullmatch(r"[0-9][A-Za-z0-9.!+_]*", version):
        raise Impossible(f"{version!r} is not a version")
    return version


def copied(source: Path, folder: Path) -> Path:
    """Return a copy of a checkout, because a build leaves files in it."""
    if not source.is_dir():
        return source
    copy = folder / "checkout"
    copy.mkdir()
    for name in ("node", "drivers"):
        shutil.copytree(source / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(source / name, copy)
    return copy


def extras() -> str:
    """Return the extras of the project to install.

    A 32-bit computer may have to compile those for Bluetooth: there a sensor has to need them.
    """
    text = (
        paths.CONFIG.read_text(encoding="utf-8", errors="replace") if paths.CONFIG.exists() else ""
    )
    with_bluetooth = sys.maxsize > 2**32 or _HAS_BLUETOOTH.search(text)
    return f"{BLUETOOTH},{EXTRAS}" if with_bluetooth else EXTRAS


def own_packages() -> str:
    """Return the lines of PACKAGES without comments; "" without the file.

    Raises:
        Impossible: others than root may write it, and what they name would be installed by root.
    """
    try:
        status = paths.PACKAGES.stat()
        text = paths.PACKAGES.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except ValueError:
        raise Impossible(f"{paths.PACKAGES} is not text") from None
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise Impossible(
            f"{paths.PACKAGES} may be changed by others than root: "
            f"sudo chown root {paths.PACKAGES} && sudo chmod 644 {paths.PACKAGES}"
        )
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return "\n".join(filter(None, lines))


def pip_install(
    release: Path, source: Path, wheels: Path | None, bundle: Manifest | None = None
) -> None:
    """Install into the release; without the network from `wheels`, a folder with all packages.

    Of a bundle only its own wheels are installed. The owner's packages follow; they cannot replace
    one of those.
    """
    pip = [str(release / "bin" / "python"), "-I", "-m", "pip", "install", "--no-cache-dir"]
    # An older version's wheel is better than an hour of compiling the newest version.
    pip += ["--prefer-binary", "--progress-bar=off"]
    pip += ["--disable-pip-version-check", "--no-warn-script-location"]
    found = ["--no-index", "--find-links", str(wheels.resolve())] if wheels is not None else []
    own = ["--requirement", str(paths.PACKAGES)] if own_packages() else []
    node = f"{source.resolve()}[{extras()}]"
    if bundle is None:
        must_saying([*pip, *found, *own, node])
        return
    only = ["--no-index", "--only-binary=:all:", "--find-links", str(source.parent)]
    must_saying([*pip, *only, node])
    if own:
        pins = source.parent / "pins.txt"
        names = ("==".join(name.split("-")[:2]) for name in bundle.wheels)
        pins.write_text("\n".join(names) + "\n", encoding="utf-8")
        must_saying([*pip, *found, "--constraint", str(pins), *own])


def must_saying(command: list[str]) -> None:
    """Run pip; say what it does if it takes long; raise Impossible if it fails.

    While it compiles, pip has a line of its own for that once a minute.
    """
    lines: list[str] = []
    began_s = said_s = time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line.rstrip())
            now_s = time.monotonic()
            if (step := step_of(line)) and now_s >= said_s + SAY_EVERY_S:
                said_s = now_s
                minutes, seconds = divmod(int(now_s - began_s), 60)
                say(f"  {minutes}:{seconds:02}  {step}")
    if pip.returncode != 0:
        said = "\n".join(lines[-30:])
        raise Impossible(f"{' '.join(command)} failed ({pip.returncode}):\n{said}")


def step_of(line: str) -> str:
    """Return what pip does, by a line of its output; "" if the line does not say."""
    if found := re.match(r"\s*Building wheel for (\S+)", line):
        return f"building {found[1]}"
    if found := re.match(r"\s*Collecting ([\w.-]+)", line):
        return f"fetching {found[1]}"
    return "installing the packages" if line.startswith("Installing collected packages") else ""


def isolate(program: Path) -> None:
    """Keep the program from importing modules from a user's site folder or the current folder."""
    start, rest = program.read_text(encoding="utf-8").split("\n", 1)
    program.write_text(f"{start} -I\n{rest}", encoding="utf-8")


def newest_wheel(wheels: Path) -> Path:
    """Return the node's wheel with the highest version in the folder; file times are ignored."""
    found = sorted(
        wheels.glob("pi_sensor_node-*.whl"), key=lambda wheel: version_order(version_in(wheel.name))
    )
    if not found:
        raise Impossible(f"there is no pi_sensor_node-*.whl in {wheels}")
    return found[-1]


def version_in(name: str) -> str:
    """Return the version in the name of a wheel."""
    return file_name(name.split("-")[1])


def device_settings(release: Path) -> str:
    """Return the drop-in for the drivers of the owner's packages in a release, and show it.

    Code of theirs is run for it, as the node's user.
    """
    said = as_user([str(release / "bin" / "sensor-node"), "drivers", "--json"])
    try:
        text = settings_for(json.loads(said.stdout))
    except (ValueError, TypeError, AttributeError) as error:
        raise Impossible(f"what devices the packages need cannot be found: {error}") from error
    if text:
        say(f"for the devices of your packages, {paths.DROP_IN} will be:\n{text.rstrip()}")
    return text


# -- the releases that are there


def current() -> str:
    """Return the running release; "" without one."""
    try:
        return Path(os.readlink(paths.CURRENT)).name
    except OSError:
        return ""


def complete_releases() -> list[str]:
    """Return the names of the releases that may run."""
    return [release.name for release in paths.RELEASES.glob("*") if (release / COMPLETE).exists()]


def forget_releases_but(*kept: str) -> None:
    for release in paths.RELEASES.iterdir():
        if release.name not in kept:
            shutil.rmtree(release, ignore_errors=True)


def switch_to(name: str) -> None:
    """Switch in one step: at every moment there is a version."""
    open_devices(name)
    for link, target in ((paths.CURRENT, f"releases/{name}"), (paths.ROOT / "bin", "current/bin")):
        new = link.with_name(f".{link.name}-new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(link)
    sync_folder(paths.ROOT)


def open_devices(name: str) -> None:
    """Give the service the devices that the packages of a release need, and no others."""
    settings = paths.RELEASES / name / DEVICES
    wanted = settings.read_text(encoding="utf-8") if settings.exists() else ""
    present = paths.DROP_IN.read_text(encoding="utf-8") if paths.DROP_IN.exists() else ""
    if wanted == present:
        return
    try:
        if wanted:
            paths.DROP_IN.parent.mkdir(exist_ok=True)
            write(paths.DROP_IN, wanted)
        else:
            paths.DROP_IN.unlink()
        systemctl("daemon-reload")
    except OSError as error:
        say(f"{paths.DROP_IN} cannot be written, so the packages may lack devices: {error}")
