"""paho's client as the node uses it: one connection's network thread, and its callbacks.

The network thread (`loop_start`) connects, reconnects and receives. The callbacks only turn what
happened into an event and report it, because an exception in a callback ends that thread, and a
lock shared with it can deadlock. All other methods are called on the thread of the owner,
`BrokerConnection`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from node.config.schema import MqttTable
from node.mqtt.credentials import Credentials
from node.mqtt.events import (
    Acknowledged,
    Arrived,
    BrokerEvent,
    Connected,
    ConnectFailed,
    Disconnected,
    Flooded,
    Outgoing,
    Session,
    Subscribed,
    SubscribeRefused,
    Subscription,
)
from node.mqtt.guarded_socket import GuardedSocket
from node.mqtt.packets import publish_packet
from node.mqtt.rate_limit import RateLimit, Verdict
from node.mqtt.reasons import NO_SHARING, NO_WILDCARDS, PROTOCOL_ERROR, Reason, failure
from node.mqtt.sieve import SKIPPED, Sieve
from node.mqtt.spread import reconnect_delays
from node.topics import OFFLINE

__all__ = ["NetworkClient"]

CONNECT_TIMEOUT_S = 4.0
UNACKNOWLEDGED_MS = 6_000
"""How long the other end may leave bytes unacknowledged in TCP."""
PROBE_AFTER_S = 3
"""How long a silence may last before the kernel sends keep-alive probes, and their interval."""

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux

MAX_INCOMING_BYTES = 1024 * 1024
"""How large a packet of the broker may be, unless the client asks for less."""
_OUR_IDS = range(0x8000, 0x10000)
"""The first message id of messages published here; paho counts its own from 1 on."""
_TOPICS_AT_ONCE = 8
"""How many topics a SUBSCRIBE has: what AWS IoT Core accepts, the least of the known brokers."""
_SHARED = "$share/"
_CAN_SHARE = "SharedSubscriptionAvailable"
DEFAULT_WINDOW = 65_535  # MQTT 5, §3.2.2.3.3: the default of Receive Maximum


class NetworkClient(paho.Client):
    """A client that is set up but not connected yet; `begin` connects it, however long it takes.

    `report` is called on the network thread. The will is a retained `offline` on `will_topic`.
    """

    def __init__(
        self,
        mqtt: MqttTable,
        version: MQTTProtocolVersion,
        *,
        client_id: str,
        generation: int,
        tls_context: Any,
        report: Callable[[BrokerEvent], None],
        will_topic: str | None,
        subscribe: tuple[Subscription, ...],
        rate_limit: RateLimit | None,
        max_incoming_bytes: int = MAX_INCOMING_BYTES,
        session: Session | None = None,
    ) -> None:
        keeps_session_3 = session is not None and version != MQTTProtocolVersion.MQTTv5
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False if keeps_session_3 else None,
            protocol=version,
            transport=mqtt.transport,
            manual_ack=session is not None,
        )
        self._session = session
        self._through = mqtt.proxy
        self._spread_s = float(mqtt.reconnect_spread)
        self._address = (mqtt.host, mqtt.broker_port, int(mqtt.keepalive))
        self._generation = generation
        self._report = report
        self._subscriptions = subscribe
        self._rate_limit = rate_limit
        self._asked_also: deque[list[str]] = deque()
        """The topics of `listen_also`, in each SUBSCRIBE that is not answered yet."""
        self._asked: dict[int, str] = {}
        """Message id -> topic, for each SUBSCRIBE that is not answered yet."""
        self._attempt = 0
        self._over = threading.Event()
        """Set while the network thread does not run."""
        self._over.set()
        self._ended = threading.Event()
        self._begins_after_s = 0.0
        self._max_incoming_bytes = max_incoming_bytes
        self._guard: GuardedSocket | None = None
        """The guard of the newest connection."""
        self._message_ids = itertools.cycle(_OUR_IDS)
        self._unacknowledged: set[int] = set()
        """Ids of messages published on this connection, or to be sent with the next `send`."""
        self._unsent: list[bytes] = []
        """Packets that were published but not passed to the network thread yet."""
        self.hurried = False
        """Whether messages wait for others to be acknowledged; set on another thread."""
        self.connect_timeout = CONNECT_TIMEOUT_S
        self.pause_before_reconnecting(0)
        self.credentials = Credentials(mqtt)
        if mqtt.username is not None:
            self.username_pw_set(mqtt.username, mqtt.password)
            if self.credentials.may_change:
                self.on_pre_connect = self._renew_password
        if mqtt.transport == "websockets":
            self.ws_set_options(mqtt.path or "/mqtt")
        if tls_context is not None:
            self.tls_set_context(tls_context)
        if will_topic is not None:
            self.will_set(will_topic, OFFLINE, qos=1, retain=True)
        self.max_inflight_messages_set(0)  # the publisher keeps the window
        self.on_publish = self._published
        self.on_connect = self._connect_answered
        self.on_connect_fail = self._connect_failed
        self.on_disconnect = self._disconnected
        self.on_message = self._arrived
        self.on_subscribe = self._subscribe_answered
        self.on_socket_open = self._socket_opened

    def begin(self, after_s: float = 0.0) -> None:
        """Start the network thread, which connects after `after_s`."""
        self._begins_after_s = after_s
        mqtt_5 = self.protocol == MQTTProtocolVersion.MQTTv5
        clean: Any = False if mqtt_5 and self._session else paho.MQTT_CLEAN_START_FIRST_ONLY
        self.connect_async(*self._address, clean_start=clean, properties=self._limits_asked_for())
        self._over.clear()
        self.loop_start()

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        """Do what paho's method does on `loop_start`'s thread, without waking up every second.

        A PINGREQ may be late by the same time; a broker tolerates half a keepalive.
        """
        try:
            if self._ended.wait(self._begins_after_s):
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            return super().loop_forever(max(timeout, self.keepalive / 4), retry_first_connection)
        finally:
            self._over.set()

    def _create_socket(self) -> Any:
        """Create paho's socket with a guard: the only hook into paho for incoming packets.

        A paho without this method, or without `_packet_queue`, is used only by public methods.
        """
        if self.credentials.problem:
            raise ConnectionError(self.credentials.problem)
        sock = super()._create_socket()
        if self._ended.is_set():  # while it connected
            self.loop_stop()
            sock.close()
            raise ConnectionAbortedError("the client was replaced meanwhile")
        if not hasattr(self, "_packet_queue"):
            return sock
        mqtt_5 = self.protocol == MQTTProtocolVersion.MQTTv5
        sieve = Sieve(mqtt_5=mqtt_5, max_bytes=self._max_incoming_bytes)
        self._guard = GuardedSocket(
            sock, sieve, acknowledged=self._acknowledged, is_writing=self.want_write
        )
        return self._guard

    def _create_socket_connection(self) -> socket.socket:
        """Go through the configured proxy. A paho without this method never gets there."""
        if self._through is None:
            sock = super()._create_socket_connection()
        else:
            from node.mqtt.proxies import connect_through

            host, port, _ = self._address
            sock = connect_through(self._through, host, port, self.connect_timeout)
        if self.transport != "tcp":  # paho's wrapper for WebSockets takes no options
            _set_options(sock)
        return sock

    @property
    def guarded(self) -> bool:
        """Return whether this paho has the hooks to guard its socket and write to it directly."""
        return self._guard is not None

    def _acknowledged(self, packets: list[tuple[int, int]]) -> int:
        """Report the expected acknowledgements; return how many there were."""
        if self.hurried:
            self._acknowledge_at_once()
        known = 0
        for message_id, code in packets:
            if message_id in self._unacknowledged:
                self._unacknowledged.discard(message_id)
                known += 1
                refused = failure(PacketTypes.PUBACK, code)
                self._report(Acknowledged(self._generation, message_id, refused))
        return known

    def pause_before_reconnecting(self, pause_s: float) -> None:
        """Wait for `pause_s` more than usual before each connection attempt.

        paho does not add jitter; without it a whole fleet returns in the same second. paho's
        annotation says int, but it only adds and multiplies.
        """
        first_s, longest_s = reconnect_delays(self._spread_s)
        self.reconnect_delay_set(pause_s + first_s, pause_s + longest_s)  # type: ignore[arg-type]

    @property
    def alive(self) -> bool:
        """Return whether the network thread lives; only that thread connects again."""
        return not self._over.is_set()

    def end(self, wait_s: float = 0) -> None:
        """Send DISCONNECT, so that the broker discards the will; the thread ends by itself.

        A thread that is just connecting would forget `disconnect` alone. Two clients with one id
        would then end each other's connections endlessly. See `_create_socket`.
        """
        self._ended.set()
        self.disconnect()
        self._over.wait(wait_s)

    def abort(self) -> None:
        """End the connection and its thread without DISCONNECT: the broker does not listen.

        The thread may be in any call on the socket, so the socket is shut down from here.
        """
        self._ended.set()
        self.disconnect()
        sock: Any = self.socket()
        with (
            contextlib.suppress(OSError, ValueError, AttributeError),  # it has just closed
            socket.socket(fileno=os.dup(sock.fileno())) as same,
        ):
            same.shutdown(socket.SHUT_RDWR)

    def _limits_asked_for(self) -> Properties | None:
        """Return what MQTT 5 asks the broker for; `Sieve` enforces the largest packet."""
        if self.protocol != MQTTProtocolVersion.MQTTv5:
            return None
        properties = Properties(PacketTypes.CONNECT)
        properties.MaximumPacketSize = self._max_incoming_bytes
        if self._session is not None:
            properties.SessionExpiryInterval = self._session.keep_s
            properties.ReceiveMaximum = self._session.window
        return properties

    def settle(self, message: Arrived) -> None:
        """Acknowledge a message of a session, unless it came on an earlier connection.

        The broker sends that one again, and may give its id to another one.
        """
        if message.attempt == self._attempt:
            self.ack(message.message_id, 1)

    def listen(self, subscription: Subscription) -> None:
        """Subscribe on this connection; `SubscribeRefused` reports a refusal."""
        wanted: Any = (subscription.topic, 1)
        if self.protocol == MQTTProtocolVersion.MQTTv5:
            shared = subscription.topic.startswith(_SHARED)  # without noLocal: §3.8.3.1
            options = SubscribeOptions(
                qos=1, noLocal=not shared, retainAsPublished=subscription.show_retained
            )
            wanted = (subscription.topic, options)
        _, message_id = self.subscribe([wanted])
        if message_id is not None:
            self._asked[message_id] = subscription.topic

    def listen_also(self, topics: list[str]) -> None:
        """Subscribe to topics; `Subscribed` reports the last answer; refusals are not reported.

        The last topic is in a SUBSCRIBE of its own, so that its answer comes after the retained
        messages of all others.
        """
        mqtt_5 = self.protocol == MQTTProtocolVersion.MQTTv5
        how: Any = SubscribeOptions(qos=1, noLocal=True) if mqtt_5 else 1
        others, last = topics[:-1], topics[-1:]
        packets = [
            others[at : at + _TOPICS_AT_ONCE] for at in range(0, len(others), _TOPICS_AT_ONCE)
        ]
        packets.append(last)
        self._asked_also.extend(packets)  # all of them before the first can be answered
        for packet in packets:
            self.subscribe([(topic, how) for topic in packet])

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

    # -- callbacks, on the network thread

    def _renew_password(self, client: paho.Client, userdata: Any) -> None:
        self.credentials.refresh()
        self.username_pw_set(self.credentials.username, self.credentials.password)

    def _connect_answered(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        self.drop_out_messages()
        self._asked.clear()
        self._asked_also.clear()
        self._unacknowledged.clear()
        if self._rate_limit is not None:
            self._rate_limit.begin_connection()
        impossible: list[tuple[str, Reason]] = []
        available = properties if self.protocol == MQTTProtocolVersion.MQTTv5 else None
        for subscription in () if reason.is_failure else self._subscriptions:
            why = _impossible(subscription, available)
            if why is not None:
                impossible.append((subscription.topic, why))
            if why is None:
                self.listen(subscription)
            elif why.code == NO_SHARING and subscription.unshared:
                self.listen(Subscription(subscription.unshared))
        self._report(
            Connected(
                self._generation,
                refused=_reason(reason) if reason.is_failure else None,
                window=getattr(properties, "ReceiveMaximum", DEFAULT_WINDOW),
                max_packet_bytes=getattr(properties, "MaximumPacketSize", sys.maxsize),
                guarded=self.guarded,
                server_reference=getattr(properties, "ServerReference", ""),
            )
        )
        for topic, why in impossible:
            self._report(SubscribeRefused(self._generation, topic, why))

    def _connect_failed(self, client: paho.Client, userdata: Any) -> None:
        # Called from within paho's `except OSError:`, which does not pass the error on.
        error = sys.exception() or OSError("no connection")
        self._report(ConnectFailed(self._generation, error))

    def _disconnected(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        fault = self._guard.fault if self._guard is not None else ""
        why = Reason(PROTOCOL_ERROR, fault) if fault else _reason(reason)
        reference = getattr(properties, "ServerReference", "")
        self._report(Disconnected(self._generation, self._attempt, why, reference))

    def _published(
        self, client: paho.Client, userdata: Any, message_id: int, reason: Any, properties: Any
    ) -> None:
        """Report an acknowledgement of paho's own publish; otherwise the guard gets it."""
        refused = failure(PacketTypes.PUBACK, reason.value)
        self._report(Acknowledged(self._generation, message_id, refused))

    def _acknowledge_at_once(self) -> None:
        """Send a TCP ACK for the PUBACK, so that the broker sends waiting ones (tcp(7)).

        Nagle's algorithm on the broker's side holds back all but the first PUBACK until then. If
        we send nothing, our kernel delays the ACK by 40 ms, which allows one window every 40 ms.
        """
        sock: Any = self.socket()  # None, if the connection has just closed
        if sock is not None and _QUICKACK is not None and self.transport == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _subscribe_answered(
        self, client: paho.Client, userdata: Any, message_id: int, reasons: Any, properties: Any
    ) -> None:
        topic = self._asked.pop(message_id, "")
        if not topic and self._asked_also:
            self._asked_also.popleft()
            if not self._asked_also:
                self._report(Subscribed(self._generation))
        for reason in reasons if topic else ():
            if reason.is_failure:
                self._report(SubscribeRefused(self._generation, topic, _reason(reason)))

    def _arrived(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # a broker that lets it pass must not end this thread
            return
        if topic == SKIPPED:
            if self._session is not None:
                self.ack(message.mid, message.qos)
            return
        if self._rate_limit is not None:
            verdict = self._rate_limit.judge(topic, retained=message.retain)
            if verdict is Verdict.FLOODED:
                self._report(Flooded(self._generation, topic))
            if verdict is not Verdict.TAKEN:
                return
        self._report(
            Arrived(
                self._generation,
                topic,
                bytes(message.payload),
                message.retain,
                response_topic=getattr(message.properties, "ResponseTopic", ""),
                correlation=getattr(message.properties, "CorrelationData", b""),
                attempt=self._attempt,
                message_id=message.mid if message.qos else 0,
            )
        )

    def _socket_opened(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._attempt += 1
        if self.transport == "tcp":
            _set_options(sock)


def _set_options(sock: Any) -> None:
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


def _impossible(subscription: Subscription, available: Properties | None) -> Reason | None:
    """Return why the broker has no such subscription; its CONNACK says what is `available`.

    It may end the connection over one (MQTT 5, §3.2.2.3.11, §3.2.2.3.13), or take a shared one for
    an ordinary topic, and send nothing, as RabbitMQ 4 does. MQTT 3.1.1 (`available` is None) knows
    no shared subscriptions.
    """
    is_shared = subscription.topic.startswith(_SHARED)
    if is_shared and (available is None or not getattr(available, _CAN_SHARE, 1)):
        all_of_it = f", and sends all of {subscription.unshared}" if subscription.unshared else ""
        return Reason(NO_SHARING, f"it does not support shared subscriptions{all_of_it}")
    has_wildcard = bool({"+", "#"} & {*subscription.topic})
    if has_wildcard and not getattr(available, "WildcardSubscriptionAvailable", 1):
        return Reason(NO_WILDCARDS, "it does not support subscriptions with wildcards")
    return None


def _reason(code: ReasonCode) -> Reason:
    return Reason(code.value, str(code))
