"""What makes `tests/prepare` make an environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

_PYTHON = """#!/bin/sh
if [ "$1" = -VV ]; then echo "Python $VERSION"; exit; fi
rm -rf tests/.venv
mkdir -p tests/.venv/bin
for name in pip uv; do
    printf '#!/bin/sh\\necho "%s $*" >>calls\\nexit "$RESULT"\\n' $name >tests/.venv/bin/$name
    chmod +x tests/.venv/bin/$name
done
"""
"""An interpreter whose `venv` has installers that note what they are asked for."""

Prepare = Callable[..., list[str]]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Runs the script in a folder of its own, and returns what was called to install."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for file in (ROOT / "tests").iterdir():
        if file.is_file() and file.suffix == "" and os.access(file, os.X_OK):
            shutil.copy(file, tests)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(_PYTHON)
    python.chmod(0o755)

    def run(*options: str, version: str = "3.11.2", result: int = 0) -> list[str]:
        calls.write_text("")
        told = {"PYTHON": str(python), "VERSION": version, "RESULT": str(result)}
        done = subprocess.run(
            [tests / "prepare", *options], env=os.environ | told, capture_output=True, check=False
        )
        assert done.returncode == result, done.stderr
        return [line.split(" ")[0] for line in calls.read_text().splitlines()]

    return run


def test_an_environment_stays_until_it_is_to_be_another(prepare):
    assert prepare() == ["pip"]
    assert prepare() == prepare("--newest") == []
    assert prepare("--oldest") == ["pip", "uv"]
    assert prepare() == prepare("--oldest") == []
    assert prepare("--newest") == ["pip"]
    assert prepare(version="3.13.5") == ["pip"]
    assert prepare(version="3.13.5") == []


def test_an_environment_is_made_again_when_the_metadata_change(prepare, tmp_path):
    prepare()
    (tmp_path / "pyproject.toml").write_text("[project]")
    assert prepare() == ["pip"]


def test_an_environment_that_was_not_finished_is_made_again(prepare):
    assert prepare("--oldest", result=3) == ["pip"]
    assert prepare() == ["pip", "uv"], "of the versions that were asked for"
    assert prepare() == []


def test_an_unknown_option_changes_nothing(prepare):
    prepare()
    assert prepare("--odlest", result=2) == []
    assert prepare() == []
