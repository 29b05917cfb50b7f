"""The system below an update: programs, systemd's units, and files of root's.

Called by every part of `deploy/update` that changes something; it keeps nothing.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from safe_files import write_file

__all__ = [
    "JUDGE",
    "PAGE",
    "SERVICE",
    "Impossible",
    "as_user",
    "must",
    "say",
    "service_state",
    "sync_folder",
    "systemctl",
    "write",
]

SERVICE, JUDGE = "sensor-node.service", "sensor-node-update.service"
PAGE = "sensor-node-web.service"
USER = "sensor-node"


class Impossible(Exception):
    """The update cannot be done; the message says why, and nothing has changed."""


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def must(command: list[str]) -> str:
    """Run the command, and return its output; raise Impossible if it fails."""
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        said = (ended.stderr or ended.stdout).strip()
        raise Impossible(f"{' '.join(command)} failed ({ended.returncode}):\n{said}")
    return ended.stdout


def as_user(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
    )


def systemctl(*arguments: str) -> str:
    return subprocess.run(
        ["systemctl", *arguments], stdout=subprocess.PIPE, text=True, check=False
    ).stdout


def service_state() -> dict[str, str]:
    names = "ActiveState,SubState,MainPID,NRestarts,Result,ExecMainStatus"
    lines = systemctl("show", "-p", names, SERVICE).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def write(file: Path, text: str) -> None:
    write_file(file, text.encode(), mode=0o644)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
