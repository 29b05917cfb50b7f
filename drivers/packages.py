"""The Python package that a driver needs: whether it is installed, and the command to install it.

For messages; this module neither installs nor runs a package.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from drivers.base import DriverInfo

__all__ = ["install_command", "is_installed", "missing_package"]

_PROJECT = "pi-sensor-node"


def is_installed(module: str) -> bool:
    """Return whether the package of `module` is installed; its import may still fail."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def missing_package(info: DriverInfo) -> str:
    """Return the package that `info` needs and this environment lacks; "" if installed."""
    from drivers.catalogue import CATALOGUE

    row = next((row for row in CATALOGUE if row.name == info.extra), None)
    return "" if row is None or is_installed(row.module) else row.package


def install_command(extra: str) -> str:
    """Return the command that installs the packages of one of our extras in this environment.

    pip finds the installed project by its name, and adds the extra's packages. So the command needs
    neither an index nor a checkout with the project. A system Python that its distribution manages
    refuses pip without an option (PEP 668); an environment without pip is uv's or pipx's.
    """
    wanted = shlex.quote(f"{_PROJECT}[{extra}]")
    sudo = "" if os.access(sysconfig.get_path("purelib"), os.W_OK) else "sudo "
    if sys.prefix == sys.base_prefix:
        managed = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
        force = " --break-system-packages" if managed else ""
        return f"{sudo}{sys.executable} -m pip install{force} {wanted}"
    if importlib.util.find_spec("pip") is None:
        if "pipx" in Path(sys.prefix).parts:
            return f"pipx install --force {wanted}"
        if shutil.which("uv"):
            return f"{sudo}uv pip install --python {shlex.quote(sys.executable)} {wanted}"
        return (
            f"{sudo}{shlex.quote(sys.executable)} -m ensurepip && "
            f"{sudo}{shlex.quote(sys.executable)} -m pip install {wanted}"
        )
    pip = Path(sys.prefix, "bin", "pip")
    if not sudo and shutil.which("pip") == str(pip):
        return f"pip install {wanted}"
    if pip.exists():
        return f"{sudo}{shlex.quote(str(pip))} install {wanted}"
    return f"{sudo}{shlex.quote(sys.executable)} -m pip install {wanted}"
