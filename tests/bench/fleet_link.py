"""A simulated node's connection, without the socket: bytes in, bytes out, MQTT 5 or 3.1.1.

It stands where `node.mqtt.connection.Link` stands, under the node's own `Publisher`, and says what
paho says for it: CONNECT with will, keepalive and limits, SUBSCRIBE one by one, messages at QoS 1,
and all that falls due at one time in one piece.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable

from histogram import Histogram
from paho.mqtt.packettypes import PacketTypes

from node.doctor.packets import connack_of, cut_packet
from node.mqtt.client import MAX_INCOMING_BYTES
from node.mqtt.connection import Change
from node.mqtt.events import Acknowledged, BrokerEvent, Connected, Outgoing, Subscription
from node.mqtt.packets import binary, framed, publish_packet, text
from node.mqtt.reasons import Reason, failure
from node.topics import OFFLINE

__all__ = ["FleetLink"]

_CONNECT, _SUBSCRIBE, _PUBACK = 0x10, 0x82, 0x40
_PINGREQ = bytes((0xC0, 0))
_MAXIMUM_PACKET_SIZE = 0x27  # MQTT 5, §2.2.2.2
# §3.8.3.1: QoS 1, No Local; and Retain As Published.
_NO_LOCAL, _AS_PUBLISHED = 0x05, 0x08
_TIMED = 4
"""Of so many messages one is timed."""
_CLEAN, _WILL_QOS_1_RETAINED = 0x02, 0x2C


class FleetLink:
    """What `Publisher` asks of a link, and the packets of one connection."""

    generation = 0
    was_short_lived = False
    max_packet_bytes = 268_435_455

    def __init__(
        self,
        client_id: str,
        *,
        keepalive_s: int,
        will_topic: str,
        subscribe: Iterable[Subscription],
        mqtt_5: bool = True,
    ) -> None:
        self._mqtt_5 = mqtt_5
        self._client_id = client_id
        self._keepalive_s = keepalive_s
        self._will_topic = will_topic
        self._subscribe = tuple(subscribe)
        self.connected = False
        self.refused: Reason | None = None
        self.window = 65_535
        self.out = bytearray()
        """What the socket is to send."""
        self.published = self.acknowledged = self.published_bytes = 0
        self.acknowledgement = Histogram()
        self._last_id = 0
        self._sent_at_s: dict[int, float] = {}
        self._received = bytearray()
        self.heard_s = self.said_s = 0.0
        self._pinged = False
        """Whether PINGREQ has no answer yet."""

    # -- what Publisher asks of a link

    def follow(self, event: BrokerEvent) -> Change:
        if isinstance(event, Connected):
            return Change.NONE if event.refused else Change.UP
        return Change.NONE

    def publish(self, message: Outgoing) -> int:
        self._last_id = self._last_id % 65_535 + 1
        packet = publish_packet(message, self._last_id, mqtt_5=self._mqtt_5)
        self._say(packet)
        self.published += 1
        self.published_bytes += len(packet)
        if self._last_id % _TIMED == 0:
            self._sent_at_s[self._last_id] = self.said_s
        return self._last_id

    def send(self) -> None:
        """Nothing: what is said is in `out`."""

    def hurry(self, hurried: bool) -> None:
        """Nothing: the simulated network thread never tarries."""

    # -- the connection

    def begin(self) -> None:
        """A TCP connection has come about: say CONNECT (§3.1)."""
        self.heard_s = time.monotonic()
        self.out.clear()
        self._received.clear()
        self._sent_at_s.clear()
        flags = _CLEAN | _WILL_QOS_1_RETAINED
        head = text("MQTT") + struct.pack(">BBH", self._version, flags, self._keepalive_s)
        limit = struct.pack(">BBI", 5, _MAXIMUM_PACKET_SIZE, MAX_INCOMING_BYTES)
        will = text(self._will_topic) + binary(OFFLINE)
        if self._mqtt_5:
            will = b"\x00" + will
        else:
            limit = b""
        self._say(framed(_CONNECT, head + limit + text(self._client_id) + will))

    @property
    def _version(self) -> int:
        return 5 if self._mqtt_5 else 4

    def end(self) -> None:
        self.connected = False
        self._pinged = False

    def keep_alive(self, now_s: float) -> bool:
        """PINGREQ, if it has been still for too long either way, as paho does.

        Return False if the one before, or CONNECT, was not answered.
        """
        quiet_s = now_s - min(self.heard_s, self.said_s)
        if quiet_s >= self._keepalive_s:
            if self._pinged or not self.connected:
                return False
            self._say(_PINGREQ)
            self.heard_s = now_s
            self._pinged = True
        return True

    def take(self, received: bytes) -> list[BrokerEvent]:
        """What came, as events."""
        self.heard_s = time.monotonic()
        self._received += received
        events: list[BrokerEvent] = []
        while packet := cut_packet(self._received):
            first, body = packet
            kind = first >> 4
            if kind == PacketTypes.PUBACK:
                events.append(self._acknowledged(body))
            elif kind == PacketTypes.CONNACK:
                events.append(self._answered(body))
            elif kind == PacketTypes.PINGRESP:
                self._pinged = False
            elif kind == PacketTypes.PUBLISH and first & 0x06:
                id_at = 2 + int.from_bytes(body[:2], "big")
                self._say(framed(_PUBACK, body[id_at : id_at + 2]))
        return events

    def _answered(self, body: bytes) -> Connected:
        answer = connack_of(body, version=self._version)
        self.refused = answer.refused
        self.connected = not answer.refused
        self.window = answer.receive_maximum
        for number, subscription in enumerate(self._subscribe if self.connected else ()):
            options = _NO_LOCAL | (_AS_PUBLISHED if subscription.show_retained else 0)
            head = struct.pack(">H", 60_000 + number) + (b"\x00" if self._mqtt_5 else b"")
            options = options if self._mqtt_5 else 1
            self._say(framed(_SUBSCRIBE, head + text(subscription.topic) + bytes((options,))))
        return Connected(0, answer.refused, self.window, self.max_packet_bytes)

    def _acknowledged(self, body: bytes) -> Acknowledged:
        message_id = int.from_bytes(body[:2], "big")
        self.acknowledged += 1
        sent_s = self._sent_at_s.pop(message_id, None)
        if sent_s is not None:
            self.acknowledgement.add((self.heard_s - sent_s) * 1000)
        refused = failure(PacketTypes.PUBACK, body[2]) if len(body) > 2 else None  # §3.4.2.1
        return Acknowledged(0, message_id, refused)

    def _say(self, packet: bytes) -> None:
        self.out += packet
        self.said_s = time.monotonic()
