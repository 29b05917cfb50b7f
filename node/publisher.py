"""What is on its way to the broker: the newest message of each retained topic, and no other.

Of each topic at most one message is in flight and at most the newest one waits, so a topic never
goes backwards. Nothing is published while the link is down, and what was not acknowledged when a
link broke is forgotten; the loop sets the current state afresh on connecting.

Used on the loop's thread.
"""

from __future__ import annotations

import logging
import math

from node.broker_events import Acknowledged, BrokerEvent, Outgoing, Sent
from node.link import Change, Link
from node.messages import OFFLINE

__all__ = ["Publisher"]

_log = logging.getLogger(__name__)

WINDOW = 20
"""Messages in flight at most; mosquitto's own default for its side."""

_OVERHEAD_BYTES = 32
"""Fixed header, message id and properties of a PUBLISH, amply."""

_DISCONNECT_S = 0.5


class Publisher:
    """Keeps the retained topics of one node up to date at the broker."""

    def __init__(self, link: Link, *, status_topic: str) -> None:
        self._link = link
        self._status_topic = status_topic
        self._waiting: dict[str, Outgoing] = {}
        self._in_flight: set[str] = set()
        """Topics with a message that is not acknowledged yet."""
        self._topic_of: dict[int, str] = {}
        """Message id -> topic, for those in flight whose id is known."""
        self._refused_topics: set[str] = set()
        self._in_order = False

    def set(self, topic: str, payload: bytes, *, expiry_s: float = 0) -> None:
        """Make `payload` the retained message of `topic`, as soon as the link allows.

        `expiry_s`: how long an MQTT 5 broker keeps it; 0 for ever. Without a link nothing is
        kept: the loop sets everything again on connecting.
        """
        if self._link.connected:
            self._waiting[topic] = Outgoing(topic, payload, math.ceil(expiry_s))

    def flush(self) -> None:
        """Publish what is waiting, oldest first, as far as the window allows.

        After connecting, in the very order in which it was set; later the order of topics is of
        no importance.
        """
        messages = self._sendable()
        if self._in_order:
            for message in messages:
                self._sent(message.topic, self._link.publish(message))
            self._in_order = bool(self._waiting)
        elif messages:
            self._sent(messages[0].topic, self._link.publish_together(messages))

    @property
    def _window(self) -> int:
        return min(WINDOW, self._link.window)

    def _sendable(self) -> list[Outgoing]:
        """Take out of those waiting what may be sent now, and count it as in flight."""
        messages: list[Outgoing] = []
        if not self._waiting or not self._link.connected:
            return messages
        for topic in [topic for topic in self._waiting if topic not in self._in_flight]:
            if len(self._in_flight) >= self._window:
                break
            message = self._waiting.pop(topic)
            if self._fits(message):
                messages.append(message)
                self._in_flight.add(topic)
        return messages

    def _sent(self, topic: str, message_id: int | None) -> None:
        if message_id is None:
            self._in_flight.discard(topic)
        else:
            self._topic_of[message_id] = topic

    def handle(self, event: BrokerEvent) -> Change:
        """Take note of an event of the link."""
        change = self._link.handle(event)
        if change is not Change.NONE:
            self._waiting.clear()
            self._in_flight.clear()
            self._topic_of.clear()
            self._refused_topics.clear()
            self._in_order = change is Change.UP
        elif isinstance(event, Sent):
            self._sent(event.topic, event.message_id)
        elif isinstance(event, Acknowledged):
            self._acknowledged(event)
        return change

    @property
    def acknowledgements_wanted(self) -> int:
        """How many acknowledgements make it worth while to `flush` again; 0: nothing waits.

        Half a window, so that a long queue is sent in bulk; any one of a few that are in flight.
        """
        if not self._waiting:
            return 0
        half = self._window // 2
        return half if len(self._in_flight) >= half > 0 else 1

    @property
    def idle(self) -> bool:
        """Nothing is on its way to the broker, or nothing can be."""
        return not self._link.connected or not (self._in_flight or self._waiting)

    def say_goodbye(self) -> None:
        """Publish `offline`, and nothing else any more."""
        if self._link.connected:
            self._waiting.clear()
            goodbye = Outgoing(self._status_topic, OFFLINE)
            self._topic_of.clear()
            self._in_flight = {self._status_topic}
            self._sent(self._status_topic, self._link.publish(goodbye))

    def close(self) -> None:
        """Disconnect, if the goodbye was acknowledged; else leave the link to break.

        The broker publishes the will when a link breaks, and discards it on DISCONNECT.
        """
        if self.idle:
            self._link.disconnect(_DISCONNECT_S)

    def _fits(self, message: Outgoing) -> bool:
        size = len(message.topic.encode()) + len(message.payload) + _OVERHEAD_BYTES
        if size > self._link.max_packet_bytes:
            self._refuse(message.topic, "it is above the broker's maximum packet size")
            return False
        return True

    def _acknowledged(self, event: Acknowledged) -> None:
        topic = self._topic_of.pop(event.message_id, None)
        if topic is None:
            return
        self._in_flight.discard(topic)
        if event.refused:
            self._refuse(topic, f"{event.refused}; allow the topic in the broker's ACL")

    def _refuse(self, topic: str, why: str) -> None:
        """Log that a topic cannot be published, once per connection."""
        if topic not in self._refused_topics:
            self._refused_topics.add(topic)
            _log.error("the broker does not take %s: %s", topic, why)
