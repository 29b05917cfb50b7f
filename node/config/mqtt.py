"""The tables `[node]` and `[mqtt]`, and where the passwords come from.

The configuration's own `password` or `password_file` comes first, so that a variable left over in
a shell cannot override it. Then comes the environment, which a person sets for one start, and then
the credential that systemd passes to the service at each start.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.config.password import checked_password, password_in
from node.config.reader import TableReader, expected_table
from node.config.schema import (
    DEFAULT_RECONNECT_SPREAD,
    DEFAULT_RETAIN_FOR,
    MqttTable,
    NodeTable,
    Secret,
    TlsTable,
    WebTable,
)
from node.system.node_ids import hardware_suffix

if TYPE_CHECKING:
    from node.config.toml_lines import KeyPath

__all__ = ["default_name", "note_of_web", "read_mqtt", "read_node", "web_password"]

_OF_EVERY_COMPUTER = frozenset(
    {
        *("alarmpi", "alpine", "archlinux", "armbian", "bananapi", "buildroot", "debian", "dietpi"),
        *("fedora", "hassio", "homeassistant", "host", "libreelec", "linux", "localhost", "nixos"),
        *("node", "openwrt", "orangepi", "pi", "raspberry", "raspberrypi", "raspbian", "raspi"),
        *("rockpi", "rpi", "ubuntu", "unknown"),
    }
)
"""Host names that distributions come with: nodes of the default name would be of one name."""
_VARIABLE = "SENSOR_NODE_MQTT_PASSWORD"
_CREDENTIAL = "mqtt.password"


def read_node(reader: TableReader, written: object) -> NodeTable | None:
    """Read `[node]`; the name defaults to the host name."""
    if isinstance(written, dict) and "name" not in written:
        written = {**written, "name": default_name()}
    values = reader.table(NodeTable, written, ("node",))
    return None if values is None else NodeTable(**values)


def default_name() -> str:
    """Return the node's default name: the host name, as a topic level.

    A name that a distribution gives to every computer is followed by digits of this one.
    """
    host = socket.gethostname().partition(".")[0]
    name = re.sub(r"[^A-Za-z0-9_-]", "-", host)[:57] or "node"
    return f"{name}-{hardware_suffix()}" if name.lower() in _OF_EVERY_COMPUTER else name


def read_mqtt(reader: TableReader, written: object) -> tuple[MqttTable | None, float]:
    """Read `[mqtt]` and `[mqtt.tls]`, with the password in place.

    The table is None if anything is wrong; `retain_for`, in seconds, is returned in any case.
    """
    if written is None:
        reader.problem(("mqtt",), 'is missing; it needs at least: host = "BROKER"', "[mqtt]")
        return None, 0.0
    if not isinstance(written, dict):
        reader.problem(("mqtt",), expected_table("mqtt"))
        return None, 0.0
    tls = _read_tls(reader, written["tls"]) if "tls" in written else None
    plain = {key: value for key, value in written.items() if key != "tls"}
    before = len(reader.problems)
    values = reader.right_keys(MqttTable, plain, ("mqtt",))
    _resolve_password(reader, values)
    _check_way(reader, values)
    if not 5 <= values.get("keepalive", 30) <= 3600:
        reader.problem(("mqtt", "keepalive"), "must be between 5s and 1h")
    spread_s = values.get("reconnect_spread", DEFAULT_RECONNECT_SPREAD)
    if not DEFAULT_RECONNECT_SPREAD <= spread_s <= 600:
        what = "must be between 5s, which the node needs to notice the broker, and 10m"
        reader.problem(("mqtt", "reconnect_spread"), what)
    retain_for_s = values.get("retain_for", DEFAULT_RETAIN_FOR)
    if len(reader.problems) > before:
        return None, retain_for_s
    return MqttTable(**values, tls=tls), retain_for_s


def _check_way(reader: TableReader, values: dict[str, Any]) -> None:
    """Report keys that have no effect without another one, and a package that is missing."""
    for key, other in (("path", "transport"), ("password_valid_for", "password_command")):
        wanted = '"websockets"' if other == "transport" else "set"
        if key in values and values.get(other, "tcp") in ("tcp", ()):
            reader.problem(("mqtt", key), f"has no effect unless {other} is {wanted}")
    if str(values.get("proxy", "")).startswith("socks5"):
        import importlib.util

        from drivers.packages import install_command

        if importlib.util.find_spec("socks") is None:
            what = f"needs the package PySocks: {install_command('proxy')}"
            reader.problem(("mqtt", "proxy"), what)


def _read_tls(reader: TableReader, written: object) -> TlsTable | None:
    values = reader.table(TlsTable, written, ("mqtt", "tls"))
    if values is None:
        return None
    before = len(reader.problems)
    for key in values.keys() & {"ca_file", "cert_file", "key_file"}:
        values[key] = file = reader.locate(values[key], key)
        if reader.read_file(file, ("mqtt", "tls", key)) is not None and key == "key_file":
            _note_if_open(reader, file)
    if ("cert_file" in values) != ("key_file" in values):
        reader.problem(("mqtt", "tls"), "cert_file and key_file must be set together")
    table = TlsTable(**values)
    if len(reader.problems) == before:
        from node.config.tls import BadTlsFile, tls_context

        try:
            tls_context(table)
        except BadTlsFile as error:
            reader.problem(("mqtt", "tls", error.key), str(error))
    return table


def _resolve_password(reader: TableReader, values: dict[str, Any]) -> None:
    """Put the password into `values`, from the first source that has one."""
    path: KeyPath = ("mqtt", "password")
    variable = os.environ.get(_VARIABLE)
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), _CREDENTIAL)
    named = [key for key in ("password", "password_file", "password_command") if key in values]
    if variable is not None and named:
        reader.notes.append(f"${_VARIABLE} has no effect: [mqtt] {named[0]} is set")
    if len(named) > 1:
        reader.problem(path, f"{' and '.join(named)} are mutually exclusive")
    elif named == ["password_command"]:
        _check_command(reader, values)
    elif named == ["password_file"]:
        values["password_file"] = file = reader.locate(values["password_file"], "password_file")
        path = ("mqtt", "password_file")
        if _password_from(reader, file, path, values):
            _note_if_open(reader, file)
    elif named == ["password"]:
        _set_password(reader, values["password"], "it", path, values)
        _note_if_open(reader, reader.source, "contains the password and ")
    elif variable is not None:
        _set_password(reader, variable, f"${_VARIABLE}", path, values)
    elif credential.exists():
        _password_from(reader, credential, path, values)
    if {"password", "password_command"} & values.keys() and "username" not in values:
        reader.problem(path, "a password needs a username")


def _check_command(reader: TableReader, values: dict[str, Any]) -> None:
    """Report a command that cannot be run. It is run for each connection, not here."""
    command = values["password_command"]
    path: KeyPath = ("mqtt", "password_command")
    if not command or not command[0]:
        reader.problem(path, 'expected a program and its arguments: ["/usr/local/bin/token"]')
    elif not os.path.isabs(command[0]):
        reader.problem(path, "the program needs its whole path, because a service has another PATH")
    elif not os.access(command[0], os.X_OK):
        reader.notes.append(f"[mqtt] password_command: {command[0]} is not a program here")


def _password_from(reader: TableReader, file: Path, path: KeyPath, values: dict[str, Any]) -> bool:
    text = reader.read_file(file, path)
    if text is None:
        return False
    _set_password(reader, password_in(text), str(file), path, values)
    return True


def _set_password(
    reader: TableReader, text: str, source: str, path: KeyPath, values: dict[str, Any]
) -> None:
    """Use a password from `source`, or report why it cannot be one."""
    values["password"] = Secret(text)
    try:
        checked_password(text)
    except ValueError as error:
        reader.problem(path, f"{source} {error}")


def web_password(reader: TableReader, table: WebTable) -> Secret | None:
    """Return the status page's password; report a problem if one is required but missing."""
    values: dict[str, Any] = {}
    if table.password is not None and table.password_file is not None:
        what = "password and password_file are mutually exclusive"
        reader.problem(("web", "password"), what)
    elif table.password_file is not None:
        file = reader.locate(table.password_file, "web_password_file")
        if _password_from(reader, file, ("web", "password_file"), values):
            _note_if_open(reader, file)
    elif table.password is not None:
        _set_password(reader, table.password, "it", ("web", "password"), values)
        _note_if_open(reader, reader.source, "contains the password and ")
    return values.get("password")


def note_of_web(reader: TableReader, table: WebTable | None) -> None:
    """Note what is wrong with the status page's password: the node runs without the page."""
    if table is None:
        return
    before = len(reader.problems)
    web_password(reader, table)
    for problem in reader.problems[before:]:
        reader.notes.append(f"{problem.where}: {problem.message}; the status page does not start")
    del reader.problems[before:]


def _note_if_open(reader: TableReader, file: Path, why: str = "") -> None:
    """Warn of a file with a secret that every user of this computer can read.

    Its group may read it: that is how the service's user reads a file that root owns.
    """
    if file.stat().st_mode & 0o004:
        remedy = f"sudo chown root:sensor-node {file} && sudo chmod 640 {file}"
        reader.notes.append(f"{file} {why}can be read by every user: {remedy}")
