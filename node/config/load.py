"""Reads and checks the configuration: every problem at once, each with its line and a remedy.

`load` turns a TOML file into a `schema.Config`, or raises `ConfigError` with a list of problems:

    load ──► mqtt, sensors, simulation ──► reader (tables) ──► values
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from drivers.base import Claim
from node.config.mqtt import note_of_web, read_mqtt, read_node
from node.config.reader import (
    ConfigError,
    Problem,
    TableReader,
    expected_table,
    fields_of,
    find_file,
    unreadable,
)
from node.config.schema import (
    ButtonTable,
    CommandsTable,
    Config,
    HomeAssistantTable,
    MqttTable,
    NodeTable,
    OutboxTable,
    SensorTable,
    StatusLedTable,
    UpdateTable,
    WebTable,
)
from node.config.sensors import Claimed, check_claims, check_expiry, read_sensors
from node.config.values import did_you_mean, is_like_a_key

if TYPE_CHECKING:
    from node.config.toml_lines import KeyPath

__all__ = [
    "ConfigError",
    "Problem",
    "document_of",
    "find_file",
    "is_known",
    "load",
    "load_mqtt",
    "parse",
    "read",
]

_TABLES: dict[str, type[msgspec.Struct]] = {
    "node": NodeTable,
    "mqtt": MqttTable,
    "outbox": OutboxTable,
    "commands": CommandsTable,
    "update": UpdateTable,
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
    """Return the content of the file.

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
    text, document = document_of(source, content)
    config = _read(TableReader(source, text, copies), document)
    return msgspec.structs.replace(config, digest=hashlib.sha256(content).hexdigest()[:12])


def load_mqtt(source: Path) -> MqttTable:
    """Read and check `[mqtt]`; the rest of the file only has to be TOML.

    Raises:
        ConfigError: the file cannot be read or is not TOML, or anything in `[mqtt]` is wrong.
    """
    text, document = document_of(source, read(source))
    reader = TableReader(source, text)
    mqtt, _ = read_mqtt(reader, document.get("mqtt"))
    if mqtt is None or reader.problems:
        raise ConfigError(source, reader.problems)
    return mqtt


def document_of(source: Path, content: bytes) -> tuple[str, dict[str, Any]]:
    """Return the text of the file, and its tables.

    Raises:
        ConfigError: it is not TOML in UTF-8.
    """
    try:
        text = content.decode("utf-8")
        if "\0" in text:
            raise ValueError("UTF-16 of letters that ASCII has")
    except ValueError as error:
        from node.config.syntax import not_text

        raise ConfigError(source, [not_text(content)]) from error
    # A Windows editor may have put a byte order mark before the text.
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        from node.config.syntax import syntax_problem

        problem, shown = syntax_problem(text, error)
        raise ConfigError(source, [problem], shown) from error
    return text, document


def _read(reader: TableReader, document: dict[str, Any]) -> Config:
    for key, written in document.items():
        if key not in _TABLES and key not in _OTHER_TABLES:
            _unknown_table(reader, key, written)
    claimed: list[Claimed] = []
    tables = {
        name: _optional_table(reader, name, document, claimed)
        for name in _TABLES
        if name not in ("node", "mqtt")
    }
    note_of_web(reader, tables["web"])
    commands = tables["commands"]
    if commands is not None and commands.config_broker and not commands.config:
        what = "has no effect unless config is true"
        reader.problem(("commands", "config_broker"), what)
    node = read_node(reader, document.get("node", {}))
    mqtt, retain_for_s = read_mqtt(reader, document.get("mqtt"))
    sensors = read_sensors(reader, document.get("sensor", []), claimed)
    if any(sensor.derive or sensor.info.computed for _, sensor in sensors):
        from node.config.derive import find_parts

        sensors = find_parts(reader, sensors)
    check_claims(reader, claimed)
    check_expiry(reader, sensors, retain_for_s)
    if "simulation" in document:
        from node.config.simulation import read_simulation

        tables["simulation"] = read_simulation(reader, document["simulation"], sensors)
    if commands is not None and commands.config and mqtt is not None:
        _note_open_broker(reader, mqtt)
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


def _note_open_broker(reader: TableReader, mqtt: MqttTable) -> None:
    """Note that a broker seems to let everybody command, and so change the configuration."""
    has_certificate = mqtt.tls is not None and mqtt.tls.cert_file is not None
    if mqtt.username is None and not has_certificate:
        reader.notes.append(
            "[commands] config: the broker asks for no login; whoever reaches it can change most "
            "of this file"
        )


def _unknown_table(reader: TableReader, key: str, written: object) -> None:
    """Report an unknown table, or a key outside of a table.

    A word that resembles none of ours may be a secret, and is not repeated.
    """
    known = (*_TABLES, *_OTHER_TABLES)
    if not isinstance(written, dict | list):
        holders = _tables_with(key)
        place = "is the [table] above it missing?"
        if holders:
            place = f"move it below {' or '.join(holders)}"
        where = key if holders or is_like_a_key(key, known) else "file"
        reader.problem((key,), f"a key outside of a table; {place}", where)
        return
    hint = did_you_mean(key, known)
    meant = key.removesuffix("s")
    if meant in known:
        hint = f"write {'[[sensor]]' if meant == 'sensor' else f'[{meant}]'}"
    name = key if is_like_a_key(key, known) else "..."
    where = f"[[{name}]]" if isinstance(written, list) else f"[{name}]"
    reader.problem((key,), f"unknown table; {hint}", where)


def is_known(path: KeyPath) -> bool:
    """Return whether there is a table, or a key of it, at a path of one or two names."""
    schema = _TABLES.get(str(path[0]))
    if schema is None or len(path) == 1:
        return str(path[0]) in (*_TABLES, *_OTHER_TABLES)
    return path[1] in [field.encode_name for field in fields_of(schema)]


def _tables_with(key: str) -> list[str]:
    """Return the tables that have a key of this name."""
    return [
        f"[[{name}]]" if name == "sensor" else f"[{name}]"
        for name, schema in {**_TABLES, "sensor": SensorTable}.items()
        if key in (field.encode_name for field in fields_of(schema))
    ]


def _optional_table(
    reader: TableReader, name: str, document: dict[str, Any], claimed: list[Claimed]
) -> Any:
    if name not in document:
        return None
    if not isinstance(document[name], dict):
        reader.problem((name,), expected_table(name))
        return None
    before = len(reader.problems)
    values = reader.right_keys(_TABLES[name], document[name], (name,))
    if "pin" in values:
        claimed.append((Claim(f"GPIO {values['pin']}"), f"[{name}]", (name, "pin")))
    return _TABLES[name](**values) if len(reader.problems) == before else None
