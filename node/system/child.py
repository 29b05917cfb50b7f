"""Programs that this process starts, and that end with it, even after SIGKILL.

A `finally` is not enough to end a child: it does not run after SIGKILL, nor when a signal's
exception comes between the fork and the `try`. So the kernel is asked to do it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import IO

__all__ = ["end_child", "start_child"]

_UNLESS_ORPHAN = '[ "$PPID" = "$0" ] && exec "$@"'
_WITH_US = (
    'setpriv --pdeathsig TERM true 2>/dev/null && exec setpriv --pdeathsig TERM sh -c "$0" "$@"\n'
    'shift; exec "$@"'
)


def start_child(
    command: Sequence[str], *, output: IO[bytes] | int = subprocess.DEVNULL, own_session: bool
) -> subprocess.Popen[bytes]:
    """Start a program that gets SIGTERM when the calling thread ends.

    setpriv(1) of util-linux sets PR_SET_PDEATHSIG (prctl(2)); the shell started after it exits if
    this process has already ended. If setpriv is missing or cannot set it, the program is started
    without it: busybox's setpriv cannot, and in the page's unit setpriv may not call capset, but
    there systemd ends the page's children. `output` receives what the program prints. With
    `own_session`, a Ctrl-C in this terminal does not reach the program.

    Raises:
        OSError: the shell that starts the program is missing.
    """
    return subprocess.Popen(
        ["sh", "-c", _WITH_US, _UNLESS_ORPHAN, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=own_session,
    )


def end_child(process: subprocess.Popen[bytes], *, patience_s: float) -> None:
    """Send SIGTERM, and SIGKILL if the process takes longer than `patience_s`."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
