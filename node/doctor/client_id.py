"""Checks whether another client uses the node's id, or another node its name.

Two clients with one id disconnect each other endlessly. A connection with the id would find the
other client, but would also disconnect our own node. So the check depends on the node's state:

- The node runs on this computer: its log shows whether its connections last.
- It does not run here, and its status at the broker is online: another node has the name. Or the
  node died unnoticed by the broker, or uses another state directory; so nothing is disconnected.
- It does not run here, and its status is offline or missing: the id should be free. The doctor
  connects with it; another client that has the id will take it back at once.

The watch runs alongside the other steps, because a client takes about a second to reconnect.
"""

from __future__ import annotations

import time

import msgspec

from node.doctor.broker import Broker
from node.doctor.our_node import OurNode
from node.doctor.report import Step
from node.doctor.wire import Closed, Connection
from node.health import Health
from node.mqtt.spread import SHORT_LIVES
from node.system.state_dir import lock_holder
from node.topics import ONLINE

__all__ = ["ClientIdWatch"]

WATCH_S = 2.5
"""A client that was disconnected is back after a second (paho's default), or a little later."""
RETAINED_S = 0.4
RECENT_S = 180.0
"""With pauses of a minute between its attempts, the node logs the problem again within this."""


class ClientIdWatch:
    """A watch that begins early, and whose outcome is asked for late."""

    def __init__(self, broker: Broker, node: OurNode) -> None:
        self._broker = broker
        self._node = node
        self._began_s = time.monotonic()
        observer = broker.another().connection
        for topic in (broker.topics.status, broker.topics.health):
            observer.subscribe(topic)
        # Both are retained, and arrive together.
        observer.wait_for(lambda m: m.topic == broker.topics.health, RETAINED_S)
        self._observer = observer
        self._holder: Connection | None = None
        if node.process is None and self._newest(broker.topics.status) != ONLINE:
            self._holder = broker.another(client_id=node.client_id).connection

    def outcome(self) -> Step:
        """Return the step; takes until `WATCH_S` after the beginning."""
        if self._node.process is not None:
            return self._by_log()
        if self._holder is None:
            return self._online_elsewhere()
        if lock_holder(self._node.state_dir) is not None:
            return Step("client id", "skipped", "the node was just started; run doctor again")
        try:
            self._holder.watch(self._began_s + WATCH_S - time.monotonic())
        except (Closed, ConnectionResetError) as error:
            how = f" ({error})" if str(error) else ""
            return self._failed(
                f"another client has the node's id {self._node.client_id}: it disconnects "
                f"any other client with that id{how}"
            )
        return Step("client id", "ok", f"no other client has {self._node.client_id}")

    def _newest(self, topic: str) -> bytes:
        payloads = [m.payload for m in self._observer.arrived if m.topic == topic]
        return payloads[-1] if payloads else b""

    def _by_log(self) -> Step:
        node = self._node
        if node.trouble or node.health is None:
            why = node.trouble or "the node has written nothing yet"
            return Step("client id", "skipped", f"not known: {why}")
        if node.health.short_connections >= SHORT_LIVES and node.health_age_s < RECENT_S:
            return self._failed(
                f"the node's connections do not last: another client has its id {node.client_id}, "
                "or the broker closes them because a message is too large"
            )
        if node.health.name_problem:
            return self._failed(f"another node has this name: {node.health.name_problem}")
        if (other := self._other_process()) is not None:
            return self._failed(
                f"another node has this name: {self._broker.topics.health} comes from process "
                f"{other}, and the node here is process {node.process}"
            )
        return Step("client id", "ok", f"the node's connections last, with {node.client_id}")

    def _other_process(self) -> int | None:
        """Return the process of another node that publishes under our name, if there is one."""
        node = self._node
        assert node.health is not None
        try:
            health = msgspec.json.decode(self._newest(self._broker.topics.health), type=Health)
        except (msgspec.DecodeError, RecursionError):
            return None
        is_ours = health.process == node.process or health.time <= node.health.time
        return None if is_ours else health.process

    def _online_elsewhere(self) -> Step:
        return Step(
            "client id",
            "failed",
            f"{self._broker.topics.status} is online, and no node runs in {self._node.state_dir}: "
            "another node has this name, or ours died while the broker was away",
            "give each node a different name ([node] name); if the node runs here, name its folder "
            "with --state-dir",
        )

    def _failed(self, what: str) -> Step:
        return Step(
            "client id",
            "failed",
            what,
            "give each node a different name ([node] name) and machine id: sudo "
            "rm /etc/machine-id && sudo systemd-machine-id-setup",
        )
