"""What a run did not prove is in its last lines, with what it would take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETION = Path(__file__).with_name("test_completion.py")
SKIPPED = """\
NOT PROVED in this run, because the tests were skipped:
  needs zsh: apt-get install zsh
    tests/test_completion.py::test_zsh_can_read_its_script
"""


def run_without_tools(tmp_path: Path, *arguments: str) -> str:
    """What pytest says on a machine whose PATH is empty."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    env = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    env |= {"PATH": str(tmp_path)}
    done = subprocess.run(
        [*command, str(COMPLETION)], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skip_for_want_of_a_tool_is_the_last_thing_said(tmp_path, workers):
    """By one process, and by xdist's workers."""
    said = run_without_tools(tmp_path, "-n", workers, "-k", "zsh_can_read")
    assert said.endswith(SKIPPED)


def test_nothing_is_said_where_nothing_was_skipped(tmp_path):
    said = run_without_tools(tmp_path, "-k", "those_of_the_command_line")
    assert " passed" in said
    assert "NOT PROVED" not in said
