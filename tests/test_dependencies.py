"""The bounds of pyproject.toml: a fresh clone installs what the tests have passed with.

`tests/prepare --oldest` makes the environment in which the lower bounds are tested; what makes it
make one is tested here too.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NAMED = [
    requirement
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for requirement in map(Requirement, lines)
    if requirement.name != PROJECT["name"]
]
BY_NAME = {
    name: [requirement.specifier for requirement in NAMED if requirement.name == name]
    for name in sorted({requirement.name for requirement in NAMED})
}

every_package = pytest.mark.parametrize("name", BY_NAME)


def floor_of(name: str) -> Version:
    """The oldest version that all who name the package allow."""
    return max(
        Version(bound.version)
        for specifiers in BY_NAME[name]
        for bound in specifiers
        if bound.operator in (">=", "==")
    )


@pytest.mark.parametrize("requirement", NAMED, ids=str)
def test_every_requirement_has_a_lower_bound(requirement):
    operators = {bound.operator for bound in requirement.specifier}
    assert operators & {">=", "=="}, "the tests cannot be run with its oldest version"


@every_package
def test_every_package_has_an_upper_bound(name):
    operators = {bound.operator for specifiers in BY_NAME[name] for bound in specifiers}
    assert operators & {"<", "=="}, "its next major release may break a fresh clone"


@pytest.mark.parametrize("tool", ["ruff", "mypy", "shtab"])
def test_a_tool_whose_output_decides_is_pinned(tool):
    (specifiers,) = BY_NAME[tool]
    assert [bound.operator for bound in specifiers] == ["=="], "a new release may turn a clone red"
    assert "*" not in str(specifiers)


@every_package
def test_the_versions_installed_are_allowed_and_with_oldest_the_lower_bounds(name):
    """Else a lower bound has not been tested: something else asks for a newer version."""
    installed = Version(importlib.metadata.version(name))
    assert all(installed in specifiers for specifiers in BY_NAME[name])
    stamp = Path(sys.prefix) / "installed"
    if stamp.exists() and stamp.read_text().startswith("--oldest"):
        assert installed == floor_of(name)


def test_the_image_has_versions_that_are_allowed():
    lines = (ROOT / "deploy" / "requirements-arm64.txt").read_text().splitlines()
    locked = [Requirement(line.partition(" --hash")[0]) for line in lines if "==" in line]
    assert len(locked) > 60
    for requirement in locked:
        (bound,) = requirement.specifier
        allowed = BY_NAME.get(requirement.name, [])
        assert all(bound.version in specifiers for specifiers in allowed), requirement


# -- tests/prepare -------------------------------------------------------------------------------

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
