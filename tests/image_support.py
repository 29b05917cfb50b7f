"""The programs of the image, and the modules of its build, as the tests import them; a package."""

from __future__ import annotations

import importlib
import io
import sys
import zipfile
from pathlib import Path
from typing import Any

__all__ = ["DEPLOY", "DRIVER", "make_wheel", "of_the_build", "on_the_pi"]

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
_ON_THE_PI = DEPLOY / "image/root/usr/lib/sensor-node"


DRIVER = """\
from drivers.base import TEMPERATURE, DriverInfo, Options


class PondOptions(Options, frozen=True):
    def bus(self):
        return "pond"

    def where(self):
        return "the pond"


POND = DriverInfo(
    name="pond",
    summary="A pond",
    options=PondOptions,
    channels=(TEMPERATURE,),
    open=lambda options, board: None,
    example='driver = "pond"',
    devices=("hidraw",),
)
"""
"""A package of the owner's own: a driver, in one module."""


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


def make_wheel(driver: str = DRIVER, version: str = "1.0") -> bytes:
    """The wheel of the package `pond`, with this driver."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as wheel:
        info = f"pond-{version}.dist-info"
        wheel.writestr("pond.py", driver)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: pond\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/entry_points.txt", "[sensor_node.drivers]\npond = pond:POND\n")
        wheel.writestr(f"{info}/RECORD", "")
    return made.getvalue()
