"""Checks what the broker allows the node to publish and subscribe to, topic by topic.

A broker need not report that its ACL denies a topic: MQTT 3.1.1 cannot express it, and mosquitto
grants every subscription and withholds the messages. So each topic is tried; see
`node.doctor.probes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from paho.mqtt.client import topic_matches_sub

from node.doctor.broker import Broker
from node.doctor.probes import RETAINED_S, PublishVerdict, UnseenProbe, VisibleProbe, find_unseen
from node.doctor.report import Step, TopicStep
from node.doctor.topic_list import TopicList, TriedSubscription
from node.doctor.wire import Closed, Connection

__all__ = ["check_topics"]

DELIVERY_S = 2.0


def check_topics(
    broker: Broker, topics: TopicList, *, readable: bool, kept_back: bool
) -> Iterator[Step]:
    """Yield a step for each topic that the node publishes on or subscribes to.

    `readable`: a message of this login on the scratch topic comes back to it; `kept_back`: the
    subscription was granted, but nothing arrives.
    """
    unseen = find_unseen(broker, readable=readable, kept_back=kept_back)
    verdicts: Iterable[tuple[str, PublishVerdict]]
    if unseen is not None:
        verdicts = (
            (topic, PublishVerdict(not why, why))
            for topic in topics.published
            for why in (unseen.refusal(topic, topics.harmless(topic)),)
        )
    elif readable:
        verdicts = VisibleProbe(broker, topics).try_all()
    else:
        why = "not known: this login may not read it, and a test might mislead other subscribers"
        verdicts = ((topic, PublishVerdict(None, why)) for topic in topics.published)
    for topic, verdict in verdicts:
        yield _publish_step(broker, topic, verdict)
    yield from _try_subscriptions(broker, topics.subscribed, unseen)


def _publish_step(broker: Broker, topic: str, verdict: PublishVerdict) -> Step:
    name = "may publish"
    if verdict.allowed:
        return TopicStep(name, "ok", topic, topic=topic)
    if verdict.allowed is None:
        return TopicStep(name, "skipped", f"{topic}: {verdict.why}", topic=topic)
    remedy = f"allow it in the broker's ACL; for mosquitto, below {_acl_user(broker)}: "
    remedy += f"topic write {topic}"
    return TopicStep(name, "failed", f"{topic} is denied: {verdict.why}", remedy, topic=topic)


def _acl_user(broker: Broker) -> str:
    """Return the line of mosquitto's ACL file that the user's topics belong below."""
    return f"user {broker.mqtt.username}" if broker.mqtt.username else "no user line"


# -- subscriptions ---------------------------------------------------------------------------------


def _try_subscriptions(
    broker: Broker, subscriptions: tuple[TriedSubscription, ...], unseen: UnseenProbe | None
) -> Iterator[Step]:
    """Subscribe to all, wait for retained messages, and test delivery on the other topics."""
    connection = broker.another().connection
    denied = {}
    for subscription in subscriptions:
        topic_filter = subscription.topic_filter
        try:
            denied[topic_filter] = connection.subscribe(topic_filter)
        except Closed as error:
            denied[topic_filter] = str(error) or "the broker closes the connection over it"
            connection = broker.another().connection
    connection.watch(RETAINED_S)
    for subscription in subscriptions:
        topic_filter = subscription.topic_filter
        if refused := denied[topic_filter]:
            message = f"{topic_filter} is denied: {refused}"
            remedy = _read_remedy(broker, topic_filter)
            yield TopicStep("may subscribe", "failed", message, remedy, topic=topic_filter)
        elif any(topic_matches_sub(topic_filter, m.topic) for m in connection.arrived):
            yield TopicStep("may subscribe", "ok", topic_filter, topic=topic_filter)
        else:
            yield _try_delivery(broker, connection, subscription, unseen)


def _read_remedy(broker: Broker, topic_filter: str) -> str:
    return (
        f"allow it in the broker's ACL; for mosquitto, below {_acl_user(broker)}: "
        f"topic read {topic_filter}"
    )


def _try_delivery(
    broker: Broker,
    connection: Connection,
    subscription: TriedSubscription,
    unseen: UnseenProbe | None,
) -> Step:
    """Publish a message that a granted filter covers, because mosquitto grants every filter."""
    name = "may subscribe"
    topic_filter, topic = subscription.topic_filter, subscription.try_on
    granted = f"{topic_filter} (granted; this login cannot test delivery)"
    no_more = TopicStep(name, "ok", granted, topic=topic_filter)
    if not topic or (unseen is not None and unseen.refusal(topic, b"")):
        return no_more
    if connection.publish(topic, b""):
        return no_more
    if connection.wait_for(lambda m: m.topic == topic, DELIVERY_S) is not None:
        return TopicStep(name, "ok", topic_filter, topic=topic_filter)
    remedy = _read_remedy(broker, topic_filter)
    if connection.version == 4 and unseen is None:
        return TopicStep(
            name,
            "warning",
            f"{topic_filter} is granted, but nothing arrives: this login may not publish there, or "
            "not read there; MQTT 3.1.1 does not say which",
            remedy,
            topic=topic_filter,
        )
    message = f"{topic_filter} is granted, but its messages are withheld"
    return TopicStep(name, "failed", message, remedy, topic=topic_filter)
