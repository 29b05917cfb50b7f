"""Writes the lock files: each Python package, its version, and the sha256 of its wheels.

That of the image has one wheel for each package. That of the Debian packages has the same versions,
with a wheel for each processor and each Python.

Run this after a change of a dependency in pyproject.toml, or to take newer versions:

    python3 deploy/image/lock.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["DEBIAN_LOCK", "LOCK", "PLATFORM_OPTIONS", "platform_options"]

CHECKOUT = Path(__file__).resolve().parents[2]
LOCK = CHECKOUT / "deploy" / "requirements-arm64.txt"
DEBIAN_LOCK = CHECKOUT / "deploy" / "debian" / "requirements.txt"


def platform_options(machine: str, python: str) -> list[str]:
    """Return pip's options for wheels of another computer, `aarch64` for example."""
    return [
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python}",
        *(f"--platform={name}_{machine}" for name in ("manylinux2014", "manylinux_2_17")),
        f"--platform=manylinux_2_28_{machine}",
    ]


PLATFORM_OPTIONS = platform_options("aarch64", "3.13")
"""Debian trixie on arm64: Python 3.13, glibc 2.41."""
_EXTRAS = "view,ble-encrypted,chips,modbus,web"
_HEADING = """\
# The Python packages of the image (Debian trixie, arm64): wheels alone, none built on the Pi.
# Written by deploy/image/lock.py; not to be edited.
"""
_DEBIAN_EXTRAS = f"{_EXTRAS},proxy"
_DEBIAN_HEADING = """\
# The Python packages of the .deb: wheels for arm64 and amd64, for Python 3.11 and 3.13.
# Written by deploy/image/lock.py; not to be edited.
"""
_Found = tuple[str, str, str]
"""Name, version, and sha256 of a wheel."""


def main() -> int:
    found = resolve(PLATFORM_OPTIONS, _EXTRAS)
    lines = [f"{name}=={version} --hash=sha256:{digest}" for name, version, digest in found]
    LOCK.write_text(_HEADING + "\n".join(sorted(lines)) + "\n")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(f"{name}=={version}" for name, version, _ in found))
        constraints.flush()
        all_of_them = {
            each
            for machine in ("aarch64", "x86_64")
            for python in ("3.11", "3.13")
            for each in resolve(
                platform_options(machine, python),
                _DEBIAN_EXTRAS,
                f"--constraint={constraints.name}",
            )
        }
    DEBIAN_LOCK.write_text(_DEBIAN_HEADING + debian_lines(all_of_them))
    return 0


def resolve(platform: list[str], extras: str, *options: str) -> list[_Found]:
    """Return what pip would install with these extras of the project, without the project."""
    command = [
        *(sys.executable, "-I", "-m", "pip", "install", "-qq"),
        *("--dry-run", "--ignore-installed", *options),
        *("--report=-", "--target=/nonexistent", *platform, f".[{extras}]"),
    ]
    done = subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE)
    found = []
    for item in json.loads(done.stdout)["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name != "pi-sensor-node":
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            found.append((name.lower(), version, digest))
    return found


def debian_lines(found: set[_Found]) -> str:
    """Return a line for each package, with the hashes of all its wheels.

    Raises:
        ValueError: a package has two versions, of which only one can be in the folder.
    """
    wheels: dict[str, list[str]] = {}
    for name, version, digest in sorted(found):
        wheels.setdefault(f"{name}=={version}", []).append(f"--hash=sha256:{digest}")
    names = [package.split("==")[0] for package in wheels]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"not the same version for each computer: {', '.join(sorted(twice))}")
    return "".join(f"{package} {' '.join(hashes)}\n" for package, hashes in wheels.items())


if __name__ == "__main__":
    sys.exit(main())
