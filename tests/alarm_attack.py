"""Run as the program of an alarm: tries what such a program must not do, and says what has worked.

    alarm_attack.py SECRET... -- FOLDER HOST PORT PROCESSES

SECRET: files to read; FOLDER: the state directory of the node; HOST, PORT: a server to reach;
PROCESSES: how many it tries to start, which then wait. It writes one line of JSON, after "ATTACK",
to its standard error. Standard library only: the checks of the service put it into a container.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path


def tried(action: Callable[[], object]) -> str:
    """What an attempt has led to."""
    try:
        return f"got {action()!r}"
    except OSError as error:
        return error.strerror or repr(error)


def written_into(folder: Path) -> str:
    (folder / "planted").write_text("x")
    return "written"


def connected(host: str, port: int) -> str:
    with socket.create_connection((host, port), timeout=5):
        return "connected"


def environments() -> list[str]:
    """The environments of all processes that can be read."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "environ").read_text(errors="replace"))
        except OSError:
            continue
    return found


def started(most: int) -> int:
    """How many processes can be started, each in a session of its own; they wait."""
    for count in range(most):
        try:
            child = os.fork()
        except OSError:
            return count
        if not child:
            os.setsid()
            time.sleep(600)
            os._exit(0)
    return most


def main() -> None:
    at = sys.argv.index("--")
    secrets, (folder, host, port, processes) = sys.argv[1:at], sys.argv[at + 1 :]
    state = Path(folder)
    found = {
        "secrets": [tried(Path(file).read_text) for file in secrets],
        "log": tried(lambda: (state / "outbox.db").read_bytes()[:6]),
        "write": tried(lambda: written_into(state)),
        "connect": tried(lambda: connected(host, int(port))),
        "environment": sorted(os.environ),
        "parent": tried(lambda: Path(f"/proc/{os.getppid()}/environ").read_text()),
        "environments": environments(),
        "user": os.getuid(),
        "started": started(int(processes)),
    }
    print("ATTACK", json.dumps(found), file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
