"""Writes the lock file: each Python package of the image, its version, and its wheel's sha256.

Run this after a change of a dependency in pyproject.toml, or to take newer versions:

    python3 deploy/image/lock.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

__all__ = ["LOCK", "PLATFORM_OPTIONS"]

CHECKOUT = Path(__file__).resolve().parents[2]
LOCK = CHECKOUT / "deploy" / "requirements-arm64.txt"
PLATFORM_OPTIONS = [
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.13",
    *(f"--platform={name}_aarch64" for name in ("manylinux2014", "manylinux_2_17")),
    "--platform=manylinux_2_28_aarch64",
]
"""Debian trixie on arm64: Python 3.13, glibc 2.41."""
_EXTRAS = "view,ble-encrypted,chips,modbus,web"
_HEADING = """\
# The Python packages of the image (Debian trixie, arm64): wheels alone, none built on the Pi.
# Written by deploy/image/lock.py; not to be edited.
"""


def main() -> int:
    command = [
        *(sys.executable, "-I", "-m", "pip", "install", "-qq"),
        *("--dry-run", "--ignore-installed"),
        *("--report=-", "--target=/nonexistent", *PLATFORM_OPTIONS, f".[{_EXTRAS}]"),
    ]
    done = subprocess.run(command, cwd=CHECKOUT, check=True, stdout=subprocess.PIPE)
    lines = []
    for item in json.loads(done.stdout)["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if name != "pi-sensor-node":
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name.lower()}=={version} --hash=sha256:{digest}")
    LOCK.write_text(_HEADING + "\n".join(sorted(lines)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
