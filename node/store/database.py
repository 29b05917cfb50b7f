"""A database that has every reading once: SQLite or PostgreSQL, by one set of statements.

All methods raise:
    Unavailable: the database cannot be used now; nothing was changed, try again.
    Refused: it rejects the content; nothing was changed, and trying again would not help.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from node.store.batches import Batch, StoredReading
from node.store.schema import NEWEST, migrations
from node.store.spans import Span, new_numbers, united

__all__ = ["Database", "Gap", "NewerDatabase", "Refused", "Unavailable", "Written"]


class Unavailable(Exception):
    """The database cannot be used at present; the text says why, and what to do."""


class Refused(Exception):
    """The database rejects the content."""


class NewerDatabase(Exception):
    """A newer version of this program has made the tables."""


class Written(msgspec.Struct):
    """What came of some batches."""

    new: int = 0
    again: int = 0
    """Readings that were there already."""
    newest: dict[str, datetime] = {}
    """Node -> when its newest one was taken, of those whose clock was right."""


class Gap(msgspec.Struct, frozen=True):
    """Readings of a stream that were not received, although later ones were."""

    node: str
    stream: str
    first_seq: int
    last_seq: int
    stream_id: int


class Database:
    """The tables of `schema`, over a connection of the DB-API (PEP 249)."""

    postgres: bool

    def __init__(self) -> None:
        self._connection: Any = None
        self._channels: dict[tuple[str, str, str], int] = {}

    # -- what differs

    def _connect(self) -> Any:
        """Return a connection that begins no transaction by itself."""
        raise NotImplementedError

    def _translate(self, error: Exception) -> Exception:
        """Return Unavailable or Refused for an error of the library; others as they are."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Do what each connection needs before the tables are looked for."""

    def _tables_made(self) -> None:
        """Do what new tables need in the same transaction."""

    def _before_commit(self) -> None:
        """Do what has to be done before the new readings count as stored."""

    def _time(self, moment: datetime) -> Any:
        """Return the moment as a value of a `time` column."""
        return moment

    # -- what callers use

    def open(self) -> None:
        """Connect, and bring the tables up to date; do nothing if that is done.

        Raises:
            NewerDatabase: the tables are of a newer version of this program.
        """
        if self._connection is not None:
            return
        with self._translated():
            self._connection = self._connect()
            self._prepare()
        self._channels.clear()
        try:
            with self._transaction():
                self._migrate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection; the next call makes another one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def write(self, batches: Sequence[Batch]) -> Written:
        """Store what is new of the batches, in one transaction."""
        written = Written()
        with self._transaction():
            # Always in the same order, so that two writers never wait for each other.
            for batch in sorted(batches, key=lambda b: (b.node, b.stream)):
                self._write(batch, written)
            self._before_commit()
        return written

    def reject(self, topic: str, payload: bytes, problem: str) -> None:
        """Keep a message that cannot be stored as readings."""
        with self._transaction():
            self._execute(
                "INSERT INTO rejected (received, topic, payload, problem) VALUES (?, ?, ?, ?)",
                self._time(datetime.now(UTC)),
                topic.replace("\0", ""),
                payload,
                problem,
            )

    def gaps(self, limit: int) -> list[Gap]:
        """Return some gaps that are not known to be lost, the newest of each stream first."""
        with self._transaction():
            rows = self._execute(
                "SELECT node, stream, first_seq, last_seq, stream_id FROM gaps WHERE NOT lost "
                "ORDER BY stream_id, last_seq DESC LIMIT ?",
                limit,
            ).fetchall()
        return [Gap(*row) for row in rows]

    def missing(self) -> tuple[int, int]:
        """Return how many readings are missing, and how many of them are lost for good."""
        with self._transaction():
            # Not as whole numbers, whose sum SQLite refuses beyond 64 bits: a `seq` may be any.
            counting = "SELECT lost, sum(readings * 1.0) FROM gaps GROUP BY lost"
            rows = self._execute(counting).fetchall()
        counts = {bool(lost): int(readings) for lost, readings in rows}
        return sum(counts.values()), counts.get(True, 0)

    def claim(self, stream_id: int, after_s: float) -> bool:
        """Return whether this process may ask for a gap of the stream, and no other one does.

        It may ask again after `after_s`.
        """
        now = datetime.now(UTC)
        with self._transaction():
            cursor = self._execute(
                "UPDATE stream SET asked_at = ? WHERE id = ? "
                "AND (asked_at IS NULL OR asked_at < ? OR asked_at > ?)",
                self._time(now),
                stream_id,
                self._time(now - timedelta(seconds=after_s)),
                self._time(now + timedelta(seconds=after_s)),  # another computer's clock was wrong
            )
            return int(cursor.rowcount) == 1

    def answered(self, gap: Gap, lost: Span, begins: int | None) -> None:
        """Note that the node has sent what it has of a gap, and where the stream begins.

        Of the numbers `lost`, those that do not arrive in spite of that are lost.
        """
        with self._transaction():
            self._execute("UPDATE stream SET asked_at = NULL WHERE id = ?", gap.stream_id)
            if begins is not None and begins > 0:
                self._add_spans(gap.stream_id, [(0, begins - 1)])
            self._execute(
                "INSERT INTO lost VALUES (?, ?, ?) ON CONFLICT DO NOTHING", gap.stream_id, *lost
            )

    # -- in a transaction

    def _write(self, batch: Batch, written: Written) -> None:
        stream_id = self._stream_id(batch.node, batch.stream)
        self._lock(stream_id)
        by_seq = {reading.seq: reading for reading in batch.readings}
        if not by_seq:
            return
        known = self._spans_near(stream_id, min(by_seq), max(by_seq))
        new = new_numbers(known, by_seq)
        readings = [by_seq[seq] for seq in sorted(new)]
        self._insert(batch, stream_id, readings)
        if new:
            self._add_spans(stream_id, [(seq, seq) for seq in new])
        written.new += len(readings)
        written.again += len(batch.readings) - len(readings)
        newest = max((r.time for r in readings if r.synced), default=None)
        if newest is not None:
            written.newest[batch.node] = max(newest, written.newest.get(batch.node, newest))

    def _stream_id(self, node: str, stream: str) -> int:
        find = "SELECT id FROM stream WHERE node = ? AND stream = ?"
        row = self._execute(find, node, stream).fetchone()
        if row is None:
            since = self._time(datetime.now(UTC))
            self._execute(
                "INSERT INTO stream (node, stream, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                node,
                stream,
                since,
            )
            row = self._execute(find, node, stream).fetchone()
            # Numbers begin with 1: what is before the first reading is asked for, too.
            self._execute("INSERT INTO span VALUES (?, 0, 0) ON CONFLICT DO NOTHING", row[0])
        return int(row[0])

    def _lock(self, stream_id: int) -> None:
        """Keep other writers from the stream until the end of the transaction."""

    def _spans_near(self, stream_id: int, first_seq: int, last_seq: int) -> list[Span]:
        """Return the stored spans that touch these numbers."""
        rows = self._execute(
            "SELECT first_seq, last_seq FROM span "
            "WHERE stream_id = ? AND first_seq <= ? AND last_seq >= ?",
            stream_id,
            last_seq + 1,
            first_seq - 1,
        ).fetchall()
        return [(int(first), int(last)) for first, last in rows]

    def _add_spans(self, stream_id: int, spans: Sequence[Span]) -> None:
        first_seq, last_seq = min(spans)[0], max(last for _, last in spans)
        known = self._spans_near(stream_id, first_seq, last_seq)
        after = united([*known, *spans])
        for span in known:
            if span not in after:
                self._execute(
                    "DELETE FROM span WHERE stream_id = ? AND first_seq = ?", stream_id, span[0]
                )
        for span in after:
            if span not in known:
                self._execute("INSERT INTO span VALUES (?, ?, ?)", stream_id, *span)

    def _insert(self, batch: Batch, stream_id: int, readings: list[StoredReading]) -> None:
        """Insert the values and the events of new readings."""
        rows = [
            (
                self._time(reading.time),
                self._channel_id(batch.node, reading.sensor, name),
                value,
                stream_id,
                reading.seq,
                reading.synced,
                batch.simulated,
            )
            for reading in readings
            for name, value in reading.values.items()
        ]
        self._execute_many("INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._insert_events(stream_id, readings)

    def _insert_events(self, stream_id: int, readings: list[StoredReading]) -> None:
        rows = [
            (
                self._time(reading.time),
                stream_id,
                reading.seq,
                reading.sensor,
                reading.synced,
                msgspec.json.encode({**reading.values, **reading.other}).decode(),
            )
            for reading in readings
            if reading.other
        ]
        self._execute_many("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _channel_id(self, node: str, sensor: str, channel: str) -> int:
        key = (node, sensor, channel)
        known = self._channels.get(key)
        if known is not None:
            return known
        self._execute(
            "INSERT INTO channel (node, sensor, channel) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            *key,
        )
        row = self._execute(
            "SELECT id FROM channel WHERE node = ? AND sensor = ? AND channel = ?", *key
        ).fetchone()
        self._channels[key] = int(row[0])
        return self._channels[key]

    def _migrate(self) -> None:
        self._execute("CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL)")
        row = self._execute("SELECT max(version) FROM schema_version").fetchone()
        version = int(row[0] or 0)
        if version > NEWEST:
            raise NewerDatabase(
                f"its tables are of version {version}, and this sensor-node knows up to {NEWEST}: "
                "update it"
            )
        if version == NEWEST:
            return
        for statement in migrations(version, postgres=self.postgres):
            self._execute(statement)
        self._execute("DELETE FROM schema_version")
        self._execute("INSERT INTO schema_version VALUES (?)", NEWEST)
        self._tables_made()

    # -- the connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit at the end of the context; undo everything if it fails."""
        if self._connection is None:
            self.open()
        with self._translated():
            self._begin()
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                self._channels.clear()  # some of them may be undone
                with contextlib.suppress(Exception):
                    self._connection.execute("ROLLBACK")
                raise

    def _begin(self) -> None:
        self._connection.execute("BEGIN")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            translated = self._translate(error)
            if isinstance(translated, Unavailable):
                self.close()
            if translated is error:
                raise
            raise translated from error

    def _execute(self, statement: str, *values: Any) -> Any:
        return self._connection.execute(self._in_dialect(statement), values)

    def _execute_many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        cursor = self._connection.cursor()
        cursor.executemany(self._in_dialect(statement), rows)

    def _in_dialect(self, statement: str) -> str:
        return statement
