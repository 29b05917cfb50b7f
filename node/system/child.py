"""Programs that this process starts, and that end when it does, however it ends.

A `finally` ends a child only where one is reached: not after SIGKILL, and not when a signal's
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

    By PR_SET_PDEATHSIG (prctl(2)), which setpriv(1) of util-linux sets; the shell after it does
    not go on if this process has ended before that. Where setpriv is missing or may not do it, the
    program is started as it is: busybox's cannot, and in the page's unit it may not call capset,
    but there systemd ends what the page has started. `output` takes what the program prints. With
    `own_session` a Ctrl-C in our terminal does not reach it.

    Raises:
        OSError: there is no shell to start it.
    """
    return subprocess.Popen(
        ["sh", "-c", _WITH_US, _UNLESS_ORPHAN, str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=own_session,
    )


def end_child(process: subprocess.Popen[bytes], *, patience_s: float) -> None:
    """SIGTERM, and SIGKILL for one that takes longer than `patience_s`."""
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
