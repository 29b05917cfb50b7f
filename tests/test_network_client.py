"""The network thread of the client, against brokers on raw sockets."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl

import pytest
import trustme
from paho.mqtt.enums import MQTTProtocolVersion
from support import wait_until

from node.config.schema import HostName, MqttTable
from node.mqtt.client import NetworkClient
from node.mqtt.events import BrokerEvent, Connected, ConnectFailed

CONNACK = b"\x20\x03\x00\x00\x00"


def client_of(port: int, events: queue.SimpleQueue[BrokerEvent], tls: object) -> NetworkClient:
    return NetworkClient(
        MqttTable(host=HostName("127.0.0.1"), port=port),
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
