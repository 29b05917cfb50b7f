"""A thin layer around the `schedule` library that keeps it on its grid.

schedule 1.2.2 uses the wall clock. After a backward step of the clock it runs nothing until the
clock is back where it was. A slow job moves all later runs, and a job that raises stays due and
starves the others. Here its jobs take the time from a monotonic clock, come due on a grid
(start, start + interval, ...) however long the previous job took, and skip missed slots. A job that
raises is logged and put back on the grid.

Used only by the node loop, on its thread.
"""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Callable

import schedule

from node.system.clock import Clock

__all__ = ["GridJob", "Timetable"]

_log = logging.getLogger(__name__)

_ORIGIN = datetime.datetime(2000, 1, 1)


class GridJob(schedule.Job):
    """A `schedule.Job` whose `next_run` is a monotonic time, counted from `_ORIGIN`.

    `due_s` is when it is next due.
    """

    def __init__(
        self, interval_s: float, start_s: float, scheduler: schedule.Scheduler, clock: Clock
    ) -> None:
        super().__init__(1, scheduler)
        self.unit = "seconds"
        self._clock = clock
        self._interval_s = interval_s
        self._start_s = start_s
        self._slot = 0
        self.due_s = start_s

    @property
    def should_run(self) -> bool:
        return self._clock.monotonic() >= self.due_s

    def _schedule_next_run(self) -> None:
        if self.last_run is not None:
            now_s = self._clock.monotonic()
            passed = math.floor((now_s - self._start_s) / self._interval_s)
            self._slot = max(self._slot, passed) + 1
            self.due_s = self._start_s + self._slot * self._interval_s
            if self.due_s <= now_s:  # the division was rounded down, after weeks of uptime
                self._slot += 1
                self.due_s = self._start_s + self._slot * self._interval_s
        self.next_run = _ORIGIN + datetime.timedelta(seconds=self.due_s)


class Timetable:
    """Runs actions when they are due; times are those of the clock's `monotonic()`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scheduler = schedule.Scheduler()
        self._shared: dict[tuple[float, float], tuple[GridJob, list[Callable[[float], None]]]] = {}
        """(interval, start) -> the job of all actions with these."""
        self._next_due_s = math.inf

    def every(
        self, interval_s: float, action: Callable[[float], None], *, start_s: float
    ) -> GridJob:
        """Call `action(due_s)` at `start_s`, and every `interval_s` after it.

        Actions with the same interval and start form one job: they share their slots to the last
        bit, and a thousand of them take little more time than one.
        """
        if (interval_s, start_s) not in self._shared:
            actions: list[Callable[[float], None]] = []
            job = GridJob(interval_s, start_s, self._scheduler, self._clock)
            job.do(self._do_all, actions, job)
            self._shared[interval_s, start_s] = job, actions
            self._next_due_s = min(self._next_due_s, job.due_s)
        job, actions = self._shared[interval_s, start_s]
        actions.append(action)
        return job

    def once(self, at_s: float, action: Callable[[float], None]) -> None:
        """Call `action(at_s)` at `at_s`, and forget it."""
        job = GridJob(1.0, at_s, self._scheduler, self._clock)

        def run() -> type[schedule.CancelJob]:
            self._contained(action, at_s)
            return schedule.CancelJob

        job.do(run)
        self._next_due_s = min(self._next_due_s, at_s)

    def run_due(self) -> None:
        """Run what is due, earliest first."""
        if self._clock.monotonic() < self._next_due_s:
            return
        self._scheduler.run_pending()
        self._next_due_s = min((job.due_s for job in self._jobs()), default=math.inf)

    @property
    def next_due_s(self) -> float:
        """Return when `run_due` next has something to do; infinity for never."""
        return self._next_due_s

    def _jobs(self) -> list[GridJob]:
        return [job for job in self._scheduler.jobs if isinstance(job, GridJob)]

    def _do_all(self, actions: list[Callable[[float], None]], job: GridJob) -> None:
        for action in actions:
            self._contained(action, job.due_s)

    @staticmethod
    def _contained(action: Callable[[float], None], due_s: float) -> None:
        try:
            action(due_s)
        except Exception:  # noqa: BLE001, logged, and the others are done
            _log.exception("a scheduled job failed; it stays on its schedule")
