"""The database as a schema of PostgreSQL 12 or newer, by psycopg 3."""

from __future__ import annotations

from typing import Any

import psycopg

from node.store.database import Database, Refused, Unavailable

__all__ = ["PostgresDatabase"]

_SCHEMA = "sensor_node"
_LOCK = 0x736E6F64
"""The key of the lock that one process holds while it makes the tables."""
_CONTENT = (psycopg.DataError, psycopg.IntegrityError)


class PostgresDatabase(Database):
    """`address`: what libpq takes, as `postgresql://USER@HOST/DATABASE`.

    The password may also be in PGPASSFILE, PGPASSWORD or a service file.
    """

    postgres = True

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._has_timescale = False

    def _connect(self) -> Any:
        return psycopg.connect(
            self._address,
            autocommit=True,
            application_name="sensor-node store",
            connect_timeout=10,
            keepalives_idle=15,
            keepalives_interval=5,
            keepalives_count=3,
            tcp_user_timeout=30_000,
        )

    def _prepare(self) -> None:
        self._connection.execute(f"SET search_path = {_SCHEMA}, public")
        self._connection.execute("SET client_min_messages = warning")
        found = self._connection.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'")
        self._has_timescale = found.fetchone() is not None

    def _migrate(self) -> None:
        self._execute("SELECT pg_advisory_xact_lock(?)", _LOCK)
        if self._execute(f"SELECT to_regnamespace('{_SCHEMA}')").fetchone()[0] is None:
            self._execute(f"CREATE SCHEMA {_SCHEMA}")
        super()._migrate()

    def _tables_made(self) -> None:
        if self._has_timescale:
            self._execute("SELECT create_hypertable('reading', 'time')")

    def _lock(self, stream_id: int) -> None:
        self._execute("SELECT FROM stream WHERE id = ? FOR UPDATE", stream_id)

    def _in_dialect(self, statement: str) -> str:
        return statement.replace("?", "%s")  # no statement has a % or a ? of its own

    def _translate(self, error: Exception) -> Exception:
        if isinstance(error, _CONTENT):
            return Refused(str(error).splitlines()[0])
        if isinstance(error, psycopg.Error):
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            return Unavailable(f"PostgreSQL: {first_line}")
        return error
