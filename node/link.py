"""The link to the broker: one paho client at a time, its version, and why it is down.

paho's network thread (`loop_start`) connects, reconnects and receives. Its callbacks only turn
what happened into an event and report it, because an exception in a callback ends that thread,
and a lock shared with it can deadlock. Everything else here runs on the thread of the link's
owner, which hands each event back to `handle`.
"""

from __future__ import annotations

import enum
import logging
import random
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from node.broker_errors import connect_failure, refusal
from node.messages import OFFLINE
from node.schema import MqttTable

__all__ = [
    "Acknowledged",
    "Arrived",
    "BrokerEvent",
    "Change",
    "ConnectFailed",
    "Connected",
    "Disconnected",
    "Link",
    "Outgoing",
    "Sent",
]

_log = logging.getLogger(__name__)

# A broker that is back must be noticed within 5 s. A connection attempt sends its SYN at 0, 1 and
# 3 s and is given up after CONNECT_TIMEOUT_S, so the longest time without one is 1 s + the delay.
CONNECT_TIMEOUT_S = 4.0
_FIRST_DELAY_S = (0.7, 1.3)
_LONGEST_DELAY_S = (2.4, 3.2)
UNACKNOWLEDGED_MS = 10_000
"""How long the other end may leave bytes unacknowledged, at the level of TCP."""

DEFAULT_WINDOW = 65_535  # MQTT 5, §3.2.2.3.3: what no Receive Maximum means
SILENT_CLOSES = 2
"""Connections closed without CONNACK before another version is tried."""


class Connected(msgspec.Struct, frozen=True):
    """The broker answered CONNECT. `refused` is the name of its reason code, "" for success."""

    generation: int
    refused: str
    window: int
    max_packet_bytes: int


class ConnectFailed(msgspec.Struct, frozen=True):
    """No connection came about."""

    generation: int
    error: BaseException


class Disconnected(msgspec.Struct, frozen=True):
    """A connection ended, the `attempt`-th of its client; may come twice for one."""

    generation: int
    attempt: int
    reason: str


class Acknowledged(msgspec.Struct, frozen=True):
    """PUBACK for a message; `refused` is the name of a failing MQTT 5 reason code, or ""."""

    generation: int
    message_id: int
    refused: str


class Arrived(msgspec.Struct, frozen=True):
    """A message of a subscribed topic."""

    generation: int
    topic: str
    payload: bytes
    retained: bool


class Sent(msgspec.Struct, frozen=True):
    """A message that was handed over to `Link.publish_together` got its id."""

    generation: int
    message_id: int
    topic: str


class Outgoing(msgspec.Struct, frozen=True):
    """A message to publish, retained, at QoS 1; `expiry_s` is its MQTT 5 expiry, 0 for none."""

    topic: str
    payload: bytes
    expiry_s: int = 0


BrokerEvent = Connected | ConnectFailed | Disconnected | Acknowledged | Arrived | Sent


class Change(enum.Enum):
    """What an event did to the link."""

    NONE = enum.auto()
    UP = enum.auto()
    DOWN = enum.auto()


class _Client(paho.Client):
    """A client whose network thread does not wake up once a second for nothing.

    `loop_start` runs `loop_forever` with a select of 1 s, which is the node's largest source of
    wake-ups. All that the time-out serves is the keepalive: a PINGREQ may be late by it, and the
    broker waits for half a keepalive more (MQTT 5, §3.1.2.10).
    """

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        return super().loop_forever(max(timeout, self.keepalive / 4), retry_first_connection)


class _PackedOnce(Properties):
    """Properties that many messages share: paho packs them anew for each, in a third of the time
    that a publish takes."""

    def pack(self) -> bytes:
        if "packed" not in self.__dict__:
            self.__dict__["packed"] = super().pack()  # type: ignore[no-untyped-call]
        packed: bytes = self.__dict__["packed"]
        return packed


