"""The loop's one queue of events, with a bell that need not ring for each.

Waking a thread costs more than most events are worth. Outcomes of reads and acknowledgements
may be put in quietly: they wait for the next turn, unless the loop has asked to be woken when
there are so many (`ring_at`). Order is kept among all events.

`put` and `put_quietly` are called on any thread and in signal handlers; the rest on the loop's.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from typing import Generic, TypeVar

__all__ = ["EventQueue"]

T = TypeVar("T")

MAX_AT_ONCE = 500
"""Events of one turn of the loop: more must not keep it from what is due."""


class EventQueue(Generic[T]):
    """Events from any thread, taken by one."""

    def __init__(self) -> None:
        self._events: deque[T] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.ring_at = 0
        """How many events ring, though all of them be quiet; 0: however many. Events that came
        before this was set are seen by `wait`, which looks before it sleeps."""

    def put(self, event: T) -> None:
        """Put an event in, and wake the loop. Reentrant, as signal handlers need."""
        self._events.append(event)
        self._bell.put(None)

    def put_quietly(self, event: T) -> None:
        """Put an event in for the next turn."""
        self._events.append(event)
        if self._enough():
            self._bell.put(None)

    def _enough(self) -> bool:
        return 0 < self.ring_at <= len(self._events)

    def wait(self, timeout_s: float) -> list[T]:
        """The events there are, after sleeping until the bell rings, at most `timeout_s`.

        Of more than `MAX_AT_ONCE` the rest is for the next turn, which comes at once.
        """
        if not self._enough():
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=max(0.0, timeout_s))
        while not self._bell.empty():
            self._bell.get_nowait()
        events: list[T] = []
        while self._events and len(events) < MAX_AT_ONCE:
            events.append(self._events.popleft())
        if self._events:
            self._bell.put(None)
        return events
