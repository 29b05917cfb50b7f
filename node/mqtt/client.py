"""The client of one connection: its network thread, its subscriptions, and paho's callbacks.

The network thread (`loop_start`) connects, reconnects and receives. The callbacks only turn what
happened into an event and report it, because an exception in a callback ends that thread, and a
lock shared with it can deadlock. All other methods are called on the thread of the owner,
`BrokerConnection`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
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
    Session,
    Subscribed,
    SubscribeRefused,
    Subscription,
)
from node.mqtt.guarded_client import GuardedClient, set_options
from node.mqtt.rate_limit import RateLimit, Verdict
from node.mqtt.reasons import NO_SHARING, NO_WILDCARDS, PROTOCOL_ERROR, Reason
from node.mqtt.sieve import SKIPPED
from node.mqtt.spread import reconnect_delays
from node.topics import OFFLINE

__all__ = ["NetworkClient"]

CONNECT_TIMEOUT_S = 4.0
MAX_INCOMING_BYTES = 1024 * 1024
"""How large a packet of the broker may be, unless the client asks for less."""
_TOPICS_AT_ONCE = 8
"""How many topics a SUBSCRIBE has: what AWS IoT Core accepts, the least of the known brokers."""
_SHARED = "$share/"
_CAN_SHARE = "SharedSubscriptionAvailable"
DEFAULT_WINDOW = 65_535  # MQTT 5, §3.2.2.3.3: the default of Receive Maximum


class NetworkClient(GuardedClient):
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
            mqtt,
            version,
            client_id=client_id,
            clean_session=False if keeps_session_3 else None,
            manual_ack=session is not None,
            max_incoming_bytes=max_incoming_bytes,
        )
        self._session = session
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
        would then end each other's connections endlessly. See `after_connecting`.
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
        properties.MaximumPacketSize = self.max_incoming_bytes
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

    # -- callbacks, on the network thread

    def before_connecting(self) -> None:
        """Make no connection without a password, if there has to be one."""
        if self.credentials.problem:
            raise ConnectionError(self.credentials.problem)

    def after_connecting(self) -> None:
        """Leave a connection that was made for a client that was replaced meanwhile."""
        if self._ended.is_set():
            self.loop_stop()
            raise ConnectionAbortedError("the client was replaced meanwhile")

    def acknowledged(self, message_id: int, refused: Reason | None) -> None:
        """Report an acknowledgement."""
        self._report(Acknowledged(self._generation, message_id, refused))

    def _renew_password(self, client: paho.Client, userdata: Any) -> None:
        self.credentials.refresh()
        self.username_pw_set(self.credentials.username, self.credentials.password)

    def _connect_answered(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        self.drop_out_messages()
        self._asked.clear()
        self._asked_also.clear()
        self.forget_unacknowledged()
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
        why = Reason(PROTOCOL_ERROR, self.fault) if self.fault else _reason(reason)
        reference = getattr(properties, "ServerReference", "")
        self._report(Disconnected(self._generation, self._attempt, why, reference))

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
            set_options(sock)


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
