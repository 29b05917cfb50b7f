"""Keys and bundles for tests: signed by the program `minisign`, of wheels without content."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
sys.path.append(str(DEPLOY))

from update_parts.bundle import write_bundle  # noqa: E402

__all__ = [
    "CREATED_S",
    "DEPLOY",
    "EXPIRES_S",
    "NEEDS_MINISIGN",
    "Key",
    "make_bundle",
    "make_key",
    "utc",
]

NEEDS_MINISIGN = pytest.mark.skipif(
    shutil.which("minisign") is None, reason="needs minisign: apt-get install minisign"
)
CREATED_S = 1_800_000_000
EXPIRES_S = CREATED_S + 86400


class Key(NamedTuple):
    """A pair of keys in files, without a password."""

    public: Path
    secret: Path

    @property
    def line(self) -> str:
        return self.public.read_text().splitlines()[1]

    @property
    def id(self) -> str:
        """As minisign says it in the comment of the file."""
        return self.public.read_text().splitlines()[0].split()[-1]

    def sign(self, file: Path, *options: str) -> None:
        command = ["minisign", "-S", *options, "-s", str(self.secret), "-m", str(file)]
        subprocess.run(command, check=True, capture_output=True)


def make_key(folder: Path, name: str = "key") -> Key:
    key = Key(folder / f"{name}.pub", folder / f"{name}.sec")
    command = ["minisign", "-G", "-W", "-p", str(key.public), "-s", str(key.secret)]
    subprocess.run(command, check=True, capture_output=True)
    return key


def make_bundle(folder: Path, key: Key | None = None, **facts: Any) -> Path:
    """A bundle of two wheels; `facts` replace keys of its manifest."""
    about = {
        "version": "0.2.0",
        "counter": 7,
        "created": utc(CREATED_S),
        "expires": utc(EXPIRES_S),
        "minimum": "0.1.0",
        "platform": "arm64",
        "python": "3.13",
        "new_keys": [],
        "revoked_keys": [],
        **facts,
    }
    wheels = folder / "wheels-to-pack"
    shutil.rmtree(wheels, ignore_errors=True)
    wheels.mkdir(parents=True)
    (wheels / f"pi_sensor_node-{about['version']}-py3-none-any.whl").write_bytes(b"node" * 20)
    (wheels / "msgspec-0.20.0-cp313-cp313-manylinux_2_28_aarch64.whl").write_bytes(b"other" * 20)
    file = folder / f"sensor-node-{about['version']}.bundle"
    write_bundle(file, about, wheels, epoch=CREATED_S)
    if key is not None:
        key.sign(file)
    return file


def utc(utc_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(utc_s))
