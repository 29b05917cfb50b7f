"""The folder with the node's log, and the lock that reserves the folder for one node."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from node.system.safe_files import open_lock

__all__ = [
    "StateDirLock",
    "StateDirTaken",
    "find_state_dir",
    "lock_holder",
    "make_state_dir",
]

DEFAULT_STATE_DIR = Path("/var/lib/sensor-node")
_LOCK = "node.lock"
_LOCKS = Path("/proc/locks")


class StateDirTaken(Exception):
    """Another node uses the folder."""


def find_state_dir(option: str | None) -> Path:
    """Return `--state-dir`, else the first of $STATE_DIRECTORY (systemd.exec(5)) or a default."""
    if option:
        return Path(option)
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) if given else DEFAULT_STATE_DIR


def make_state_dir(folder: Path) -> None:
    """Make the folder if it is missing; only its owner and group can read the content.

    Raises:
        OSError: the folder cannot be made.
    """
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)


class StateDirLock:
    """Locks the folder for this process until the process ends, in any way.

    The lock (flock(2)) is on a file that only the node's user can open. A disk that has been
    read-only from the very first start lacks this file, and is not locked: nothing is written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / _LOCK
        self._folder = folder
        self._descriptor: int | None = None

    def hold(self) -> None:
        """Lock the folder, if it is not locked yet. A folder that does not exist cannot be locked.

        A folder that was deleted and made again is a new one, and may belong to another node.

        Raises:
            StateDirTaken: another process has locked the folder.
        """
        if self._descriptor is not None:
            if self._in_place(self._descriptor):
                return
            os.close(self._descriptor)
            self._descriptor = None
        try:
            descriptor = open_lock(self._file)
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
            # A file system without locks: waiting would not help.
        self._descriptor = descriptor

    def _in_place(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._file))
        except OSError:
            return False


def lock_holder(folder: Path) -> int | None:
    """Return the process that has locked the folder; None if unlocked or unknown to the kernel.

    Reads proc_locks(5) only: taking the lock to test it could stop a node that is starting.
    """
    try:
        status = (folder / _LOCK).lstat()
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
