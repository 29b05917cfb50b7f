"""What can happen on the link to the broker, and what is sent over it.

Made on paho's network thread, dealt with on the thread of the link's owner. `generation` tells
which of the link's clients it was: what an earlier one still reports is of no interest.
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
    """What the broker sends is bounded before paho parses it."""


class ConnectFailed(msgspec.Struct, frozen=True):
    """No connection came about."""

    generation: int
    error: BaseException


class Disconnected(msgspec.Struct, frozen=True):
    """A connection ended, the `attempt`-th of its client; may come twice for one."""

    generation: int
    attempt: int
    reason: Reason


class Acknowledged(msgspec.Struct, frozen=True):
    """PUBACK for a message; `refused` is None for success, and always in MQTT 3.1.1."""

    generation: int
    message_id: int
    refused: Reason | None


class Arrived(msgspec.Struct, frozen=True):
    """A message of a subscribed topic."""

    generation: int
    topic: str
    payload: bytes
    retained: bool
    response_topic: str = ""
    """Where MQTT 5 asks for the answer."""
    correlation: bytes = b""
    """What is to stand beside the answer there."""


class SubscribeRefused(msgspec.Struct, frozen=True):
    """The broker does not let us subscribe to `topic`."""

    generation: int
    topic: str
    reason: Reason


class Subscribed(msgspec.Struct, frozen=True):
    """The broker has answered the last subscription of `listen_also`.

    What is retained on the topics before it has arrived: a broker deals with the packets of a
    connection one after the other, though none has to (MQTT 5, §4.6 speaks of PUBLISH alone).
    """

    generation: int


class Flooded(msgspec.Struct, frozen=True):
    """So many messages arrive that most of them are dropped."""

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
    """To a command: its topic is of somebody else's choosing."""


class Subscription(msgspec.Struct, frozen=True):
    """A topic filter to subscribe to, at QoS 1."""

    topic: str
    show_retained: bool = False
    """Tell of a message that is published retained while we listen, too (MQTT 5, §3.8.3.1)."""


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
