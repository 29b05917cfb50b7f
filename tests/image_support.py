"""The programs of the image, and the modules of its build, as the tests import them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

__all__ = ["DEPLOY", "of_the_build", "on_the_pi"]

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
_ON_THE_PI = DEPLOY / "image/root/usr/lib/sensor-node"


def on_the_pi(name: str) -> Any:
    """A program of the image; they run there without the node's packages."""
    return _imported(name, _ON_THE_PI)


def of_the_build(name: str) -> Any:
    """A module of deploy/build-image."""
    return _imported(f"image.{name}", DEPLOY)


def _imported(name: str, folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
