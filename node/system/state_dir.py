"""The folder that the node keeps its log in, and the lock that keeps it to one node."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

__all__ = [
    "StateDirLock",
    "StateDirTaken",
    "find_state_dir",
    "lock_holder",
]

DEFAULT_STATE_DIR = Path("/var/lib/sensor-node")
_LOCKS = Path("/proc/locks")


class StateDirTaken(Exception):
    """Another node uses the folder."""


def find_state_dir(option: str | None) -> Path:
    """`--state-dir`, else the first of $STATE_DIRECTORY (systemd.exec(5)), else the default."""
    if option:
        return Path(option)
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else DEFAULT_STATE_DIR


class StateDirLock:
    """Takes the folder for this process until it ends, however it ends.

    The lock is on the folder itself (flock(2)), so it works on a read-only disk too and leaves
    nothing behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def hold(self) -> None:
        """Take the folder, unless that is done. One that is not there yet is nobody's.

        One that has been deleted and made anew is another, and may be another node's by now.

        Raises:
            StateDirTaken: another process has it.
        """
        if self._descriptor is not None:
            if self._in_place(self._descriptor):
                return
            os.close(self._descriptor)
            self._descriptor = None
        try:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                holder = lock_holder(self._folder)
                process = f" (process {holder})" if holder else ""
                raise StateDirTaken(
                    f"another sensor-node{process} uses {self._folder}; stop it, "
                    "or give this one a folder of its own with --state-dir"
                ) from None
            # A file system without locks: there is nothing to wait for.
        self._descriptor = descriptor

    def _in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._folder))
        except OSError:
            return False


def lock_holder(folder: Path) -> int | None:
    """The process that has locked the folder; None for none, or where the kernel does not say.

    Only looks (proc_locks(5)): to try the lock would be in the way of a node that is starting.
    """
    try:
        status = folder.stat()
        lines = _LOCKS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 4711 fd:00:2531452 0 EOF
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == device:
            return int(fields[4])
    return None
