"""Looks into the log on request, and keeps the result: `Known`.

The log is open only during a look, for some milliseconds: a permanent reader would keep the node
from folding its WAL into the file, and from leaving the file in good order at its end. Opening the
log does not write, create or lock anything that the node needs (see `LogFile`).

Any thread may call; one thread looks at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from node.health import Health, age_of
from node.outbox.log_file import LogFile
from node.outbox.reader import LOG_TROUBLE, health_in, open_log, readings_from, why_not, written_s
from node.outbox.records import Event, Ledger, Retiming
from node.outbox.store import FILE_NAME
from node.plot.series import Moment
from node.reading import Reading
from node.system.clock import Clock, SystemClock
from node.system.state_dir import lock_holder
from node.web.summary import Summary

__all__ = ["Known", "Watcher"]

LOOK_AT_MOST_EVERY_S = 1.0
_FORGET_EVERY_S = 3600.0
_EVENTS = 20
_STEPPED_MS = 30_000
"""After a step of this computer's clock by this much, the whole log is read again. A step moves
readings without a true time, and a step back leaves buckets in the future that block new ones."""


class Known(msgspec.Struct, frozen=True):
    """The content of the log at the last look."""

    now: Moment
    problem: str = ""
    """Why the log cannot be read; "" while it can."""
    process: int | None = None
    """The process of the node that writes the log; None if none runs."""
    stream: str = ""
    written_s: float = 0.0
    """Seconds since the log was last written."""
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    health: Health | None = None
    """The node's last report on itself; from the previous run if `health_is_old`."""
    health_is_old: bool = False
    oldest_s: float | None = None
    """The age of the oldest reading that the broker has not acknowledged; 0 without any."""
    events: tuple[Event, ...] = ()
    unsound: int = 0
    """Number of damaged readings, which were skipped."""


class _Told(SystemClock):
    """A clock that takes `synced` from the running node's report.

    This process cannot ask the kernel, because it may not make any call that could set the clock.
    """

    def __init__(self, clock: Clock, synced: bool) -> None:
        self._clock = clock
        self._synced = synced
        self.boot_id = clock.boot_id

    def boot_s(self) -> float:
        return self._clock.boot_s()

    def utc_s(self) -> float:
        return self._clock.utc_s()

    def synced(self) -> bool:
        return self._synced


class Watcher:
    """Keeps a summary of the log in `folder` up to date."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.file = folder / FILE_NAME
        self.lock = threading.RLock()
        """Held while the summary is changed or read."""
        self.summary = Summary()
        self.scans = 0
        """Number of times that the log was read from its beginning."""
        self._folder = folder
        self._clock = clock
        self._known = Known(now=self._moment())
        self._looked_s = -LOOK_AT_MOST_EVERY_S
        self._forget_at_s = 0.0
        self._identity: tuple[object, ...] = ()
        """The file and the stream that the summary describes."""
        self._retimings: dict[str, Retiming] = {}
        self._offset_ms = 0
        self._unsound = 0
        self.on_progress: Callable[[], object] = lambda: None
        """Called now and then during a look: the first look may take minutes."""

    def look(self) -> Known:
        """Return the current content of the log; at most a second old."""
        with self.lock:
            now_s = self._clock.monotonic()
            if now_s - self._looked_s >= LOOK_AT_MOST_EVERY_S:
                self._looked_s = now_s
                self._known = self._look()
            return self._known

    def age_s(self, reading: Reading) -> float | None:
        """Return the age of a reading; None if unknown."""
        known = self._known
        if known.health is not None and not known.health_is_old:
            return age_of(reading, _Told(self._clock, known.health.clock == "synced"))
        return age_of(reading, self._clock)

    def time_of(self, reading: Reading) -> int:
        """Return when a reading was taken (ms since 1970), as far as known."""
        return self._moment().time_of(reading)

    def now_ms(self) -> int:
        """Return ms since 1970, as far as this computer knows."""
        return round(self._clock.utc_s() * 1000)

    def _moment(self) -> Moment:
        return Moment.of(self._clock)

    def _look(self) -> Known:
        process = lock_holder(self._folder)
        try:
            with open_log(self.file) as log:
                return self._read(log, process)
        except LOG_TROUBLE as error:
            return Known(now=self._moment(), problem=why_not(self.file, error), process=process)

    def _read(self, log: LogFile, process: int | None) -> Known:
        now = self._moment()
        status = self.file.stat()
        identity = (status.st_dev, status.st_ino, log.stream)
        if identity != self._identity or self._is_out_of_date(log, now):
            before, self.summary = self.summary, Summary()
            self.scans += 1
            self._unsound = 0
            self._offset_ms = now.utc_ms - now.boot_ms
            since_ms = now.utc_ms - 172_800_000
            self.summary.last_seq = log.last_before(since_ms)
            self._add_new(log, now)
            self.summary.keep_marks_of(before)
            self._identity = identity
        else:
            self._add_new(log, now)
        self._retimings = dict(log.retimings)
        if self._clock.monotonic() >= self._forget_at_s:
            self._forget_at_s = self._clock.monotonic() + _FORGET_EVERY_S
            self.summary.forget_old(now)
        ledger = log.ledger
        health = health_in(ledger)
        if health is not None:
            rejected = {name: sensor.rejected for name, sensor in health.sensors.items()}
            self.summary.mark_rejections(rejected, health.process, now.utc_ms)
        oldest = log.readings_after(ledger.cursor, 1)
        return Known(
            now=now,
            process=process,
            stream=log.stream,
            written_s=written_s(self.file),
            ledger=ledger,
            health=health,
            health_is_old=health is None or health.process != process,
            oldest_s=age_of(oldest[0], self._clock) if oldest else 0.0,
            events=tuple(log.events(_EVENTS)),
            unsound=self._unsound,
        )

    def _is_out_of_date(self, log: LogFile, now: Moment) -> bool:
        """Return whether the times of readings have changed since they were added."""
        unsynced = self.summary.unsynced_boots
        if any(log.retimings.get(boot) != self._retimings.get(boot) for boot in unsynced):
            return True
        stepped = abs(now.utc_ms - now.boot_ms - self._offset_ms) > _STEPPED_MS
        return stepped or log.ledger.last_seq < self.summary.last_seq

    def _add_new(self, log: LogFile, now: Moment) -> None:
        for readings in readings_from(log, self.summary.last_seq, self._count_unsound):
            self.summary.add(readings, now)
            self.on_progress()

    def _count_unsound(self) -> None:
        self._unsound += 1
