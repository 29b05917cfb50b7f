"""The database as a file of SQLite."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

from node.store.database import Database, Refused, Unavailable

__all__ = ["SqliteDatabase"]

_WAIT_S = 5.0
"""How long a writer waits for another one."""
_CONTENT = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError)


class SqliteDatabase(Database):
    """A file; several processes may write to it, on one computer."""

    postgres = False

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def _connect(self) -> Any:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(self._file, timeout=_WAIT_S, isolation_level=None)

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")  # stored means: after a power cut

    def _begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def _time(self, moment: datetime) -> str:
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, _CONTENT):
            return Refused(str(error))
        if isinstance(error, sqlite3.Error | OSError):
            return Unavailable(f"{self._file}: {error}")
        return error
