"""drivers/API.md has every public name, and the drivers of drivers/README.md keep the contract."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from drivers.base import DriverInfo, Options
from drivers.bus import Board

ROOT = Path(__file__).parent.parent
API = (ROOT / "drivers" / "API.md").read_text()
README = (ROOT / "drivers" / "README.md").read_text()
PUBLIC = ("base", "errors", "bus", "conformance", "registry")


def section(name: str) -> str:
    return API.partition(f"\n## drivers.{name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    module = importlib.import_module(f"drivers.{name}")
    missing = [n for n in module.__all__ if f"`{n}`" not in section(name).replace("(", "`(")]
    assert missing == []


def test_every_field_of_a_driver_is_documented_with_its_default():
    rows = {
        field.strip(" `"): line.split("|")[2].strip()
        for line in section("base").splitlines()
        if line.startswith("| `")
        for field in line.split(" | ")[0].strip("| ").split(", ")
    }
    plain = {"": "empty", (): "none"}
    for field in msgspec.structs.fields(DriverInfo):
        if field.required:
            assert rows[field.name] == "", field.name
        else:
            default = plain.get(field.default, field.default)
            default = int(default) if isinstance(default, float) else default
            assert rows[field.name] == str(default), field.name


def test_every_method_of_options_and_of_a_board_is_documented():
    for name in (n for n in vars(Options) if not n.startswith("_")):
        assert f"| `{name}()` |" in section("base"), name
    for name in (n for n in vars(Board) if not n.startswith("_")):
        assert f"`{name}" in section("bus"), name


def example(name: str) -> str:
    """The example in drivers/README.md that defines `name`."""
    blocks = README.split("```python\n")[1:]
    (found,) = (block for block in blocks if f"\n{name} = DriverInfo(" in block)
    return found.split("```")[0]


@pytest.mark.parametrize("name", ["lake", "brook"])
def test_an_example_keeps_the_contract(tmp_path, name):
    file = tmp_path / f"{name}.py"
    file.write_text(example(name.upper()))
    command = [sys.executable, "-W", "error", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{name} keeps the contract\n", "")


def test_the_examples_as_a_package_are_read_on_simulated_hardware(tmp_path):
    """Their entry points, their options in TOML, their `simulate`, and a fault of the air."""
    info = tmp_path / "water-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: water\nVersion: 1.0\n")
    entries = "lake = lake:LAKE\nbrook = brook:BROOK\n"
    (info / "entry_points.txt").write_text(f"[sensor_node.drivers]\n{entries}")
    for name in ("lake", "brook"):
        (tmp_path / f"{name}.py").write_text(example(name.upper()))
    config = tmp_path / "node.toml"
    config.write_text(
        '[mqtt]\nhost = "127.0.0.1"\n[simulation]\nbase = 12\n'
        '[[sensor]]\nid = "l"\ndriver = "lake"\nbus = 3\n'
        '[[sensor]]\nid = "b"\ndriver = "brook"\nport = "/dev/ttyUSB0"\n'
        '[[simulation.fault]]\nsensor = "b"\nkind = "spike"\namount = 15\nafter = "0s"\n'
    )
    command = [sys.executable, "-m", "node", "read", "--simulate", "--json", "-c", str(config)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    celsius = {entry["sensor"]: entry["values"]["temperature"] for entry in json.loads(done.stdout)}
    assert celsius["l"] == pytest.approx(12, abs=3), done.stderr
    assert celsius["b"] == pytest.approx(27, abs=3), done.stderr


def strays(text: str) -> list[int]:
    """Lines with a string that documents nothing, because another one stands before it."""
    bodies = [getattr(node, "body", None) for node in ast.walk(ast.parse(text))]
    return [
        second.lineno
        for body in bodies
        if isinstance(body, list)
        for first, second in itertools.pairwise(body)
        if is_text(first) and is_text(second)
    ]


def is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def test_every_docstring_stands_after_what_it_documents():
    """Of two strings in a row the second has lost its place, and readers both."""
    files = [f for folder in ("node", "drivers", "deploy") for f in (ROOT / folder).rglob("*.py")]
    assert [(str(f), line) for f in files for line in strays(f.read_text())] == []


def test_two_strings_in_a_row_would_be_found():
    assert strays('class A:\n    a = 1\n    """One."""\n    """Two."""\n') == [4]
    assert strays('class A:\n    """A."""\n    a = 1\n    """One."""\n') == []
