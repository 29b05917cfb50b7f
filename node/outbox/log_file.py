"""The log of readings, opened to be read: by the node, the page, `plot`, `status` and `doctor`.

`file` describes its tables, and writes them. Raises `sqlite3.Error`, `Damaged` and `NewerSchema`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from node import __version__
from node.outbox.anchors import CHAINED_SCHEMA, Anchors
from node.outbox.records import DeadLetter, Event, Ledger, Retiming
from node.outbox.rows import Damaged, Row, checksum_of, readings_of
from node.outbox.streams import Streams
from node.reading import Layout, Reading

__all__ = ["LogFile", "NewerSchema", "is_damage", "wal_of"]

T = TypeVar("T")

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


def wal_of(path: Path) -> Path:
    """Return where SQLite has the WAL of a file."""
    return path.with_name(path.name + "-wal")


class LogFile:
    """One open file, on one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file without ever changing it."""
        self._salvaging = False
        # Without a WAL there is no writer, and a reader should not create files next to the
        # log. With a WAL, its index is only read, too (https://sqlite.org/wal.html, "Read-Only
        # Databases"), unless a crash has removed it.
        options = "?mode=ro" if wal_of(path).exists() else "?immutable=1"
        options += "&readonly_shm=1" if path.with_name(path.name + "-shm").exists() else ""
        self._open(path, options)

    def _open(self, path: Path, options: str = "") -> None:
        """Connect to the file, with these options of SQLite's URI, and read what is small."""
        self.path = path
        self._db = sqlite3.connect(
            path.absolute().as_uri() + options,
            uri=True,
            timeout=_BUSY_S,
            isolation_level=None,
            check_same_thread=False,  # opened where the node is built, used where it runs
        )
        self._db.text_factory = _text
        try:
            (schema,) = self._db.execute("PRAGMA user_version").fetchone()
            if schema > CHAINED_SCHEMA:
                raise NewerSchema(
                    f"a newer version of sensor-node wrote it, in format {schema}, and this "
                    f"version ({__version__}) knows formats up to {CHAINED_SCHEMA}"
                )
            self._set_up(schema)
            self._inode = os.stat(path).st_ino
        except BaseException:
            self._db.close()
            raise

    def _set_up(self, schema: int) -> None:
        self.anchors = Anchors(
            self._db,
            lambda: self._rows_of("SELECT * FROM anchor", tuple[int, bytes]),
            present=bool(schema == CHAINED_SCHEMA),
        )
        self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._load()

    def refresh(self) -> None:
        """Reload the present contents of the file, most of all the `ledger`."""
        self._load()

    def _load(self) -> None:
        self._layouts = {
            number: _decoded(definition)
            for number, definition in self._rows_of("SELECT * FROM layout", tuple[int, str])
        }
        boots = self._rows_of("SELECT * FROM boot", tuple[int, str, int | None, int | None])
        self._boot_ids = {number: boot_id for number, boot_id, *_ in boots}
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
                with suppress(Damaged):
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
        with suppress(sqlite3.Error):
            self._db.close()


def _text(content: bytes) -> str:
    """Decode a text column; a damaged one is detected by its checksum, not by sqlite3."""
    return content.decode("utf-8", "replace")


def _decoded(definition: str) -> Layout:
    try:
        return msgspec.json.decode(definition, type=Layout)
    except msgspec.DecodeError as error:
        raise Damaged(f"a layout cannot be read: {error}") from error
