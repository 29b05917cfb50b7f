"""paho's client with a guard around its socket, and with PUBLISH packets of the node.

This is the only module that names private parts of paho: it overrides `_create_socket` and
`_create_socket_connection`, and calls `_packet_queue`. Without the first or the last, in a newer
paho, only public methods are used; see DECISIONS.md.

`NetworkClient` builds on it. `publish_at_qos_1` and `send` are called on the thread of the owner,
what is overridden or called back on paho's.
"""

from __future__ import annotations

import itertools
import socket
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node.config.schema import MqttTable
from node.mqtt.events import Outgoing
from node.mqtt.guarded_socket import GuardedSocket
from node.mqtt.packets import publish_packet
from node.mqtt.reasons import Reason, failure
from node.mqtt.sieve import Sieve

__all__ = ["GuardedClient", "set_options"]

UNACKNOWLEDGED_MS = 6_000
"""How long the other end may leave bytes unacknowledged in TCP."""
PROBE_AFTER_S = 3
"""How long a silence may last before the kernel sends keep-alive probes, and their interval."""
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux
_OUR_IDS = range(0x8000, 0x10000)
"""The first message id of messages published here; paho counts its own from 1 on."""


class GuardedClient(paho.Client):
    """A client whose incoming packets are bounded, and whose messages are not kept by paho."""

    def __init__(
        self,
        mqtt: MqttTable,
        version: MQTTProtocolVersion,
        *,
        client_id: str,
        clean_session: bool | None,
        manual_ack: bool,
        max_incoming_bytes: int,
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=clean_session,
            protocol=version,
            transport=mqtt.transport,
            manual_ack=manual_ack,
        )
        self._through = mqtt.proxy
        self._target = (mqtt.host, mqtt.broker_port)
        self.max_incoming_bytes = max_incoming_bytes
        self._guard: GuardedSocket | None = None
        """The guard of the newest connection."""
        self._message_ids = itertools.cycle(_OUR_IDS)
        self._unacknowledged: set[int] = set()
        """Ids of messages published on this connection, or to be sent with the next `send`."""
        self._unsent: list[bytes] = []
        """Packets that were published but not passed to the network thread yet."""
        self.hurried = False
        """Whether messages wait for others to be acknowledged; set on another thread."""
        self.max_inflight_messages_set(0)  # the publisher keeps the window
        self.on_publish = self._published

    # -- what happens; for a subclass

    def before_connecting(self) -> None:
        """Raise ConnectionError if there must be no connection."""

    def after_connecting(self) -> None:
        """Raise ConnectionError if the connection that was made just now must not be used."""

    def acknowledged(self, message_id: int, refused: Reason | None) -> None:
        """Take note that the broker has acknowledged a message, or refused it."""

    # -- the socket

    def _create_socket(self) -> Any:
        """Create paho's socket with a guard: the only hook into paho for incoming packets."""
        self.before_connecting()
        sock = super()._create_socket()
        try:
            self.after_connecting()
        except ConnectionError:
            sock.close()
            raise
        if not hasattr(self, "_packet_queue"):
            return sock
        mqtt_5 = self.protocol == MQTTProtocolVersion.MQTTv5
        sieve = Sieve(mqtt_5=mqtt_5, max_bytes=self.max_incoming_bytes)
        self._guard = GuardedSocket(
            sock, sieve, acknowledged=self._acknowledgements, is_writing=self.want_write
        )
        return self._guard

    def _create_socket_connection(self) -> socket.socket:
        """Go through the configured proxy. A paho without this method never gets there."""
        if self._through is None:
            sock = super()._create_socket_connection()
        else:
            from node.mqtt.proxies import connect_through

            sock = connect_through(self._through, *self._target, self.connect_timeout)
        if self.transport != "tcp":  # paho's wrapper for WebSockets takes no options
            set_options(sock)
        return sock

    @property
    def guarded(self) -> bool:
        """Return whether this paho has the hooks to guard its socket and write to it directly."""
        return self._guard is not None

    @property
    def fault(self) -> str:
        """Return how the broker has violated the protocol on the newest connection, else ""."""
        return "" if self._guard is None else self._guard.fault

    def forget_unacknowledged(self) -> None:
        """Expect no acknowledgement of an earlier connection."""
        self._unacknowledged.clear()

    def _acknowledgements(self, packets: list[tuple[int, int]]) -> int:
        """Report the expected acknowledgements; return how many there were."""
        if self.hurried:
            self._acknowledge_at_once()
        known = 0
        for message_id, code in packets:
            if message_id in self._unacknowledged:
                self._unacknowledged.discard(message_id)
                known += 1
                self.acknowledged(message_id, failure(PacketTypes.PUBACK, code))
        return known

    def _acknowledge_at_once(self) -> None:
        """Send a TCP ACK for the PUBACK, so that the broker sends waiting ones (tcp(7)).

        Nagle's algorithm on the broker's side holds back all but the first PUBACK until then. If
        we send nothing, our kernel delays the ACK by 40 ms, which allows one window every 40 ms.
        """
        sock: Any = self.socket()  # None, if the connection has just closed
        if sock is not None and _QUICKACK is not None and self.transport == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    # -- messages

    def publish_at_qos_1(self, message: Outgoing) -> int:
        """Publish with the next `send`; return the message id of the acknowledgement.

        paho's own `publish` keeps each message, and sends it again on the next connection, after
        newer values. It also wakes the network thread for each, which then competes with ours for
        the interpreter. Callers of this method keep the messages that must not be lost. Messages
        that fall due together leave in one piece: on a radio, one frame for ten readings.
        """
        if not self.guarded:
            return self._publish_by_paho(message)
        message_id = next(self._message_ids)
        self._unacknowledged.add(message_id)
        mqtt_5 = self.protocol == MQTTProtocolVersion.MQTTv5
        self._unsent.append(publish_packet(message, message_id, mqtt_5=mqtt_5))
        return message_id

    def _publish_by_paho(self, message: Outgoing) -> int:
        properties = None
        if self.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)
            if message.expiry_s:
                properties.MessageExpiryInterval = message.expiry_s
            if message.correlation:
                properties.CorrelationData = message.correlation
                if message.response_topic:
                    properties.ResponseTopic = message.response_topic
        return self.publish(message.topic, message.payload, 1, message.retain, properties).mid

    def send(self) -> None:
        """Pass the published messages to the network thread; without a connection, drop them."""
        if not self._unsent:
            return
        packets = b"".join(self._unsent)
        self._unsent.clear()
        if self.is_connected():
            self._packet_queue(PacketTypes.PUBLISH << 4, packets, 0, 1)

    def _published(
        self, client: paho.Client, userdata: Any, message_id: int, reason: Any, properties: Any
    ) -> None:
        """Report an acknowledgement of paho's own publish; otherwise the guard gets it."""
        self.acknowledged(message_id, failure(PacketTypes.PUBACK, reason.value))


def set_options(sock: Any) -> None:
    """Send small packets immediately, and give up a dead peer soon (tcp(7)).

    Nagle's algorithm would hold a reading back until the last one's ACK. Without a user time-out
    the kernel repeats unacknowledged bytes for a quarter of an hour, at growing intervals. And if
    the node sends nothing, it notices nothing before the next PINGREQ. The kernel detects sooner,
    without waking the node, that a broker vanished and came back.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_AFTER_S)
