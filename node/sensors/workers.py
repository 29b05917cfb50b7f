"""The threads that wait for sensors, so that the node loop never does.

Reads on one bus run one after another; buses do not wait for each other. A thread takes any bus
that is ready, fast ones first, so quick sensors share one thread and one wake-up. If buses have
waited for `PATIENCE_S` while the node was not computing, sensors must be holding the threads up,
and the number of threads is doubled, up to one per bus. Buses whose reads are known to be slow get
more threads from the start. A thread that never comes back blocks only its own bus.

`Workers` is used on the loop's thread. The threads are daemons, because a stuck read must not keep
the process from ending. They only take batches and report outcomes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from node.reading import ReadOutcome
from node.sensors.port import SensorPort

__all__ = ["ReadDone", "Workers"]

_log = logging.getLogger(__name__)

PATIENCE_S = 0.02
_TASKS = Path("/proc/self/task")


class ReadDone(msgspec.Struct, frozen=True):
    """A read has ended; `bus_free` if it was the last one queued for its bus."""

    outcome: ReadOutcome
    bus: str
    bus_free: bool


class Workers:
    """Distributes reads over threads.

    Outcomes are passed to `report_quietly` while there is more to do at once and `help_out` is to
    be called again. The last one goes to `report`, and so does one every `PATIENCE_S`. So the loop
    is woken once for a whole tick of quick sensors. Both are called on the threads.
    """

    def __init__(
        self,
        report: Callable[[ReadDone], None],
        report_quietly: Callable[[ReadDone], None],
    ) -> None:
        self._report = report
        self._report_quietly = report_quietly
        self._ready: deque[list[SensorPort]] = deque()
        """Batches of sensors, one bus each."""
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._rings = 0
        """How many threads `begin` is to wake."""
        self._waiting: dict[str, list[SensorPort]] = {}
        self._busy: set[str] = set()
        self._took_s: dict[str, float] = {}
        """Bus -> how long its reads took the last time or the time before, whichever was less."""
        self._last_took_s: dict[str, float] = {}
        self._threads = 0
        self._at_work: set[int] = set()
        """The threads that are not waiting for the bell."""
        self._looks = 0
        self._looked_at: tuple[float, float] | None = None
        """When buses were last found waiting, and `_processor_s` at that time."""
        self._rang_s = 0.0
        self.next_look_s = math.inf
        """When `help_out` must be called next; infinity for never."""

    def submit(self, port: SensorPort) -> None:
        """Read `port` after the next `dispatch`, when its bus is free."""
        self._waiting.setdefault(port.bus, []).append(port)

    def bus_free(self, bus: str) -> None:
        """Note a `ReadDone.bus_free`."""
        self._busy.discard(bus)
        if not self._busy:
            self.next_look_s = math.inf

    def dispatch(self, now_s: float) -> None:
        """Make what was submitted ready for the threads, bus by bus; `begin` wakes them."""
        buses = [bus for bus in self._waiting if bus not in self._busy]
        if not buses:
            return
        self.next_look_s = min(self.next_look_s, now_s + PATIENCE_S)
        self._looks = 2
        if not self._ready:  # otherwise waiting buses would never be helped when much comes due
            self._looked_at = None
        self._rang_s = now_s
        slow = {bus for bus in buses if self._took_s.get(bus, 0.0) > PATIENCE_S}
        for bus in sorted(buses, key=slow.__contains__):
            self._busy.add(bus)
            self._ready.append(self._waiting.pop(bus))
        self._rings += len(slow) + (len(slow) < len(buses))

    @property
    def begins_reads(self) -> bool:
        """Return whether `begin` has reads to begin; `next_look_s` is then within `PATIENCE_S`."""
        return self._rings > 0

    def begin(self) -> None:
        """Let the threads read what was dispatched.

        Call it right before the loop sleeps: a thread that is woken while the loop goes on has to
        sleep once more, until the interpreter is free.
        """
        if self._rings and self._threads == 0:
            self.add_thread()
        for _ in range(min(self._rings, self._threads)):
            self._bell.put(None)
        self._rings = 0

    def help_out(self, now_s: float) -> None:
        """Start threads if, some time after `dispatch`, buses still wait for one.

        The loop, awake for this, also sees the outcomes that were reported quietly before a slow
        sensor. The second look is for a thread that was about to report.
        """
        if now_s < self.next_look_s:
            return
        self._looks -= 1
        if self._ready:
            if not self._was_computing(now_s):
                self._add_help()
        elif not self._busy or self._looks <= 0:
            self.next_look_s = math.inf
            return
        self.next_look_s = now_s + PATIENCE_S

    def _was_computing(self, now_s: float) -> bool:
        """Return whether more threads would not help, because the processor is the bottleneck.

        At the first look nothing is known yet.
        """
        before, self._looked_at = self._looked_at, (now_s, _processor_s())
        return before is None or self._looked_at[1] - before[1] > (now_s - before[0]) / 2

    def _add_help(self) -> None:
        """Double the number of threads, up to the number of waiting buses."""
        idle = self._threads - len(self._at_work)
        for _ in range(min(max(len(self._at_work), 1), len(self._ready))):
            if idle > 0:
                idle -= 1
                self._bell.put(None)
            else:
                self.add_thread()

    def add_thread(self) -> None:
        """Start one more thread, unless every bus at work has one."""
        if self._threads < len(self._busy):
            name = f"bus-worker-{self._threads + 1}"
            try:
                threading.Thread(target=self._serve, name=name, daemon=True).start()
            except RuntimeError as error:  # a limit on tasks, or no memory: the others go on
                _log.debug("cannot start another thread for the sensors: %s", error)
            else:
                self._threads += 1

    def _serve(self) -> None:
        me = threading.get_ident()
        while True:
            self._at_work.add(me)
            self._read_what_is_ready()
            self._at_work.discard(me)
            self._bell.get()

    def _read_what_is_ready(self) -> None:
        while self._ready:
            try:
                ports = self._ready.popleft()
            except IndexError:  # another thread was faster
                return
            began_s = time.monotonic()
            last = len(ports) - 1
            for index, port in enumerate(ports):
                done = ReadDone(port.read(), port.bus, index == last)
                now_s = time.monotonic()
                if index == last:
                    self._note(port.bus, now_s - began_s)
                more = index < last or bool(self._ready)
                # No one looks for quiet outcomes later, and the next read may never end.
                is_looking = self.next_look_s < math.inf
                if more and is_looking and now_s - self._rang_s < PATIENCE_S:
                    self._report_quietly(done)
                else:
                    self._rang_s = now_s
                    self._report(done)

    def _note(self, bus: str, took_s: float) -> None:
        """Note how long a read took; an interrupted thread was not held up by its sensor."""
        self._took_s[bus] = min(took_s, self._last_took_s.get(bus, took_s))
        self._last_took_s[bus] = took_s


def _processor_s() -> float:
    """Return how long our threads have run on the processor and waited for it, in seconds.

    An overloaded machine makes threads wait, and more threads then make it worse
    (kernel scheduler/sched-stats.rst: the first two numbers of schedstat, in ns).
    """
    total_ns = 0
    try:
        for task in os.scandir(_TASKS):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                had, waited, _ = Path(task.path, "schedstat").read_bytes().split()
                total_ns += int(had) + int(waited)
    except (OSError, ValueError):  # a kernel without it
        return time.process_time()
    return total_ns / 1e9
