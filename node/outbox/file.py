"""The log of readings as a file: SQLite in WAL mode, synced to the disk with each commit.

    tick         the readings, in rows (see `rows`), each with the cursor at its commit
    layout       the meaning of the numbers of a reading
    boot         the boots of this computer that readings are from, and how its clock was set
    ledger       one row: the stream, and the facts that must outlive the ticks
    dead_letter  messages that the broker rejected
    event        warnings and errors, as logged
    stream       the streams of the readings; absent while there is only the ledger's
    alarm        the states of the alarms; absent while there was none
    anchor       the hashes that the oldest rows are chained to; only in a chained log

A commit that only appends touches one page of the table, and so writes about a kilobyte. That is
why the pages are small and each row contains the cursor. Raises `sqlite3.Error`, `Damaged` and
`NewerSchema`; `Outbox` handles them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from node.outbox.log_file import LogFile, wal_of
from node.outbox.records import Batch, DeadLetter, Event, Ledger, Retiming
from node.outbox.rows import Damaged, Row, checksum_of, rows_of
from node.outbox.streams import Streams
from node.reading import Layout, Reading

__all__ = ["OutboxFile"]

_MIGRATIONS = (
    """
    CREATE TABLE tick (
        last_seq INTEGER PRIMARY KEY, count INTEGER NOT NULL,
        cursor INTEGER NOT NULL, dropped INTEGER NOT NULL,
        boot INTEGER NOT NULL, boot_ms INTEGER NOT NULL,
        utc_ms INTEGER NOT NULL, synced INTEGER NOT NULL,
        readings BLOB NOT NULL, checksum INTEGER NOT NULL);
    CREATE TABLE layout (
        number INTEGER PRIMARY KEY, definition TEXT NOT NULL, checksum INTEGER NOT NULL);
    CREATE TABLE boot (
        number INTEGER PRIMARY KEY, boot_id TEXT NOT NULL,
        set_at_ms INTEGER, offset_ms INTEGER, checksum INTEGER NOT NULL);
    CREATE TABLE ledger (
        id INTEGER PRIMARY KEY CHECK (id = 1), stream TEXT NOT NULL,
        last_seq INTEGER NOT NULL, cursor INTEGER NOT NULL,
        dropped INTEGER NOT NULL, dead_letters INTEGER NOT NULL, health TEXT NOT NULL,
        checksum INTEGER NOT NULL);
    CREATE TABLE dead_letter (
        id INTEGER PRIMARY KEY, utc_ms INTEGER NOT NULL,
        topic TEXT NOT NULL, payload BLOB NOT NULL, reason TEXT NOT NULL);
    CREATE TABLE event (
        id INTEGER PRIMARY KEY, utc_ms INTEGER NOT NULL,
        level TEXT NOT NULL, message TEXT NOT NULL);
    """,
)
"""The steps that turn schema n - 1 into schema n; a new file begins at 0."""

KEPT_DEAD_LETTERS = 500
KEPT_EVENTS = 200
_STREAM_TABLE = (
    "CREATE TABLE IF NOT EXISTS stream "
    "(first_seq INTEGER PRIMARY KEY, id TEXT NOT NULL, checksum INTEGER NOT NULL)"
)
_ALARM_TABLE = (
    "CREATE TABLE IF NOT EXISTS alarm "
    "(name TEXT PRIMARY KEY, state TEXT NOT NULL, checksum INTEGER NOT NULL)"
)
"""An earlier version ignores these two, and can still use the file after an update is undone."""
_INSERT_TICK = f"INSERT INTO tick VALUES ({', '.join('?' * 10)})"
_INSERT_CHAINED = f"INSERT INTO tick VALUES ({', '.join('?' * 11)})"
_PAGE_BYTES = 1024
_WAL_PAGES = 200
_WAL_BYTES = 32 + (_WAL_PAGES + 16) * (24 + _PAGE_BYTES)
"""The size that the WAL reaches before it is folded (https://sqlite.org/fileformat2.html#walformat);
the last commit before that may have some pages more."""


class OutboxFile(LogFile):
    """The open file of the node that writes it, on one thread at a time."""

    def __init__(
        self,
        path: Path,
        *,
        new_stream: str = "",
        salvaging: bool = False,
        chain: bool = False,
    ) -> None:
        """Open the file, create or migrate it, and check it if it was not closed properly.

        `new_stream`: the id for a new file. `salvaging`: the file is known to be damaged, and
        damaged parts are skipped. `chain`: the readings to come are chained.
        """
        self.head: tuple[int, bytes] | None = None
        """The last reading with a hash, and it; None if the readings to come are not chained."""
        self._new_stream = new_stream
        self._salvaging = salvaging
        self.left_open = _size_of(wal_of(path)) > 0
        """Whether it was not closed properly."""
        self._syncs = True
        self._open(path)
        if chain:
            try:
                self._begin_chain()
            except BaseException:
                self._db.close()
                raise

    def _set_up(self, schema: int) -> None:
        if schema == 0:
            self._db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        if self.left_open and not self._salvaging:
            (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise Damaged(verdict)
        self._migrate(schema)
        super()._set_up(schema)
        if not self._salvaging:
            self._lengthen_wal()

    def _load(self) -> None:
        super()._load()
        self._layout_numbers = {layout: number for number, layout in self._layouts.items()}
        self._boot_numbers = {boot_id: number for number, boot_id in self._boot_ids.items()}

    def _lengthen_wal(self) -> None:
        """Give the WAL its later size now, so that commits do not make it longer.

        A commit to a file that grows also costs its inode and the journal of the file system: on
        ext4 29 kB in place of 17 kB. SQLite takes the zeros for the end of the WAL. Without the
        room for them, or the right, the WAL grows as it does otherwise.
        """
        with contextlib.suppress(OSError):
            descriptor = os.open(wal_of(self.path), os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                size = os.fstat(descriptor).st_size
                os.pwrite(descriptor, bytes(max(0, _WAL_BYTES - size)), size)
            finally:
                os.close(descriptor)

    def _migrate(self, schema: int) -> None:
        if schema >= len(_MIGRATIONS):
            return
        with self._transaction():
            for script in _MIGRATIONS[schema:]:
                for statement in script.split(";"):
                    self._db.execute(statement)
            if schema == 0:
                self._write_ledger(self._new_stream, Ledger())
            self._db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _begin_chain(self) -> None:
        """Chain the readings to come to the last one; begin a chain if that has no hash."""
        last_seq = self.ledger.last_seq
        self.head = self.anchors.head_at(last_seq)
        if self.head is None:
            with self._transaction():
                head = self.anchors.begin(self.stream, last_seq)
            self.anchors.present, self.head = True, head

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit everything in the block, or nothing if anything fails."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error, Damaged):
                self._db.execute("ROLLBACK")
                self._load()
            raise

    def commit(
        self,
        batch: Batch,
        ledger: Ledger,
        *,
        stream: str,
        keep_ledger: bool,
        streams: Streams | None = None,
        sync: bool = True,
    ) -> None:
        """Append readings, move the cursor, and write everything else, in one commit.

        `keep_ledger`: the ledger has news that the rows of readings do not contain. `streams` are
        written, too, if given. Without `sync` a power cut may undo this commit, though not damage
        the file; the next one with it syncs both.
        """
        if sync is not self._syncs:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if sync else 'NORMAL'}")
            self._syncs = sync
        notes = batch.retimings or batch.dead_letters or batch.events or batch.alarms
        if not (keep_ledger or notes) and (row := self._as_one_row(batch.readings, ledger)):
            self._insert([row])
            self._follow(row)
            return
        rows: list[Row] = []
        with self._transaction():
            rows += self._rows(batch.readings, ledger)
            self._insert(rows)
            for boot_id, retiming in batch.retimings.items():
                self._write_boot(self._boot_number(boot_id), boot_id, retiming)
            self._note("dead_letter", batch.dead_letters, KEPT_DEAD_LETTERS)
            self._note("event", batch.events, KEPT_EVENTS)
            self._write_alarms(batch.alarms)
            if keep_ledger:
                self._write_ledger(stream, ledger)
            if streams is not None:
                self._write_streams(streams)
        for row in rows[-1:]:
            self._follow(row)

    def _follow(self, row: Row) -> None:
        """Chain the next row to this one, which is committed."""
        self.head = None if row.hash is None else (row.last_seq, row.hash)

    def _insert(self, rows: Sequence[Row]) -> None:
        for row in rows:
            values = msgspec.structs.astuple(row)
            if self.anchors.present:
                self._db.execute(_INSERT_CHAINED, values)
            else:
                self._db.execute(_INSERT_TICK, values[:-1])

    def _as_one_row(self, readings: Sequence[Reading], ledger: Ledger) -> Row | None:
        """Return the readings as one row, if there is nothing else to write; else None."""
        if not all(reading.layout in self._layout_numbers for reading in readings):
            return None
        if readings[0].boot_id not in self._boot_numbers:
            return None
        rows = self._rows(readings, ledger)
        first = next(rows)
        return first if next(rows, None) is None else None

    def _rows(self, readings: Sequence[Reading], ledger: Ledger) -> Iterator[Row]:
        return rows_of(
            readings,
            cursor=ledger.cursor,
            dropped=ledger.dropped,
            layout_number=self._layout_number,
            boot_number=self._boot_number,
            head=None if self.head is None else self.head[1],
        )

    def _write_ledger(self, stream: str, ledger: Ledger) -> None:
        values = (stream, *msgspec.structs.astuple(ledger))
        self._db.execute(
            "INSERT OR REPLACE INTO ledger VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
            (*values, checksum_of(*values)),
        )

    def _write_streams(self, streams: Streams) -> None:
        self._db.execute(_STREAM_TABLE)
        self._db.execute("DELETE FROM stream")
        rows = [(*known, checksum_of(*known)) for known in streams.begins]
        self._db.executemany("INSERT INTO stream VALUES (?, ?, ?)", rows)

    def _write_alarms(self, states: dict[str, str]) -> None:
        if not states:
            return
        self._db.execute(_ALARM_TABLE)
        for name, state in states.items():
            self._db.execute("DELETE FROM alarm WHERE name = ?", (name,))
            if state:
                row = (name, state, checksum_of(name, state))
                self._db.execute("INSERT INTO alarm VALUES (?, ?, ?)", row)

    def _note(self, table: str, notes: Sequence[DeadLetter] | Sequence[Event], keep: int) -> None:
        """Append to a table, and keep its newest `keep` rows."""
        if not notes:
            return
        values = [(None, *msgspec.structs.astuple(note)) for note in notes]
        marks = ", ".join("?" * len(values[0]))
        self._db.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
        newest = f"SELECT max(id) FROM {table}"
        self._db.execute(f"DELETE FROM {table} WHERE id <= ({newest}) - ?", (keep,))

    def _layout_number(self, layout: Layout) -> int:
        number = self._layout_numbers.get(layout)
        if number is None:
            definition = msgspec.json.encode(layout).decode()
            number = max(self._layouts, default=0) + 1
            self._db.execute(
                "INSERT INTO layout VALUES (?, ?, ?)",
                (number, definition, checksum_of(number, definition)),
            )
            self._layout_numbers[layout] = number
            self._layouts[number] = layout
        return number

    def _boot_number(self, boot_id: str) -> int:
        number = self._boot_numbers.get(boot_id)
        if number is None:
            number = max(self._boot_ids, default=0) + 1
            self._write_boot(number, boot_id, None)
            self._boot_numbers[boot_id] = number
            self._boot_ids[number] = boot_id
        return number

    def _write_boot(self, number: int, boot_id: str, retiming: Retiming | None) -> None:
        set_at_ms, offset_ms = (retiming.set_at_ms, retiming.offset_ms) if retiming else (None,) * 2
        values = (number, boot_id, set_at_ms, offset_ms)
        self._db.execute(
            "INSERT OR REPLACE INTO boot VALUES (?, ?, ?, ?, ?)", (*values, checksum_of(*values))
        )

    def purge(self, upto_seq: int, ledger: Ledger, *, stream: str) -> None:
        """Delete the rows up to `upto_seq`, and boots that rows no longer refer to."""
        with self._transaction():
            self._write_ledger(stream, ledger)
            self.anchors.keep_before(upto_seq)
            self._db.execute("DELETE FROM tick WHERE last_seq <= ?", (upto_seq,))
            self._db.execute(
                "DELETE FROM boot WHERE number NOT IN (SELECT boot FROM tick) "
                "AND number < (SELECT max(number) FROM boot)"
            )
        self._load()

    def remove_dead_letters(self, numbers: Sequence[int]) -> None:
        """Remove messages that the broker has by now, and count them no more."""
        with self._transaction():
            for number in numbers:
                self._db.execute("DELETE FROM dead_letter WHERE id = ?", (number,))
            self.ledger.dead_letters = max(0, self.ledger.dead_letters - len(numbers))
            self._write_ledger(self.stream, self.ledger)


def _size_of(file: Path) -> int:
    """Return the size of a file; 0 if it does not exist, or has just disappeared."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
