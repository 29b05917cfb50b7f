"""The outbox: every reading, from the filters until the broker has acknowledged it.

    append ──► uncommitted ──commit──► OutboxStore (SQLite) ──read──► History ──► broker
                                            cursor ◄──acknowledge──────┘

It is a log: sending moves a cursor, and old rows are deleted in bulk. While the file cannot be
written, readings wait in memory, are sent from there, and are written when that works again.

Used on the loop's thread.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec

from node.config.schema import OutboxTable
from node.outbox.records import Batch, DeadLetter, Event, Ledger, Retiming
from node.outbox.store import OutboxStore
from node.reading import Layout, Reading
from node.system.clock import Clock

__all__ = ["Outbox"]

_log = logging.getLogger(__name__)

MAX_IN_MEMORY = 10_000
"""Readings that wait for a file to be written to."""
PURGE_EVERY_S = 3600.0
SLACK = 1000
"""How many readings above `max_readings` the file may have before some are deleted in bulk."""
_MAX_NOTES = 50
_MAX_AT_ONCE = 500
_MEMORY_IS_FULL = f"{MAX_IN_MEMORY} are kept in memory"


class Outbox:
    """The log of readings of one node, in `folder`; with None, only in memory."""

    def __init__(
        self,
        folder: Path | None,
        table: OutboxTable,
        clock: Clock,
        *,
        hold: Callable[[], None] = lambda: None,
    ) -> None:
        """`hold` takes the folder for this process, and raises StateDirTaken."""
        self._table = table
        self._clock = clock
        self._store = OutboxStore(
            folder, clock, hold, chain=table.chain, sync_every_s=table.sync_every
        )
        self._ledger = Ledger()
        self._ledger_changed = False
        self._follows_a_file = False
        """Whether the numbers of readings continue those of a file."""
        self.first_of_life = 1
        """The first reading of this process."""
        self._stored_cursor = 0
        self._stored_from = 1
        """The oldest reading in the file."""
        self._uncommitted: deque[Reading] = deque()
        self._retimings: dict[str, Retiming] = {}
        self._notes = Batch(retimings={}, dead_letters=[], events=[], alarms={})
        """The other content to write with the next readings."""
        self._acknowledged: dict[int, int] = {}
        """First seq -> last seq of readings that were acknowledged beyond the cursor."""
        self._purge_at_s = clock.monotonic() + PURGE_EVERY_S
        self._reported_drops: set[str] = set()
        self._skipped = (0, 0)
        """How many readings beyond the cursor were dropped from memory, and the last such seq."""
        self.numbering = 0
        """Counts how often readings were renumbered; readings in flight are then void."""
        self.committed = 0
        self._open()

    # -- what is in it

    @property
    def stream(self) -> str:
        """Return the id of the sequence that the next `seq` counts in."""
        return self._store.streams.newest

    def stream_of(self, seq: int) -> str:
        """Return the id of the sequence that a reading counts in."""
        return self._store.streams.of(seq)

    def begin_of(self, stream: str) -> int | None:
        """Return the first seq of a stream; None if the log has no reading of it."""
        return self._store.streams.begin_of(stream)

    @property
    def last_seq(self) -> int:
        return self._ledger.last_seq

    @property
    def cursor(self) -> int:
        """Return the last seq up to which everything was acknowledged or dropped."""
        return self._ledger.cursor

    @property
    def unsent(self) -> int:
        """Return how many readings wait for the broker."""
        skipped, skipped_to = self._skipped
        return self.last_seq - self.cursor - (skipped if skipped_to > self.cursor else 0)

    @property
    def dropped(self) -> int:
        """Return how many readings were dropped because of the bound, in the life of the file."""
        return self._ledger.dropped

    @property
    def dead_letters(self) -> int:
        """Return how many messages the broker rejected, in the life of the file."""
        return self._ledger.dead_letters

    @property
    def chain_head(self) -> tuple[int, bytes] | None:
        """Return the last reading that is chained, and its hash; None if they are not."""
        return self._store.head

    @property
    def problem(self) -> str:
        """Return why readings are not written to the disk; "" while they are."""
        return self._store.problem

    @property
    def set_aside(self) -> list[str]:
        """Return the names of log files that could not be used."""
        return self._store.set_aside

    def look_for_set_aside(self) -> None:
        """Bring `set_aside` up to date."""
        self._store.look_for_set_aside()

    @property
    def notes_waiting(self) -> bool:
        """Return whether so many messages were rejected since the last commit that it is due."""
        return len(self._notes.dead_letters) >= _MAX_NOTES // 2

    @property
    def condition(self) -> tuple[str, int, bool, bool]:
        """Return the state of the outbox that is reported whenever it changes."""
        return self.problem, len(self.set_aside), self.dropped > 0, self.dead_letters > 0

    @property
    def cursor_lag(self) -> int:
        """Return by how many readings the cursor is ahead of the committed one."""
        return self._ledger.cursor - self._stored_cursor

    def read(self, after_seq: int, limit: int) -> list[Reading]:
        """Return at most `limit` readings after `after_seq`, with their true times if known.

        While readings in the file cannot be read, return none of those in memory, so that the
        former are not skipped.
        """
        found: list[Reading] = []
        in_memory_from = self._uncommitted[0].seq if self._uncommitted else math.inf
        if after_seq + 1 < in_memory_from:
            stored = self._store.read(after_seq, limit)
            if stored is None:
                return []
            found = [self.retimed(reading) for reading in stored]
        if self._uncommitted and len(found) < limit:
            after_seq = found[-1].seq if found else after_seq
            skipped = max(0, after_seq + 1 - self._uncommitted[0].seq)
            wanted = islice(self._uncommitted, skipped, skipped + limit - len(found))
            found += map(self.retimed, wanted)
        return found

    def last_before(self, utc_ms: int) -> int:
        """See `LogFile.last_before`."""
        return self._store.last_before(utc_ms)

    @property
    def last_of_other_boots(self) -> int:
        """Return the seq of the last reading of an earlier boot; 0 for none."""
        return self._store.last_of_other_boots(self._clock.boot_id)

    def retimed(self, reading: Reading) -> Reading:
        """Return the reading with its true time, if that has become known."""
        retiming = self._retimings.get(reading.boot_id)
        return reading if retiming is None else retiming.apply(reading)

    # -- what changes it

    def append(
        self,
        layout: Layout,
        numbers: tuple[float, ...],
        *,
        boot_s: float,
        utc_s: float,
        synced: bool,
    ) -> Reading:
        """Add a reading, to be written with the next `commit`; it gets its seq here."""
        self._ledger.last_seq += 1
        reading = Reading(
            seq=self._ledger.last_seq,
            layout=layout,
            numbers=numbers,
            boot_id=self._clock.boot_id,
            boot_ms=round(boot_s * 1000),
            utc_ms=round(utc_s * 1000),
            synced=synced,
        )
        self._uncommitted.append(reading)
        return reading

    def acknowledge(self, first_seq: int, last_seq: int) -> None:
        """Note that the broker has these readings.

        The cursor moves when the broker also has all earlier ones.
        """
        if last_seq > self.cursor:
            self._acknowledged[first_seq] = last_seq
            self._follow_acknowledged()

    def _follow_acknowledged(self) -> None:
        while self._acknowledged:
            first_seq = min(self._acknowledged)
            if first_seq > self.cursor + 1:
                return
            self._ledger.cursor = max(self.cursor, self._acknowledged.pop(first_seq))

    def forget_acknowledged(self) -> None:
        """Forget acknowledgements beyond the cursor: on a new link the readings are sent again."""
        self._acknowledged.clear()

    def clock_was_set(self, *, boot_s: float, utc_s: float) -> None:
        """Apply the time, now that it is known, to all readings of this boot up to now."""
        boot_ms = round(boot_s * 1000)
        retiming = Retiming(set_at_ms=boot_ms, offset_ms=round(utc_s * 1000) - boot_ms)
        self._retimings[self._clock.boot_id] = retiming
        self._notes.retimings[self._clock.boot_id] = retiming

    def refused(self, topic: str, payload: bytes, reason: str) -> None:
        """Keep a message that the broker rejected, with the next commit."""
        self._ledger.dead_letters += 1
        utc_ms = round(self._clock.utc_s() * 1000)
        self._notes.dead_letters = [
            *self._notes.dead_letters[-_MAX_NOTES + 1 :],
            DeadLetter(utc_ms, topic, payload, reason),
        ]

    def note(self, event: Event) -> None:
        """Keep a line of the program's log, with the next commit."""
        self._notes.events = [*self._notes.events[-_MAX_NOTES + 1 :], event]

    @property
    def alarms(self) -> dict[str, str]:
        """Return alarm -> its state, as in the file."""
        return self._store.alarms

    def keep_alarm(self, name: str, state: str) -> None:
        """Keep the state of an alarm, with the next commit; "" if the alarm is gone."""
        self._notes.alarms[name] = state

    def set_health(self, snapshot: str) -> None:
        """Keep the node's health, with the next commit."""
        if snapshot != self._ledger.health:
            self._ledger.health = snapshot
            self._ledger_changed = True

    @property
    def unsaved(self) -> bool:
        """Return whether `commit` has something to write, even if only a moved cursor."""
        notes = self._notes
        return bool(
            self._uncommitted
            or self._ledger_changed
            or self.cursor_lag
            or notes.retimings
            or notes.dead_letters
            or notes.events
            or notes.alarms
        )

    def commit(self) -> None:
        """Write everything that is new, in one transaction, and delete old rows."""
        if not self._store.writable:
            self._open()
        self._count_lost()
        self._keep_bound()
        if self.unsaved and self._write():
            self._purge()
        if not self._store.writable:
            self._keep_memory_bound()

    def _write(self) -> bool:
        notes = self._notes
        batch = msgspec.structs.replace(notes, readings=list(self._uncommitted))
        keep_ledger = self._ledger_changed or bool(notes.dead_letters)
        if not self._store.commit(batch, self._ledger, keep_ledger=keep_ledger):
            return False
        self.committed += len(self._uncommitted)
        self._stored_cursor = self.cursor
        self._ledger_changed = False
        self._reported_drops.discard(_MEMORY_IS_FULL)
        self._uncommitted.clear()
        self._notes = Batch(retimings={}, dead_letters=[], events=[], alarms={})
        return True

    def try_file_again(self) -> int:
        """Write the readings in memory, even soon after a failure; return how many remain.

        Only readings that the broker has not acknowledged are counted.
        """
        if not self._store.writable:
            self._open(at_once=True)
        self._count_lost()
        self._keep_bound()
        if self.unsaved:
            self._write()
        return sum(reading.seq > self.cursor for reading in self._uncommitted)

    def close(self) -> None:
        """Write the remaining readings, and close the file properly."""
        if (lost := self.try_file_again()) and self._store.has_folder:
            _log.error(
                "%d readings are lost: they could be neither written (%s) nor sent",
                lost,
                self.problem or "the log has just failed",
            )
        self._store.close()

    # -- bounds

    def _keep_bound(self) -> None:
        """Drop the oldest unsent readings above the bound, a hundredth of it at a time."""
        bound = self._table.max_readings
        excess = self.unsent - bound
        if excess > 0:
            self._report_drops(f"max_readings is {bound}")
            self._drop_upto(self.cursor + max(excess, bound // 100))
        elif self.unsent < bound // 2:
            self._reported_drops.discard(f"max_readings is {bound}")

    def _keep_memory_bound(self) -> None:
        """Drop the oldest readings in memory above the bound."""
        while len(self._uncommitted) > MAX_IN_MEMORY:
            self._report_drops(_MEMORY_IS_FULL)
            self._drop_from_memory(self._uncommitted.popleft().seq)

    def _drop_upto(self, upto_seq: int) -> None:
        has = sum(
            min(last, upto_seq) - first + 1
            for first, last in self._acknowledged.items()
            if first <= upto_seq
        )
        self._ledger.dropped += upto_seq - self.cursor - has
        self._ledger.cursor = upto_seq
        self._follow_acknowledged()

    def _drop_from_memory(self, seq: int) -> None:
        """Drop a reading from memory; unsent readings in the file before it stay."""
        if seq <= self.cursor:
            return
        if seq == self.cursor + 1:
            self._drop_upto(seq)
            return
        skipped, skipped_to = self._skipped
        self._skipped = (skipped + 1 if skipped_to > self.cursor else 1, seq)
        self._ledger.dropped += 1

    def _report_drops(self, why: str) -> None:
        if why not in self._reported_drops:
            self._reported_drops.add(why)
            _log.error("the outbox is full (%s): the oldest unsent readings are dropped", why)

    def _count_lost(self) -> None:
        self._ledger.dropped += self._store.losses()

    def _purge(self) -> None:
        """Delete rows in bulk: those above the bound, and once an hour those that are too old."""
        now_s = self._clock.monotonic()
        bound = self._table.max_readings
        upto_seq = 0
        if self.last_seq - self._stored_from >= bound + min(SLACK, bound):
            upto_seq = self.last_seq - bound
        if now_s >= self._purge_at_s:
            self._purge_at_s = now_s + PURGE_EVERY_S
            if self._clock.synced():
                oldest_ms = round((self._clock.utc_s() - self._table.keep) * 1000)
                upto_seq = max(upto_seq, self._store.last_before(oldest_ms))
        upto_seq = min(upto_seq, self.cursor)
        if upto_seq >= self._stored_from:
            self._store.purge(upto_seq, self._ledger)
            self._stored_from = self._store.first_seq() or self.last_seq + 1

    # -- the file

    def begin_stream(self) -> None:
        """Begin another stream with the next reading."""
        self._begin_stream(self.last_seq + 1)

    def begin_stream_since(self, newer_than_ms: int | None) -> None:
        """Begin another stream at the point where this log diverged from its original.

        That is the first reading of this process, or the first unsent one that is newer than
        `newer_than_ms`, UTC: earlier readings may have been sent under the old stream.
        """
        first_seq, after_seq = self.first_of_life, self.cursor
        while newer_than_ms is not None and (found := self.read(after_seq, _MAX_AT_ONCE)):
            newer = next((r.seq for r in found if r.utc_ms > newer_than_ms), None)
            if newer is not None:
                first_seq = min(first_seq, newer)
                break
            after_seq = found[-1].seq
        self._begin_stream(first_seq)

    def _begin_stream(self, first_seq: int) -> None:
        self._store.begin_stream(first_seq)
        self._ledger_changed = True
        self.numbering += 1

    def _open(self, *, at_once: bool = False) -> None:
        """Open the file, or try again; readings in memory by then follow those in the file."""
        found = self._store.open(at_once=at_once)
        if found is None:
            return
        if not self._follows_a_file and found.last_seq > 0:
            self.first_of_life = found.last_seq + 1
            self._renumber(found)
        if not self._follows_a_file and self._table.sync_every and self._store.left_open:
            # Readings that were not synced may be at the broker, and their numbers are used again.
            self.begin_stream()
        self._follows_a_file = True
        self._retimings = {**self._store.retimings, **self._retimings}
        self._stored_cursor = found.cursor
        self._stored_from = self._store.first_seq() or found.last_seq + 1

    def _renumber(self, found: Ledger) -> None:
        """Renumber the readings that were not sent from memory to follow the end of the file."""
        unsent = [reading for reading in self._uncommitted if reading.seq > self.cursor]
        self._uncommitted.clear()
        for seq, reading in enumerate(unsent, found.last_seq + 1):
            self._uncommitted.append(msgspec.structs.replace(reading, seq=seq))
        found.last_seq += len(unsent)
        found.dropped += self._ledger.dropped
        found.dead_letters += self._ledger.dead_letters
        self._ledger = found
        self._acknowledged.clear()
        self.numbering += 1
