"""Keeps a usable log file under the outbox, whatever happens to the disk.

If the disk is full or read-only, or permissions are missing, the file stays as it is: its content
can still be read, and writing is tried again. A file that is damaged, or from a later version, is
set aside under another name, and the undamaged readings are copied into the new one. Problems are
not raised, but reported by `problem` and `set_aside`.

Used by `Outbox`, on the loop's thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from node.outbox.file import OutboxFile
from node.outbox.log_file import LogFile, NewerSchema, is_damage, wal_of
from node.outbox.records import Batch, Ledger, Retiming
from node.outbox.rows import Damaged
from node.outbox.streams import Streams
from node.reading import Reading
from node.system.clock import Clock, utc_text
from node.system.safe_files import refuse_planted_link
from node.system.state_dir import StateDirTaken, make_state_dir

__all__ = ["FILE_NAME", "OutboxStore"]

_log = logging.getLogger(__name__)

FILE_NAME = "outbox.db"
TRY_AGAIN_S = 5.0
_REPLACE_AT_MOST_EVERY_S = 30.0
_NO_FOLDER = "the log has no folder"
_SET_ASIDE = "outbox-set-aside-"
_KEPT_SET_ASIDE = 3
_TO_SEND_IT = (
    "; to send what is in it, install the newer version again, stop the node, and rename the file "
    f"to {FILE_NAME}"
)

# UnicodeDecodeError: an invalid text, or a message of SQLite that quotes one.
_FILE_TROUBLE = (
    sqlite3.Error,
    Damaged,
    NewerSchema,
    OSError,
    UnicodeDecodeError,
    StateDirTaken,
)

T = TypeVar("T")


class OutboxStore:
    """The log file in `folder`; with None there is no file."""

    def __init__(
        self,
        folder: Path | None,
        clock: Clock,
        hold: Callable[[], None],
        *,
        chain: bool = False,
        sync_every_s: float = 0.0,
    ) -> None:
        """`hold` takes the folder for this process, and raises StateDirTaken.

        `chain`: the readings are chained (see `chain`). `sync_every_s`: how long a commit may stay
        in the memory of the kernel.
        """
        self._folder = folder
        self._chain = chain
        self._sync_every_s = sync_every_s
        self._sync_at_s = -math.inf
        self.left_open = False
        """Whether the file was not closed properly before it was opened."""
        self._clock = clock
        self._hold = hold
        self._unsalvaged: Path | None = None
        """A file set aside whose unsent readings could not be copied yet."""
        self._replaced_at_s = -math.inf
        self._lost = 0
        """Unsent readings lost to damage since the last call of `losses`."""
        self._file: LogFile | None = None
        """An `OutboxFile`; on a disk that has turned read-only another `LogFile`."""
        self._may_write = False
        self._try_at_s = -math.inf
        self.problem = "" if folder else _NO_FOLDER
        """Why readings are not written; "" while they are."""
        self.streams = Streams()
        """The ids of the sequences that `seq` counts in.

        Another sequence begins when writing fails. A reading sent from memory then might share its
        seq with a later one after a crash, and must not be confused with it.
        """
        self._streams_written = True
        self._last_written = 0
        """The last reading in the file."""
        self.set_aside: list[str] = []
        """Names of the files that could not be used, oldest first."""

    @property
    def has_folder(self) -> bool:
        return self._folder is not None

    @property
    def writable(self) -> bool:
        """Return whether there is a file that can be written, as far as known."""
        return self._file is not None and self._may_write

    def open(self, *, at_once: bool = False) -> Ledger | None:
        """Open the file, or try again after a failure; return its ledger if it was opened.

        A file that cannot be written is opened for reading, once, and its waiting readings are
        sent. Returns None if opening failed less than TRY_AGAIN_S ago, unless `at_once`, or if
        there is nothing new to try.
        """
        now_s = self._clock.monotonic()
        if self._folder is None or (now_s < self._try_at_s and not at_once):
            return None
        self._try_at_s = now_s + TRY_AGAIN_S
        try:
            self._lock_folder()
            file = self._file_at(self._folder / FILE_NAME)
        except _FILE_TROUBLE as error:
            if not isinstance(error, NewerSchema) and not is_damage(error):
                found = self._open_to_read()
                self._cannot_write(error)
                return found
            return self._replace(error)
        if self._unsalvaged is not None:
            self._salvage(file)
        return self._use(file)

    def _file_at(self, path: Path) -> OutboxFile:
        return OutboxFile(path, new_stream=self.streams.newest, chain=self._chain)

    def _open_to_read(self) -> Ledger | None:
        """Open the file on a disk that has turned read-only."""
        if self._file is not None or self._folder is None or self._unsalvaged is not None:
            return None
        try:
            self._hold()
            self._file = LogFile(self._folder / FILE_NAME)
        except _FILE_TROUBLE:
            return None
        self.streams = self._file.streams
        self._last_written = self._file.ledger.last_seq
        return self._file.ledger

    def _lock_folder(self) -> None:
        """Create the folder, and hold it."""
        assert self._folder is not None
        make_state_dir(self._folder)
        for suffix in ("", "-wal"):
            refuse_planted_link(self._folder / f"{FILE_NAME}{suffix}")
        self._hold()

    def _use(self, file: OutboxFile) -> Ledger:
        if self._file is None:
            self.streams = file.streams
        else:
            self._file.close()
        self._file = file
        self.left_open = file.left_open
        self._streams_written = file.streams.begins == self.streams.begins
        self._last_written = file.ledger.last_seq
        self._may_write = True
        self.set_aside = self._found_set_aside()
        return file.ledger

    def losses(self) -> int:
        """Return how many unsent readings were lost to damage; each is counted once."""
        lost, self._lost = self._lost, 0
        return lost

    def commit(self, batch: Batch, ledger: Ledger, *, keep_ledger: bool) -> bool:
        """Write the batch; return whether it succeeded."""

        def write(file: OutboxFile) -> bool:
            streams = None if self._streams_written else self.streams
            keep = keep_ledger or streams is not None or not batch.readings
            stream = self.streams.newest
            sync = now_s >= self._sync_at_s
            file.commit(batch, ledger, stream=stream, keep_ledger=keep, streams=streams, sync=sync)
            if sync:
                self._sync_at_s = now_s + self._sync_every_s
            self._streams_written = True
            self._last_written = ledger.last_seq
            return True

        now_s = self._clock.monotonic()
        self._mind_deletion()
        if not self.writable or not self._try_to_write(write):
            return False
        if self.problem:
            _log.warning("the log in %s is written again", self._folder)
            self.problem = ""
        return True

    def _mind_deletion(self) -> None:
        """Begin a new file if ours was deleted or replaced: it would vanish with this process."""
        if self._file is not None and not self._file.in_place:
            self._replace(Damaged("it was deleted, or replaced by another"))

    def look_for_set_aside(self) -> None:
        """Bring `set_aside` up to date: people delete such files."""
        with contextlib.suppress(OSError):
            self.set_aside = self._found_set_aside()

    def read(self, after_seq: int, limit: int) -> list[Reading] | None:
        """Return at most `limit` readings after `after_seq`; None if they cannot be read now."""
        if self._unsalvaged is not None:
            return None
        if self._file is None:
            return []
        before = self._file

        def look(file: LogFile) -> list[Reading]:
            return file.readings_after(after_seq, limit, hashes=self._chain)

        found = self._try(look)
        if found is None and self._file is not before:  # it was damaged, and was replaced
            found = self._try(look)
        return found

    @property
    def head(self) -> tuple[int, bytes] | None:
        """Return the last reading that is chained, and its hash; None if they are not."""
        return self._file.head if isinstance(self._file, OutboxFile) else None

    def first_seq(self) -> int | None:
        """Return the seq of the oldest reading in the file; None if it is empty."""
        return self._try(lambda file: file.first_seq)

    def last_before(self, utc_ms: int) -> int:
        """See `LogFile.last_before`."""
        return self._try(lambda file: file.last_before(utc_ms)) or 0

    def last_of_other_boots(self, boot_id: str) -> int:
        """See `LogFile.last_of_other_boots`."""
        return self._try(lambda file: file.last_of_other_boots(boot_id)) or 0

    def purge(self, upto_seq: int, ledger: Ledger) -> None:
        """Delete the rows up to `upto_seq`."""
        self._try_to_write(lambda file: file.purge(upto_seq, ledger, stream=self.streams.newest))
        if self.streams.forget_before(upto_seq + 1):
            self._streams_written = False

    def begin_stream(self, first_seq: int) -> None:
        """Begin another stream with the reading `first_seq`."""
        self.streams.begin(first_seq)
        self._streams_written = False

    @property
    def alarms(self) -> dict[str, str]:
        """Return alarm -> its state, as in the file."""
        return self._try(lambda file: file.alarms()) or {}

    @property
    def retimings(self) -> dict[str, Retiming]:
        """Return boot id -> how its clock was set, as in the file when it was opened."""
        return {} if self._file is None else self._file.retimings

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    # -- trouble

    def _try_to_write(self, action: Callable[[OutboxFile], T]) -> T | None:
        file = self._file
        return self._try(lambda _: action(file)) if isinstance(file, OutboxFile) else None

    def _try(self, action: Callable[[LogFile], T]) -> T | None:
        if self._file is None:
            return None
        try:
            return action(self._file)
        except _FILE_TROUBLE as error:
            if is_damage(error):
                self._replace(error)
            else:
                self._cannot_write(error)
            return None

    def _cannot_write(self, error: Exception) -> None:
        self._try_at_s = self._clock.monotonic() + TRY_AGAIN_S
        self._may_write = False
        what = getattr(error, "strerror", None) or str(error)
        problem = f"the log in {self._folder} cannot be written: {what}{self._why_disk()}"
        if not self.problem:
            _log.error(
                "%s; readings are kept in memory, and lost if the node ends. "
                "Check space and rights there, or choose another --state-dir",
                problem,
            )
            self.begin_stream(self._last_written + 1)
        self.problem = problem

    def _why_disk(self) -> str:
        """Say so if the disk is read-only (statvfs(3)), as when a card is worn out."""
        try:
            read_only = os.statvfs(self._folder or "").f_flag & os.ST_RDONLY
        except OSError:
            return ""
        return "; its disk is mounted read-only, as when a card is worn out" if read_only else ""

    def _replace(self, error: Exception) -> Ledger | None:
        """Set the file aside, and begin a new one with its undamaged readings."""
        assert self._folder is not None
        try:
            self._lock_folder()
        except _FILE_TROUBLE as trouble:
            self._cannot_write(trouble)
            return None
        now_s = self._clock.monotonic()
        if now_s < self._replaced_at_s + _REPLACE_AT_MOST_EVERY_S:
            self._cannot_write(error)  # again, and so soon: the disk itself is faulty
            return None
        self._replaced_at_s = now_s
        path = self._folder / FILE_NAME
        old, self._file = self._file, None
        if old is not None and old.in_place:
            old.close()
            old = None
        self.streams = Streams()
        try:
            if path.exists():
                aside = self._rename(path)
                self._unsalvaged = aside if is_damage(error) else None
                remedy = _TO_SEND_IT if isinstance(error, NewerSchema) else ""
                _log.error("the log cannot be used (%s): set aside as %s%s", error, aside, remedy)
            else:
                wal_of(path).unlink(missing_ok=True)
                _log.error("the log %s was deleted; a new one is begun", path)
            file = self._file_at(path)
        except _FILE_TROUBLE as second:
            self._cannot_write(second)
            return None
        self._salvage(file, old)
        return self._use(file)

    def _salvage(self, file: OutboxFile, old: LogFile | None = None) -> None:
        """Copy the unacknowledged readings that are undamaged, and keep their numbers."""
        aside, self._unsalvaged = self._unsalvaged, None
        try:
            if old is None and aside is not None:
                old = OutboxFile(aside, salvaging=True)
            if old is None:
                return
            old.refresh()
            ledger, copied, streams = old.ledger, 0, old.streams
            # The lost readings may have been sent, so their numbers are not used again.
            streams.begin(ledger.last_seq + 1)
            for readings in old.sound_readings():
                file.commit(Batch(readings), ledger, stream=streams.newest, keep_ledger=True)
                copied += len(readings)
            unsent = ledger.last_seq - ledger.cursor
            self._lost += unsent - copied
            _log.warning("%d of %d unsent readings were recovered", copied, unsent)
            stream = streams.newest
            rest = Batch(alarms=old.alarms())
            file.commit(rest, ledger, stream=stream, keep_ledger=True, streams=streams)
            file.ledger, file.streams = ledger, streams
        except _FILE_TROUBLE as error:
            _log.error("nothing could be recovered from the old log: %s", error)
        finally:
            if old is not None:
                old.close()

    def _rename(self, path: Path) -> Path:
        """Move the file and its WAL out of the way; delete all but the newest few such files."""
        stamp = utc_text(round(self._clock.utc_s() * 1000))[:19].replace(":", "")
        aside = path.with_name(f"{_SET_ASIDE}{stamp}.db")
        number = 1
        while aside.exists():
            number += 1
            aside = path.with_name(f"{_SET_ASIDE}{stamp}-{number}.db")
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
        for name in self._found_set_aside()[:-_KEPT_SET_ASIDE]:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(name + suffix).unlink(missing_ok=True)
        return aside

    def _found_set_aside(self) -> list[str]:
        assert self._folder is not None
        found = self._folder.glob(f"{_SET_ASIDE}*.db")
        return [path.name for path in sorted(found, key=lambda path: path.stat().st_mtime)]
