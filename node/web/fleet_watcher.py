"""Listens to the broker on a thread of its own, and keeps the fleet's view.

The server's threads call `view`; the lock is held while a message is added or a view is made.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from node.config.schema import MqttTable
from node.mqtt.topic_filters import covers
from node.system.clock import Clock
from node.watch.discovery import discovery_filters
from node.watch.payloads import Message
from node.watch.rows import WatchTime
from node.watch.subscriber import Subscriber
from node.web.fleet import Fleet, FleetView

__all__ = ["FleetWatcher", "fleet_filters"]

_TURN_S = 1.0
_VIEW_LASTS_S = 0.5


def fleet_filters(base_topic: str) -> tuple[str, ...]:
    """Return the topics of nodes that the page needs: those of history are not among them."""
    return tuple(f"{base_topic}/{rest}" for rest in ("+/status", "+/health", "+/+/+"))


class FleetWatcher:
    """A subscriber to all nodes below the base topic of `mqtt`."""

    def __init__(
        self,
        mqtt: MqttTable,
        clock: Clock,
        fleet: Fleet,
        *,
        tls_context: Any = None,
        prefix: str = "homeassistant",
    ) -> None:
        """`prefix`: that of the nodes' discovery."""
        self._clock = clock
        self._fleet = fleet
        self._discovery = discovery_filters(prefix)
        self._wanted = fleet_filters(mqtt.base_topic)
        self._lock = threading.Lock()
        self._view: FleetView | None = None
        self._viewed_s = 0.0
        self.on_progress: Callable[[], object] = lambda: None
        """Not needed here: no look takes long."""
        self._subscriber = Subscriber(
            mqtt,
            clock,
            name="sensor-node-web",
            tls_context=tls_context,
            filters=(*self._wanted, *self._discovery),
            on_message=self._arrived,
            on_again=self._connected_again,
        )
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._ending = threading.Event()

    def start(self) -> None:
        self._subscriber.connect()
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()
        self._subscriber.disconnect()

    def look(self) -> FleetView:
        """Return the current view, at most half a second old.

        Raises:
            RuntimeError: the thread that listens has ended, so nothing here is current.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the thread that listens to the broker has ended")
        with self._lock:
            now = self._now()
            if self._view is None or now.boot_s - self._viewed_s >= _VIEW_LASTS_S:
                self._viewed_s = now.boot_s
                self._view = self._fleet.view(
                    now, connected=self._subscriber.connected, link=self._subscriber.described
                )
            return self._view

    def _run(self) -> None:
        while not self._ending.is_set():
            self._subscriber.turn(_TURN_S)

    def _now(self) -> WatchTime:
        return WatchTime(self._clock.boot_s(), self._clock.utc_s())

    def _connected_again(self) -> None:
        with self._lock:
            self._fleet.forget_status()

    def _arrived(self, message: Message) -> None:
        with self._lock:
            if any(covers(each, message.topic) for each in self._discovery):
                self._fleet.model.discovered.learn(message.topic, message.payload)
            if any(covers(one, message.topic) for one in self._wanted):
                self._fleet.add(message, self._now())
