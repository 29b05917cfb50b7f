"""The steps to the broker and back, in an order in which each step needs the previous ones."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Iterator

from node.doctor.broker import Broker, LoggedIn, LoginRefused
from node.doctor.client_id import ClientIdWatch
from node.doctor.login import LoginSteps
from node.doctor.our_node import OurNode
from node.doctor.packets import WireError
from node.doctor.report import Step, failed
from node.doctor.scratch import Scratch, check_last_will, check_retained, check_round_trip
from node.doctor.topic_checks import check_topics
from node.doctor.topic_list import TopicList
from node.doctor.wire import Closed, NoAnswer
from node.mqtt.errors import connect_failure

__all__ = ["check_broker", "check_way_in"]

_NAMES = (
    *("name", "TCP", "TLS", "login", "publish", "subscribe", "retained", "LWT"),
    *("may publish", "may subscribe", "client id"),
)


def check_broker(broker: Broker, topics: TopicList, node: OurNode) -> Iterator[Step]:
    """Yield every step that needs the broker; skip those after a failed one."""
    if not broker.mqtt.is_direct:
        way = "through a proxy" if broker.mqtt.proxy else "over WebSockets"
        for name in _NAMES:
            what = f"the doctor does not reach a broker {way}; see sensor-node status"
            yield Step(name, "skipped", what)
        return
    done = []
    with broker.closing():
        for step in _steps(broker, topics, node):
            done.append(step.name)
            yield step
    stopped_at = done[-1]
    for name in _NAMES:
        if name not in done:
            yield Step(name, "skipped", f"skipped because {stopped_at} failed")


def _steps(broker: Broker, topics: TopicList, node: OurNode) -> Iterator[Step]:
    login = yield from check_way_in(broker)
    if login is None:
        return
    try:
        watch = ClientIdWatch(broker, node)
        yield from _round_trips(broker, topics, login)
        yield watch.outcome()
    except (WireError, OSError, LoginRefused) as error:
        yield _lost(broker, error)


def check_way_in(broker: Broker) -> Generator[Step, None, LoggedIn | None]:
    """Yield the steps name, TCP, TLS and login; return the login, or None after one that failed.

    They are repeated for each server that the broker sends the node to.
    """
    if broker.referrals.moved_to:
        what = f"the broker has moved to {broker.referrals.moved_to}, and the node connects there"
        remedy = f"set [mqtt] host and port to {broker.referrals.moved_to}"
        yield Step("name", "warning", what, remedy)
    while True:
        login = yield from _check_server(broker)
        if login is None or not login.is_sent_on:
            return login.made if login else None


def _check_server(broker: Broker) -> Generator[Step, None, LoginSteps | None]:
    try:
        addresses = broker.resolve()
    except socket.gaierror as error:
        yield failed("name", connect_failure(error, broker.mqtt))
        return None
    if broker.host_is_address:
        yield Step("name", "ok", f"{broker.mqtt.host} is an address")
    else:
        yield Step("name", "ok", f"{broker.mqtt.host} is {', '.join(addresses)}")
    began_s = time.monotonic()
    try:
        sock = broker.connect()
    except OSError as error:
        yield failed("TCP", connect_failure(error, broker.mqtt))
        return None
    took_ms = (time.monotonic() - began_s) * 1000
    where = broker.mqtt.address
    yield Step("TCP", "ok", f"{where} accepts the connection ({took_ms:.0f} ms)")
    login = LoginSteps(broker)
    yield from login.steps(sock)
    return login


def _round_trips(broker: Broker, topics: TopicList, login: LoggedIn) -> Iterator[Step]:
    scratch = Scratch(broker.another().connection)
    yield from check_round_trip(broker, scratch)
    yield from check_retained(broker, scratch, login)
    yield from check_last_will(broker, scratch, login.connection)
    yield from check_topics(broker, topics, readable=scratch.readable, kept_back=scratch.kept_back)


def _lost(broker: Broker, error: Exception) -> Step:
    """Return the step for an accepted connection that was lost, or a further one that failed."""
    what = f"was lost: {str(error) or type(error).__name__}"
    if isinstance(error, NoAnswer):
        what = "is no longer answered"
    elif isinstance(error, Closed):
        what = f"was closed ({error})" if str(error) else "was closed"
    return Step(
        "connection",
        "failed",
        f"a connection to {broker.mqtt.address} {what}",
        "see the broker's log; does it limit connections?",
    )
