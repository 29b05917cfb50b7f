"""Publish, subscribe, retained and LWT, tried on a scratch topic of the doctor's own.

It is below the node's topics, so that the node's permissions cover it; a level deeper than any of
them, so that nobody takes it for a reading. Nothing stays there: what has to be retained for a
moment is deleted again however the run ends, and expires by itself on MQTT 5.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import msgspec

from node.doctor.broker import TEST_PAYLOAD, Broker, LoggedIn, LoginRefused
from node.doctor.login import WILL_TOPIC
from node.doctor.packets import WireError
from node.doctor.report import Step
from node.doctor.wire import Closed, Connection

__all__ = ["Scratch", "check_last_will", "check_retained", "check_round_trip"]

DELIVERY_S = 2.0
"""How long a message may take from one client to the other."""
WILL_S = 4.0
EXPIRY_S = 60
"""After which a retained message of ours is gone even if this computer dies now (MQTT 5)."""


class Scratch(msgspec.Struct):
    """What can be done on the scratch topic."""

    observer: Connection
    readable: bool = False
    """What is published comes back."""
    kept_back: bool = False
    """The subscription was granted, the message taken, and it does not come."""


def check_round_trip(broker: Broker, scratch: Scratch) -> Iterator[Step]:
    """Publish a message, and get it back; what is found is noted in `scratch`."""
    topic = f"{broker.scratch}/publish"
    may = f"to have all tried, allow this user to read and write {broker.topics_filter}"
    denied = scratch.observer.subscribe(f"{broker.scratch}/#")
    try:
        refused = scratch.observer.publish(topic, TEST_PAYLOAD)
    except Closed:
        refused = "it closes the connection"
        scratch.observer = broker.another().connection
        denied = denied or scratch.observer.subscribe(f"{broker.scratch}/#")
    if refused:
        yield Step("publish", "skipped", f"the broker does not take {topic}: {refused}", may)
        yield Step("subscribe", "skipped", "nothing can be published that might come back")
        return
    began_s = time.monotonic()
    back = scratch.observer.wait_for(lambda m: m.topic == topic, DELIVERY_S)
    took_ms = (time.monotonic() - began_s) * 1000
    if back is None and broker.version == 4:
        yield Step(
            "publish",
            "skipped",
            f"{topic} is acknowledged, and does not come back: the broker discards it, or does "
            "not let this login read it; MQTT 3.1.1 does not say which",
            may,
        )
    else:
        yield Step("publish", "ok", f"{topic} is acknowledged")
    if back is not None:
        scratch.readable = True
        yield Step("subscribe", "ok", f"and comes back ({took_ms:.0f} ms)")
    else:
        scratch.kept_back = not denied
        why = denied or f"what is published there does not come back within {DELIVERY_S:g} s"
        yield Step("subscribe", "skipped", f"this login may not read {topic}: {why}", may)


def check_retained(broker: Broker, scratch: Scratch, login: LoggedIn) -> Iterator[Step]:
    """Have a message kept for a later subscription."""
    if not scratch.readable and login.connack.keeps_retained:
        yield Step("retained", "skipped", "this login may not read what it publishes")
        return
    failure = "" if login.connack.keeps_retained else "it says so"
    if not failure:
        try:
            failure = _keeps_retained(broker, scratch)
        except Closed:
            failure = "it closes the connection over one"
            scratch.observer = broker.another().connection
            scratch.observer.subscribe(f"{broker.scratch}/#")
    if failure:
        yield Step(
            "retained",
            "failed",
            f"the broker does not keep retained messages: {failure}",
            "allow them, for all the node publishes is retained: in mosquitto.conf, "
            "retain_available true",
        )
    else:
        yield Step("retained", "ok", "a message is kept for those who subscribe later")


def _keeps_retained(broker: Broker, scratch: Scratch) -> str:
    """Have a message retained, look for it, and delete it; why it is not kept, or ""."""
    topic = f"{broker.scratch}/retained"
    observer = scratch.observer
    is_gone = False
    try:
        refused = observer.publish(topic, TEST_PAYLOAD, retain=True, expiry_s=EXPIRY_S)
        if refused:
            return refused
        observer.subscribe(topic)  # a subscription of its own, after the message
        kept = observer.wait_for(lambda m: m.topic == topic and m.retained, DELIVERY_S)
        return "" if kept else "a new subscriber does not get one"
    except Closed:
        is_gone = True
        raise
    finally:
        if not is_gone:
            _forget(broker, observer, topic)


def _forget(broker: Broker, connection: Connection, topic: str) -> None:
    """Delete a retained message, on another connection if need be.

    Whatever fails here fails in the next step again, and must not hide an interruption.
    """
    try:
        connection.publish(topic, b"", retain=True)
    except (WireError, OSError):
        with contextlib.suppress(WireError, OSError, LoginRefused):
            broker.another().connection.publish(topic, b"", retain=True)


def check_last_will(broker: Broker, scratch: Scratch, login: Connection) -> Iterator[Step]:
    """Cut the connection of the login, which has a will, and see that come."""
    if not scratch.readable:
        yield Step("LWT", "skipped", "this login may not read what it publishes")
        return
    topic = f"{broker.scratch}/{WILL_TOPIC}"
    began_s = time.monotonic()
    login.drop()
    will = scratch.observer.wait_for(lambda m: m.topic == topic, WILL_S)
    took_ms = (time.monotonic() - began_s) * 1000
    if will is None:
        yield Step(
            "LWT",
            "failed",
            f"a connection was cut, and its will did not come within {WILL_S:g} s",
            "does a proxy stand between that keeps connections? a dead node would look alive",
        )
    else:
        yield Step("LWT", "ok", f"the will of a connection that was cut came ({took_ms:.0f} ms)")
