"""The version of the node, as its code has it."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["version_of_code"]

_CODE = Path(__file__).resolve().parents[2] / "node/__init__.py"


def version_of_code() -> str:
    found = re.search(r'^__version__ = "(.+)"$', _CODE.read_text(encoding="utf-8"), re.M)
    assert found, f"{_CODE} has the version"
    return found[1]
