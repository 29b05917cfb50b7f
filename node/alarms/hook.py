"""Runs the program of one alarm, bounded in time, memory and processes, and ends what it starts.

A process of its own, with the standard library alone. The node asks it by the socket that is its
standard input and output: one line of JSON with `program`, `wrapper`, `environment` and
`time_limit_s`. It answers with one line: `exit_code`, `timed_out` or `error`. If the node goes, so
does the program.

In the service `sensor-node-alarm@.service` starts it, as another user than the node's, within that
unit's sandbox; `install.sh` has put a copy beside the releases, which may be older than the node.
So what the two say to each other must not change. Elsewhere `programs` does, with bubblewrap as the
wrapper, where there is one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

MOST_BYTES = 64 * 1024
MEMORY_BYTES = 256 * 1024**2
"""Of each process. In the service the unit bounds all of them together, too."""
PROCESSES = 64
"""How many processes and threads it may have. The kernel does not bound root in that."""
FILE_BYTES = 64 * 1024**2
END_S = 5.0
"""How long it tries to end what is left."""
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 36, 38  # prctl.h


def main() -> None:
    try:
        job = json.loads(sys.stdin.buffer.readline(MOST_BYTES))
        answer = _run(
            job["program"],
            wrapper=job["wrapper"],
            environment=job["environment"],
            limit_s=job["time_limit_s"],
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        answer = {"error": getattr(error, "strerror", None) or repr(error)}
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(answer), flush=True)  # noqa: T201


def _run(
    program: list[str], *, wrapper: list[str], environment: dict[str, str], limit_s: float
) -> dict[str, Any]:
    """Return how the program has ended.

    Raises:
        OSError: it cannot be started.
    """
    # A wrapper would be started all the same, and its failure be taken for the program's.
    if shutil.which(program[0], path=environment["PATH"]) is None:
        return {"error": "there is no such program, or it is not executable"}
    _bound()
    process = subprocess.Popen(
        [*wrapper, *program],
        env={**os.environ, **environment},  # that of the unit: CREDENTIALS_DIRECTORY and the like
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    ended = os.pidfd_open(process.pid)
    waiting = select.poll()
    waiting.register(ended, select.POLLIN)
    waiting.register(sys.stdin.fileno(), select.POLLIN)  # its end: the node has gone
    ready = dict(waiting.poll(limit_s * 1000))
    code = process.wait() if ended in ready else None
    _end_all(process.pid)
    return {"timed_out": True} if code is None else {"exit_code": code}


def _bound() -> None:
    """Take rights from this process, and set limits; the program inherits both."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans become ours, and can be ended
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NPROC, _own_tasks() + PROCESSES),
    ):
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _own_tasks() -> int:
    """Return how many processes and threads this user has: the limit counts all of them."""
    tasks = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == os.getuid():
                    tasks += len(os.listdir(f"{entry.path}/task"))
    return tasks


def _end_all(leader: int) -> None:
    """End the program and all that it has started, in whatever session."""
    end_s = time.monotonic() + END_S
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)
    while time.monotonic() < end_s:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        children = _children()
        if not children:
            return
        for child in children:
            with contextlib.suppress(OSError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    """Return the processes whose parent is this one (proc_pid_stat(5))."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
            parent = stat.read().rpartition(b")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(name))
    return found


if __name__ == "__main__":
    main()
