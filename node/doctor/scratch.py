"""Tests publish, subscribe, retained messages and the last will on a scratch topic.

The topic is below the node's topics, so that the node's permissions cover it, and a level deeper
than any of them, so that it cannot be mistaken for a reading. Nothing stays there: the one message
that is retained for a moment is deleted however the run ends, and expires by itself on MQTT 5.
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
"""When the retained test message expires, even if this computer dies now (MQTT 5)."""


class Scratch(msgspec.Struct):
    """The operations that work on the scratch topic."""

    observer: Connection
    readable: bool = False
    """Whether a published message comes back."""
    kept_back: bool = False
    """Whether subscription and message were accepted, but the message does not arrive."""


def check_round_trip(broker: Broker, scratch: Scratch) -> Iterator[Step]:
    """Publish a message, and get it back; note the results in `scratch`."""
    topic = f"{broker.scratch}/publish"
    may = f"for a full test, allow this user to read and write {broker.topics_filter}"
    denied = scratch.observer.subscribe(f"{broker.scratch}/#")
    try:
        refused = scratch.observer.publish(topic, TEST_PAYLOAD)
    except Closed:
        refused = "it closes the connection"
        scratch.observer = broker.another().connection
        denied = denied or scratch.observer.subscribe(f"{broker.scratch}/#")
    if refused:
        yield Step("publish", "skipped", f"the broker rejected {topic}: {refused}", may)
        yield Step("subscribe", "skipped", "nothing can be published to come back")
        return
    began_s = time.monotonic()
    back = scratch.observer.wait_for(lambda m: m.topic == topic, DELIVERY_S)
    took_ms = (time.monotonic() - began_s) * 1000
    if back is None and broker.version == 4:
        yield Step(
            "publish",
            "skipped",
            f"{topic} is acknowledged, but does not come back: the broker discards it, or does "
            "not let this login read it; MQTT 3.1.1 does not say which",
            may,
        )
    else:
        yield Step("publish", "ok", f"{topic} is acknowledged")
    if back is not None:
        scratch.readable = True
        yield Step("subscribe", "ok", f"{topic} comes back ({took_ms:.0f} ms)")
    else:
        scratch.kept_back = not denied
        why = denied or f"a message does not come back within {DELIVERY_S:g} s"
        yield Step("subscribe", "skipped", f"this login may not read {topic}: {why}", may)


def check_retained(broker: Broker, scratch: Scratch, login: LoggedIn) -> Iterator[Step]:
    """Check that the broker keeps a message for a later subscription."""
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
            "allow them, because the node relies on them: in mosquitto.conf, retain_available true",
        )
    else:
        yield Step("retained", "ok", "a message is kept for later subscribers")


def _keeps_retained(broker: Broker, scratch: Scratch) -> str:
    """Publish a retained message, look for it, and delete it; return why it is not kept, or ""."""
    topic = f"{broker.scratch}/retained"
    observer = scratch.observer
    is_gone = False
    try:
        refused = observer.publish(topic, TEST_PAYLOAD, retain=True, expiry_s=EXPIRY_S)
        if refused:
            return refused
        observer.subscribe(topic)  # a separate subscription, after the message
        kept = observer.wait_for(lambda m: m.topic == topic and m.retained, DELIVERY_S)
        return "" if kept else "a new subscriber does not receive one"
    except Closed:
        is_gone = True
        raise
    finally:
        if not is_gone:
            _forget(broker, observer, topic)


def _forget(broker: Broker, connection: Connection, topic: str) -> None:
    """Delete a retained message, on another connection if necessary.

    A failure here recurs in the next step, and must not hide an interruption.
    """
    try:
        connection.publish(topic, b"", retain=True)
    except (WireError, OSError):
        with contextlib.suppress(WireError, OSError, LoginRefused):
            broker.another().connection.publish(topic, b"", retain=True)


def check_last_will(broker: Broker, scratch: Scratch, login: Connection) -> Iterator[Step]:
    """Cut the connection of the login, which has a will, and wait for the will."""
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
            f"a connection was cut, but its will did not arrive within {WILL_S:g} s",
            "is there a proxy in between that keeps connections? a dead node would look alive",
        )
    else:
        yield Step("LWT", "ok", f"the will of a cut connection arrived ({took_ms:.0f} ms)")
