"""A note of the machine that measures: what a reader needs to judge the figures."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from broker import mosquitto_version

__all__ = ["file_system", "note"]


def note(state_folder: Path) -> dict[str, str]:
    """In the order in which it is printed."""
    one, five, fifteen = os.getloadavg()
    return {
        "processor": f"{os.cpu_count()} x {_model()} ({platform.machine()})",
        "memory": f"{_memory_gib():.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "system": _system(),
        "Python": platform.python_version(),
        "broker": f"mosquitto {mosquitto_version()}",
        "node's log on": file_system(state_folder),
        "load at the start": f"{one:.2f} {five:.2f} {fifteen:.2f}",
        "commit": _commit(),
    }


def file_system(folder: Path) -> str:
    """Its type, from the longest mount point that the folder is under."""
    found, kind = Path("/"), "?"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, this_kind, *_ = line.split()
        mount = Path(point.replace("\\040", " "))
        if folder.resolve().is_relative_to(mount) and mount.is_relative_to(found):
            found, kind = mount, this_kind
    return kind


def _model() -> str:
    """As the kernel names it: "model name" on a PC, "Model" on a Raspberry Pi."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    return named.get("model name") or named.get("Model") or "unknown"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def _commit() -> str:
    """Which version of the node this is; with a mark if files of it were changed since."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(git, capture_output=True, text=True, check=False).stdout
        return said.strip() or "unknown"
    except FileNotFoundError:
        return "unknown"
