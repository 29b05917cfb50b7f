"""The page's part of the configuration: `[web]`, the node's name, and the sensors' intervals.

The rest is not checked, so the page works even if the node's configuration is wrong. Of the rest,
only the words that must not be shown to everybody are read, and whether the node takes `read`. The
broker's password is read by `broker_of` for one request to read a sensor, and is not kept.
"""

from __future__ import annotations

import contextlib
import re
import socket
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from node.config.mqtt import read_mqtt, web_password
from node.config.reader import ConfigError, TableReader, unreadable
from node.config.schema import CommandsTable, MqttTable, Secret, WebTable
from node.units import Seconds

__all__ = ["Settings", "broker_of", "read_settings", "settings_of"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The page's settings."""

    web: WebTable = WebTable()
    password: Secret | None = None
    node: str = ""
    """The name of the node, used until the log gives it."""
    intervals: dict[str, float] = {}
    """Sensor -> seconds from one reading to the next."""
    broker: tuple[str, ...] = ()
    """The broker's host and user name, which a page that is open to all must not show."""
    notes: tuple[str, ...] = ()
    """Remarks that are not errors but worth knowing."""
    file: Path | None = None
    """The file that these settings come from."""
    takes_reads: bool = False
    """Whether `[commands]` lets the node take the command `read`."""

    @property
    def open_to_all(self) -> bool:
        """Whether everybody on the network can read the page."""
        return self.web.on_the_network and self.password is None

    def masked(self, text: str) -> str:
        """Return a text of the node, without the broker's host and login if all can read it."""
        if not self.open_to_all or not self.broker:
            return text
        words = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in self.broker)
        return re.sub(words, "...", text)


def read_settings(source: Path, last_good: Path | None = None) -> Settings:
    """Read the file; if it is not TOML, read `last_good`, the copy that the node keeps.

    Raises:
        ConfigError: neither file can be used, or `[web]` is wrong.
    """
    try:
        return settings_of(source)
    except ConfigError as error:
        if last_good is None or any("[web]" in problem.where for problem in error.problems):
            raise
        with contextlib.suppress(ConfigError):
            return settings_of(last_good)
        raise


def settings_of(source: Path) -> Settings:
    """Read one file.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or `[web]` is wrong.
    """
    reader, document = _opened(source)
    values = reader.table(WebTable, document.get("web", {}), ("web",))
    table = WebTable(**values) if values is not None else WebTable()
    password = web_password(reader, table)
    if reader.problems:
        raise ConfigError(source, reader.problems)
    commands = reader.table(CommandsTable, document.get("commands", {}), ("commands",))
    # The password is not needed beyond here, and must not be in a second place.
    table = msgspec.structs.replace(table, password=None)
    return Settings(
        web=table,
        password=password,
        node=_node_name(document),
        intervals=_intervals(document),
        broker=_broker(document),
        notes=tuple(reader.notes),
        file=source,
        takes_reads=commands is not None and _takes_reads(CommandsTable(**commands)),
    )


def broker_of(source: Path) -> MqttTable:
    """Return `[mqtt]` of a file, with the password.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or `[mqtt]` is wrong.
    """
    reader, document = _opened(source)
    mqtt, _ = read_mqtt(reader, document.get("mqtt"))
    if mqtt is None:
        raise ConfigError(source, reader.problems)
    return mqtt


def _opened(source: Path) -> tuple[TableReader, dict[str, Any]]:
    """Return what reads the tables of a file, and its content.

    Raises:
        ConfigError: the file cannot be read, or is not TOML.
    """
    try:
        text = source.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
        return TableReader(source, text), tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(source, error) from error


def _takes_reads(table: CommandsTable) -> bool:
    return table.enabled and "read" in table.allow


def _node_name(document: dict[str, Any]) -> str:
    node = document.get("node")
    name = node.get("name") if isinstance(node, dict) else None
    if isinstance(name, str) and name:
        return name[:64]
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().partition(".")[0])[:64] or "node"


def _broker(document: dict[str, Any]) -> tuple[str, ...]:
    mqtt = document.get("mqtt")
    values = [mqtt.get(key) for key in ("host", "username")] if isinstance(mqtt, dict) else []
    return tuple(value for value in values if isinstance(value, str) and value)


def _intervals(document: dict[str, Any]) -> dict[str, float]:
    """Return the intervals of the sensors that have one; that of `agree` is left to be observed."""
    sensors = document.get("sensor")
    found: dict[str, float] = {}
    for sensor in sensors if isinstance(sensors, list) else []:
        if isinstance(sensor, dict) and isinstance(sensor.get("id"), str):
            if "interval" not in sensor and isinstance(sensor.get("of"), list):
                continue
            with contextlib.suppress(ValueError):
                found[sensor["id"]] = float(Seconds.parse(sensor.get("interval", 30)))
    return found
