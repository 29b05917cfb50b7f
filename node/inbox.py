"""The loop's one queue of events, with a bell that need not ring for each.

Waking a thread costs more than most events are worth. Outcomes of reads and acknowledgements
may be put in quietly: they wait for the next turn, unless the loop has asked to be woken for
them (`eager`). Order is kept among all events.

`put` and `put_quietly` are called on any thread and in signal handlers; the rest on the loop's.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from typing import Generic, TypeVar

__all__ = ["Inbox"]

T = TypeVar("T")


class Inbox(Generic[T]):
    """Events from any thread, taken by one."""

    def __init__(self) -> None:
        self._events: deque[T] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.eager = False
        """Whether quiet events ring too. A quiet event that came before this was set is seen by
        the next `take`, for it looks into the box before it sleeps."""

    def put(self, event: T) -> None:
        """Put an event in, and wake the loop. Reentrant, as signal handlers need."""
        self._events.append(event)
        self._bell.put(None)

    def put_quietly(self, event: T) -> None:
        """Put an event in for the next turn."""
        self._events.append(event)
        if self.eager:
            self._bell.put(None)

    def take(self, timeout_s: float) -> list[T]:
        """All events there are, after sleeping for the first, at most `timeout_s`."""
        if not self._events:
            with contextlib.suppress(queue.Empty):
                self._bell.get(timeout=max(0.0, timeout_s))
        while not self._bell.empty():
            self._bell.get_nowait()
        events: list[T] = []
        while self._events:
            events.append(self._events.popleft())
        return events
