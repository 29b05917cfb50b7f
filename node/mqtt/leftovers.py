"""Visits to the broker in the foreground: a client of its own, that waits for it alone.

`Visit` publishes messages, or a question and waits for the answer; it can outlive a connection.
`Leftovers` finds and removes what a node that is gone has left.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from node.config.schema import MqttTable
from node.event_queue import EventQueue
from node.mqtt.connection import BrokerConnection, Change
from node.mqtt.events import (
    Acknowledged,
    Arrived,
    BrokerEvent,
    Connected,
    ConnectFailed,
    Outgoing,
    Subscribed,
    SubscribeRefused,
    Subscription,
)
from node.mqtt.reasons import Reason
from node.system.clock import SystemClock

__all__ = ["Denied", "Leftovers", "NoAnswer", "NoBroker", "Visit"]

CONNECT_S = 20.0
ANSWER_S = 10.0
QUIET_S = 0.5
"""A broker may answer a subscription before it sends what is retained."""
_AT_ONCE = 20


class NoBroker(Exception):
    """The broker cannot be reached, or does not answer; the text says why."""


class NoAnswer(NoBroker):
    """The broker is connected, but what was waited for did not come in time."""


class Denied(NoBroker):
    """The broker refuses a message or a subscription."""

    def __init__(self, reason: Reason, topic: str, right: str) -> None:
        """`right`: what was not allowed, `read` or `write`."""
        what = f"the broker rejected {topic}: {reason.name}"
        super().__init__(f"{what}; allow this login to {right} there, in the broker's ACL")
        self.code = reason.code


class Visit:
    """One connection to the broker."""

    def __init__(
        self, mqtt: MqttTable, tls_context: Any, client_id: str, filters: Collection[str] = ()
    ) -> None:
        """`filters` are subscribed to on connecting."""
        self._retained: dict[str, bytes] = {}
        """The newest payload of each topic, whether it was retained or not; without empty ones."""
        self._events: EventQueue[BrokerEvent] = EventQueue()
        self._link = BrokerConnection(
            mqtt,
            SystemClock(),
            client_id=client_id,
            tls_context=tls_context,
            report=self._events.put,
            subscribe=tuple(map(Subscription, filters)),
        )

    def begin(self, within_s: float = CONNECT_S) -> None:
        """Connect.

        Raises:
            NoBroker: the broker cannot be reached or refuses, or does not answer in time.
        """

        def is_up(event: BrokerEvent) -> bool:
            change = self._link.follow(event)
            goes_on = event.generation != self._link.generation  # in another version, or elsewhere
            if not goes_on and (isinstance(event, ConnectFailed) or _is_refusal(event)):
                raise NoBroker(self._link.described)
            return change is Change.UP

        self._link.start()
        self._wait(within_s, is_up)

    def come_back(self, within_s: float) -> None:
        """Wait until a lost connection is made again, which is tried all the time.

        Raises:
            NoBroker: it was not made in time.
        """
        if not self._link.connected:
            self._wait(within_s, lambda event: self._link.follow(event) is Change.UP)

    @property
    def max_packet_bytes(self) -> int:
        """Return the largest packet that the broker takes, as far as it says."""
        return self._link.max_packet_bytes

    def newest(self, topic: str) -> bytes | None:
        """Return the newest payload of a topic; None if there is none, or an empty one."""
        return self._retained.get(topic)

    def hear(self, within_s: float, is_it: Callable[[Arrived], bool]) -> None:
        """Wait for a message.

        Raises:
            NoAnswer: it did not come in time.
            NoBroker: the connection is lost.
        """
        self._expect_connection()
        self._wait(within_s, lambda event: isinstance(event, Arrived) and is_it(event))

    def ask(
        self, question: Outgoing, within_s: float, is_answer: Callable[[Arrived], bool]
    ) -> None:
        """Publish a question, and wait for a message that is the answer.

        Raises:
            NoAnswer: it did not come in time.
            Denied: the broker refuses it, or the subscription.
            NoBroker: the connection is lost.
        """
        self._expect_connection()
        message_id = self._link.publish(question)

        def is_it(event: BrokerEvent) -> bool:
            if isinstance(event, Acknowledged) and event.message_id == message_id:
                _expect_access(event.refused, question.topic, "write")
            elif isinstance(event, SubscribeRefused):
                _expect_access(event.reason, event.topic, "read")
            return isinstance(event, Arrived) and is_answer(event)

        self._link.send()
        self._wait(within_s, is_it)

    def publish(self, messages: Sequence[Outgoing]) -> dict[int, str]:
        """Publish messages; return index -> why, of those that the broker refuses.

        Raises:
            NoBroker: it does not answer.
        """
        refused: dict[int, str] = {}
        waiting = deque(enumerate(messages))
        index_of: dict[int, int] = {}

        def is_done(event: BrokerEvent) -> bool:
            if isinstance(event, Acknowledged) and event.message_id in index_of:
                index = index_of.pop(event.message_id)
                if event.refused is not None:
                    refused[index] = event.refused.name
            send()
            return not index_of

        def send() -> None:
            while waiting and len(index_of) < min(_AT_ONCE, self._link.window):
                index, message = waiting.popleft()
                index_of[self._link.publish(message)] = index
            self._link.send()

        send()
        if index_of:
            self._wait(ANSWER_S, is_done)
        return refused

    def close(self) -> None:
        """Leave the broker."""
        self._link.disconnect(1.0)

    def _expect_connection(self) -> None:
        """Raise NoBroker if the connection was lost together with the last message waited for."""
        if not self._link.connected:
            raise NoBroker(self._link.described)

    def _note(self, event: BrokerEvent) -> None:
        if isinstance(event, Arrived) and event.retained and event.payload:
            self._retained[event.topic] = event.payload
        elif isinstance(event, Arrived):  # it has changed since
            self._retained.pop(event.topic, None)
            if event.payload:
                self._retained[event.topic] = event.payload

    def _wait(self, seconds: float, is_it: Callable[[BrokerEvent], bool]) -> None:
        """Take events until one is it.

        Raises:
            NoAnswer: there is none in time.
            NoBroker: the connection is lost, or there was none.
        """
        deadline_s = time.monotonic() + seconds
        was_up = self._link.connected
        while (left_s := deadline_s - time.monotonic()) > 0:
            found = False
            for event in self._events.wait(left_s):
                self._note(event)
                if was_up:
                    self._link.follow(event)
                found |= is_it(event)
            if found:
                return
            if was_up and not self._link.connected:
                break
        if self._link.connected:
            raise NoAnswer("no answer in time")
        raise NoBroker(self._link.described)


def _is_refusal(event: BrokerEvent) -> bool:
    return isinstance(event, Connected) and event.refused is not None


def _expect_access(refused: Reason | None, topic: str, right: str) -> None:
    if refused is not None:
        raise Denied(refused, topic, right)


class Leftovers(Visit):
    """Looks for what is retained on some topics, and empties them."""

    def __init__(
        self, mqtt: MqttTable, tls_context: Any, client_id: str, filters: Collection[str]
    ) -> None:
        super().__init__(mqtt, tls_context, client_id, filters)
        self._filters = filters

    def find(self) -> dict[str, bytes]:
        """Connect; return what the broker has retained, topic by topic.

        Raises:
            NoBroker: it does not let us in, or does not answer.
        """
        self.begin()
        self._link.listen_also([next(iter(self._filters))])
        self._wait(ANSWER_S, lambda event: isinstance(event, Subscribed))
        quiet_at_s = time.monotonic() + QUIET_S
        while (left_s := quiet_at_s - time.monotonic()) > 0:
            for event in self._events.wait(left_s):
                self._note(event)
        return self._retained

    def remove(self, topics: Collection[str]) -> dict[str, str]:
        """Empty topics; return topic -> why, of those that the broker refuses.

        Raises:
            NoBroker: it does not answer.
        """
        names = list(topics)
        refused = self.publish([Outgoing(topic, b"") for topic in names])
        return {names[index]: why for index, why in refused.items()}
