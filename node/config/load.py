"""Reads and checks the configuration: every problem at once, each with its line and a remedy.

`load` turns a TOML file into a `schema.Config`, or raises `ConfigError` with a list of problems:

    config ──► config_mqtt, config_sensors, ... ──► config_reader (tables) ──► config_values
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from drivers.base import Claim
from node.config.mqtt import note_of_web, read_mqtt, read_node
from node.config.reader import ConfigError, Problem, TableReader, find_file, unreadable
from node.config.schema import (
    ButtonTable,
    CommandsTable,
    Config,
    HomeAssistantTable,
    MqttTable,
    NodeTable,
    OutboxTable,
    StatusLedTable,
    WebTable,
)
from node.config.sensors import Claimed, check_claims, check_expiry, read_sensors
from node.config.values import did_you_mean

__all__ = ["ConfigError", "Problem", "find_file", "load", "parse", "read"]

_TABLES: dict[str, type[msgspec.Struct]] = {
    "node": NodeTable,
    "mqtt": MqttTable,
    "outbox": OutboxTable,
    "commands": CommandsTable,
    "homeassistant": HomeAssistantTable,
    "status_led": StatusLedTable,
    "button": ButtonTable,
    "web": WebTable,
}
_OTHER_TABLES = ("sensor", "simulation")


def load(source: Path, *, copies: Path | None = None) -> Config:
    """Read and check the file.

    `copies` is a folder with a copy of each file that the configuration names; see last_good.py.

    Raises:
        ConfigError: it cannot be read, is not TOML, or anything in it is wrong.
    """
    return parse(source, read(source), copies=copies)


def read(source: Path) -> bytes:
    """The content of the file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return source.read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(source, error) from error


def parse(source: Path, content: bytes, *, copies: Path | None = None) -> Config:
    """Check the content of the file.

    Raises:
        ConfigError: it is not TOML in UTF-8, or anything in it is wrong.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(source, [Problem(0, "file", f"is not UTF-8: {error}")]) from error
    # An editor of Windows may have put a byte order mark before the text.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(source, [_syntax_problem(error)]) from error
    config = _read(TableReader(source, text, copies), document)
    return msgspec.structs.replace(config, digest=hashlib.sha256(content).hexdigest()[:12])


def _syntax_problem(error: Exception) -> Problem:
    match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    message = re.sub(r"\s*\(at .*\)$", "", str(error))
    if message.startswith("Expected newline"):
        message += " (is the text in quotes?)"
    if match is None:
        return Problem(1, "file", f"not valid TOML: {message}")
    return Problem(int(match[1]), f"column {match[2]}", f"not valid TOML: {message}")


def _read(reader: TableReader, document: dict[str, Any]) -> Config:
    for key in document:
        if key not in _TABLES and key not in _OTHER_TABLES:
            hint = did_you_mean(key, [*_TABLES, *_OTHER_TABLES])
            reader.problem((key,), f"unknown table; {hint}")
    claimed: list[Claimed] = []
    tables = {
        name: _optional_table(reader, name, document, claimed)
        for name in ("outbox", "commands", "homeassistant", "status_led", "button", "web")
    }
    note_of_web(reader, tables["web"])
    node = read_node(reader, document.get("node", {}))
    mqtt, retain_for_s = read_mqtt(reader, document.get("mqtt"))
    sensors = read_sensors(reader, document.get("sensor", []), claimed)
    check_claims(reader, claimed)
    check_expiry(reader, sensors, retain_for_s)
    if "simulation" in document:
        from node.config.simulation import read_simulation

        tables["simulation"] = read_simulation(reader, document["simulation"], sensors)
    if reader.problems or node is None or mqtt is None:
        raise ConfigError(reader.source, reader.problems)
    return Config(
        source=reader.source,
        node=node,
        mqtt=mqtt,
        sensors=tuple(sensor for _, sensor in sensors),
        notes=tuple(reader.notes),
        remarks=tuple(reader.remarks),
        **{name: table for name, table in tables.items() if table is not None},
    )


def _optional_table(
    reader: TableReader, name: str, document: dict[str, Any], claimed: list[Claimed]
) -> Any:
    if name not in document:
        return None
    if not isinstance(document[name], dict):
        reader.problem((name,), "expected a table")
        return None
    before = len(reader.problems)
    values = reader.right_keys(_TABLES[name], document[name], (name,))
    if "pin" in values:
        claimed.append((Claim(f"GPIO {values['pin']}"), f"[{name}]", (name, "pin")))
    return _TABLES[name](**values) if len(reader.problems) == before else None
