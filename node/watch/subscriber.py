"""A client of the broker that hands on what it hears, on the thread of its owner.

paho's thread and signal handlers only put events into the inbox. The owner calls `turn` again and
again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from node.config.schema import MqttTable
from node.mqtt.connection import BrokerConnection, Change
from node.mqtt.events import Arrived, BrokerEvent, Subscription
from node.mqtt.topic_filters import without_covered
from node.system.clock import Clock
from node.watch.inbox import Inbox
from node.watch.payloads import Message

__all__ = ["Subscriber"]

_THREAD_CHECK_S = 5.0
_GOODBYE_S = 0.5


class Subscriber:
    """Subscribes to `filters`, and stays connected."""

    def __init__(
        self,
        mqtt: MqttTable,
        clock: Clock,
        *,
        name: str,
        tls_context: Any,
        filters: Sequence[str],
        on_message: Callable[[Message], None],
        on_again: Callable[[], None],
    ) -> None:
        """`name` begins the client id. `on_again` is called at each connection after a lost one."""
        self._clock = clock
        self._on_message = on_message
        self._on_again = on_again
        self._inbox = Inbox()
        self._link = BrokerConnection(
            mqtt,
            clock,
            client_id=f"{name}-{uuid.uuid4().hex[:5]}",
            tls_context=tls_context,
            report=self._inbox.report,
            subscribe=tuple(map(Subscription, without_covered(filters))),
        )
        self._thread_check_s = clock.boot_s() + _THREAD_CHECK_S
        self._lost = False
        self.reached = False
        """There was a connection at some time."""

    @property
    def connected(self) -> bool:
        return self._link.connected

    @property
    def described(self) -> str:
        """`connected, MQTT 5`, or why there is not a connection."""
        return self._link.described

    def connect(self) -> None:
        self._link.start()

    def disconnect(self) -> None:
        self._inbox.close()
        self._link.disconnect(wait_s=_GOODBYE_S)

    def signalled(self, number: int) -> None:
        """Have the next `turn` return a signal. Safe in a signal handler."""
        self._inbox.signalled(number)

    def turn(self, timeout_s: float) -> list[int]:
        """Wait for events, and hand on the messages. Return the signals that came with them."""
        signals = []
        for event in self._inbox.wait(timeout_s):
            if isinstance(event, int):
                signals.append(event)
            else:
                self._broker_event(event)
        now_s = self._clock.boot_s()
        if now_s >= self._thread_check_s:
            self._thread_check_s = now_s + _THREAD_CHECK_S
            if not self._link.alive:
                self._lost = True
                self._link.restart()
        return signals

    def _broker_event(self, event: BrokerEvent) -> None:
        change = self._link.follow(event)
        if change is Change.DOWN:
            self._lost = True
        elif change is Change.UP:
            self.reached = True
            if self._lost:
                self._lost = False
                self._on_again()
        if isinstance(event, Arrived):
            self._on_message(Message(event.topic, event.payload, event.retained))
