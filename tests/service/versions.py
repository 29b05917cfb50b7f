"""Other versions of the node, as wheels: with another number, and with faults.

A fault replaces a method or a function by a line of Python behind the module that defines it. It
is named, not placed: where the module lies does not matter. Whatever no longer fits (nothing of
that name, two of it, code that does not compile, a module that cannot be imported) is refused, so
that no proof can rest on a version that is broken in another way than it says.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Fault", "Misfit", "write_version"]


class Fault(NamedTuple):
    """What is wrong with a version."""

    name: str
    """What the code takes the place of: `Class.method`, or a function of a module."""
    code: str
    """Is put behind the module that defines it."""


class Misfit(Exception):
    """The fault does not fit the code as it is."""


def write_version(base: Path, folder: Path, version: str, faults: Iterable[Fault] = ()) -> Path:
    """The wheel `base` as another version.

    Raises:
        Misfit: a fault does not fit, or what has become of a module cannot be imported.
    """
    before = base.name.split("-")[1]
    with zipfile.ZipFile(base) as old:
        files = {name: old.read(name).decode() for name in old.namelist() if is_text(name)}
        others = {name: old.read(name) for name in old.namelist() if not is_text(name)}
    [metadata] = [name for name in files if name.endswith(".dist-info/METADATA")]
    replace_once(files, "node/__init__.py", f'"{before}"', f'"{version}"')
    replace_once(files, metadata, f"\nVersion: {before}\n", f"\nVersion: {version}\n")
    changed = ["node/__init__.py"]
    for fault in faults:
        module = find_module(files, fault.name)
        files[module] += f"\n\n{fault.code}\n"
        changed.append(module)
    wheel = folder / base.name.replace(f"-{before}-", f"-{version}-")
    record = ""
    with zipfile.ZipFile(wheel, "w") as new:
        contents = {name: text.encode() for name, text in files.items()} | others
        for name, content in contents.items():
            name = name.replace(f"-{before}.dist-info", f"-{version}.dist-info")
            if name.endswith("/RECORD"):
                list_of_files = name
                continue
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest())
            record += f"{name},sha256={digest.decode().rstrip('=')},{len(content)}\n"
            new.writestr(name, content)
        new.writestr(list_of_files, record + f"{list_of_files},,\n")
    for module in changed:
        try_out(wheel, module, files[module])
    return wheel


def is_text(name: str) -> bool:
    return name.endswith((".py", "/METADATA"))


def replace_once(files: dict[str, str], name: str, text: str, instead: str) -> None:
    found = files[name].count(text)
    if found != 1:
        raise Misfit(f"{name} has {text!r} {found} times, and not once")
    files[name] = files[name].replace(text, instead)


def find_module(files: dict[str, str], wanted: str) -> str:
    """The one module that defines it."""
    owner, _, name = wanted.rpartition(".")
    found = [
        module
        for module, text in files.items()
        if module.endswith(".py") and f"def {name}(" in text
        if defines(ast.parse(text).body, owner, name)
    ]
    if len(found) != 1:
        raise Misfit(f"{wanted} is defined in {found or 'no module'}, and not in one")
    return found[0]


def defines(statements: list[ast.stmt], owner: str, name: str) -> bool:
    if owner:
        classes = [s for s in statements if isinstance(s, ast.ClassDef) and s.name == owner]
        return any(defines(found.body, "", name) for found in classes)
    return any(isinstance(s, ast.FunctionDef) and s.name == name for s in statements)


def try_out(wheel: Path, module: str, text: str) -> None:
    """Compile it, and import it from the wheel."""
    try:
        compile(text, module, "exec")
    except SyntaxError as error:
        raise Misfit(f"{module} does not compile: {error}") from error
    dotted = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    program = f"import {dotted} as module; assert module.__file__.startswith({str(wheel)!r})"
    env = {**os.environ, "PYTHONPATH": str(wheel), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Misfit(f"{module} cannot be imported:\n{done.stderr}")
