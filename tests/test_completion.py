"""Completion of the command line, in a real bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from completions import FOLDER, scripts

from drivers.registry import driver_names
from node.cli.main import COMMANDS

_COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMPREPLY=()
$(complete -p sensor-node | sed 's/.*-F \\([^ ]*\\).*/\\1/') sensor-node "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the last of `words`."""
    script = str(FOLDER / "sensor-node")
    done = subprocess.run(
        ["bash", "-c", _COMPLETE, "bash", script, "sensor-node", *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return done.stdout.split()


@pytest.mark.parametrize("name", ["sensor-node", "_sensor-node"])
def test_the_scripts_are_those_of_the_command_line(name):
    """Else: tests/.venv/bin/python tests/completions.py"""
    assert (FOLDER / name).read_text() == scripts()[name]


def test_commands_options_and_choices_are_offered():
    assert completed("") == list(COMMANDS)
    assert completed("sca") == ["scan"]
    assert {"--simulate", "--state-dir", "--config"} <= set(completed("run", "--"))
    assert completed("run", "--log-level", "") == ["debug", "info", "warning", "error"]
    assert completed("drivers", "") == driver_names()


def test_files_and_the_sensors_of_a_configuration_are_offered(tmp_path):
    (tmp_path / "n.toml").write_text('[[sensor]]\nid = "air"\n[[sensor]]\n  id= "tank-2" # x\n')
    assert completed("run", "--config", "n", folder=tmp_path) == ["n.toml"]
    assert completed("read", "--config", "n.toml", "", folder=tmp_path) == ["air", "tank-2"]
    assert completed("read", "--config", "n.toml", "ta", folder=tmp_path) == ["tank-2"]
    assert completed("read", "--config", "missing.toml", "", folder=tmp_path) == []


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh: apt-get install zsh")
def test_zsh_can_read_its_script():
    subprocess.run(["zsh", "-n", str(FOLDER / "_sensor-node")], check=True)
