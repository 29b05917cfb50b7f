"""Reads and checks the configuration: every problem at once, each with its line and a remedy.

`load` turns a TOML file into a `schema.Config`, or raises `ConfigError` with a list of problems.
The tables are walked key by key, because msgspec would stop at the first one that is wrong.
"""

from __future__ import annotations

import math
import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec

from drivers.base import Channel, Claim, DriverInfo
from drivers.errors import MissingSupport
from drivers.registry import UnknownDriver, driver_names, find_driver
from node.pipeline import DEFAULT_HEARTBEAT_S
from node.schema import (
    ButtonTable,
    ChannelTable,
    Config,
    HomeAssistantTable,
    HostName,
    MqttTable,
    MqttVersion,
    NodeTable,
    OutboxTable,
    Secret,
    SensorTable,
    StatusLedTable,
    TlsTable,
)
from node.units import Rate, Seconds, all_units, convertible, duration_text

if TYPE_CHECKING:
    from node.toml_lines import KeyPath

__all__ = ["ConfigError", "Problem", "find_file", "load", "parse_host"]

DEFAULT_FILE = Path("/etc/sensor-node/node.toml")
MIN_INTERVAL_S = 0.1

_TABLES: dict[str, type[msgspec.Struct]] = {
    "node": NodeTable,
    "mqtt": MqttTable,
    "outbox": OutboxTable,
    "homeassistant": HomeAssistantTable,
    "status_led": StatusLedTable,
    "button": ButtonTable,
}
_LATER_TABLES = {"outbox", "homeassistant", "status_led", "button"}
_SENSOR_KEYS = ("id", "driver", "interval", "power_pin", "channel")
_MISSING = object()


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with the configuration."""

    line: int
    where: str
    """The table and key: `[[sensor]] air: pin`."""
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.where}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` has all that is wrong with it."""

    def __init__(self, source: Path, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = sorted(problems, key=lambda problem: problem.line)
        super().__init__(f"{source}: {len(self.problems)} problems")

    def report(self) -> str:
        """The problems, one a line, as a compiler would print them."""
        return "\n".join(
            f"{self.source}:{problem.line}: {problem.where}: {problem.message}"
            for problem in self.problems
        )


def find_file(option: str | None) -> Path:
    """The file to read: `--config`, else $SENSOR_NODE_CONFIG, else /etc/sensor-node/node.toml."""
    return Path(option or os.environ.get("SENSOR_NODE_CONFIG") or DEFAULT_FILE)


def load(source: Path) -> Config:
    """Read and check the file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or anything in it is wrong.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(source, [Problem(1, "file", f"is not UTF-8: {error}")]) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        what = f"cannot be read: {reason}; name the file with --config FILE"
        raise ConfigError(source, [Problem(1, "file", what)]) from error
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(source, [_syntax_problem(error)]) from error
    return _Reader(source, text).read(document)


def _syntax_problem(error: Exception) -> Problem:
    match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    message = re.sub(r"\s*\(at .*\)$", "", str(error))
    if match is None:
        return Problem(1, "file", f"not valid TOML: {message}")
    return Problem(int(match[1]), f"column {match[2]}", f"not valid TOML: {message}")


def parse_host(written: object) -> HostName:
    """A broker's host name or IP address.

    Raises:
        ValueError: it cannot be one. (An IDNA-invalid name such as "a..b" would raise inside
            paho's network thread and end it.)
    """
    if not isinstance(written, str) or not written.strip():
        raise ValueError("expected a host name or an IP address")
    if "://" in written:
        raise ValueError("expected a host name, not a URL: leave out the scheme, set port apart")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, written)
        except OSError:
            continue
        return HostName(written)
    if re.search(r":\d+$", written):
        raise ValueError("expected a host name alone: set port apart")
    try:
        ascii_name = written.encode("idna").decode("ascii").removesuffix(".")
    except UnicodeError:
        raise ValueError("no host can have this name") from None
    labels = ascii_name.split(".")
    if len(ascii_name) > 253 or not all(
        re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", label) for label in labels
    ):
        raise ValueError("no host can have this name")
    if all(label.isdigit() for label in labels):
        raise ValueError("not a complete IP address")
    return HostName(written)


def _decode(target: Any, written: object) -> object:
    """msgspec's `dec_hook`: the types of `schema` that TOML does not know."""
    parsers: dict[Any, Callable[[object], object]] = {
        Seconds: Seconds.parse,
        Rate: Rate.parse,
        HostName: parse_host,
        MqttVersion: MqttVersion.parse,
    }
    if target in parsers:
        return parsers[target](written)
    if target in (Secret, Path):
        if not isinstance(written, str) or not written:
            raise ValueError("expected a text that is not empty")
        return target(written)
    raise NotImplementedError(target)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return "known here: " + ", ".join(choices)


class _Reader:
    """One pass over one document; `problems` grows, nothing is raised before the end."""

    def __init__(self, source: Path, text: str) -> None:
        self._source = source
        self._text = text
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def read(self, document: dict[str, Any]) -> Config:
        for key in document:
            if key not in _TABLES and key != "sensor":
                hint = _did_you_mean(key, [*_TABLES, "sensor"])
                self._problem((key,), f"unknown table; {hint}")
        tables = {
            name: self._optional_table(name, document)
            for name in ("outbox", "homeassistant", "status_led", "button")
        }
        node = self._node(document.get("node", {}))
        mqtt = self._mqtt(document.get("mqtt", _MISSING))
        for name in _LATER_TABLES & document.keys():
            self.notes.append(f"[{name}] is checked, and has no effect in this version")
        sensors = self._sensors(document.get("sensor", []))
        self._check_claims(sensors, tables)
        self._check_expiry(sensors, mqtt)
        if self.problems or node is None or mqtt is None:
            raise ConfigError(self._source, self.problems)
        return Config(
            source=self._source,
            node=node,
            mqtt=mqtt,
            sensors=tuple(sensor for _, sensor in sensors),
            notes=tuple(self.notes),
            **{name: table for name, table in tables.items() if table is not None},
        )

    def _problem(self, path: KeyPath, message: str, where: str = "") -> None:
        self.problems.append(Problem(self._line_of(path), where or _where(path), message))

    def _line_of(self, path: KeyPath) -> int:
        from node.toml_lines import line_of, locate_keys  # a right configuration needs no lines

        return line_of(path, locate_keys(self._text))

    def _optional_table(self, name: str, document: dict[str, Any]) -> Any:
        if name not in document:
            return None
        values = self._table(_TABLES[name], document[name], (name,))
        return None if values is None else _TABLES[name](**values)

    def _table(
        self,
        schema: type[msgspec.Struct],
        written: object,
        path: KeyPath,
        *,
        only: tuple[str, ...] = (),
    ) -> dict[str, Any] | None:
        """Convert a table key by key; None if anything in it is wrong.

        `only` names the fields to take, where the table has keys of another schema too.
        """
        if not isinstance(written, dict):
            self._problem(path, "expected a table")
            return None
        before = len(self.problems)
        values = self._right_keys(schema, written, path, only=only)
        return values if len(self.problems) == before else None

    def _right_keys(
        self,
        schema: type[msgspec.Struct],
        written: dict[str, Any],
        path: KeyPath,
        *,
        only: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Those keys of a table that could be converted; a problem noted for each other one."""
        fields = {
            field.encode_name: field
            for field in msgspec.structs.fields(schema)
            if not only or field.name in only
        }
        if not only:
            for key in written:
                if key not in fields:
                    self._problem((*path, key), f"unknown key; {_did_you_mean(key, fields)}")
        values: dict[str, Any] = {}
        for key, field in fields.items():
            if key in written:
                value = self._value(field.type, written[key], (*path, key))
                if value is not _MISSING:
                    values[field.name] = value
            elif field.required:
                self._problem((*path, key), "is missing")
        return values

    def _value(self, target: Any, written: object, path: KeyPath) -> Any:
        """Convert one value; `_MISSING`, with a problem noted, if it cannot be."""
        try:
            value = msgspec.convert(written, target, dec_hook=_decode)
        except (msgspec.ValidationError, ValueError) as error:
            message = _in_words(str(error))
            if get_origin(target) is Literal:
                message = "expected one of " + ", ".join(map(str, get_args(target)))
            if not _may_be_secret(path, written):
                message += f" (it is {_shown(written)})"
            self._problem(path, message)
            return _MISSING
        if not _is_finite(value):
            self._problem(path, "must be a finite number")
            return _MISSING
        return value

    def _node(self, written: object) -> NodeTable | None:
        if isinstance(written, dict) and "name" not in written:
            host = socket.gethostname().partition(".")[0]
            written = {**written, "name": re.sub(r"[^A-Za-z0-9_-]", "-", host)[:64] or "node"}
        values = self._table(NodeTable, written, ("node",))
        return None if values is None else NodeTable(**values)

    def _mqtt(self, written: object) -> MqttTable | None:
        if written is _MISSING:
            self._problem(("mqtt",), "is missing; at the least: host = the broker", "[mqtt]")
            return None
        if not isinstance(written, dict):
            self._problem(("mqtt",), "expected a table")
            return None
        tls = self._tls(written["tls"]) if "tls" in written else None
        plain = {key: value for key, value in written.items() if key != "tls"}
        before = len(self.problems)
        values = self._right_keys(MqttTable, plain, ("mqtt",))
        self._resolve_password(values)
        if not 5 <= values.get("keepalive", 30) <= 3600:
            self._problem(("mqtt", "keepalive"), "must lie between 5s and 1h")
        return MqttTable(**values, tls=tls) if len(self.problems) == before else None

    def _tls(self, written: object) -> TlsTable | None:
        values = self._table(TlsTable, written, ("mqtt", "tls"))
        if values is None:
            return None
        before = len(self.problems)
        for key, file in values.items():
            values[key] = file = self._source.parent / file
            self._read_file(file, ("mqtt", "tls", key))
        if ("cert_file" in values) != ("key_file" in values):
            self._problem(("mqtt", "tls"), "cert_file and key_file belong together")
        table = TlsTable(**values)
        if len(self.problems) == before:
            from node.tls import BadTlsFile, tls_context

            try:
                tls_context(table)
            except BadTlsFile as error:
                self._problem(("mqtt", "tls", error.key), str(error))
        return table

    def _resolve_password(self, values: dict[str, Any]) -> None:
        """Put the password of whichever source there is into `values`."""
        path: KeyPath = ("mqtt", "password")
        credential = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), "mqtt.password")
        if "password" in values and "password_file" in values:
            self._problem(path, "password and password_file exclude each other")
        elif "password_file" in values:
            file = self._source.parent / values["password_file"]
            path = ("mqtt", "password_file")
            if self._password_from(file, path, values) and file.stat().st_mode & 0o004:
                self.notes.append(f"{file} can be read by every user: chmod 640")
        elif "password" not in values and credential.exists():
            self._password_from(credential, path, values)
        if "password" in values and "username" not in values:
            self._problem(path, "a password needs a username beside it")

    def _password_from(self, file: Path, path: KeyPath, values: dict[str, Any]) -> bool:
        text = self._read_file(file, path)
        if text is None:
            return False
        if not text.strip():
            self._problem(path, f"{file} is empty")
        values["password"] = Secret(text.strip("\r\n"))
        return True

    def _read_file(self, file: Path, path: KeyPath) -> str | None:
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            self._problem(path, f"{file} is not text")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self._problem(path, f"{file} cannot be read: {reason}")
        return None

    def _sensors(self, written: object) -> list[tuple[int, SensorTable]]:
        """The sensors that are right, each with its index in the file."""
        if not isinstance(written, list):
            self._problem(("sensor",), "expected tables: write [[sensor]], in double brackets")
            return []
        sensors: list[tuple[int, SensorTable]] = []
        first_with: dict[str, int] = {}
        for index, table in enumerate(written):
            sensor = self._sensor(index, table)
            identity = table.get("id") if isinstance(table, dict) else None
            if isinstance(identity, str):
                if identity in first_with:
                    other = self._line_of(("sensor", first_with[identity]))
                    message = f'"{identity}" is the id of the sensor at line {other} already'
                    self._problem(("sensor", index, "id"), message)
                first_with.setdefault(identity, index)
            if sensor is not None:
                sensors.append((index, sensor))
        if not written and not self.problems:
            self.notes.append("no [[sensor]] is configured: only the node's status is published")
        return sensors

    def _sensor(self, index: int, written: object) -> SensorTable | None:
        path: KeyPath = ("sensor", index)
        if not isinstance(written, dict):
            self._problem(path, "expected a table")
            return None
        before = len(self.problems)
        common = self._table(SensorTable, written, path, only=_SENSOR_KEYS[:-1])
        if written.get("id") == "cmd":
            self._problem((*path, "id"), '"cmd" is taken by the topics of commands')
        info = self._driver(written.get("driver"), (*path, "driver"))
        if info is None:
            return None
        options = self._options(info, written, path)
        channels = self._channels(info, written.get("channel", {}), (*path, "channel"))
        if common is not None:
            interval_s = common.get("interval", 30.0)
            shortest_s = max(MIN_INTERVAL_S, info.min_interval_s)
            if interval_s < shortest_s:
                message = f"{info.name} cannot be read more often than every {shortest_s:g} s"
                self._problem((*path, "interval"), message)
        if common is None or options is None or len(self.problems) > before:
            return None
        return SensorTable(**common, channel=channels, info=info, options=info.options(**options))

    def _driver(self, name: object, path: KeyPath) -> DriverInfo | None:
        if not isinstance(name, str):
            return None
        try:
            return find_driver(name)
        except UnknownDriver:
            hint = _did_you_mean(name, driver_names())
            self._problem(path, f'there is no driver "{name}"; {hint}')
        except MissingSupport as error:
            self._problem(path, str(error))
        return None

    def _options(
        self, info: DriverInfo, written: dict[str, Any], path: KeyPath
    ) -> dict[str, Any] | None:
        own = {key: value for key, value in written.items() if key not in _SENSOR_KEYS}
        known = [field.encode_name for field in msgspec.structs.fields(info.options)]
        for key in [key for key in own if key not in known]:
            hint = _did_you_mean(key, [*known, *_SENSOR_KEYS])
            self._problem((*path, key), f"unknown key of the driver {info.name}; {hint}")
            del own[key]
        return self._table(info.options, own, path)

    def _channels(
        self, info: DriverInfo, written: object, path: KeyPath
    ) -> dict[str, ChannelTable]:
        if not isinstance(written, dict):
            self._problem(path, "expected tables: [sensor.channel.temperature]")
            return {}
        known = {channel.name: channel for channel in info.channels}
        tables: dict[str, ChannelTable] = {}
        for name, table in written.items():
            if name not in known and not info.more_channels:
                hint = _did_you_mean(name, known)
                self._problem((*path, name), f"{info.name} has no such channel; {hint}")
                continue
            values = self._table(ChannelTable, table, (*path, name))
            if values is not None:
                tables[name] = ChannelTable(**values)
                self._check_channel(tables[name], known.get(name), (*path, name))
        return tables

    def _check_channel(self, table: ChannelTable, channel: Channel | None, path: KeyPath) -> None:
        if table.offset is not None and table.calibrate is not None:
            self._problem(path, "offset and calibrate exclude each other")
        if table.calibrate is not None:
            measured = [point[0] for point in table.calibrate]
            if len(set(measured)) < len(measured):
                self._problem((*path, "calibrate"), "two points have the same measured value")
        if table.range is not None and not table.range[0] < table.range[1]:
            self._problem((*path, "range"), "expected [lowest, highest]")
        if table.median % 2 == 0:
            self._problem((*path, "median"), "must be odd: 3, 5, 7")
        if table.heartbeat is not None and table.delta is None:
            self._problem((*path, "heartbeat"), "has a meaning only beside delta")
        if table.unit is not None:
            units = convertible(channel.unit) if channel is not None else all_units()
            if table.unit not in units:
                message = f"cannot be {table.unit}; one of " + ", ".join(units)
                self._problem((*path, "unit"), message)

    def _check_expiry(self, sensors: list[tuple[int, SensorTable]], mqtt: MqttTable | None) -> None:
        """A heartbeat must come before the broker forgets the reading that it renews."""
        if mqtt is None or not mqtt.retain_for:
            return
        for index, sensor in sensors:
            kept_s = max(mqtt.retain_for, 3 * sensor.interval)
            for name, table in sensor.channel.items():
                if table.delta is None:
                    continue
                heartbeat_s: float = DEFAULT_HEARTBEAT_S
                if table.heartbeat is not None:
                    heartbeat_s = table.heartbeat
                if heartbeat_s + sensor.interval >= kept_s:
                    message = (
                        f"the broker forgets a reading after {duration_text(kept_s)} "
                        f"(retain_for); the heartbeat, {duration_text(heartbeat_s)}, must come "
                        "sooner"
                    )
                    self._problem(("sensor", index, "channel", name, "heartbeat"), message)

    def _check_claims(self, sensors: list[tuple[int, SensorTable]], tables: dict[str, Any]) -> None:
        """No two parts on one pin or address."""
        holders: dict[str, tuple[Claim, str]] = {}

        def claim(wanted: Claim, owner: str, path: KeyPath) -> None:
            if wanted.resource not in holders:
                holders[wanted.resource] = (wanted, owner)
                return
            held, holder = holders[wanted.resource]
            if holder == owner:
                self._problem(path, f"{wanted.resource} is used twice by {owner}")
            elif not held.shared_as or held.shared_as != wanted.shared_as:
                self._problem(path, f"{wanted.resource} is used by {holder} already")

        for index, sensor in sensors:
            for wanted in sensor.options.claims():
                claim(wanted, f'sensor "{sensor.id}"', ("sensor", index))
            if sensor.power_pin is not None:
                power = Claim(f"GPIO {sensor.power_pin}", "power")
                claim(power, f'power_pin of "{sensor.id}"', ("sensor", index, "power_pin"))
        for name in ("status_led", "button"):
            if tables[name] is not None:
                claim(Claim(f"GPIO {tables[name].pin}"), f"[{name}]", (name, "pin"))


def _where(path: KeyPath) -> str:
    """A key path in the words of TOML: `[mqtt] port`, `[[sensor]] #2 pin`."""
    if path[0] == "sensor" and len(path) > 1 and isinstance(path[1], int):
        table, rest = f"[[sensor]] #{path[1] + 1}", path[2:]
    elif len(path) == 1:
        table, rest = f"[{path[0]}]", ()
    else:
        table, rest = f"[{'.'.join(map(str, path[:-1]))}]", path[-1:]
    return " ".join([table, ".".join(map(str, rest))]).strip()


_WORDS = (
    (r" - at `\$.*`$", ""),
    (r"`", ""),
    (r" \| null", ""),
    (r"str matching regex '\^\[A-Za-z0-9_-\]\+.*'", "letters, digits, - and _"),
    (r"str matching regex", "a text like"),
    (r"\bint\b", "a whole number"),
    (r"\bfloat\b", "a number"),
    (r"\bstr\b", "a text"),
    (r"\bbool\b", "true or false"),
    (r"\barray\b", "a list"),
    (r"\bobject\b", "a table"),
    (r"^Expected", "expected"),
)


def _in_words(message: str) -> str:
    """A message of msgspec's in the words of TOML."""
    for pattern, words in _WORDS:
        message = re.sub(pattern, words, message)
    return message


def _may_be_secret(path: KeyPath, written: object) -> bool:
    """Whether a value that is wrong had better not be repeated: it goes into logs."""
    if path[0] != "mqtt":
        return False
    return path[-1] in ("password", "username") or "@" in str(written)


def _is_finite(value: object) -> bool:
    """No number in `value`, or in the lists in it, is infinite or not a number."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(_is_finite(element) for element in value)
    return True


def _shown(written: object) -> str:
    text = repr(written) if not isinstance(written, str) else f'"{written}"'
    return text if len(text) <= 40 else text[:37] + "..."
