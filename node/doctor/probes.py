"""Asks the broker whether a topic may be published on, without misleading its subscribers.

A broker need not report that its ACL denies a topic: MQTT 3.1.1 cannot express it, and mosquitto
grants every subscription and withholds the messages. So the doctor tries each topic, and
subscribers of a running node must not mistake the trial for a reading. `UnseenProbe` ensures that.
It sends a PUBLISH at QoS 2, whose PUBREC contains the broker's verdict in MQTT 5, and never sends
the PUBREL. mosquitto delivers such a message only after PUBREL (method A of §4.3.3), and discards
it when the connection ends, so subscribers never see it. Other brokers deliver it at once (method
B: EMQX, VerneMQ). The scratch topic shows which method a broker uses. For method B, and for brokers
that only speak MQTT 3.1.1, there is `VisibleProbe`. Subscribers may see its messages, but cannot be
misled:

- The message is not retained, so the broker's retained messages stay the same.
- If the topic has a retained message, the probe publishes the same content again. If the node
  publishes something newer at that moment, the probe notices and publishes that after its own
  message, so the last message is right.
- If the topic has no retained message, the probe publishes an empty one; for history, a batch
  without readings. Home Assistant would take an empty discovery message for the device's end, so
  it does not get one.
- The probe does not publish if this login may not read, because the retained message is then
  unknown.

A broker that grants a subscription and then withholds its messages is mosquitto, so `UnseenProbe`
is used there, although the method cannot be tested.
"""

from __future__ import annotations

import msgspec

from node.doctor.broker import TEST_PAYLOAD, Broker, LoginRefused
from node.doctor.packets import Received, WireError
from node.doctor.topic_list import TopicList
from node.doctor.wire import Closed

__all__ = ["PublishVerdict", "UnseenProbe", "VisibleProbe", "find_unseen"]

METHOD_B_S = 0.4
"""How soon a broker of method B delivers a message on an idle connection."""
RETAINED_S = 0.4
"""How soon retained messages arrive after a subscription is granted."""
DELIVERY_S = 2.0
_MAX_UNANSWERED = 10
"""QoS 2 messages in flight on one connection; a broker that allows fewer has to announce it."""
_MAX_REPEATS = 3


class PublishVerdict(msgspec.Struct, frozen=True):
    """Whether a topic may be published on; None if that cannot be determined."""

    allowed: bool | None
    why: str = ""


def find_unseen(broker: Broker, *, readable: bool, kept_back: bool) -> UnseenProbe | None:
    """Return a probe that subscribers cannot see, if the broker has MQTT 5 and uses method A.

    It uses MQTT 5 even if 3.1.1 is configured, because the ACL depends on the user.
    """
    try:
        probe = UnseenProbe(broker)
    except (WireError, OSError, LoginRefused):
        return None
    is_unseen = kept_back or (readable and probe.is_unseen())
    return probe if probe.maximum_qos == 2 and is_unseen else None


class UnseenProbe:
    """Gets the broker's verdict, and withdraws the message."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._connect()

    def _connect(self) -> None:
        made = self._broker.another(version=5)
        self._connection = made.connection
        self.maximum_qos = made.connack.maximum_qos
        self._room = min(_MAX_UNANSWERED, made.connack.receive_maximum)

    def is_unseen(self) -> bool:
        """Return whether the broker withholds a message until PUBREL."""
        topic = f"{self._broker.scratch}/unseen"
        observer = self._broker.another().connection
        observer.subscribe(topic)
        self._publish(topic, TEST_PAYLOAD)
        came = observer.wait_for(lambda m: m.topic == topic, METHOD_B_S)
        observer.leave()
        return came is None

    def refusal(self, topic: str, payload: bytes) -> str:
        """Return why the broker rejects a message on the topic; "" if it accepts it."""
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
    """Publishes messages without new content, and checks whether they come back."""

    def __init__(self, broker: Broker, topics: TopicList) -> None:
        self._broker = broker
        self._topics = topics
        self._arrived: list[Received] = []
        """All messages that came on any connection so far."""
        self._sent: dict[str, tuple[bytes, int]] = {}
        """Topic -> the published message, and how many messages had arrived before."""
        self._connect()

    def _connect(self) -> None:
        self._connection = self._broker.another().connection
        self._connection.arrived = self._arrived
        for topic in self._topics.published:
            self._connection.subscribe(topic)
        self._connection.watch(RETAINED_S)

    def try_all(self) -> list[tuple[str, PublishVerdict]]:
        """Return a verdict for each topic; publishes on all before it waits for any."""
        verdicts: dict[str, PublishVerdict] = {}
        for topic in self._topics.published:
            newest = self._newest(topic)
            if newest is None and topic in self._topics.discovery:
                why = "not known until the node has published it once"
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
        """Return the messages since then, without those for a renewed subscription."""
        messages = self._arrived[count:]
        return [m.payload for m in messages if m.topic == topic and not m.retained]

    def _newest(self, topic: str) -> bytes | None:
        """Return the last payload on the topic; None without one, or for one that deletes it."""
        payloads = self._since(topic)
        return (payloads[-1] or None) if payloads else None

    def _is_back(self, topic: str) -> bool:
        payload, count = self._sent[topic]
        return payload in self._published_since(topic, count)

    def _verdict(self, topic: str) -> PublishVerdict:
        if self._is_back(topic):
            return PublishVerdict(True)
        if self._broker.version == 5:
            return PublishVerdict(True)  # only reading is denied: otherwise it would be refused
        why = "it does not come back, and MQTT 3.1.1 gives no reason; or reading it is denied"
        return PublishVerdict(False, why)

    def _repeat_what_is_newer(self, topic: str) -> None:
        """Publish the newest message of others again, if ours came after it."""
        for _ in range(_MAX_REPEATS):
            ours, count = self._sent[topic]
            theirs = [p for p in self._published_since(topic, count) if p != ours]
            if not theirs or self._since(topic)[-1] != ours:
                return
            self._publish(topic, theirs[-1])
            self._connection.wait_for(lambda _: self._is_back(topic), DELIVERY_S)