class Link:
    """Connects, and stays connected; speaks MQTT 5, or 3.1.1 to a broker that knows no other."""

    def __init__(
        self,
        mqtt: MqttTable,
        *,
        client_id: str,
        tls_context: Any,
        report: Callable[[BrokerEvent], None],
        will_topic: str | None = None,
        subscribe: tuple[str, ...] = (),
    ) -> None:
        """`report` is called on paho's thread. The will is a retained `offline`."""
        self._mqtt = mqtt
        self._client_id = client_id
        self._tls_context = tls_context
        self._report = report
        self._will_topic = will_topic
        self._subscribe = subscribe
        self._version = (
            MQTTProtocolVersion.MQTTv311 if mqtt.protocol == "3.1.1" else MQTTProtocolVersion.MQTTv5
        )
        self._generation = 0
        self._client: paho.Client | None = None
        self._network_thread: threading.Thread | None = None
        self._ever_connected = False
        self._silent_closes = 0
        self._closed_attempt = (0, 0)
        self._complaints: set[str] = set()
        self._expiry_properties: dict[int, Properties] = {}
        self._handed_over: deque[Outgoing] = deque()
        self.connected = False
        self.window = DEFAULT_WINDOW
        """How many messages the broker takes before it has acknowledged the first."""
        self.max_packet_bytes = sys.maxsize

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
        self.connected = False
        self.start()

    def publish(self, message: Outgoing) -> int | None:
        """Publish now; the message's id, or None if the link is down after all."""
        assert self._client is not None
        return self._publish_with(self._client, message)

    def publish_together(self, messages: list[Outgoing]) -> int | None:
        """Publish the first now, and the others from paho's own thread when it is acknowledged.

        To publish from another thread than paho's costs two changes of thread a message, each
        byte on the way to it making the two compete for the interpreter. So one message wakes
        paho, which then sends the rest without waking anybody; `Sent` tells their ids. Returns
        the id of the first.
        """
        self._handed_over.extend(messages[1:])
        return self.publish(messages[0])

    def _publish_with(self, client: paho.Client, message: Outgoing) -> int | None:
        properties = self._expiry(message.expiry_s)
        info = client.publish(message.topic, message.payload, 1, True, properties)
        return info.mid if info.rc == paho.MQTT_ERR_SUCCESS else None

    def disconnect(self, wait_s: float) -> None:
        """End the connection with DISCONNECT, so that the broker discards the will."""
        if self._client is not None and self._network_thread is not None:
            self._client.disconnect()
            self._network_thread.join(wait_s)

    def handle(self, event: BrokerEvent) -> Change:
        """Take note of an event that was reported; events of an earlier client are ignored."""
        if event.generation != self._generation:
            return Change.NONE
        if isinstance(event, Connected):
            return self._answered(event)
        if isinstance(event, ConnectFailed):
            self._complain(connect_failure(event.error, self._mqtt))
        elif isinstance(event, Disconnected):
            return self._disconnected(event)
        return Change.NONE

    def _answered(self, event: Connected) -> Change:
        self._silent_closes = 0
        unsupported = "protocol version" in event.refused.lower()
        if unsupported and self._mqtt.protocol == "auto" and self._speaks_5:
            self._change_version()
            return Change.NONE
        if event.refused:
            self._complain(refusal(event.refused, self._mqtt))
            return Change.NONE
        self.connected = self._ever_connected = True
        self._complaints.clear()
        self.window = event.window
        self.max_packet_bytes = event.max_packet_bytes
        version = "5" if self._speaks_5 else "3.1.1"
        secure = " with TLS" if self._mqtt.tls else ""
        where = f"{self._mqtt.host}:{self._mqtt.broker_port}"
        _log.info("connected to %s, MQTT %s%s", where, version, secure)
        return Change.UP

    def _disconnected(self, event: Disconnected) -> Change:
        where = f"{self._mqtt.host}:{self._mqtt.broker_port}"
        if self.connected:
            self.connected = False
            self._complain(f"lost {where} ({event.reason}); reconnecting")
            return Change.DOWN
        attempt = (event.generation, event.attempt)
        if attempt == self._closed_attempt:
            return Change.NONE
        self._closed_attempt = attempt
        if "keep alive" in event.reason.lower():
            self._complain(
                f"{where} accepts the connection and does not answer; is it an MQTT broker, and "
                "does it run?"
            )
            return Change.NONE
        self._silent_closes += 1
        if self._silent_closes >= SILENT_CLOSES:
            self._complain(
                f"{where} closes the connection before it answers; is this the port of an MQTT "
                "broker, and without TLS?"
            )
            # A broker that has answered once knows the version, and has other troubles now.
            if self._mqtt.protocol == "auto" and not self._ever_connected:
                self._change_version()
        return Change.NONE

    @property
    def _speaks_5(self) -> bool:
        return self._version == MQTTProtocolVersion.MQTTv5

    def _change_version(self) -> None:
        if self._version == MQTTProtocolVersion.MQTTv5:
            self._version = MQTTProtocolVersion.MQTTv311
        else:
            self._version = MQTTProtocolVersion.MQTTv5
        self._silent_closes = 0
        assert self._client is not None
        self._client.disconnect()  # its thread sees that, and ends
        self.start()

    def _complain(self, message: str) -> None:
        """Log why there is no broker, each reason once until there is one."""
        if message not in self._complaints:
            self._complaints.add(message)
            _log.warning("no broker: %s", message)

    def _expiry(self, expiry_s: int) -> Properties | None:
        if not expiry_s or not self._speaks_5:
            return None
        if expiry_s not in self._expiry_properties:
            properties = _PackedOnce(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.MessageExpiryInterval = expiry_s
            self._expiry_properties[expiry_s] = properties
        return self._expiry_properties[expiry_s]

    def _new_client(self, generation: int) -> paho.Client:
        client = _Client(
            CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=self._version
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        # paho adds no jitter; without it a whole fleet returns in the same second. Its annotation
        # says int, and it only adds and multiplies.
        client.reconnect_delay_set(
            random.uniform(*_FIRST_DELAY_S),  # type: ignore[arg-type]
            random.uniform(*_LONGEST_DELAY_S),  # type: ignore[arg-type]
        )
        client.max_inflight_messages_set(0)  # whoever publishes keeps to the window
        if self._mqtt.username is not None:
            client.username_pw_set(self._mqtt.username, self._mqtt.password)
        if self._tls_context is not None:
            client.tls_set_context(self._tls_context)
        if self._will_topic is not None:
            client.will_set(self._will_topic, OFFLINE, qos=1, retain=True)
        self._set_callbacks(client, generation)
        return client

    def _set_callbacks(self, client: paho.Client, generation: int) -> None:
        report, topics = self._report, [(topic, 1) for topic in self._subscribe]
        attempt = 0

        def on_connect(
            client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
        ) -> None:
            # What was not acknowledged on the last link, paho would send again by itself, after
            # newer values: a retained topic would go backwards.
            client.drop_out_messages()
            self._handed_over.clear()
            if topics and not reason.is_failure:
                client.subscribe(topics)
            report(
                Connected(
                    generation,
                    refused=str(reason) if reason.is_failure else "",
                    window=getattr(properties, "ReceiveMaximum", DEFAULT_WINDOW),
                    max_packet_bytes=getattr(properties, "MaximumPacketSize", sys.maxsize),
                )
            )

        def on_connect_fail(client: paho.Client, userdata: Any) -> None:
            # Called from within paho's `except OSError:`, which keeps the reason to itself.
            report(ConnectFailed(generation, sys.exception() or OSError("no connection")))

        def on_disconnect(
            client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
        ) -> None:
            report(Disconnected(generation, attempt, str(reason)))

        def on_publish(
            client: paho.Client, userdata: Any, message_id: int, reason: Any, properties: Any
        ) -> None:
            refused = str(reason) if reason.is_failure else ""
            report(Acknowledged(generation, message_id, refused))
            while self._handed_over:
                message = self._handed_over.popleft()
                sent_id = self._publish_with(client, message)
                if sent_id is not None:
                    report(Sent(generation, sent_id, message.topic))

        def on_message(client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
            report(Arrived(generation, message.topic, bytes(message.payload), message.retain))

        client.on_connect = on_connect
        client.on_connect_fail = on_connect_fail
        client.on_disconnect = on_disconnect
        client.on_publish = on_publish
        client.on_message = on_message

        def on_socket_open(client: paho.Client, userdata: Any, sock: Any) -> None:
            nonlocal attempt
            attempt += 1
            _tune(sock)

        client.on_socket_open = on_socket_open


def _tune(sock: Any) -> None:
    """Send small packets at once, and give a dead peer up soon (tcp(7)).

    Nagle's algorithm would hold a reading back until the last one's ACK. Without a user time-out
    the kernel repeats unacknowledged bytes for a quarter of an hour, ever more rarely: a broker
    that vanished without a word, and is back, would be noticed long after.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
