"""The threads that wait for sensors, so that the node loop never does.

Reads on one bus are done one after another; buses do not wait for each other. A thread takes
whichever bus is ready, so sensors that answer at once share one thread and one wake-up; when a
bus has waited for a thread for `PATIENCE_S`, because the others are held up, one more is started,
up to one per bus. A thread that never comes back holds its own bus alone.

`Workers` is used on the loop's thread; the threads are daemons (a stuck read must not keep the
process from ending) and only take batches from one queue and put outcomes on the other.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import msgspec

from node.reading import ReadOutcome
from node.sensor_port import SensorPort

__all__ = ["PATIENCE_S", "ReadDone", "Workers"]

PATIENCE_S = 0.02

_Batch = list[tuple[SensorPort, float]]
"""The sensors of one bus to read, each with the time at which it was due."""


class ReadDone(msgspec.Struct, frozen=True):
    """A read has ended; `bus_free` with the last one that its bus had to do."""

    outcome: ReadOutcome
    bus: str
    bus_free: bool


class Workers:
    """Distributes reads over threads; `report` is called on those threads."""

    def __init__(self, report: Callable[[ReadDone], None]) -> None:
        self._report = report
        self._ready: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        self._waiting: dict[str, _Batch] = {}
        self._busy: set[str] = set()
        self._threads = 0

    def submit(self, port: SensorPort, due_s: float) -> None:
        """Read `port` when `dispatch` is called next and its bus is free."""
        self._waiting.setdefault(port.bus, []).append((port, due_s))

    def bus_free(self, bus: str) -> None:
        """Take note of a `ReadDone.bus_free`."""
        self._busy.discard(bus)

    def dispatch(self) -> None:
        """Hand what was submitted to the threads, bus by bus."""
        for bus in [bus for bus in self._waiting if bus not in self._busy]:
            self._busy.add(bus)
            self._ready.put(self._waiting.pop(bus))
        if self._busy and self._threads == 0:
            self._start_thread()

    @property
    def backlog(self) -> bool:
        """Whether a bus that could be read is waiting for a thread."""
        return not self._ready.empty()

    def add_thread(self) -> None:
        """Start one more thread, unless every bus at work has one."""
        if self._threads < len(self._busy):
            self._start_thread()

    def _start_thread(self) -> None:
        self._threads += 1
        name = f"bus-worker-{self._threads}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while True:
            batch = self._ready.get()
            last = len(batch) - 1
            for index, (port, due_s) in enumerate(batch):
                self._report(ReadDone(port.read(due_s), port.bus, index == last))
