"""Signed bundles of real wheels, for the computer that a container is."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from bundle_support import Key
from conftest import MakeWheel
from container import Container
from update_parts.bundle import PLATFORMS, write_bundle
from versions import Fault

__all__ = ["DAY_S", "KEYS", "NOW_S", "MakeBundle", "set_clock", "utc"]

KEYS = "/etc/sensor-node/update-keys"
NOW_S = int(time.time())
DAY_S = 86400
_FACTS = "import sys, sysconfig as s; print(sys.version_info.minor, s.get_config_var('MULTIARCH'))"


def set_clock(system: Container) -> None:
    """As systemd-timesyncd leaves it, which does not run in a container."""
    system.run("mkdir", "-p", "/run/systemd/timesync")
    system.run("touch", "/run/systemd/timesync/synchronized")


def utc(utc_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(utc_s))


class MakeBundle:
    """Makes a bundle of a version, and returns its path in the system."""

    def __init__(
        self,
        system: Container,
        make_wheel: MakeWheel,
        wheels: Path,
        folders: pytest.TempPathFactory,
    ) -> None:
        self._system, self._make_wheel, self._wheels = system, make_wheel, wheels
        self._folders = folders
        minor, multiarch = system.run("python3", "-c", _FACTS).stdout.split()
        [self._platform] = [name for name, known in PLATFORMS.items() if known == multiarch]
        self._python = f"3.{minor}"

    def __call__(self, version: str, key: Key | None, *faults: Fault, **changes: Any) -> str:
        """`changes` replace keys of its manifest; without a key it is not signed."""
        folder = self._folders.mktemp("bundle")
        for wheel in self._wheels.glob("*.whl"):
            if not wheel.name.startswith("pi_sensor_node-"):
                (folder / wheel.name).symlink_to(wheel)
        shutil.copy(self._make_wheel(version, *faults), folder)
        about = {
            "version": version,
            "counter": int(version.split(".")[1]),
            "created": utc(NOW_S - DAY_S),
            "expires": utc(NOW_S + 30 * DAY_S),
            "minimum": "0.1.0",
            "platform": self._platform,
            "python": self._python,
            "new_keys": [],
            "revoked_keys": [],
            **changes,
        }
        path = f"/srv/{folder.name}/sensor-node-{version}.bundle"
        file = self._system.file(path)
        file.parent.mkdir()
        write_bundle(file, about, folder, epoch=NOW_S)
        if key is not None:
            key.sign(file)
        return path
