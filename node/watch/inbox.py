"""A queue of events for the loop in `session`, in bounded memory.

When the queue is full, new messages wait at the door: on paho's thread, so the broker has to wait
too, or drops messages for this client.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from node.mqtt.events import Arrived, BrokerEvent

__all__ = ["Inbox"]

_AT_ONCE = 500
"""Maximum number of events handled before the view is updated."""
_WAITING_BYTES = 16_000_000
_MESSAGE_BYTES = 1_000
"""Memory that a message takes in addition to its payload."""


class Inbox:
    """Events from the broker, and signal numbers."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[BrokerEvent | int] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._closed = False

    def report(self, event: BrokerEvent) -> None:
        """Add an event. Runs on paho's thread, and blocks it while the queue is full."""
        if isinstance(event, Arrived):
            with self._room:
                self._room.wait_for(lambda: self._waiting_bytes < _WAITING_BYTES or self._closed)
                self._waiting_bytes += len(event.payload) + _MESSAGE_BYTES
        self._events.put(event)

    def signalled(self, number: int) -> None:
        """Add a signal. Safe in a signal handler, because SimpleQueue.put is reentrant."""
        self._events.put(int(number))

    def wait(self, timeout_s: float) -> list[BrokerEvent | int]:
        """Return up to `_AT_ONCE` events; an empty list after `timeout_s` without any."""
        events: list[BrokerEvent | int] = []
        with contextlib.suppress(queue.Empty):
            events.append(self._events.get(timeout=timeout_s))
            while len(events) < _AT_ONCE:
                events.append(self._events.get_nowait())
        taken = sum(len(e.payload) + _MESSAGE_BYTES for e in events if isinstance(e, Arrived))
        if taken:
            with self._room:
                self._waiting_bytes -= taken
                self._room.notify()
        return events

    def close(self) -> None:
        with self._room:
            self._closed = True
            self._room.notify()
