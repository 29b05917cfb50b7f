"""Programs that this process starts, and that end when it does, however it ends.

A `finally` ends a child only where one is reached: not after SIGKILL, and not when a signal's
exception comes between the fork and the `try`. So the kernel is asked to do it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["end_child", "start_child"]

_UNLESS_ORPHAN = '[ "$PPID" = "$0" ] && exec "$@"'


def start_child(
    command: Sequence[str], *, output: IO[bytes] | int = subprocess.DEVNULL, own_session: bool
) -> subprocess.Popen[bytes]:
    """Start a program that gets SIGTERM when the calling thread ends.

    By PR_SET_PDEATHSIG (prctl(2)), which setpriv(1) of util-linux sets; the shell after it does
    not go on if this process has ended before that. Where there is no such setpriv, the program
    is started as it is. `output` takes what it prints. With `own_session` a Ctrl-C in our
    terminal does not reach it.

    Raises:
        OSError: the program cannot be started.
    """
    words = list(command)
    setpriv = shutil.which("setpriv")
    if setpriv and Path(setpriv).resolve().name == "setpriv":  # that of busybox cannot do it
        with_us = [setpriv, "--pdeathsig", "TERM", "sh", "-c", _UNLESS_ORPHAN, str(os.getpid())]
        words = [*with_us, *words]
    return subprocess.Popen(
        words,
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
