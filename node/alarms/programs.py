"""Has the programs of alarms run, one after the other, each in a sandbox.

    the service            sensor-node-alarm.socket ──► a unit of its own: another user, no network,
                           neither the log nor the configuration; see deploy/README.md
    elsewhere, with bwrap  no network, no other process, neither the log nor the configuration
    elsewhere, without it  the rights of this user

`hook` runs the program in each of them, with a small environment, and bounds it. `run` and `close`
are called on the loop's thread; a thread of their own waits for the programs, so that none can hold
up the loop.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

__all__ = ["AlarmPrograms", "bubblewrap", "bubblewrap_problem"]

_log = logging.getLogger(__name__)

SOCKET = Path("/run/sensor-node-alarm.socket")
TIME_LIMIT_S = 30.0
"""How long a program may run."""
MARGIN_S = 10.0
"""How much longer its end is waited for, until it is given up."""
MOST_WAITING = 20
"""How many runs of programs may wait; later ones are left out and logged."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": _PATH, "LANG": "C.UTF-8"}
_HOOK = Path(__file__).with_name("hook.py")


class _Answer(msgspec.Struct):
    """What `hook` answers."""

    exit_code: int = 0
    timed_out: bool = False
    error: str = ""


class AlarmPrograms:
    """The programs that wait, and the one that runs."""

    def __init__(
        self,
        hidden: Iterable[Path],
        *,
        unit: Path = SOCKET,
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """`hidden`: the files and folders that a program must not see. `unit`: the socket of the
        unit that runs programs, where there is one.
        """
        self._hidden = tuple(hidden)
        self._unit = unit
        self._time_limit_s = time_limit_s
        self._waiting: queue.Queue[tuple[Sequence[str], Mapping[str, str]]] = queue.Queue(
            MOST_WAITING
        )
        self._thread: threading.Thread | None = None
        self._link: socket.socket | None = None
        self._wrapper: list[str] | None = None
        """What to put before a command that no unit runs; None before the first one."""
        self._closed = False

    def run(self, program: Sequence[str], facts: Mapping[str, str]) -> None:
        """Run a program soon; `facts` are its environment."""
        try:
            self._waiting.put_nowait((program, facts))
        except queue.Full:
            _log.error("%s is left out: %d runs are waiting already", program[0], MOST_WAITING)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="alarm-exec", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the program that runs."""
        self._closed = True
        if (link := self._link) is not None:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _work(self) -> None:
        while not self._closed:
            program, facts = self._waiting.get()
            try:
                answer = self._answer(program, facts)
            except (OSError, msgspec.DecodeError) as error:
                answer = _Answer(error=str(error))
            if not self._closed:
                self._log(program[0], answer)

    def _log(self, name: str, answer: _Answer) -> None:
        if answer.error:
            _log.error("the alarm's program %s cannot be run: %s", name, answer.error)
        elif answer.timed_out:
            _log.error("%s was ended: it ran longer than %g s", name, self._time_limit_s)
        elif answer.exit_code:
            _log.error("%s failed with exit code %d", name, answer.exit_code)

    def _answer(self, program: Sequence[str], facts: Mapping[str, str]) -> _Answer:
        """Return how the program has ended.

        Raises:
            OSError, DecodeError: it did not run, or its end is not known.
        """
        with self._connected() as (link, wrapper):
            job = {
                "program": program,
                "wrapper": wrapper,
                "environment": {**_ENVIRONMENT, **facts},
                "time_limit_s": self._time_limit_s,
            }
            link.settimeout(self._time_limit_s + MARGIN_S)
            answer = b""
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                link.sendall(msgspec.json.encode(job) + b"\n")
                answer = b"".join(iter(lambda: link.recv(4096), b""))
        if not answer:
            raise OSError(
                "it was ended from outside, or its service failed: "
                "sudo journalctl -t sensor-node-alarm"
            )
        return msgspec.json.decode(answer, type=_Answer)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[tuple[socket.socket, list[str]]]:
        """Yield a link to a new `hook`, and what to put before the command.

        Raises:
            OSError: it cannot be started.
        """
        if os.access(self._unit, os.W_OK):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as self._link:
                self._link.connect(str(self._unit))
                yield self._link, []
            return
        if self._wrapper is None:
            self._wrapper = _wrapper_for(self._hidden)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._link = ours
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_HOOK)],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                start_new_session=True,
            )
            theirs.close()
            try:
                yield ours, self._wrapper
            finally:
                ours.close()  # it ends, and what it has started
                process.wait()


def _wrapper_for(hidden: Iterable[Path]) -> list[str]:
    """Return bubblewrap with its options, if it works; [], with a line in the log, if not."""
    problem = bubblewrap_problem()
    if problem:
        _log.warning("the programs of alarms run with the rights of this user: %s", problem)
        return []
    _log.info("the programs of alarms run in bubblewrap: without a network, and without our files")
    return bubblewrap(hidden)


def bubblewrap(hidden: Iterable[Path]) -> list[str]:
    """Return what to put before a command (bwrap(1)).

    The user's files stay as they are, without those that are `hidden`; /run, with the sockets by
    which other programs could be asked to act, is empty.
    """
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    empty = [Path("/run"), *(path.resolve() for path in hidden if path.is_dir())]
    for folder in empty:
        command += ["--tmpfs", str(folder), "--remount-ro", str(folder)]
    for file in (path.resolve() for path in hidden if path.is_file()):
        if not any(file.is_relative_to(folder) for folder in empty):
            command += ["--ro-bind", "/dev/null", str(file)]
    return [*command, "--"]


def bubblewrap_problem() -> str:
    """Return why bubblewrap cannot be used, and what to do; "" if it can."""
    if shutil.which("bwrap", path=_PATH) is None:
        return "bubblewrap is not installed (sudo apt install bubblewrap)"
    try:
        done = subprocess.run(
            [*bubblewrap(()), "true"],
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"bubblewrap fails: {error}"
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it does not say why"]
    return f"bubblewrap fails: {lines[0][:200]}" if done.returncode else ""
