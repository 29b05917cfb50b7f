"""The node's own files: replaced as a whole, locked, and never reached through a link.

`deploy/update` and the helpers of the image have a copy of this module and run on the system's
Python, so the module imports only the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_foreign", "open_lock", "refuse_planted_link", "write_file"]

_CLOSED = 0o600


def write_file(file: Path, content: bytes, *, mode: int | None = None) -> None:
    """Replace a file as a whole: after a power cut the file is either the old or the new one.

    A link in its place is replaced, not followed. So is a link in place of the temporary file, with
    which a user who can write to the folder could make root overwrite another file. The file keeps
    its owner and, without `mode`, its mode. A new file that root makes belongs to the folder's
    owner; its mode is what the umask allows. A file system without modes and owners (FAT) keeps its
    own.

    Raises:
        OSError: the file could not be written, and is unchanged.
    """
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    new = f".sensor-node-{threading.get_native_id()}.new"  # two threads do not share it
    try:
        old = _status(file.name, folder)
        if mode is None and old is not None:
            mode = stat.S_IMODE(old.st_mode) & 0o777
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=folder)
        descriptor = _create(new, folder, 0o666 if mode is None else _CLOSED)
        try:
            with open(descriptor, "wb") as stream:
                _give(descriptor, os.fstat(folder) if old is None else old)
                if mode is not None:
                    with contextlib.suppress(PermissionError):
                        os.fchmod(descriptor, mode)
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
            os.replace(new, file.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise
        _sync(folder)
    finally:
        os.close(folder)


def open_lock(file: Path) -> int:
    """Open a file to lock with flock(2), and make it if it is missing. Return its descriptor.

    Other users cannot open the file, so they cannot hold the lock. In contrast, anyone can lock a
    folder or a readable file, because flock(2) does not need write permission. A link in its place
    is removed.

    Raises:
        OSError: the folder does not exist, or the file can be neither made nor opened.
    """
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISLNK(os.lstat(file.name, dir_fd=folder).st_mode):
                os.unlink(file.name, dir_fd=folder)
        with contextlib.suppress(FileExistsError):
            descriptor = _create(file.name, folder, _CLOSED)
            _give(descriptor, os.fstat(folder))  # the node could not open root's file
            return descriptor
        # A pipe does not block, and a read-only disk works.
        flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(file.name, os.O_RDWR | flags, dir_fd=folder)
        except OSError:
            return os.open(file.name, os.O_RDONLY | flags, dir_fd=folder)
    finally:
        os.close(folder)


def open_foreign(file: Path) -> BinaryIO:
    """Open a file to read that another user may have put there, as root may have to.

    No link is followed to what that user may not read, and a pipe is not waited for.

    Raises:
        OSError: it does not exist, or is a link.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return open(os.open(file, flags), "rb")


def refuse_planted_link(file: Path) -> None:
    """Raise OSError if root would follow a link that another user has put in a file's place.

    For files that are opened by a library, not by this module. Root's own links are accepted.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        status = file.lstat()
        if stat.S_ISLNK(status.st_mode) and os.geteuid() == 0 != status.st_uid:
            raise OSError(errno.ELOOP, f"{file} is a link that user {status.st_uid} has made")


def _status(name: str, folder: int) -> os.stat_result | None:
    """Return the status of a regular file; None if it does not exist."""
    try:
        status = os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _create(name: str, folder: int, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, mode, dir_fd=folder)


def _give(descriptor: int, like: os.stat_result) -> None:
    """Give a file the owner and group of another one, which only root can do."""
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):  # on FAT all files have the same owner
            os.fchown(descriptor, like.st_uid, like.st_gid)


def _sync(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync
            raise
