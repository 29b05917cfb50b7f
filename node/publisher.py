"""The broker's side of the node: one paho client, and what is on its way to the broker.

paho's network thread (`loop_start`) connects, reconnects and receives; its callbacks only turn
what happened into an event and put it on the loop's queue, because an exception in a callback
ends that thread and a lock shared with it can deadlock. Everything else here runs on the loop's
thread, which alone calls `publish()`.

Retained messages are conflated: of each topic at most one message is in flight and at most the
newest one waits, so a topic never goes backwards. paho is given nothing it could send again by
itself: nothing is published while the link is down, and what was not acknowledged when a link
broke is dropped from paho; the loop publishes the current state afresh on connecting.
"""

from __future__ import annotations

import logging
import random
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node.broker_errors import connect_failure, refusal
from node.messages import OFFLINE
from node.schema import MqttTable

__all__ = ["Acknowledged", "BrokerEvent", "ConnectFailed", "Connected", "Disconnected", "Publisher"]

_log = logging.getLogger(__name__)

# A broker that is back must be noticed within 5 s. A connection attempt sends its SYN at 0, 1 and
# 3 s and is given up after CONNECT_TIMEOUT_S, so the longest time without one is 1 s + the delay.
CONNECT_TIMEOUT_S = 4.0
_FIRST_DELAY_S = (0.7, 1.3)
_LONGEST_DELAY_S = (2.4, 3.2)

WINDOW = 20
"""Messages in flight at most; mosquitto's own default for its side."""


class Connected(msgspec.Struct, frozen=True):
    """The broker answered CONNECT. `refused` is the name of its reason code, "" for success."""

    generation: int
    refused: str
    unsupported_version: bool = False
    window: int = WINDOW
    max_packet_bytes: int = sys.maxsize


class ConnectFailed(msgspec.Struct, frozen=True):
    """No connection came about."""

    generation: int
    error: BaseException


class Disconnected(msgspec.Struct, frozen=True):
    """The connection ended; may come twice for one connection."""

    generation: int
    reason: str


class Acknowledged(msgspec.Struct, frozen=True):
    """PUBACK for a message; `refused` is the name of a failing MQTT 5 reason code, or ""."""

    generation: int
    message_id: int
    refused: str


BrokerEvent = Connected | ConnectFailed | Disconnected | Acknowledged


class _Retained(msgspec.Struct, frozen=True):
    payload: bytes
    expiry_s: int
    """0: the broker keeps it for ever."""


