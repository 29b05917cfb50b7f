"""Walks tables of the configuration key by key, and collects every problem with its line.

msgspec alone would stop at the first problem. `mqtt`, `sensors` and `simulation` define the
meaning of the tables.
"""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

import msgspec

from node.config.values import convert_value, in_quotes, is_like_a_key, key_meant, shown

if TYPE_CHECKING:
    from node.config.toml_lines import KeyPath

__all__ = [
    "ConfigError",
    "Problem",
    "TableReader",
    "expected_table",
    "fields_of",
    "find_file",
    "table_in",
    "tables_by_name",
    "unreadable",
]

DEFAULT_FILE = Path("/etc/sensor-node/node.toml")
_NOTHING = object()
_SUFFIXES = (".crt", ".pem", ".cer", ".key", ".password", ".passwd", ".txt")
_SECRET_KEYS = ("password", "username", "key")


def find_file(option: str | None) -> Path:
    """Return `--config`, else $SENSOR_NODE_CONFIG, else /etc/sensor-node/node.toml."""
    return Path(option or os.environ.get("SENSOR_NODE_CONFIG") or DEFAULT_FILE)


@functools.cache
def fields_of(schema: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Return the fields of a table; cached, because it is needed for each sensor and is slow."""
    return msgspec.structs.fields(schema)


def tables_by_name(target: Any) -> type[msgspec.Struct] | None:
    """Return the schema of the tables in a field `dict[str, TABLE]`; None for another field."""
    if get_origin(target) is not dict:
        return None
    schema = get_args(target)[1]
    return schema if isinstance(schema, type) and issubclass(schema, msgspec.Struct) else None


def table_in(target: Any) -> type[msgspec.Struct] | None:
    """Return the schema of the table in a field `TABLE | None`; None for another field."""
    if get_origin(target) not in (Union, types.UnionType):
        return None
    for part in get_args(target):
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return part
    return None


class Problem(msgspec.Struct, frozen=True):
    """One problem of the configuration, without anything that may be a secret.

    It goes into logs, health and `status.txt`. A misplaced text may be a password, be it a value,
    an unknown key or the name of a missing file. The problem then names only the line and what was
    expected.
    """

    line: int
    """From 1; 0 for the file as a whole."""
    where: str
    """The table and key: `[[sensor]] air: pin`."""
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.where}: {self.message}"


class ConfigError(Exception):
    """The configuration cannot be used; `problems` lists all that is wrong with it."""

    def __init__(self, source: Path, problems: Iterable[Problem], shown: str = "") -> None:
        """`shown`: replaces the message of a single problem, and quotes the line."""
        self.source = source
        self.problems = sorted(problems, key=lambda problem: problem.line)
        self._shown = shown
        super().__init__(f"{source}: {len(self.problems)} problems")

    def report(self, *, for_owner: bool = False) -> str:
        """Return the problems, one per line, as a compiler would print them.

        With `for_owner` the report quotes a line that is not valid TOML. That is for the terminal
        of the file's author only, not for anything that is stored or sent.
        """
        shown = self._shown if for_owner else ""
        return "\n".join(
            f"{self.source}:{problem.line}: {problem.where}: {shown or problem.message}"
            if problem.line
            else f"{self.source} {problem.message}"
            for problem in self.problems
        )


def expected_table(name: str) -> str:
    """Return the message for something that should be a table with the path `name`."""
    return f"expected a table: write [{name}], in single brackets"


def unreadable(source: Path, error: Exception) -> ConfigError:
    """Return the error for a file that cannot be read at all."""
    from node.system.rights import remedy  # not needed for a readable file

    reason = getattr(error, "strerror", None) or error
    what_to_do = remedy(source)
    if what_to_do:
        what = f"cannot be read: {reason}; {what_to_do}; or name another with --config FILE"
    else:
        what = f"cannot be read: {reason}; name the file with --config FILE"
    return ConfigError(source, [Problem(0, "file", what)])


class TableReader:
    """One pass over one document; it collects `problems`, and raises nothing before the end."""

    def __init__(self, source: Path, text: str, copies: Path | None = None) -> None:
        """`copies`: a folder with a copy of each file that the document names, by its key."""
        self.source = source
        self._text = text
        self._copies = copies
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.remarks: list[str] = []
        self.sensor_ids: dict[int, str] = {}
        """The ids of those `[[sensor]]` tables that have one, right or wrong, for messages."""

    def problem(self, path: KeyPath, message: str, where: str = "") -> None:
        """Report a problem at `path`."""
        where = where or self.words_for(path)
        self.problems.append(Problem(self.line_of(path), where, message))

    def unknown_key(self, path: KeyPath, known: Iterable[str], of_what: str = "") -> None:
        """Report an unknown key.

        The message names the key if it resembles a known one, and so is a slip of the pen.
        """
        key, known = str(path[-1]), list(known)
        where = self.words_for(path if is_like_a_key(key, known) else path[:-1])
        self.problem(path, f"unknown key{of_what}; {key_meant(key, known)}", where)

    def words_for(self, path: KeyPath) -> str:
        """Return a key path as TOML writes it."""
        return _where(path, self.sensor_ids)

    def remark(self, path: KeyPath, message: str) -> None:
        """Note something at `path` that is valid but could be written better."""
        self.remarks.append(f"{self.words_for(path)}: {message}")

    def line_of(self, path: KeyPath) -> int:
        """Return the line of `path` in the file."""
        from node.config.toml_lines import (  # a valid configuration does not need lines
            line_of,
            locate_keys,
        )

        return line_of(path, locate_keys(self._text))

    def table(
        self, schema: type[msgspec.Struct], written: object, path: KeyPath
    ) -> dict[str, Any] | None:
        """Convert a table key by key; return None if anything in it is wrong."""
        if not isinstance(written, dict):
            self.problem(path, "expected a table")
            return None
        before = len(self.problems)
        values = self.right_keys(schema, written, path)
        return values if len(self.problems) == before else None

    def right_keys(
        self,
        schema: type[msgspec.Struct],
        written: dict[str, Any],
        path: KeyPath,
        *,
        only: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        """Return the keys of a table that could be converted; report the others.

        `only` names the fields to convert, if the table also has keys of another schema.
        """
        fields = {
            field.encode_name: field
            for field in fields_of(schema)
            if not only or field.name in only
        }
        if not only:
            for key in written:
                if key not in fields:
                    self.unknown_key((*path, key), fields)
        values: dict[str, Any] = {}
        for key, field in fields.items():
            if key in written:
                value = self._key(field.type, written[key], (*path, key))
                if value is not _NOTHING:
                    values[field.name] = value
            elif field.required:
                self.problem((*path, key), "is missing")
        return values

    def _key(self, target: Any, written: object, path: KeyPath) -> Any:
        """Convert the value of a key, or the tables in it, each of which has a name and keys."""
        if (single := table_in(target)) is not None:
            values = self.table(single, written, path)
            return _NOTHING if values is None else single(**values)
        schema = tables_by_name(target)
        if schema is None:
            return self._value(target, written, path)
        if not isinstance(written, dict):
            header = ".".join(str(part) for part in path if isinstance(part, str))
            self.problem(path, f"expected tables: [{header}.NAME]")
            return _NOTHING
        tables = {name: self.table(schema, table, (*path, name)) for name, table in written.items()}
        if any(values is None for values in tables.values()):
            return _NOTHING
        return {name: schema(**values) for name, values in tables.items() if values is not None}

    def _value(self, target: Any, written: object, path: KeyPath) -> Any:
        """Convert one value; report a problem and return `_NOTHING` if it cannot be converted."""
        try:
            return convert_value(target, written)
        except ValueError as error:
            seen = "" if path[-1] in _SECRET_KEYS else shown(written)
            seen = f" (it is {seen}{in_quotes(target, written)})" if seen else ""
            self.problem(path, f"{error}{seen}")
            return _NOTHING

    def locate(self, written: Path, key: str) -> Path:
        """Return the path of the file that `key` names, or of its copy."""
        return self.source.parent / written if self._copies is None else self._copies / key

    def read_file(self, file: Path, path: KeyPath) -> str | None:
        """Return the text of the file that the key at `path` names; report a problem and return
        None if it cannot be read."""
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            self.problem(path, f"{file} is not text")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            # A text that does not look like a file name may be the password itself.
            named = file if self._is_a_file_name(file) else "the file that it names"
            self.problem(path, f"{named} cannot be read: {reason}")
        return None

    def _is_a_file_name(self, file: Path) -> bool:
        """Return whether a text looks like the name of a file."""
        try:
            elsewhere = (
                file.parent not in (self.source.parent, Path("/")) and ".." not in file.parts
            )
            return file.exists() or file.suffix in _SUFFIXES or (elsewhere and file.parent.is_dir())
        except (OSError, ValueError):  # too long, or with a NUL in it
            return False


def _where(path: KeyPath, sensor_ids: dict[int, str]) -> str:
    """Return a key path as TOML writes it: `[mqtt] port`, `[[sensor]] air pin`."""
    if path[:2] == ("simulation", "fault") and len(path) > 2 and isinstance(path[2], int):
        table, rest = f"[[simulation.fault]] #{path[2] + 1}", path[3:]
    elif path[0] == "sensor" and len(path) > 1 and isinstance(path[1], int):
        name = sensor_ids.get(path[1], f"#{path[1] + 1}")
        table, rest = f"[[sensor]] {name}", path[2:]
        if rest[2:3] == ("alarm",) and len(rest) > 3:  # channel.temperature.alarm, its index, a key
            table += f" {'.'.join(map(str, rest[:3]))} #{int(rest[3]) + 1}"
            rest = rest[4:]
    elif len(path) == 1:
        table, rest = f"[{path[0]}]", ()
    else:
        table, rest = f"[{'.'.join(map(str, path[:-1]))}]", path[-1:]
    return " ".join([table, ".".join(map(str, rest))]).strip()
