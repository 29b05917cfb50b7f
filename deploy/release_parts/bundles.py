"""Signed bundles: the wheels of a release for each kind of computer, and the image's system."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from update_parts.bundle import (
    BLUETOOTH,
    EXTRAS,
    PLATFORMS,
    ROOT_FILE,
    SUFFIX,
    sha256,
    write_bundle,
)

__all__ = ["Wanted", "make_bundle", "make_image_bundle", "parse_wanted", "sign"]

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""The kinds of computer that PyPI has every wheel for -> its name for them."""


class Wanted(NamedTuple):
    """A bundle to make."""

    platform: str
    python: str
    folder: Path | None
    """The folder of its wheels; None: they are fetched."""


def parse_wanted(text: str) -> Wanted:
    """Return what `arm64:3.13` or `armhf:3.13=wheels` asks for.

    Raises:
        ValueError: the text asks for something else.
    """
    found = re.fullmatch(r"([a-z0-9]+):(3\.[0-9]+)(?:=(.+))?", text)
    if not found or found[1] not in PLATFORMS:
        names = ", ".join(PLATFORMS)
        raise ValueError(f"{text!r} is not PLATFORM:PYTHON, or PLATFORM:PYTHON=FOLDER ({names})")
    platform, python, folder = found.groups()
    if folder is None and platform not in _MACHINES:
        raise ValueError(
            f"PyPI has no wheels for {platform}: gather them on such a computer by `pip wheel`, "
            f"and name their folder, {platform}:{python}=FOLDER"
        )
    return Wanted(platform, python, Path(folder) if folder else None)


def make_bundle(
    output: Path, wheel: Path, wanted: Wanted, facts: Mapping[str, Any], *, epoch: int
) -> Path:
    """Write the bundle of the node's wheel and of all that it needs; return its file."""
    version = facts["version"]
    short = wanted.python.replace(".", "")
    target = output / f"sensor-node-{version}-{wanted.platform}-py{short}{SUFFIX}"
    with tempfile.TemporaryDirectory(prefix="bundle-") as work:
        wheels = Path(work, "wheels")
        if wanted.folder is None:
            _fetch(wheel, wanted, wheels)
        else:
            shutil.copytree(wanted.folder, wheels)
            for other in wheels.glob("pi_sensor_node-*.whl"):
                other.unlink()
        shutil.copy(wheel, wheels)
        about = {"platform": wanted.platform, "python": wanted.python}
        write_bundle(target, {**facts, **about}, wheels, epoch=epoch)
    return target


def make_image_bundle(
    output: Path,
    root: Path,
    image: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    epoch: int,
    level: int = 15,
) -> Path:
    """Write the bundle of an image's root file system; return its file.

    `image`: the manifest of the image. `level`: of zstd's compression.
    """
    suite = image["kernel_suite"]
    target = output / f"sensor-node-{facts['version']}-image-{suite}{SUFFIX}"
    system = {
        "layout": image["layout"],
        "kernel": suite,
        "sha256": sha256(root),
        "bytes": root.stat().st_size,
    }
    about = {"platform": "arm64", "python": image["python"], "system": system}
    with tempfile.TemporaryDirectory(prefix="bundle-", dir=output) as work:
        pack = ["zstd", "-q", "-T0", f"-{level}", str(root), "-o", str(Path(work, ROOT_FILE))]
        subprocess.run(pack, check=True)
        write_bundle(target, {**facts, **about}, Path(work), epoch=epoch)
    return target


def _fetch(wheel: Path, wanted: Wanted, wheels: Path) -> None:
    machine = _MACHINES[wanted.platform]
    with tempfile.TemporaryDirectory(prefix="bundle-") as work:
        venv.create(work, with_pip=True)
        pip = [str(Path(work, "bin/python")), "-m", "pip", "-qq", "--disable-pip-version-check"]
        pip += ["download", "--dest", str(wheels), "--only-binary=:all:"]
        pip += ["--python-version", wanted.python]
        pip += ["--platform", f"manylinux2014_{machine}", "--platform", f"manylinux_2_28_{machine}"]
        subprocess.run([*pip, f"{wheel}[{BLUETOOTH},{EXTRAS}]"], check=True)


def sign(file: Path, key: Path, comment: str) -> None:
    """Sign a file with minisign, which asks for the password of the key if it has one."""
    command = ["minisign", "-S", "-s", key, "-m", file, "-t", comment]
    subprocess.run([str(word) for word in command], check=True)
