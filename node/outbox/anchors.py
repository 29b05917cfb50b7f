"""Where the chain of hashes stands in the log's file: the column `hash` of `tick`, and `anchor`.

An anchor is a hash that the next row is chained to, and that no row before it has: at the beginning
of a chain, and in place of rows that were deleted. Raises what `file` raises.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from node.outbox.chain import beginning_of
from node.outbox.rows import checksum_of

__all__ = ["CHAINED_SCHEMA", "Anchors"]

CHAINED_SCHEMA = 2
"""The schema of a log that is chained, or was. An earlier version cannot use it, and sets it aside;
so no other log has it."""
_MIGRATION = (
    "ALTER TABLE tick ADD COLUMN hash BLOB",
    "CREATE TABLE anchor (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL, checksum INTEGER NOT NULL)",
    f"PRAGMA user_version = {CHAINED_SCHEMA}",
)
_LAST_ROW = "SELECT last_seq, hash FROM tick WHERE last_seq <= ? ORDER BY last_seq DESC LIMIT 1"


class Anchors:
    """The hashes in one file."""

    def __init__(
        self, db: sqlite3.Connection, read: Callable[[], list[tuple[int, bytes]]], *, present: bool
    ) -> None:
        """`read` returns the rows of `anchor`, checked; `present`: the file has schema 2."""
        self._db = db
        self._read = read
        self.present = present

    def all(self) -> dict[int, bytes]:
        """Return seq -> the hash that the reading after it is chained to."""
        return dict(self._read()) if self.present else {}

    def head_at(self, seq: int) -> tuple[int, bytes] | None:
        """Return the last hash up to the reading `seq`, of a row or an anchor, and its reading."""
        if not self.present:
            return None
        row_seq, row_hash = self._db.execute(_LAST_ROW, (seq,)).fetchone() or (-1, None)
        anchors = self.all()
        anchor_seq = max((at for at in anchors if at <= seq), default=-1)
        if anchor_seq > row_seq or (anchor_seq == row_seq and row_hash is None):
            return (anchor_seq, anchors[anchor_seq]) if anchor_seq in anchors else None
        return None if row_hash is None else (row_seq, row_hash)

    def begin(self, stream: str, seq: int) -> tuple[int, bytes]:
        """Begin a chain after the reading `seq`, within a transaction; return its head."""
        if not self.present:
            for statement in _MIGRATION:
                self._db.execute(statement)
        beginning = beginning_of(stream, seq)
        self._write(seq, beginning)
        return seq, beginning

    def keep_before(self, upto_seq: int) -> None:
        """Keep what the first row after `upto_seq` is chained to; the rows before are deleted."""
        last = self._db.execute(_LAST_ROW, (upto_seq,)).fetchone() if self.present else None
        if last is not None and last[1] is not None:
            self._write(*last)
            self._db.execute("DELETE FROM anchor WHERE seq < ?", (last[0],))

    def _write(self, seq: int, value: bytes) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO anchor VALUES (?, ?, ?)", (seq, value, checksum_of(seq, value))
        )
