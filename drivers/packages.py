"""The Python package that a driver needs: whether it is installed, and the command to install it.

For messages; this module neither installs nor runs a package.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from drivers.base import DriverInfo

__all__ = ["install_command", "is_installed", "missing_package"]

_PROJECT = "pi-sensor-node"
_MODULES = {"modbus": "minimalmodbus"}
"""Extra -> its module and package, of drivers that are not rows of the catalogue."""


def is_installed(module: str) -> bool:
    """Return whether the package of `module` is installed; its import may still fail."""
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def missing_package(info: DriverInfo) -> str:
    """Return the package that `info` needs and this environment lacks; "" if installed."""
    if info.extra in _MODULES:
        module = _MODULES[info.extra]
        return "" if is_installed(module) else module
    from drivers.catalogue import CATALOGUE

    if info.extra == "ble":
        return "" if is_installed("bleak") else "bleak"
    row = next((row for row in CATALOGUE if row.name == info.extra), None)
    return "" if row is None or is_installed(row.module) else row.package


def install_command(extra: str) -> str:
    """Return the command that brings the packages of an extra of ours into this very environment.

    It names the packages, not the project: anyone may register the project's name on an
    index, and pip looks there for it as soon as a package cannot be had. A
    system Python that its distribution manages refuses pip unless it is told (PEP 668); an
    environment without pip is uv's or pipx's.
    """
    wanted = shlex.join(_requirements(extra) or [f"{Path(__file__).parents[1]}[{extra}]"])
    sudo = "" if os.access(sysconfig.get_path("purelib"), os.W_OK) else "sudo "
    if sys.prefix == sys.base_prefix:
        managed = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
        force = " --break-system-packages" if managed else ""
        return f"{sudo}{sys.executable} -m pip install{force} {wanted}"
    if importlib.util.find_spec("pip") is None:
        if "pipx" in Path(sys.prefix).parts:
            return f"pipx inject {shlex.quote(Path(sys.prefix).name)} {wanted}"
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


def _requirements(extra: str) -> list[str]:
    """Return what an extra of the installed project lists, and the extras that it is made of.

    Empty where the project is not installed, as in a checkout that is only on the path, or is so
    in a version without this extra.
    """
    try:
        lines = importlib.metadata.requires(_PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found: list[str] = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        if marker.replace("'", '"').strip() != f'extra == "{extra}"':
            continue
        if own := re.fullmatch(rf"{_PROJECT}\[(.*)\]", requirement.strip()):
            for part in own[1].split(","):
                found += _requirements(part)
        else:
            found.append(requirement.strip())
    return found
