"""Counters of a running process: CPU, wake-ups, memory, system calls."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Counters", "count_system_calls", "cpu_s", "read_counters"]


class Counters(NamedTuple):
    """Totals since the process began; memory as it is now."""

    at_s: float
    cpu_s: float
    wakeups: int
    rss_kb: int
    pss_kb: int


def cpu_s(pid: int) -> float:
    """CPU time of a process, ended threads included, in ns by the kernel.

    A process's clock has the id (~pid << 3) | CPUCLOCK_SCHED (clock_getcpuclockid(3), and
    include/linux/posix-timers.h).
    """
    return time.clock_gettime((~pid << 3) | 2)


def read_counters(pid: int) -> Counters:
    """Wake-ups are the voluntary context switches of all threads.

    Raises:
        ProcessLookupError: it has ended.
    """
    process = Path(f"/proc/{pid}")
    wakeups = 0
    try:
        for task in (process / "task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                wakeups += _field(task / "status", "voluntary_ctxt_switches")
        rollup = process / "smaps_rollup"
        return Counters(
            time.monotonic(),
            cpu_s(pid),
            wakeups,
            _field(rollup, "Rss"),
            _field(rollup, "Pss"),
        )
    except (FileNotFoundError, OSError) as error:
        raise ProcessLookupError(f"process {pid} has ended") from error


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(name)


def count_system_calls(pids: Mapping[str, int], seconds: float, folder: Path) -> dict[str, int]:
    """By `strace -f -c`, which slows them down: not while anything else is measured.

    Nothing where there is no strace, or where it may not trace.
    """
    if shutil.which("strace") is None:
        return {}
    tracers = {}
    for name, pid in pids.items():
        command = ["strace", "-f", "-q", "-c", "-U", "calls", "-o", str(folder / f"{name}.strace")]
        tracers[name] = subprocess.Popen(
            [*command, "-p", str(pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        time.sleep(seconds)
    finally:
        for tracer in tracers.values():
            tracer.send_signal(signal.SIGINT)
        for tracer in tracers.values():
            tracer.wait()
    counts = {}
    for name in tracers:
        with contextlib.suppress(OSError, IndexError, ValueError):
            last = (folder / f"{name}.strace").read_text().splitlines()[-1]
            counts[name] = int(last.split()[0])  # "  29 total"
    return counts
