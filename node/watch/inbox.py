"""What has happened and waits to be dealt with by `watching`, in bounded memory.

Messages wait at the door when there are too many: on paho's thread, so that the broker waits as
well, or drops what it has for us.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from node.mqtt.events import Arrived, BrokerEvent

__all__ = ["Inbox"]

_AT_ONCE = 500
"""Events that are taken before the view is looked after."""
_WAITING_BYTES = 16_000_000
_MESSAGE_BYTES = 1_000
"""What a message takes beside its payload."""


class Inbox:
    """Events of the broker, and numbers of signals."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[BrokerEvent | int] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._closed = False

    def report(self, event: BrokerEvent) -> None:
        """On paho's thread, which waits here while there is no room: so does the broker then."""
        if isinstance(event, Arrived):
            with self._room:
                self._room.wait_for(lambda: self._waiting_bytes < _WAITING_BYTES or self._closed)
                self._waiting_bytes += len(event.payload) + _MESSAGE_BYTES
        self._events.put(event)

    def signalled(self, number: int) -> None:
        """In a signal handler: a SimpleQueue can be put to from there."""
        self._events.put(int(number))

    def wait(self, timeout_s: float) -> list[BrokerEvent | int]:
        """What there is, but not all of it if it is much; after `timeout_s` nothing."""
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
