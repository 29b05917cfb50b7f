"""paho's client as the node uses it: one connection's network thread, and its callbacks.

The network thread (`loop_start`) connects, reconnects and receives. The callbacks only turn what
happened into an event and report it, because an exception in a callback ends that thread, and a
lock shared with it can deadlock. All other methods are called on the thread of the owner,
`BrokerConnection`.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from node.config.schema import MqttTable
from node.mqtt.buffered_socket import BufferedSocket
from node.mqtt.events import (
    Acknowledged,
    Arrived,
    BrokerEvent,
    Connected,
    ConnectFailed,
    Disconnected,
    Flooded,
    Outgoing,
    SubscribeRefused,
    Subscription,
)
from node.mqtt.packets import publish_packet
from node.mqtt.rate_limit import RateLimit, Verdict
from node.mqtt.reasons import NO_WILDCARDS, Reason, failure
from node.system.jitter import at_random
from node.topics import OFFLINE

__all__ = ["NetworkClient"]

# A broker that is back must be noticed within 5 s. A connection attempt sends its SYN at 0, 1 and
# 3 s and is given up after CONNECT_TIMEOUT_S, so the longest time without one is 1 s + the delay.
CONNECT_TIMEOUT_S = 4.0
_FIRST_DELAY_S = (0.7, 1.3)
_MAX_DELAY_S = (2.4, 3.2)
UNACKNOWLEDGED_MS = 6_000
"""How long the other end may leave bytes unacknowledged, at the level of TCP."""
PROBE_AFTER_S = 3
"""After how long a silence the kernel asks the other end for a sign of life, and how often."""

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux

LARGEST_INCOMING_BYTES = 1024 * 1024
"""What an MQTT 5 broker may send us at most (§3.1.2.11.4): our own discovery message is far below,
and nobody can fill our memory."""
_MAX_PACKETS_AT_ONCE = 100
"""Read without a look at what is to be sent."""
DEFAULT_WINDOW = 65_535  # MQTT 5, §3.2.2.3.3: what no Receive Maximum means


class NetworkClient(paho.Client):
    """A client that is set up and not connected yet; `begin` connects it, for as long as it takes.

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
    ) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version)
        self._address = (mqtt.host, mqtt.broker_port, int(mqtt.keepalive))
        self._generation = generation
        self._report = report
        self._subscriptions = subscribe
        self._rate_limit = rate_limit
        self._asked: dict[int, str] = {}
        """Message id -> topic, of the SUBSCRIBEs that are not answered yet."""
        self._attempt = 0
        self._network_thread: threading.Thread | None = None
        self._unsent: list[bytes] = []
        """Packets that were published and not handed to the network thread yet."""
        self.hurried = False
        """Messages wait for others to be acknowledged; set on another thread."""
        self.connect_timeout = CONNECT_TIMEOUT_S
        self.pause_before_reconnecting(0)
        if mqtt.username is not None:
            self.username_pw_set(mqtt.username, mqtt.password)
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

    def begin(self) -> None:
        """Start the network thread."""
        self.connect_async(*self._address, properties=self._incoming_limit())
        others = set(threading.enumerate())
        self.loop_start()
        self._network_thread = next(
            (t for t in threading.enumerate() if t not in others and "paho" in t.name), None
        )

    def _loop(self, timeout: float = 1.0) -> MQTTErrorCode:
        """As paho's, without waking up for nothing before a PINGREQ, or its answer, is due.

        `loop_start` has this wait for 1 s at most, the largest source of wake-ups there is.
        """
        if self.keepalive:
            due_s = min(self._last_msg_out, self._last_bytes_received) + self.keepalive
            timeout = max(0.0, due_s - time.monotonic())
        return super()._loop(timeout)

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """As paho's, for all packets that have come, without a select for each."""
        for _ in range(_MAX_PACKETS_AT_ONCE):
            result = super().loop_read(max_packets)
            if result != MQTTErrorCode.MQTT_ERR_SUCCESS or not self._has_read_ahead():
                break
        return result

    def _has_read_ahead(self) -> bool:
        sock = self.socket()
        return isinstance(sock, BufferedSocket) and sock.pending() > 0

    def _create_socket(self) -> Any:
        sock = BufferedSocket(super()._create_socket())
        if self._thread_terminate:  # while it connected
            sock.close()
            raise ConnectionAbortedError("the client was replaced meanwhile")
        return sock

    def _create_socket_connection(self) -> socket.socket:
        """As paho's; for a host in ASCII without the codec for others, which takes as long to
        import as paho itself."""
        if self._get_proxy() or not self.host.isascii():
            return super()._create_socket_connection()
        address: Any = (self.host.encode("ascii"), self.port)
        return socket.create_connection(address, self.connect_timeout)

    def _handle_pubackcomp(self, cmd: Any) -> MQTTErrorCode:
        """An acknowledgement of what `publish_at_qos_1` has sent, which paho knows nothing of."""
        packet = self._in_packet["packet"]
        if len(packet) < 2:
            raise MalformedPacket(f"a {cmd} of {len(packet)} bytes")
        if self.hurried:
            self._acknowledge_at_once()
        code = packet[2] if len(packet) > 2 else 0
        refused = failure(PacketTypes.PUBACK, code)
        self._report(Acknowledged(self._generation, int.from_bytes(packet[:2], "big"), refused))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_publish(self) -> MQTTErrorCode:
        """As paho's, but a message that it cannot read is dropped, and not the connection.

        paho (2.2) takes U+FEFF in a property for malformed, which MQTT 5 allows (§1.5.4). A
        retained message with one would end every connection as soon as it came about.
        """
        try:
            return super()._handle_publish()
        except (MalformedPacket, UnicodeDecodeError):
            if not self._in_packet["command"] & 0b0110:
                return MQTTErrorCode.MQTT_ERR_SUCCESS  # QoS 0
            packet = self._in_packet["packet"]
            id_at = 2 + int.from_bytes(packet[:2], "big")
            return self._send_puback(int.from_bytes(packet[id_at : id_at + 2], "big"))

    def pause_before_reconnecting(self, pause_s: float) -> None:
        """Wait for `pause_s` more than usual before each connection attempt.

        paho adds no jitter of its own; without it a whole fleet returns in the same second. Its
        annotation says int, and it only adds and multiplies.
        """
        self.reconnect_delay_set(
            pause_s + at_random(*_FIRST_DELAY_S),  # type: ignore[arg-type]
            pause_s + at_random(*_MAX_DELAY_S),  # type: ignore[arg-type]
        )

    @property
    def alive(self) -> bool:
        """Whether the network thread lives; without it nothing would ever connect again."""
        return self._network_thread is not None and self._network_thread.is_alive()

    def end(self, wait_s: float = 0) -> None:
        """Send DISCONNECT, so that the broker discards the will; the thread ends by itself.

        `disconnect` alone would be forgotten by a thread that is just connecting: two clients
        with one id would then end each other's connections for ever.
        """
        self.disconnect()
        self._thread_terminate = True
        if self._network_thread is not None:
            self._network_thread.join(wait_s)

    def _incoming_limit(self) -> Properties | None:
        if self.protocol != MQTTProtocolVersion.MQTTv5 or self._rate_limit is None:
            return None
        properties = Properties(PacketTypes.CONNECT)
        properties.MaximumPacketSize = LARGEST_INCOMING_BYTES
        return properties

    def listen(self, subscription: Subscription) -> None:
        """Subscribe, on this connection; `SubscribeRefused` tells of a refusal."""
        wanted: Any = (subscription.topic, 1)
        if self.protocol == MQTTProtocolVersion.MQTTv5:
            options = SubscribeOptions(
                qos=1, noLocal=True, retainAsPublished=subscription.show_retained
            )
            wanted = (subscription.topic, options)
        _, message_id = self.subscribe([wanted])
        if message_id is not None:
            self._asked[message_id] = subscription.topic

    def publish_at_qos_1(self, message: Outgoing) -> int:
        """Publish with the next `send`; the id that it will be acknowledged by.

        paho's own `publish` keeps each message, to send it anew on the next connection, after
        newer values; and it wakes the network thread for each, which then competes with ours for
        the interpreter. Who publishes here keeps what must not be lost, and all that falls due at
        one time leaves in one piece: on a radio that is one frame for ten readings.
        """
        message_id = self._mid_generate()
        mqtt_5 = self.protocol == MQTTProtocolVersion.MQTTv5
        self._unsent.append(publish_packet(message, message_id, mqtt_5=mqtt_5))
        return message_id

    def send(self) -> None:
        """Hand what was published to the network thread; without a connection, drop it."""
        if not self._unsent:
            return
        packets = b"".join(self._unsent)
        self._unsent.clear()
        if self.is_connected():
            self._packet_queue(PacketTypes.PUBLISH << 4, packets, 0, 1)

    # -- callbacks, on the network thread

    def _connect_answered(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        self._asked.clear()
        # A broker without wildcards ends the connection over one (MQTT 5, §3.2.2.3.11).
        wildcards = getattr(properties, "WildcardSubscriptionAvailable", 1) == 1
        impossible: list[str] = []
        for subscription in () if reason.is_failure else self._subscriptions:
            if wildcards or not {"+", "#"} & {*subscription.topic}:
                self.listen(subscription)
            else:
                impossible.append(subscription.topic)
        self._report(
            Connected(
                self._generation,
                refused=_reason(reason) if reason.is_failure else None,
                window=getattr(properties, "ReceiveMaximum", DEFAULT_WINDOW),
                max_packet_bytes=getattr(properties, "MaximumPacketSize", sys.maxsize),
            )
        )
        for topic in impossible:
            why = Reason(NO_WILDCARDS, "it has no subscriptions with wildcards")
            self._report(SubscribeRefused(self._generation, topic, why))

    def _connect_failed(self, client: paho.Client, userdata: Any) -> None:
        # Called from within paho's `except OSError:`, which keeps the reason to itself.
        error = sys.exception() or OSError("no connection")
        self._report(ConnectFailed(self._generation, error))

    def _disconnected(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        self._report(Disconnected(self._generation, self._attempt, _reason(reason)))

    def _acknowledge_at_once(self) -> None:
        """Tell the broker's TCP that its PUBACK is here, so that it sends those that wait (tcp(7)).

        Nagle's algorithm on its side holds back all PUBACKs but the first until then, and our
        kernel takes 40 ms to tell it where we send nothing: a window in each 40 ms.
        """
        sock: Any = self.socket()  # None, if the connection has just gone
        if sock is not None and _QUICKACK is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _subscribe_answered(
        self, client: paho.Client, userdata: Any, message_id: int, reasons: Any, properties: Any
    ) -> None:
        topic = self._asked.pop(message_id, "")
        for reason in reasons:
            if reason.is_failure:
                self._report(SubscribeRefused(self._generation, topic, _reason(reason)))

    def _arrived(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:  # a broker that lets that pass is not to end this thread
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
            )
        )

    def _socket_opened(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Send small packets at once, and give a dead peer up soon (tcp(7)).

        Nagle's algorithm would hold a reading back until the last one's ACK. Without a user
        time-out the kernel repeats unacknowledged bytes for a quarter of an hour, ever more
        rarely; and where nothing is sent, nothing is noticed before the next PINGREQ. A broker
        that vanished without a word, and is back, shall be noticed sooner; the kernel does that
        without waking us.
        """
        self._attempt += 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_AFTER_S)


def _reason(code: ReasonCode) -> Reason:
    return Reason(code.value, str(code))
