"""Counters of a running process, from /proc: CPU, wake-ups, memory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["Counters", "read_counters"]


class Counters(NamedTuple):
    """Totals since the process began; memory as it is now."""

    cpu_s: float
    wakeups: int
    rss_kb: int
    pss_kb: int


def read_counters(pid: int) -> Counters:
    """Sums over all threads. CPU comes from schedstat, in ns (kernel scheduler/sched-stats.rst)."""
    cpu_ns = wakeups = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            cpu_ns += int((task / "schedstat").read_text().split()[0])
            wakeups += _field(task / "status", "voluntary_ctxt_switches")
        except FileNotFoundError:
            continue  # the thread has just ended
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    return Counters(cpu_ns / 1e9, wakeups, _field(rollup, "Rss"), _field(rollup, "Pss"))


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)
