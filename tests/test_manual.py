"""The manual page, as man shows it."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from manual import FILE, page

from node.cli.main import COMMANDS


def test_the_page_is_that_of_the_command_line(monkeypatch):
    """Else: tests/.venv/bin/python tests/manual.py"""
    for columns in ("40", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert FILE.read_text(encoding="utf-8") == page()


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man: apt-get install man-db")
def test_man_shows_every_command_and_warns_of_nothing():
    command = ["man", "--local-file", "--warnings", str(FILE)]
    environment = {"MANWIDTH": "80", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    for name in COMMANDS:
        assert f"sensor-node {name}" in done.stdout
    for heading in ("FILES", "ENVIRONMENT", "EXIT STATUS", "SEE ALSO"):
        assert f"\n{heading}\n" in done.stdout
