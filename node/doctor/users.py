"""Finds the user whose permissions are checked: the node's, who seldom runs the doctor."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

import msgspec

__all__ = ["User", "group_of", "node_user"]

SERVICE_USER = "sensor-node"
"""The user in deploy/sensor-node.sysusers."""


class User(msgspec.Struct, frozen=True):
    """A user, with the groups that apply."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]

    @property
    def group_name(self) -> str:
        try:
            return grp.getgrgid(self.gid).gr_name
        except KeyError:
            return str(self.gid)

    def may(self, path: Path, mode: int) -> bool:
        """Return whether this user may use `path`; `mode` is that of os.access.

        The kernel decides if possible: called as this user, or by root in this user's place.
        Otherwise the mode of the file decides, and the modes of its folders are ignored.
        """
        if self.uid == os.geteuid():
            return os.access(path, mode, effective_ids=True)
        if os.geteuid() == 0:
            with self._in_place():
                return os.access(path, mode, effective_ids=True)
        try:
            status = path.stat()
        except PermissionError:
            return True  # nothing is known to the contrary
        except OSError:
            return False
        if self.uid == 0:
            return True  # whatever its mode
        shift = 0
        if status.st_uid == self.uid:
            shift = 6
        elif status.st_gid in self.groups:
            shift = 3
        return mode & ~(status.st_mode >> shift) & 0o7 == 0

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """Give this process the user's effective ids; no other thread depends on them."""
        before = os.getegid(), os.getgroups()
        os.setgroups(sorted(self.groups))
        os.setegid(self.gid)
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(before[0])
            os.setgroups(before[1])


def node_user(process: int | None, state_dir: Path) -> User:
    """Return the user of the running node; else the owner of its folder, or the service's user.

    On a computer without any of them, return the caller.
    """
    if process is not None and (running := _user_of_process(process)) is not None:
        return running
    with contextlib.suppress(OSError, KeyError):
        if owner := state_dir.stat().st_uid:
            return _by_entry(pwd.getpwuid(owner))
    with contextlib.suppress(KeyError):
        return _by_entry(pwd.getpwnam(SERVICE_USER))
    return User(
        _name_of(os.geteuid()),
        os.geteuid(),
        os.getegid(),
        frozenset((*os.getgroups(), os.getegid())),
    )


def _by_entry(entry: pwd.struct_passwd) -> User:
    groups = frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, groups)


def _user_of_process(process: int) -> User | None:
    """Return the user with the groups of the process, which may be fewer than the user has now."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":\t", 1) for line in lines.splitlines() if ":\t" in line)
    uid, gid = (int(fields[name].split()[1]) for name in ("Uid", "Gid"))  # real, effective, ...
    groups = frozenset(int(group) for group in fields["Groups"].split())
    return User(_name_of(uid), uid, gid, groups | {gid})


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def group_of(path: Path) -> str:
    """Return the name of a file's group; "" if it is root's, or has no name."""
    try:
        gid = path.stat().st_gid
        return grp.getgrgid(gid).gr_name if gid else ""
    except (OSError, KeyError):
        return ""
