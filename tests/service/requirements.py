"""Prints what an installed node needs from PyPI, one requirement a line."""

from __future__ import annotations

import tomllib
from pathlib import Path

# ruff: noqa: T201

project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
optional = project["optional-dependencies"]
wanted = list(project["dependencies"])
for name, requirements in optional.items():
    if name not in ("demo", "test", "chips"):
        wanted += requirements
print("\n".join(dict.fromkeys(wanted)))
