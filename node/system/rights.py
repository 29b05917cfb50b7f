"""What to do about a file that this user may not read: whose it is, and the command that may.

For messages, once something could not be read; nothing here decides what may be.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["remedy"]

_FIRST_LOGIN_USER = 1000
"""Users below belong to services (login.defs(5), UID_MIN): they can call nobody for help."""
_PATH_OF_SUDO = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def remedy(file: Path) -> str:
    """Whose the file is, and what to do; "" where it is not its rights that are in the way.

    A person calls the same command again with sudo. A service needs the file to be its group's.
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
    """This command line, for root: `sudo sensor-node check --json`."""
    import shlex

    program = Path(sys.argv[0])
    name = program.name if str(program.parent) in _PATH_OF_SUDO else str(program)
    return f"sudo {shlex.join([name, *sys.argv[1:]])}"
