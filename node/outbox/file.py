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
from typing import TypeVar

import msgspec

from node.outbox.anchors import CHAINED_SCHEMA, Anchors
from node.outbox.records import Batch, DeadLetter, Event, Ledger, Retiming
from node.outbox.rows import Damaged, Row, checksum_of, readings_of, rows_of
from node.outbox.streams import Streams
from node.reading import Layout, Reading

__all__ = ["NewerSchema", "OutboxFile", "is_damage"]

T = TypeVar("T")

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
_CACHE_KIB = 256
_AT_ONCE = 256
"""Rows that are salvaged together."""
_BUSY_S = 0.2

_DAMAGE = {
    sqlite3.SQLITE_ERROR,  # a table is missing: it is not our file
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_NOTADB,
}


class NewerSchema(Exception):
    """The file was written by a later version of this program."""


def is_damage(error: Exception) -> bool:
    """Return whether the file is unusable; otherwise it may work again with the disk."""
    if isinstance(error, Damaged | UnicodeDecodeError):
        return True
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return (code & 0xFF) in _DAMAGE or code == sqlite3.SQLITE_IOERR_SHORT_READ


class OutboxFile:
    """One open file, on one thread at a time."""

    def __init__(
        self,
        path: Path,
        *,
        new_stream: str = "",
        read_only: bool = False,
        salvaging: bool = False,
        chain: bool = False,
    ) -> None:
        """Open the file, create or migrate it, and check it if it was not closed properly.

        `new_stream`: the id for a new file. `salvaging`: the file is known to be damaged, and
        damaged parts are skipped. `chain`: the readings to come are chained.
        """
        self.path = path
        self.head: tuple[int, bytes] | None = None
        """The last reading with a hash, and it; None if the readings to come are not chained."""
        wal = path.with_name(path.name + "-wal")
        left_open = _size_of(wal) > 0
        uri = path.absolute().as_uri()
        if read_only:
            # Without a WAL there is no writer, and a reader should not create files next to the
            # log. With a WAL, its index is only read, too (https://sqlite.org/wal.html, "Read-Only
            # Databases"), unless a crash has removed it.
            uri += "?mode=ro" if wal.exists() else "?immutable=1"
            uri += "&readonly_shm=1" if path.with_name(path.name + "-shm").exists() else ""
        self._db = sqlite3.connect(
            uri,
            uri=True,
            timeout=_BUSY_S,
            isolation_level=None,
            check_same_thread=False,  # opened where the node is built, used where it runs
        )
        self._db.text_factory = _text
        self._inode = 0
        self._salvaging = salvaging
        try:
            check = left_open and not read_only and not salvaging
            self._set_up(new_stream, check=check, read_only=read_only)
            if chain and not read_only:
                self._begin_chain()
            self._inode = os.stat(path).st_ino
        except BaseException:
            self._db.close()
            raise

    def _set_up(self, new_stream: str, *, check: bool, read_only: bool) -> None:
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if schema > CHAINED_SCHEMA:
            raise NewerSchema(f"it has schema {schema}, and this version knows {CHAINED_SCHEMA}")
        self.anchors = Anchors(
            self._db,
            lambda: self._rows_of("SELECT * FROM anchor", tuple[int, bytes]),
            present=bool(schema == CHAINED_SCHEMA),
        )
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        if not read_only:
            if schema == 0:
                self._db.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        if check:
            (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise Damaged(verdict)
        if not read_only:
            self._migrate(schema, new_stream)
        self._load()

    def _migrate(self, schema: int, new_stream: str) -> None:
        if schema >= len(_MIGRATIONS):
            return
        with self._transaction():
            for script in _MIGRATIONS[schema:]:
                for statement in script.split(";"):
                    self._db.execute(statement)
            if schema == 0:
                self._write_ledger(new_stream, Ledger())
            self._db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _begin_chain(self) -> None:
        """Chain the readings to come to the last one; begin a chain if that has no hash."""
        last_seq = self.ledger.last_seq
        self.head = self.anchors.head_at(last_seq)
        if self.head is None:
            with self._transaction():
                head = self.anchors.begin(self.stream, last_seq)
            self.anchors.present, self.head = True, head

    def refresh(self) -> None:
        """Reload the present contents of the file, most of all the `ledger`."""
        self._load()

    def _load(self) -> None:
        self._layouts = {
            number: _decoded(definition)
            for number, definition in self._rows_of("SELECT * FROM layout", tuple[int, str])
        }
        self._layout_numbers = {layout: number for number, layout in self._layouts.items()}
        boots = self._rows_of("SELECT * FROM boot", tuple[int, str, int | None, int | None])
        self._boot_ids = {number: boot_id for number, boot_id, *_ in boots}
        self._boot_numbers = {boot_id: number for number, boot_id in self._boot_ids.items()}
        self.retimings = {
            boot_id: Retiming(set_at_ms, offset_ms)
            for _, boot_id, set_at_ms, offset_ms in boots
            if set_at_ms is not None and offset_ms is not None
        }
        ledgers = self._rows_of(
            "SELECT stream, last_seq, cursor, dropped, dead_letters, health, checksum FROM ledger",
            tuple[str, int, int, int, int, str],
        )
        if ledgers:
            self.stream, self.ledger = ledgers[0][0], Ledger(*ledgers[0][1:])
        elif self._salvaging:
            self.stream, self.ledger = "", Ledger()
        else:
            raise Damaged("the ledger is empty")
        self.streams = self._found_streams()
        newest = self._newest_row()
        if newest is not None:
            self.ledger.last_seq = max(self.ledger.last_seq, newest.last_seq)
            self.ledger.cursor = max(self.ledger.cursor, newest.cursor)
            self.ledger.dropped = max(self.ledger.dropped, newest.dropped)
        if self.ledger.cursor > self.ledger.last_seq:
            raise Damaged(f"the cursor {self.ledger.cursor} is beyond the last reading")

    def alarms(self) -> dict[str, str]:
        """Return alarm -> its state, as it was committed with its last record."""
        if not self._has_table("alarm"):
            return {}
        return dict(self._rows_of("SELECT * FROM alarm", tuple[str, str]))

    def _has_table(self, name: str) -> bool:
        tables = self._db.execute("SELECT name FROM sqlite_master WHERE name = ?", (name,))
        return tables.fetchone() is not None

    def _found_streams(self) -> Streams:
        begins: list[tuple[int, str]] = []
        if self._has_table("stream"):
            begins = self._rows_of("SELECT * FROM stream", tuple[int, str])
        if self.stream and self.stream not in {name for _, name in begins}:
            # An earlier version has begun another stream, and everything it sent later is in it.
            begins = [known for known in begins if known[0] <= self.ledger.cursor]
            begins.append((self.ledger.cursor + 1 if begins else 0, self.stream))
        return Streams(begins)

    def _newest_row(self) -> Row | None:
        rows = self._db.execute("SELECT * FROM tick ORDER BY last_seq DESC LIMIT 100")
        try:
            for row in (Row(*values) for values in rows):
                if row.checksum == row.expected_checksum:
                    return row
                if not self._salvaging:
                    raise Damaged("the checksum of the newest readings differs")
        except sqlite3.Error:
            if not self._salvaging:
                raise
        finally:
            rows.close()
        return None

    def _rows_of(self, query: str, kind: type[T]) -> list[T]:
        """Return the rows of a query, without the checksum at the end of each.

        Raises:
            Damaged: a checksum differs, or a column has an impossible value.
        """
        rows = self._db.execute(query).fetchall()
        sound = [row for row in rows if row[-1] == checksum_of(*row[:-1])]
        if len(sound) < len(rows) and not self._salvaging:
            raise Damaged(f"the checksum of a row differs ({query})")
        rows = sound
        try:
            return msgspec.convert([row[:-1] for row in rows], list[kind])  # type: ignore[valid-type]
        except msgspec.ValidationError as error:
            raise Damaged(f"{query}: {error}") from error

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

    # -- writing

    def commit(
        self,
        batch: Batch,
        ledger: Ledger,
        *,
        stream: str,
        keep_ledger: bool,
        streams: Streams | None = None,
    ) -> None:
        """Append readings, move the cursor, and write everything else, in one commit.

        `keep_ledger`: the ledger has news that the rows of readings do not contain. `streams` are
        written, too, if given.
        """
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

    # -- reading

    @property
    def first_seq(self) -> int | None:
        """Return the seq of the oldest reading."""
        row = self._db.execute(
            "SELECT last_seq - count + 1 FROM tick ORDER BY last_seq LIMIT 1"
        ).fetchone()
        return None if row is None else int(row[0])

    def last_before(self, utc_ms: int) -> int:
        """Return the seq of the last reading taken before `utc_ms`; 0 for none.

        Readings without a true time count with the next reading that has one.
        """
        found = 0
        rows = self._db.execute("SELECT last_seq, utc_ms, synced FROM tick ORDER BY last_seq")
        for last_seq, row_utc_ms, synced in rows:
            if synced and row_utc_ms >= utc_ms:
                break
            if synced:
                found = last_seq
        rows.close()
        return found

    def last_of_other_boots(self, boot_id: str) -> int:
        """Return the seq of the last reading of a boot other than `boot_id`; 0 for none."""
        this = next((number for number, name in self._boot_ids.items() if name == boot_id), None)
        (last,) = self._db.execute(
            "SELECT MAX(last_seq) FROM tick WHERE boot IS NOT ?", (this,)
        ).fetchone()
        return int(last or 0)

    def rows_after(self, seq: int, limit: int) -> Iterator[Row]:
        """Yield at most `limit` rows with readings after `seq`."""
        rows = self._db.execute(
            "SELECT * FROM tick WHERE last_seq > ? ORDER BY last_seq LIMIT ?", (seq, limit)
        )
        try:
            for values in rows:
                yield Row(*values)
        finally:
            rows.close()

    def as_written(self, row: Row) -> list[Reading]:
        """Return the readings of a row as they were taken: without times that came later.

        Raises:
            Damaged: it differs from what was written.
        """
        return readings_of(row, self._layouts, self._boot_ids)

    def readings_after(self, seq: int, limit: int, *, hashes: bool = False) -> list[Reading]:
        """Return at most `limit` readings after `seq`, with their true times if known.

        `hashes`: the last of each row with its hash, if they are chained.
        """
        found: list[Reading] = []
        for row in self.rows_after(seq, limit):
            found += self._readings_of(row, seq)
            if hashes and row.hash is not None:
                found[-1] = msgspec.structs.replace(found[-1], hash=row.hash)
            if len(found) >= limit:
                break
        return found[:limit]

    def _readings_of(self, row: Row, after_seq: int) -> list[Reading]:
        readings = self.as_written(row)
        retiming = self.retimings.get(readings[0].boot_id)
        return [
            reading if retiming is None else retiming.apply(reading)
            for reading in readings
            if reading.seq > after_seq
        ]

    def sound_readings(self) -> Iterator[list[Reading]]:
        """Yield the unacknowledged readings of a damaged file, without the unreadable ones.

        Every query that meets a damaged page fails. So rows are read in smaller numbers there, and
        one by one after it, in growing steps.
        """
        query = "SELECT * FROM tick WHERE last_seq > ? ORDER BY last_seq LIMIT ?"
        seq, limit, step = self.ledger.cursor, _AT_ONCE, 1
        while seq < self.ledger.last_seq:
            try:
                rows = [Row(*values) for values in self._db.execute(query, (seq, limit)).fetchall()]
            except (sqlite3.Error, UnicodeDecodeError):
                if limit > 1:
                    limit = max(1, limit // 8)
                else:
                    seq, step = seq + step, min(2 * step, _AT_ONCE)
                continue
            sound: list[Reading] = []
            for row in rows:
                with contextlib.suppress(Damaged):
                    sound += self._readings_of(row, seq)
            if sound:
                yield sound
            if not rows:
                return
            seq = max(seq + 1, rows[-1].last_seq)
            limit, step = min(2 * limit, _AT_ONCE), 1

    @property
    def chained(self) -> bool:
        """Return whether it has readings with a hash, or had."""
        return self.anchors.present

    @property
    def sensors(self) -> set[str]:
        """Every sensor that has, or had, a reading here."""
        return {layout.sensor for layout in self._layouts.values()}

    def dead_letters(self) -> list[tuple[int, DeadLetter]]:
        """Return what the broker would not take, each with its number, oldest first."""
        rows = self._db.execute(
            "SELECT id, utc_ms, topic, payload, reason FROM dead_letter ORDER BY id"
        )
        return [(number, DeadLetter(*letter)) for number, *letter in rows]

    def remove_dead_letters(self, numbers: Sequence[int]) -> None:
        """Remove messages that the broker has by now, and count them no more."""
        with self._transaction():
            for number in numbers:
                self._db.execute("DELETE FROM dead_letter WHERE id = ?", (number,))
            self.ledger.dead_letters = max(0, self.ledger.dead_letters - len(numbers))
            self._write_ledger(self.stream, self.ledger)

    def newest_readings(self, count: int) -> list[Reading]:
        """Return about the last `count` readings, newest last."""
        return self.readings_after(max(0, self.ledger.last_seq - count), count)

    def events(self, count: int) -> list[Event]:
        """Return the last `count` events, newest last."""
        rows = self._db.execute(
            "SELECT utc_ms, level, message FROM event ORDER BY id DESC LIMIT ?", (count,)
        )
        return [Event(*row) for row in rows][::-1]

    @property
    def in_place(self) -> bool:
        """Return whether the file is still where it was opened."""
        try:
            return os.stat(self.path).st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; SQLite moves the WAL's content into it if it can."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


def _size_of(file: Path) -> int:
    """Return the size of a file; 0 if it does not exist, or has just disappeared."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _text(content: bytes) -> str:
    """Decode a text column; a damaged one is detected by its checksum, not by sqlite3."""
    return content.decode("utf-8", "replace")


def _decoded(definition: str) -> Layout:
    try:
        return msgspec.json.decode(definition, type=Layout)
    except msgspec.DecodeError as error:
        raise Damaged(f"a layout cannot be read: {error}") from error
