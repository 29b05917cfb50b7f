"""Writes tests/promised.json: what the newest release promises, for tests/test_versions.py.

    tests/.venv/bin/python tests/promised.py        # with each release

Three numbers promise something, each in the manner of semantic versioning: the version of the
program is the contract's, `drivers.base.API_VERSION` that of the API for drivers, and the schema of
the log its format's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import node
from drivers.base import API_VERSION, DriverInfo, Options
from drivers.bus import Board
from drivers.registry import driver_names, find_driver
from node.cli.main import COMMANDS, command_parser
from node.config.schema import Config
from node.health import Health
from node.outbox.anchors import CHAINED_SCHEMA
from node.outbox.file import OutboxFile

__all__ = ["FILE", "broken", "promises"]

FILE = Path(__file__).with_name("promised.json")
_NO_KEYS = {
    *("source", "digest", "notes", "remarks", "stands_in_for"),
    *("sensor.info", "sensor.options"),
}
"""Fields of a configuration that a file cannot set."""
_PUBLIC = ("base", "errors", "bus", "conformance", "registry")

Promises = dict[str, dict[str, Any]]


def promises() -> Promises:
    """Return what the code promises now: under each kind its `version`, and a list of `names`."""
    return {
        "contract": {
            "version": node.__version__,
            "names": sorted({*commands(), *keys(), *health()}),
        },
        "driver API": {"version": API_VERSION, "names": sorted(driver_api())},
        "log": {"version": str(CHAINED_SCHEMA), "names": sorted(columns())},
    }


def broken(before: Promises, now: Promises) -> list[str]:
    """Return what was promised and is gone, without a new version that says so.

    That is a new major version; while it is 0, a new minor one.
    """
    return [
        f"{kind} {now[kind]['version']}: {name} is gone since {before[kind]['version']}"
        for kind in before
        if significant(before[kind]["version"]) == significant(now[kind]["version"])
        for name in before[kind]["names"]
        if name not in now[kind]["names"]
    ]


def significant(version: str) -> list[str]:
    """Return the parts of a version that a change which is not compatible has to raise."""
    parts = version.split(".")
    return parts[:2] if parts[0] == "0" else parts[:1]


def commands() -> Iterator[str]:
    parser = command_parser(COMMANDS, whole=COMMANDS)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"sensor-node {name}"
                for option in command._option_string_actions:
                    yield f"sensor-node {name} {option}"


def keys() -> Iterator[str]:
    yield from keys_below("", msgspec.inspect.type_info(Config))
    for name in driver_names():
        yield f'driver = "{name}"'
        for field in msgspec.structs.fields(find_driver(name).options):
            yield f'driver = "{name}": {field.encode_name}'


def keys_below(path: str, kind: Any) -> Iterator[str]:
    if isinstance(kind, msgspec.inspect.StructType):
        for field in kind.fields:
            place = f"{path}.{field.encode_name}".lstrip(".").replace("sensors", "sensor")
            if place not in _NO_KEYS:
                yield f"[configuration] {place}"
                if place != "sensor.derive":  # which the node computes from the file's
                    yield from keys_below(place, field.type)
    for below in ("item_type", "value_type"):
        if hasattr(kind, below):
            yield from keys_below(path, getattr(kind, below))
    for each in getattr(kind, "types", ()):
        yield from keys_below(path, each)


def health() -> Iterator[str]:
    for field in msgspec.structs.fields(Health):
        yield f"health: {field.encode_name}"


def driver_api() -> Iterator[str]:
    for module in _PUBLIC:
        for name in importlib.import_module(f"drivers.{module}").__all__:
            yield f"drivers.{module}.{name}"
    for field in msgspec.structs.fields(DriverInfo):
        yield f"DriverInfo.{field.name}"
        if not field.required:
            yield f"DriverInfo.{field.name} may be left out"
    for owner in (Options, Board):
        for name in vars(owner):
            if not name.startswith("_"):
                yield f"{owner.__name__}.{name}"


def columns() -> Iterator[str]:
    """Yield the columns of a log without a chain, and of one with it."""
    for chain in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            OutboxFile(Path(folder, "log.db"), new_stream="s", chain=chain).close()
            db = sqlite3.connect(Path(folder, "log.db"))
            (schema,) = db.execute("PRAGMA user_version").fetchone()
            tables = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for _, column, kind, *_ in db.execute(f"PRAGMA table_info({table})"):
                    yield f"schema {schema}: {table}.{column} {kind}"
            db.close()


if __name__ == "__main__":
    FILE.write_text(json.dumps(promises(), indent=1) + "\n")
