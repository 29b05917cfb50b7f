"""Asks the broker whether a topic may be published on, without misleading its subscribers.

A broker need not say that its ACL denies a topic: MQTT 3.1.1 has no way to, mosquitto grants
every subscription and keeps the messages back. So each topic is tried; and subscribers of a
running node must not take that for a reading. `UnseenProbe` is the way for that: a PUBLISH at QoS
2, whose PUBREC has the broker's verdict on MQTT 5, and which is never followed by PUBREL. mosquitto
passes such a message on only then (method A of §4.3.3), and forgets it when the connection ends:
nobody sees anything. Other brokers pass it on at once (method B: EMQX, VerneMQ); which of the two
it is, is tried first, on the scratch topic. For those, and for brokers that know MQTT 3.1.1 alone,
there is `VisibleProbe`, which subscribers may see, and cannot be misled by:

- It is never retained, so what the broker keeps stays as it is.
- Where something is retained, the very same is published once more. Should the node publish
  something newer just then, that is seen, and is published again after it: the last word is right.
- Where nothing is, there is no value to be mistaken: an empty message; of history, a batch without
  readings. Home Assistant takes an empty discovery for the device's end: it gets none.
- It is left undone where this login may not read, for what is retained is not known then.

A broker that grants a subscription and then keeps its messages back is mosquitto, so it is asked
unseen although that cannot be tried.
"""

from __future__ import annotations

import msgspec

from node.doctor.broker import TEST_PAYLOAD, Broker, LoginRefused
from node.doctor.packets import Received, WireError
from node.doctor.topic_list import TopicList
from node.doctor.wire import Closed

__all__ = ["PublishVerdict", "UnseenProbe", "VisibleProbe", "find_unseen"]

METHOD_B_S = 0.4
"""How soon a broker of method B passes a message on, on an idle connection."""
RETAINED_S = 0.4
"""How soon retained messages come after a subscription is granted."""
DELIVERY_S = 2.0
_MAX_UNANSWERED = 10
"""QoS 2 messages in flight on one connection; no broker allows fewer without saying so."""
_MAX_REPEATS = 3


class PublishVerdict(msgspec.Struct, frozen=True):
    """Whether a topic may be published on; None where that cannot be told."""

    allowed: bool | None
    why: str = ""


def find_unseen(broker: Broker, *, readable: bool, kept_back: bool) -> UnseenProbe | None:
    """A probe that nobody sees, if the broker has MQTT 5 and is of method A.

    MQTT 5 also where the configuration has 3.1.1: the ACL is about the user.
    """
    try:
        probe = UnseenProbe(broker)
    except (WireError, OSError, LoginRefused):
        return None
    is_unseen = kept_back or (readable and probe.is_unseen())
    return probe if probe.maximum_qos == 2 and is_unseen else None


class UnseenProbe:
    """Asks for the broker's verdict, and takes the message back."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connect()

    def _connect(self) -> None:
        made = self._broker.another(version=5)
        self._connection = made.connection
        self.maximum_qos = made.connack.maximum_qos
        self._room = min(_MAX_UNANSWERED, made.connack.receive_maximum)

    def is_unseen(self) -> bool:
        """Whether the broker keeps a message back until PUBREL."""
        topic = f"{self._broker.scratch}/unseen"
        observer = self._broker.another().connection
        observer.subscribe(topic)
        self._publish(topic, TEST_PAYLOAD)
        came = observer.wait_for(lambda m: m.topic == topic, METHOD_B_S)
        observer.leave()
        return came is None

    def refusal(self, topic: str, payload: bytes) -> str:
        """Why the broker does not take a message on the topic; "" where it does."""
        try:
            return self._publish(topic, payload)
        except Closed as error:  # some brokers answer so (MQTT 5, §3.3.5 and §4.13)
            self._connect()
            return str(error) or "the broker closes the connection over it"

    def _publish(self, topic: str, payload: bytes) -> str:
        if self._room == 0:
            self._connection.leave()
            self._connect()
        self._room -= 1
        return self._connection.publish(topic, payload, qos=2)


class VisibleProbe:
    """Publishes what tells nobody anything new, and looks whether it comes back."""

    def __init__(self, broker: Broker, topics: TopicList) -> None:
        self._broker = broker
        self._topics = topics
        self._arrived: list[Received] = []
        """Whatever came on all connections so far."""
        self._sent: dict[str, tuple[bytes, int]] = {}
        """Topic -> what was published there, and how much had arrived before."""
        self._connect()

    def _connect(self) -> None:
        self._connection = self._broker.another().connection
        self._connection.arrived = self._arrived
        for topic in self._topics.published:
            self._connection.subscribe(topic)
        self._connection.watch(RETAINED_S)

    def try_all(self) -> list[tuple[str, PublishVerdict]]:
        """A verdict for each topic; all are published before one is waited for."""
        verdicts: dict[str, PublishVerdict] = {}
        for topic in self._topics.published:
            newest = self._newest(topic)
            if newest is None and topic == self._topics.discovery:
                why = "cannot be told before the node has published it once"
                verdicts[topic] = PublishVerdict(None, why)
                continue
            payload = self._topics.harmless(topic) if newest is None else newest
            if refused := self._publish(topic, payload):
                verdicts[topic] = PublishVerdict(False, refused)
        waited_for = self._sent.keys() - verdicts.keys()
        self._connection.wait_for(lambda _: all(map(self._is_back, waited_for)), DELIVERY_S)
        for topic in waited_for:
            verdicts[topic] = self._verdict(topic)
            self._repeat_what_is_newer(topic)
        return [(topic, verdicts[topic]) for topic in self._topics.published]

    def _publish(self, topic: str, payload: bytes) -> str:
        self._sent[topic] = payload, len(self._arrived)
        try:
            return self._connection.publish(topic, payload)
        except Closed as error:
            self._connect()
            return str(error) or "the broker closes the connection over it"

    def _since(self, topic: str, count: int = 0) -> list[bytes]:
        return [message.payload for message in self._arrived[count:] if message.topic == topic]

    def _published_since(self, topic: str, count: int) -> list[bytes]:
        """Without what came for a subscription that was made anew."""
        messages = self._arrived[count:]
        return [m.payload for m in messages if m.topic == topic and not m.retained]

    def _newest(self, topic: str) -> bytes | None:
        """The last payload that came on the topic; None for none, or one that deletes it."""
        payloads = self._since(topic)
        return (payloads[-1] or None) if payloads else None

    def _is_back(self, topic: str) -> bool:
        payload, count = self._sent[topic]
        return payload in self._published_since(topic, count)

    def _verdict(self, topic: str) -> PublishVerdict:
        if self._is_back(topic):
            return PublishVerdict(True)
        if self._broker.version == 5:
            return PublishVerdict(True)  # it would have been refused; it is reading that is denied
        why = "it does not come back, and MQTT 3.1.1 says no more; or reading it is denied"
        return PublishVerdict(False, why)

    def _repeat_what_is_newer(self, topic: str) -> None:
        """Make the newest message of others the last one, if ours has come after it."""
        for _ in range(_MAX_REPEATS):
            ours, count = self._sent[topic]
            theirs = [p for p in self._published_since(topic, count) if p != ours]
            if not theirs or self._since(topic)[-1] != ours:
                return
            self._publish(topic, theirs[-1])
            self._connection.wait_for(lambda _: self._is_back(topic), DELIVERY_S)
