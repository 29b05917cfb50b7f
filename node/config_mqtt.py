"""The tables `[node]` and `[mqtt]`, and where the password comes from."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.config_reader import TableReader
from node.schema import DEFAULT_RETAIN_FOR, MqttTable, NodeTable, Secret, TlsTable

if TYPE_CHECKING:
    from node.toml_lines import KeyPath

__all__ = ["read_mqtt", "read_node"]


def read_node(reader: TableReader, written: object) -> NodeTable | None:
    """`[node]`; the name is the host's, where none is given."""
    if isinstance(written, dict) and "name" not in written:
        host = socket.gethostname().partition(".")[0]
        written = {**written, "name": re.sub(r"[^A-Za-z0-9_-]", "-", host)[:64] or "node"}
    values = reader.table(NodeTable, written, ("node",))
    return None if values is None else NodeTable(**values)


def read_mqtt(reader: TableReader, written: object) -> tuple[MqttTable | None, float]:
    """`[mqtt]` and `[mqtt.tls]`, with the password in place.

    The table is None where anything is wrong; `retain_for`, in seconds, comes all the same.
    """
    if written is None:
        reader.problem(("mqtt",), "is missing; at the least: host = the broker", "[mqtt]")
        return None, 0.0
    if not isinstance(written, dict):
        reader.problem(("mqtt",), "expected a table")
        return None, 0.0
    tls = _read_tls(reader, written["tls"]) if "tls" in written else None
    plain = {key: value for key, value in written.items() if key != "tls"}
    before = len(reader.problems)
    values = reader.right_keys(MqttTable, plain, ("mqtt",))
    _resolve_password(reader, values)
    if not 5 <= values.get("keepalive", 30) <= 3600:
        reader.problem(("mqtt", "keepalive"), "must lie between 5s and 1h")
    retain_for_s = values.get("retain_for", DEFAULT_RETAIN_FOR)
    if len(reader.problems) > before:
        return None, retain_for_s
    return MqttTable(**values, tls=tls), retain_for_s


def _read_tls(reader: TableReader, written: object) -> TlsTable | None:
    values = reader.table(TlsTable, written, ("mqtt", "tls"))
    if values is None:
        return None
    before = len(reader.problems)
    for key, file in values.items():
        values[key] = file = reader.locate(file, key)
        reader.read_file(file, ("mqtt", "tls", key))
    if ("cert_file" in values) != ("key_file" in values):
        reader.problem(("mqtt", "tls"), "cert_file and key_file belong together")
    table = TlsTable(**values)
    if len(reader.problems) == before:
        from node.tls import BadTlsFile, tls_context

        try:
            tls_context(table)
        except BadTlsFile as error:
            reader.problem(("mqtt", "tls", error.key), str(error))
    return table


def _resolve_password(reader: TableReader, values: dict[str, Any]) -> None:
    """Put the password of whichever source there is into `values`."""
    path: KeyPath = ("mqtt", "password")
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), "mqtt.password")
    if "password" in values and "password_file" in values:
        reader.problem(path, "password and password_file exclude each other")
    elif "password_file" in values:
        values["password_file"] = file = reader.locate(values["password_file"], "password_file")
        path = ("mqtt", "password_file")
        if _password_from(reader, file, path, values) and file.stat().st_mode & 0o004:
            remedy = "chown root:sensor-node, and chmod 640"
            reader.notes.append(f"{file} can be read by every user: {remedy}")
    elif "password" not in values and credential.exists():
        _password_from(reader, credential, path, values)
    if "password" in values and "username" not in values:
        reader.problem(path, "a password needs a username beside it")


def _password_from(reader: TableReader, file: Path, path: KeyPath, values: dict[str, Any]) -> bool:
    text = reader.read_file(file, path)
    if text is None:
        return False
    if not text.strip():
        reader.problem(path, f"{file} is empty")
    values["password"] = Secret(text.strip("\r\n"))
    return True
