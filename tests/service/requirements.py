"""Prints what an installed node needs from PyPI, and what builds it, one requirement a line."""

from __future__ import annotations

import tomllib
from pathlib import Path

# ruff: noqa: T201

metadata = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
project = metadata["project"]
optional = project["optional-dependencies"]
# A checkout is built where it is installed, as a user does it.
wanted = [*metadata["build-system"]["requires"], *project["dependencies"]]
for name, requirements in optional.items():
    if name not in ("test", "chips"):
        wanted += [text for text in requirements if not text.startswith(project["name"])]
print("\n".join(dict.fromkeys(wanted)))
