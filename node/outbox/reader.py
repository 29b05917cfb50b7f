"""Read-only access to the log for the page, `plot`, `status` and `doctor`, also to a damaged one.

The log is held for milliseconds, and never changed.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from node.health import Health
from node.outbox.log_file import LogFile, NewerSchema, is_damage, wal_of
from node.outbox.records import Ledger
from node.outbox.rows import Damaged
from node.reading import Reading
from node.system.rights import remedy

__all__ = [
    "LOG_TROUBLE",
    "health_in",
    "health_of",
    "look_into",
    "open_log",
    "readings_from",
    "why_not",
    "written_s",
]

T = TypeVar("T")

LOG_TROUBLE = (sqlite3.Error, Damaged, NewerSchema, OSError, UnicodeDecodeError)
_AGAIN = 3
_AGAIN_AFTER_S = 0.02
_AT_ONCE = 1000
"""Readings of one query: the log is held for some milliseconds at a time."""
_MAX_UNSOUND = 300
"""The most unreadable readings in one look; after that many, the reader gives up for now."""


@contextlib.contextmanager
def open_log(file: Path) -> Iterator[LogFile]:
    """Open the log, for as short a time as possible.

    Raises:
        One of LOG_TROUBLE.
    """
    with contextlib.closing(_patiently(lambda: _opened_once(file))) as log:
        yield log


def look_into(file: Path, look: Callable[[LogFile], T]) -> T:
    """Return what `look` finds in the log.

    Raises:
        One of LOG_TROUBLE.
    """

    def open_and_look() -> T:
        with contextlib.closing(_opened_once(file)) as log:
            return look(log)

    return _patiently(open_and_look)


def _patiently(attempt: Callable[[], T]) -> T:
    """Try repeatedly, because a node that opens or closes the log creates or removes its WAL."""
    for _ in range(_AGAIN):
        try:
            return attempt()
        except sqlite3.OperationalError:
            time.sleep(_AGAIN_AFTER_S)
    return attempt()


def _opened_once(file: Path) -> LogFile:
    if not file.exists():
        raise FileNotFoundError("it does not exist yet: has the node been started?")
    index = file.with_name(file.name + "-shm")
    if wal_of(file).exists() and not index.exists():
        raise sqlite3.OperationalError(
            "it was not closed properly, and the index of its WAL is missing; "
            "the node creates it again when it starts"
        )
    return LogFile(file)


def readings_from(
    log: LogFile,
    seq: int,
    unsound: Callable[[], None] | None = None,
    *,
    most: int = 1 << 62,
    hashes: bool = False,
) -> Iterator[list[Reading]]:
    """Yield about `most` readings after `seq`, some at a time, without damaged ones.

    `unsound` is called for each query that met a damaged one. `hashes`: with their hashes, if they
    are chained.
    """
    limit, step, failed, found = _AT_ONCE, 1, 0, 0
    while found < most and seq < log.ledger.last_seq:
        try:
            readings = log.readings_after(seq, min(limit, most), hashes=hashes)
        except (sqlite3.DatabaseError, Damaged, UnicodeDecodeError) as error:
            if not is_damage(error):
                raise
            if limit > 1:
                limit = max(1, limit // 8)
                continue
            failed += 1
            if unsound is not None:
                unsound()
            if failed > _MAX_UNSOUND:
                return
            seq, step = seq + step, min(2 * step, 64)
            continue
        if not readings:
            return
        yield readings
        found += len(readings)
        seq = max(seq + 1, readings[-1].seq)
        limit, step = min(2 * limit, _AT_ONCE), 1


def why_not(file: Path, error: Exception) -> str:
    """Return why the log cannot be read, and what to do."""
    if isinstance(error, FileNotFoundError):
        return f"there is no log in {file.parent} yet: has the node been started?"
    what_to_do = remedy(file)
    if what_to_do:
        return f"the log {file} cannot be read: Permission denied; {what_to_do}"
    hint = "may the page's user read it?"
    if isinstance(error, NewerSchema):
        hint = "restart the page with the version that the node has"
    elif is_damage(error):
        hint = "it is damaged; the node sets it aside when it starts, or finds the damage"
    return f"the log {file} cannot be read: {error} ({hint})"


def health_in(ledger: Ledger) -> Health | None:
    """Return the node's last health; None if it is from another version."""
    try:
        return msgspec.json.decode(ledger.health, type=Health)
    except msgspec.DecodeError:
        return None


def health_of(ledger: Ledger, process: int | None) -> Health | None:
    """Return the last health of the process that holds the log, or of the last one that did.

    None if it is from another version, or from an earlier process than the running one.
    """
    health = health_in(ledger)
    return health if health is None or process in (None, health.process) else None


def written_s(file: Path) -> float:
    wal = wal_of(file)
    times = []
    for part in (file, wal):
        with contextlib.suppress(OSError):
            times.append(part.stat().st_mtime)
    return max(0.0, time.time() - max(times)) if times else 0.0
