"""The network thread of the client, against brokers on raw sockets."""

from __future__ import annotations

import contextlib
import queue
import re
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any

import paho.mqtt
import pytest
import trustme
from paho.mqtt.enums import MQTTProtocolVersion
from support import (
    CONNECT,
    PUBLISH,
    ScriptedBroker,
    Subscriber,
    puback,
    published_topic,
    retained,
    sysfs_config,
    wait_until,
)

from node.config.schema import HostName, MqttTable
from node.mqtt.client import NetworkClient
from node.mqtt.events import BrokerEvent, Connected, ConnectFailed

CONNACK = b"\x20\x03\x00\x00\x00"


def client_of(
    port: int, events: queue.SimpleQueue[BrokerEvent], tls: object, **more: Any
) -> NetworkClient:
    """A client with `more` keys of [mqtt], which is not begun."""
    return NetworkClient(
        MqttTable(host=HostName("127.0.0.1"), port=port, **more),
        MQTTProtocolVersion.MQTTv5,
        client_id="sn123",
        generation=1,
        tls_context=tls,
        report=events.put,
        will_topic="sensors/test/status",
        subscribe=(),
        rate_limit=None,
    )


def server_context(context: ssl.SSLContext) -> ssl.SSLContext:
    """What a server needs whom `context` is made to trust."""
    authority = trustme.CA()
    authority.configure_trust(context)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    return server


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "control"])
def test_a_client_that_is_ended_while_it_connects_never_comes_about(replaced):
    """It has the id of the one that replaces it: each would end the other's connection."""
    context = ssl.create_default_context()
    events: queue.SimpleQueue[BrokerEvent] = queue.SimpleQueue()
    server = server_context(context)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = client_of(listener.getsockname()[1], events, context)
        client.begin()
        raw, _ = listener.accept()  # the client now waits for the server's part of the handshake
        if replaced:
            client.end(0)
        first = b""
        # One that goes without reading the server's session tickets resets the connection.
        gone = contextlib.suppress(OSError) if replaced else contextlib.nullcontext()
        with gone, server.wrap_socket(raw, server_side=True) as connection:
            connection.settimeout(10)
            first = connection.recv(1)
            if not replaced:
                connection.sendall(CONNACK)
        assert first == (b"" if replaced else b"\x10")
        event = events.get(timeout=10)
        assert isinstance(event, ConnectFailed if replaced else Connected)
        if not replaced:
            client.end(0)
        wait_until(lambda: not client.alive, 5, "the thread to end")


@pytest.fixture
def newer_paho(tmp_path: Path) -> dict[str, str]:
    """Another paho, whose inside has other names; the environment to have it."""
    site = tmp_path / "site"
    shutil.copytree(Path(paho.mqtt.__file__).parents[1], site / "paho")
    client = site / "paho" / "mqtt" / "client.py"
    inside = client.read_text()
    for name in ("_create_socket", "_packet_queue"):
        inside, times = re.subn(rf"\b{name}\b", f"{name}_2", inside)
        assert times, name
    client.write_text(inside)
    return {"PYTHONPATH": str(site)}


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_paho_without_the_hooks_is_used_as_it_documents_itself(
    broker, subscribe, start_node, temperature_file, newer_paho, version
):
    """A newer one breaks the bounds on what the broker sends, which health says, and no more."""
    subscriber: Subscriber = subscribe(broker.port)
    config = sysfs_config(
        broker.port,
        {"s": temperature_file},
        interval="0.2s",
        mqtt=f'protocol = "{version}"\n[outbox]\nhistory_interval = "1s"',
    )
    node = start_node(config, env=newer_paho)
    wait_until(lambda: len(subscriber.history()) >= 10)
    broker.stop()
    node.wait_for_log("lost")
    broker.start()
    subscriber = subscribe(broker.port)
    wait_until(lambda: len(subscriber.history()) >= 10)
    seqs = [state["seq"] for state in subscriber.states("s")]
    assert seqs == sorted(set(seqs)), "nothing of before the outage is sent after it"
    assert any("paho-mqtt is newer" in text for text in subscriber.health()["problems"])
    node.terminate()
    assert retained(broker.port)["sensors/test/status"] == "offline"


def test_what_a_paho_without_the_hooks_publishes_is_refused_by_its_code(
    start_node, temperature_file, newer_paho
):
    """A PUBACK with a reason comes back by paho's own callback."""

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            return CONNACK
        if kind == PUBLISH and published_topic(body).endswith("/state"):
            return puback(body).replace(b"\x40\x02", b"\x40\x03", 1) + b"\x87"
        return puback(body) if kind == PUBLISH else None

    broker = ScriptedBroker(answer)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}), env=newer_paho)
    node.wait_for_log("rejected sensors/test/s/state: Not authorized")
