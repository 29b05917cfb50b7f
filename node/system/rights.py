"""Advice on a file that this user may not read: its owner, and the command that helps.

Used only in messages, after a read has failed; this module does not decide on access.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["remedy"]

_FIRST_LOGIN_USER = 1000
"""Users with lower numbers belong to services (login.defs(5), UID_MIN), which cannot use sudo."""
_PATH_OF_SUDO = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def remedy(file: Path) -> str:
    """Return who owns the file and what to do; "" if its permissions are not the problem.

    A person repeats the command with sudo. A service needs the file to belong to its group.
    """
    if os.geteuid() == 0:
        return ""
    try:
        status = file.stat()
    except PermissionError:
        return f"its folder is closed to this user: {_again_with_sudo()}"
    except OSError:
        return ""
    if os.access(file, os.R_OK, effective_ids=True):
        return ""
    import grp
    import pwd

    owner = _name(lambda: pwd.getpwuid(status.st_uid).pw_name, status.st_uid)
    group = _name(lambda: grp.getgrgid(status.st_gid).gr_name, status.st_gid)
    whose = f"it belongs to {owner} and the group {group}"
    if os.geteuid() >= _FIRST_LOGIN_USER:
        return f"{whose}: {_again_with_sudo()}"
    ours = _name(lambda: grp.getgrgid(os.getegid()).gr_name, os.getegid())
    return f"{whose}: sudo chgrp {ours} {file} && sudo chmod g+r {file}"


def _name(find: Callable[[], str], number: int) -> str:
    try:
        return find()
    except KeyError:
        return str(number)


def _again_with_sudo() -> str:
    """Return this command line for root: `sudo sensor-node check --json`."""
    import shlex

    program = Path(sys.argv[0])
    name = program.name if str(program.parent) in _PATH_OF_SUDO else str(program)
    return f"sudo {shlex.join([name, *sys.argv[1:]])}"
