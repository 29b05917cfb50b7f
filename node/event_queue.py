"""The loop's only queue of events, with a bell that need not ring for each.

Waking a thread costs more than most events are worth. Outcomes of reads and acknowledgements
may be put in quietly: they wait for the next turn, unless the loop has asked to be woken at
a certain number of events (`ring_at`). All events keep their order.

`put` and `put_quietly` are called on any thread and in signal handlers; the rest on the loop's.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Call", "EventQueue"]

T = TypeVar("T")

MAX_AT_ONCE = 500
"""Most events of one turn of the loop, so that a flood cannot delay what is due."""


class Call:
    """An event that brings the function that handles it."""

    __slots__ = ("do",)

    def __init__(self, do: Callable[[], None]) -> None:
        self.do = do


class EventQueue(Generic[T]):
    """Events from any thread, taken by one."""

    def __init__(self) -> None:
        self._events: deque[T] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.ring_at = 0
        """The number of events, all of them quiet, that rings the bell; 0: quiet events never do.
        `wait` sees events that came before this was set, because it looks before it sleeps."""

    def put(self, event: T) -> None:
        """Put an event in, and wake the loop. Reentrant, as signal handlers need."""
        self._events.append(event)
        self._bell.put(None)

    def put_quietly(self, event: T) -> None:
        """Put an event in for the next turn."""
        self._events.append(event)
        if 0 < self.ring_at <= len(self._events):
            self._bell.put(None)

    def wait(self, timeout_s: float) -> list[T]:
        """Sleep until the bell rings, at most `timeout_s`, and return the events.

        It returns at most `MAX_AT_ONCE`. The next turn follows at once, and gets the rest.
        """
        if not 0 < self.ring_at <= len(self._events):
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=max(0.0, timeout_s))
        while not self._bell.empty():
            self._bell.get_nowait()
        take = self._events.popleft
        events = [take() for _ in range(min(len(self._events), MAX_AT_ONCE))]
        if self._events:
            self._bell.put(None)
        return events
