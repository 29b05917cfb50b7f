"""A peer: how it is installed, configured and started, and what it publishes; and the loops' own.

`prepare` brings it into the cache folder, or raises `Missing` with the reason why it cannot be
measured here. `command` writes what it needs for a job and says how it is started. `readings` gives
the (sensor, number) pairs of a message; the number is that of the file (see counters.py).
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["PROGRAMS", "CommandFailed", "Job", "Missing", "Peer", "said_by", "thousandths"]

PROGRAMS = Path(__file__).parent / "programs"


class Missing(Exception):
    """Why a peer cannot be measured here."""


class CommandFailed(Missing):
    """A program that was to prepare a peer has failed."""


class Job(NamedTuple):
    """What a peer is to do. `folder` is its own, on a disk, and kept from start to start."""

    folder: Path
    port: int
    interval_s: float
    files: list[Path]


class Peer:
    """A Python program that takes port, interval and files as its arguments."""

    name = ""
    program = Path()
    shortest_s = 0.0
    """Interval; 0 where it can go as fast as it can."""
    late_s = 8.0
    """How long after a trouble it may be silent about a reading that it will still send."""
    version = ""

    def prepare(self, cache: Path) -> None:
        self.version = f"paho-mqtt {importlib.metadata.version('paho-mqtt')}"

    def command(self, job: Job) -> list[str]:
        return [
            sys.executable,
            str(self.program),
            str(job.port),
            f"{job.interval_s:g}",
            *map(str, job.files),
        ]

    def readings(self, topic: str, payload: bytes) -> list[tuple[int, int]]:
        """Of `sensors/NAME/s12/state` and its JSON; sensors/NAME/ is known to fit."""
        _, _, sensor, kind = topic.split("/", 3)
        if kind != "state" or not payload:
            return []
        return [(int(sensor[1:]), thousandths(json.loads(payload)["temperature"]))]


def thousandths(degrees: float) -> int:
    return round(degrees * 1000)


def said_by(command: list[str], *, folder: Path | None = None, may_fail: bool = False) -> str:
    """What it prints.

    Raises:
        CommandFailed: with the last line that it said.
    """
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode and not may_fail:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise CommandFailed(f"{' '.join(command[:4])} ... fails: {said[-1]}")
    return done.stdout
