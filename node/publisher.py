"""What is on its way to the broker: the newest message of each retained topic, and no other.

Of each topic at most one message is in flight and at most the newest one waits, so a topic never
goes backwards. Nothing is published while the link is down, and what was not acknowledged when a
link broke is forgotten; the loop sets the current state afresh on connecting.

Used on the loop's thread.
"""

from __future__ import annotations

import logging

import msgspec

from node.link import Acknowledged, BrokerEvent, Change, Link
from node.messages import OFFLINE

__all__ = ["Publisher"]

_log = logging.getLogger(__name__)

WINDOW = 20
"""Messages in flight at most; mosquitto's own default for its side."""

_OVERHEAD_BYTES = 32
"""Fixed header, message id and properties of a PUBLISH, amply."""

_DISCONNECT_S = 0.5


class _Retained(msgspec.Struct, frozen=True):
    payload: bytes
    expiry_s: int


class Publisher:
    """Keeps the retained topics of one node up to date at the broker."""

    def __init__(self, link: Link, *, status_topic: str) -> None:
        self._link = link
        self._status_topic = status_topic
        self._waiting: dict[str, _Retained] = {}
        self._in_flight: dict[int, str] = {}
        self._topics_in_flight: set[str] = set()
        self._refused_topics: set[str] = set()

    def set(self, topic: str, payload: bytes, *, expiry_s: float = 0) -> None:
        """Make `payload` the retained message of `topic`, as soon as the link allows.

        `expiry_s`: how long an MQTT 5 broker keeps it; 0 for ever. Without a link nothing is
        kept: the loop sets everything again on connecting.
        """
        if self._link.connected:
            self._waiting[topic] = _Retained(payload, round(expiry_s))

    def flush(self) -> None:
        """Publish what is waiting, oldest first, as far as the window allows."""
        if not self._link.connected:
            return
        window = min(WINDOW, self._link.window)
        while self._waiting and len(self._in_flight) < window:
            topic = next((t for t in self._waiting if t not in self._topics_in_flight), None)
            if topic is None:
                return
            self._publish(topic, self._waiting.pop(topic))

    def handle(self, event: BrokerEvent) -> Change:
        """Take note of an event of the link."""
        change = self._link.handle(event)
        if change is not Change.NONE:
            self._waiting.clear()
            self._in_flight.clear()
            self._topics_in_flight.clear()
            self._refused_topics.clear()
        elif isinstance(event, Acknowledged):
            self._acknowledged(event)
        return change

    @property
    def idle(self) -> bool:
        """Nothing is on its way to the broker, or nothing can be."""
        return not self._link.connected or not (self._in_flight or self._waiting)

    def say_goodbye(self) -> None:
        """Publish `offline`, and nothing else any more."""
        if self._link.connected:
            self._waiting.clear()
            self._publish(self._status_topic, _Retained(OFFLINE, 0))

    def close(self) -> None:
        """Disconnect, if the goodbye was acknowledged; else leave the link to break.

        The broker publishes the will when a link breaks, and discards it on DISCONNECT.
        """
        if self.idle:
            self._link.disconnect(_DISCONNECT_S)

    def _publish(self, topic: str, retained: _Retained) -> None:
        size = len(topic.encode()) + len(retained.payload) + _OVERHEAD_BYTES
        if size > self._link.max_packet_bytes:
            self._refuse(topic, "it is above the broker's maximum packet size")
            return
        message_id = self._link.publish(topic, retained.payload, expiry_s=retained.expiry_s)
        if message_id is not None:
            self._in_flight[message_id] = topic
            self._topics_in_flight.add(topic)

    def _acknowledged(self, event: Acknowledged) -> None:
        topic = self._in_flight.pop(event.message_id, None)
        if topic is None:
            return
        self._topics_in_flight.discard(topic)
        if event.refused:
            self._refuse(topic, f"{event.refused}; allow the topic in the broker's ACL")

    def _refuse(self, topic: str, why: str) -> None:
        """Log that a topic cannot be published, once per connection."""
        if topic not in self._refused_topics:
            self._refused_topics.add(topic)
            _log.error("the broker does not take %s: %s", topic, why)
