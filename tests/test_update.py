"""`deploy/update`, where it needs neither root nor a system (tests/service has the rest)."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

UPDATE = Path(__file__).resolve().parents[1] / "deploy/update"
# As pip 25.1 writes it where its output is no terminal, shortened.
PIP = """\
Processing /tmp/sensor-node-x/checkout
  Installing build dependencies: started
  Installing build dependencies: finished with status 'done'
Collecting msgspec<0.21,>=0.19 (from pi-sensor-node==0.1.0)
  Downloading msgspec-0.20.0.tar.gz (300 kB)
Building wheels for collected packages: pi-sensor-node, msgspec
  Building wheel for msgspec (pyproject.toml): started
  Building wheel for msgspec (pyproject.toml): still running...
  Building wheel for msgspec (pyproject.toml): finished with status 'done'
Installing collected packages: msgspec, pi-sensor-node
Successfully installed msgspec-0.20.0 pi-sensor-node-0.1.0
"""


@pytest.fixture(scope="module")
def update() -> Any:
    try:
        return argparse.Namespace(**runpy.run_path(str(UPDATE)))
    finally:
        sys.path.remove(str(UPDATE.parent))


def pip(tmp_path: Path, exit_code: int) -> list[str]:
    script = tmp_path / "pip"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{PIP}END\necho why >&2\nexit {exit_code}\n")
    script.chmod(0o755)
    return [str(script)]


def test_a_slow_installation_says_what_it_does(update, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(update.must_saying.__globals__, "SAY_EVERY_S", 0.0)
    update.must_saying(pip(tmp_path, 0))
    assert capsys.readouterr().out.splitlines() == [
        "  0:00  fetching msgspec",
        *["  0:00  building msgspec"] * 3,
        "  0:00  installing the packages",
    ]


def test_a_quick_one_says_nothing(update, tmp_path, capsys):
    update.must_saying(pip(tmp_path, 0))
    assert capsys.readouterr().out == ""


def test_one_that_fails_says_why(update, tmp_path):
    with pytest.raises(update.Impossible, match=r"pip failed \(1\):\n[^$]*why$"):
        update.must_saying(pip(tmp_path, 1))


@pytest.mark.parametrize(
    ("bits", "config", "brings"),
    [
        (64, "", True),
        (32, "", False),
        (32, '# driver = "ble"\n', False),
        (32, '[[sensor]]\n  driver="ble" # the fridge\n', True),
    ],
)
def test_a_32_bit_computer_gets_what_it_must_compile_only_if_a_sensor_needs_it(
    update, monkeypatch, tmp_path, bits, config, brings
):
    file = tmp_path / "node.toml"
    file.write_text(config)
    monkeypatch.setitem(update.extras.__globals__, "CONFIG", file)
    monkeypatch.setattr(sys, "maxsize", 2 ** (bits - 1) - 1)
    assert ("ble-encrypted," in update.extras()) is brings
