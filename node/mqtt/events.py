"""The events of the link to the broker, and the messages that are sent over it.

Events are created on paho's network thread, and handled on the thread of the link's owner.
`generation` identifies the client: events of an earlier client are ignored.
"""

from __future__ import annotations

import msgspec

from node.mqtt.reasons import Reason

__all__ = [
    "Acknowledged",
    "Arrived",
    "BrokerEvent",
    "ConnectFailed",
    "Connected",
    "Disconnected",
    "Flooded",
    "Outgoing",
    "Session",
    "SubscribeRefused",
    "Subscribed",
    "Subscription",
]


class Connected(msgspec.Struct, frozen=True):
    """The broker answered CONNECT; `refused` is None for success."""

    generation: int
    refused: Reason | None
    window: int
    max_packet_bytes: int
    guarded: bool = True
    """Whether incoming packets are bounded before paho parses them."""
    server_reference: str = ""
    """The other servers that a refusal names (MQTT 5, §3.2.2.3.16)."""


class ConnectFailed(msgspec.Struct, frozen=True):
    """A connection attempt failed."""

    generation: int
    error: BaseException


class Disconnected(msgspec.Struct, frozen=True):
    """A connection ended, the `attempt`-th of its client; may come twice for one connection."""

    generation: int
    attempt: int
    reason: Reason
    server_reference: str = ""
    """The other servers that the broker names (MQTT 5, §3.14.2.2.5)."""


class Acknowledged(msgspec.Struct, frozen=True):
    """PUBACK for a message; `refused` is None for success, and always None in MQTT 3.1.1."""

    generation: int
    message_id: int
    refused: Reason | None


class Arrived(msgspec.Struct, frozen=True):
    """A message on a subscribed topic."""

    generation: int
    topic: str
    payload: bytes
    retained: bool
    response_topic: str = ""
    """The response topic of MQTT 5."""
    correlation: bytes = b""
    """The correlation data for the answer."""
    attempt: int = 0
    """The connection of its client that it arrived on."""
    message_id: int = 0


class SubscribeRefused(msgspec.Struct, frozen=True):
    """The broker refused the subscription to `topic`."""

    generation: int
    topic: str
    reason: Reason


class Subscribed(msgspec.Struct, frozen=True):
    """The broker has answered the last subscription of `listen_also`.

    The retained messages of the topics before it have arrived: brokers process the packets of a
    connection one after the other, although they need not (MQTT 5, §4.6 only covers PUBLISH).
    """

    generation: int


class Flooded(msgspec.Struct, frozen=True):
    """Too many messages arrive, and most of them are dropped."""

    generation: int
    topic: str


class Outgoing(msgspec.Struct, frozen=True):
    """A message to publish at QoS 1; `expiry_s` is its MQTT 5 expiry, 0 for none."""

    topic: str
    payload: bytes
    expiry_s: int = 0
    retain: bool = True
    correlation: bytes = b""
    is_answer: bool = False
    """Whether it answers a command: another client has chosen its topic."""
    response_topic: str = ""
    """Where MQTT 5 has the answer sent; only with `correlation`, which the answer then has."""


class Session(msgspec.Struct, frozen=True):
    """A session that the broker keeps while the client is away (MQTT 5, §4.1).

    Messages are acknowledged by `BrokerConnection.settle` in place of on arrival, so one that was
    not settled comes again.
    """

    keep_s: int
    """How long the broker keeps it (MQTT 5, §3.1.2.11.2); MQTT 3.1.1 cannot limit that."""
    window: int
    """Most messages that are not settled (MQTT 5, §3.1.2.11.3)."""


class Subscription(msgspec.Struct, frozen=True):
    """A topic filter to subscribe to, at QoS 1."""

    topic: str
    show_retained: bool = False
    """Whether the retain flag is kept for messages published later, too (MQTT 5, §3.8.3.1)."""
    unshared: str = ""
    """What to subscribe to in place of a shared `topic` at a broker that cannot share it."""


BrokerEvent = (
    Connected
    | ConnectFailed
    | Disconnected
    | Acknowledged
    | Arrived
    | Subscribed
    | SubscribeRefused
    | Flooded
)