class Publisher:
    """Keeps the retained topics of one node up to date at the broker."""

    def __init__(
        self,
        mqtt: MqttTable,
        *,
        client_id: str,
        status_topic: str,
        tls_context: Any,
        report: Callable[[BrokerEvent], None],
    ) -> None:
        self._mqtt = mqtt
        self._client_id = client_id
        self._status_topic = status_topic
        self._tls_context = tls_context
        self._report = report
        self._version = (
            MQTTProtocolVersion.MQTTv311 if mqtt.protocol == "3.1.1" else MQTTProtocolVersion.MQTTv5
        )
        self._generation = 0
        self._client: paho.Client | None = None
        self._network_thread: threading.Thread | None = None
        self.connected = False
        self._silent_closes = 0
        self._complaint = ""
        self._window = WINDOW
        self._max_packet_bytes = sys.maxsize
        self._waiting: dict[str, _Retained] = {}
        self._in_flight: dict[int, str] = {}
        self._topics_in_flight: set[str] = set()
        self._refused_topics: set[str] = set()
        self._expiry_properties: dict[int, Properties] = {}

    # -- what the loop asks for

    def start(self) -> None:
        """Begin to connect, in the background and for as long as it takes."""
        self._generation += 1
        client = self._new_client(self._generation)
        self._client = client
        client.connect_async(self._mqtt.host, self._mqtt.broker_port, int(self._mqtt.keepalive))
        others = set(threading.enumerate())
        client.loop_start()
        self._network_thread = next(
            (t for t in threading.enumerate() if t not in others and "paho" in t.name), None
        )

    @property
    def alive(self) -> bool:
        """Whether paho's network thread lives; without it nothing would ever connect again."""
        return self._network_thread is not None and self._network_thread.is_alive()

    def restart(self) -> None:
        """Replace the client, after its network thread has died."""
        _log.error("the network thread has died; starting a new one")
        self._lose_link()
        self.start()

    def set(self, topic: str, payload: bytes, *, expiry_s: float = 0) -> None:
        """Make `payload` the retained message of `topic`, as soon as the link allows.

        Without a link nothing is kept: the loop sets everything again on connecting.
        """
        if self.connected:
            self._waiting[topic] = _Retained(payload, round(expiry_s))

    def flush(self) -> None:
        """Publish what is waiting, oldest first, as far as the window allows."""
        while self._waiting and len(self._in_flight) < self._window:
            topic = next((t for t in self._waiting if t not in self._topics_in_flight), None)
            if topic is None:
                return
            self._publish(topic, self._waiting.pop(topic))

    @property
    def idle(self) -> bool:
        """Nothing is waiting for the broker's acknowledgement, or nothing can be."""
        return not self.connected or not (self._in_flight or self._waiting)

    def say_goodbye(self) -> None:
        """Publish `offline` ahead of everything else; `close` when `idle`, or out of patience."""
        if self.connected:
            self._waiting.clear()
            self._publish(self._status_topic, _Retained(OFFLINE, 0))

    def close(self) -> None:
        """Disconnect. With the goodbye unacknowledged the link is left to break instead.

        A DISCONNECT makes the broker discard the will; so it is sent only when `offline` has
        arrived, and a broker that did not hear it publishes the will when the socket closes.
        """
        if self._client is not None and self.idle:
            self._client.disconnect()

    # -- what happened, on the loop's thread

    def handle(self, event: BrokerEvent) -> bool:
        """Take note of an event; True when a connection has just come about."""
        if event.generation != self._generation:
            return False
        if isinstance(event, Acknowledged):
            self._acknowledged(event)
        elif isinstance(event, Connected):
            return self._answered(event)
        elif isinstance(event, ConnectFailed):
            self._complain(connect_failure(event.error, self._mqtt))
        else:
            self._disconnected(event)
        return False

    def _answered(self, event: Connected) -> bool:
        self._silent_closes = 0
        if event.unsupported_version and self._may_change_version():
            self._change_version()
            return False
        if event.refused:
            self._complain(refusal(event.refused, self._mqtt))
            return False
        self.connected = True
        self._complaint = ""
        self._window = min(WINDOW, event.window)
        self._max_packet_bytes = event.max_packet_bytes
        self._refused_topics.clear()
        version = "5" if self._version == MQTTProtocolVersion.MQTTv5 else "3.1.1"
        secure = " with TLS" if self._mqtt.tls else ""
        _log.info(
            "connected to %s:%d, MQTT %s%s",
            self._mqtt.host,
            self._mqtt.broker_port,
            version,
            secure,
        )
        return True

    def _disconnected(self, event: Disconnected) -> None:
        if self.connected:
            self._lose_link()
            self._complain(
                f"lost {self._mqtt.host}:{self._mqtt.broker_port} ({event.reason}); reconnecting"
            )
            return
        # Closed before CONNACK: what a broker does that does not know the version at all.
        self._silent_closes += 1
        if self._silent_closes >= 2:
            self._complain(
                f"{self._mqtt.host}:{self._mqtt.broker_port} closes the connection before it "
                "answers; is this the port of an MQTT broker, and without TLS?"
            )
            if self._may_change_version():
                self._change_version()

    def _lose_link(self) -> None:
        self.connected = False
        self._waiting.clear()
        self._in_flight.clear()
        self._topics_in_flight.clear()

    def _may_change_version(self) -> bool:
        return self._mqtt.protocol == "auto"

    def _change_version(self) -> None:
        if self._version == MQTTProtocolVersion.MQTTv5:
            self._version = MQTTProtocolVersion.MQTTv311
        else:
            self._version = MQTTProtocolVersion.MQTTv5
        self._silent_closes = 0
        assert self._client is not None
        self._client.disconnect()  # its thread sees that and ends
        self.start()

    def _acknowledged(self, event: Acknowledged) -> None:
        topic = self._in_flight.pop(event.message_id, None)
        if topic is None:
            return
        self._topics_in_flight.discard(topic)
        if event.refused and topic not in self._refused_topics:
            self._refused_topics.add(topic)
            _log.error(
                "the broker refuses messages on %s: %s; allow it in the broker's ACL",
                topic,
                event.refused,
            )

    def _complain(self, message: str) -> None:
        """Log a reason for being without a broker, once for as long as it stays the same."""
        if message != self._complaint:
            self._complaint = message
            _log.warning("no broker: %s", message)

    def _publish(self, topic: str, retained: _Retained) -> None:
        assert self._client is not None
        if len(topic.encode()) + len(retained.payload) + 32 > self._max_packet_bytes:
            if topic not in self._refused_topics:
                self._refused_topics.add(topic)
                _log.error("a message on %s is above the broker's maximum packet size", topic)
            return
        properties = self._expiry(retained.expiry_s)
        info = self._client.publish(topic, retained.payload, 1, True, properties)
        if info.rc == paho.MQTT_ERR_SUCCESS:
            self._in_flight[info.mid] = topic
            self._topics_in_flight.add(topic)

    def _expiry(self, expiry_s: int) -> Properties | None:
        if not expiry_s or self._version != MQTTProtocolVersion.MQTTv5:
            return None
        if expiry_s not in self._expiry_properties:
            properties = Properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = expiry_s
            self._expiry_properties[expiry_s] = properties
        return self._expiry_properties[expiry_s]

    # -- the client, and its callbacks on paho's thread

    def _new_client(self, generation: int) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=self._version
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        # paho adds no jitter; without it a whole fleet returns in the same second. Its annotation
        # says int, and it only adds and multiplies.
        client.reconnect_delay_set(
            random.uniform(*_FIRST_DELAY_S),  # type: ignore[arg-type]
            random.uniform(*_LONGEST_DELAY_S),  # type: ignore[arg-type]
        )
        client.max_inflight_messages_set(0)  # the window is kept here
        if self._mqtt.username is not None:
            client.username_pw_set(self._mqtt.username, self._mqtt.password)
        if self._tls_context is not None:
            client.tls_set_context(self._tls_context)
        client.will_set(self._status_topic, OFFLINE, qos=1, retain=True)
        self._set_callbacks(client, generation)
        return client

    def _set_callbacks(self, client: paho.Client, generation: int) -> None:
        report = self._report

        def on_connect(
            client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
        ) -> None:
            client.drop_out_messages()
            report(
                Connected(
                    generation,
                    refused=str(reason) if reason.is_failure else "",
                    unsupported_version=reason.is_failure
                    and "protocol version" in str(reason).lower(),
                    window=getattr(properties, "ReceiveMaximum", WINDOW),
                    max_packet_bytes=getattr(properties, "MaximumPacketSize", sys.maxsize),
                )
            )

        def on_connect_fail(client: paho.Client, userdata: Any) -> None:
            # Called from within paho's `except OSError:`.
            report(ConnectFailed(generation, sys.exception() or OSError("no connection")))

        def on_disconnect(
            client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
        ) -> None:
            report(Disconnected(generation, str(reason)))

        def on_publish(
            client: paho.Client, userdata: Any, message_id: int, reason: Any, properties: Any
        ) -> None:
            refused = str(reason) if reason.is_failure else ""
            report(Acknowledged(generation, message_id, refused))

        client.on_connect = on_connect
        client.on_connect_fail = on_connect_fail
        client.on_disconnect = on_disconnect
        client.on_publish = on_publish
        client.on_socket_open = _tune_socket


def _tune_socket(client: paho.Client, userdata: Any, sock: Any) -> None:
    """Send small packets at once: Nagle's algorithm would hold a reading back for an ACK."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
