"""The threads that wait for sensors, so that the node loop never does.

Reads on one bus are done one after another; buses do not wait for each other. A thread takes
whichever bus is ready, so sensors that answer at once share one thread and one wake-up. When
buses have waited for `PATIENCE_S` and the processor has not been busy meanwhile, so the threads
must be held up by their sensors, as many again are started, up to one per bus. A thread that
never comes back holds its own bus alone.

`Workers` is used on the loop's thread; the threads are daemons (a stuck read must not keep the
process from ending) and only take batches from a queue and report outcomes.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from node.reading import ReadOutcome
from node.sensor_port import SensorPort

__all__ = ["ReadDone", "Workers"]

PATIENCE_S = 0.02

_Batch = tuple[list[SensorPort], float]
"""The sensors of one bus to read, and when they were handed out."""


class ReadDone(msgspec.Struct, frozen=True):
    """A read has ended; `bus_free` with the last one that its bus had to do."""

    outcome: ReadOutcome
    bus: str
    bus_free: bool


class Workers:
    """Distributes reads over threads.

    Outcomes come by `report_quietly` while there is more to do at once, and by `report` with the
    last one, or when they are late: the loop is woken once for a whole tick of quick sensors.
    Both are called on the threads.
    """

    def __init__(
        self,
        report: Callable[[ReadDone], None],
        report_quietly: Callable[[ReadDone], None],
    ) -> None:
        self._report = report
        self._report_quietly = report_quietly
        self._ready: deque[_Batch] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._to_ring = 0
        self._waiting: dict[str, list[SensorPort]] = {}
        self._busy: set[str] = set()
        self._threads = 0
        self._looks = 0
        self._last_look_s = (0.0, 0.0)
        """When batches were handed out or looked at last: monotonic, and our processor time."""
        self.next_look_s = math.inf
        """When `help_out` wants to be called next; infinity for never."""

    def submit(self, port: SensorPort) -> None:
        """Read `port` when `dispatch` is called next and its bus is free."""
        self._waiting.setdefault(port.bus, []).append(port)

    def bus_free(self, bus: str) -> None:
        """Take note of a `ReadDone.bus_free`."""
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
        self._last_look_s = (now_s, time.process_time())
        for bus in buses:
            self._busy.add(bus)
            self._ready.append((self._waiting.pop(bus), now_s))
        self._to_ring = len(buses)

    def begin(self) -> None:
        """Let the threads read what was dispatched.

        To be called right before the loop sleeps: a thread that is woken while the loop goes on
        has to sleep once more, until the interpreter is free.
        """
        if self._to_ring and self._threads == 0:
            self.add_thread()
            self._to_ring = 0
        for _ in range(min(self._to_ring, self._threads)):
            self._bell.put(None)
        self._to_ring = 0

    def help_out(self, now_s: float) -> None:
        """Some time after `dispatch`: start threads if buses have found none in the meantime.

        The loop, awake for this, also sees the outcomes that were reported quietly before one
        sensor took its time; the second look is for a thread that was about to report.
        """
        if now_s < self.next_look_s:
            return
        self._looks -= 1
        if self._ready:
            if not self._processor_was_busy(now_s):
                self._add_threads()
        elif not self._busy or self._looks <= 0:
            self.next_look_s = math.inf
            return
        self.next_look_s = now_s + PATIENCE_S

    def _processor_was_busy(self, now_s: float) -> bool:
        """Whether we used most of the time since the last look: more threads would not help."""
        (then_s, cpu_then_s), cpu_s = self._last_look_s, time.process_time()
        self._last_look_s = (now_s, cpu_s)
        return cpu_s - cpu_then_s > (now_s - then_s) / 2

    def _add_threads(self) -> None:
        """Double their number, as far as there are buses waiting."""
        for _ in range(min(max(self._threads, 1), len(self._ready))):
            self.add_thread()

    def add_thread(self) -> None:
        """Start one more thread, unless every bus at work has one."""
        if self._threads < len(self._busy):
            self._threads += 1
            name = f"bus-worker-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._read_what_is_ready()
            self._bell.get()

    def _read_what_is_ready(self) -> None:
        while self._ready:
            try:
                ports, handed_out_s = self._ready.popleft()
            except IndexError:  # another thread was faster
                return
            last = len(ports) - 1
            for index, port in enumerate(ports):
                done = ReadDone(port.read(), port.bus, index == last)
                more = index < last or bool(self._ready)
                if more and time.monotonic() - handed_out_s < PATIENCE_S:
                    self._report_quietly(done)
                else:
                    self._report(done)
