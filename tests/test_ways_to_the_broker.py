"""The ways to a broker that are not a plain TCP connection, with real brokers at their ends."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from ports import free_port
from support import (
    PATIENCE_S,
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    ledger_in,
    replaced,
    retained,
    sysfs_config,
    wait_until,
)
from test_network_client import client_of

from node.config.schema import HostName, MqttTable
from node.mqtt.credentials import Credentials, password_of_command
from node.mqtt.events import BrokerEvent, Connected, Outgoing
from node.units import Seconds


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


class Gate:
    """Takes connections, greets each by `enter`, and joins it with the port that this returns."""

    def __init__(self, enter: Callable[[socket.socket], tuple[socket.socket, int]]) -> None:
        self._enter = enter
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.passed: list[object] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            connection, port = self._enter(connection)
            inner = socket.create_connection(("127.0.0.1", port))
        except (OSError, ValueError):
            connection.close()
            return
        threading.Thread(target=pump, args=(inner, connection), daemon=True).start()
        pump(connection, inner)

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def gate() -> Iterator[Callable[..., Gate]]:
    made: list[Gate] = []

    def make(enter: Callable[[socket.socket], tuple[socket.socket, int]]) -> Gate:
        made.append(Gate(enter))
        return made[-1]

    yield make
    for one in made:
        one.close()


def config(port: int, file: Path, mqtt: str, tls: str = "") -> str:
    return sysfs_config(port, {"s": file}, interval="0.5s", mqtt=f"{mqtt}\n{tls}")


def publishes(node: NodeProcess, broker: Mosquitto) -> None:
    """It is connected, and what it measures is there; and it says goodbye at the end."""
    node.wait_for_log("connected to")
    wait_until(lambda: "sensors/test/s/state" in retained(broker.port))
    assert retained(broker.port)["sensors/test/status"] == "online"
    assert node.terminate() == 0
    assert retained(broker.port)["sensors/test/status"] == "offline"


@pytest.fixture
def websockets(tmp_path: Path) -> Iterator[tuple[Mosquitto, int]]:
    """A broker with a listener for WebSockets beside the usual one."""
    port = free_port()
    more = (f"listener {port} 127.0.0.1", "protocol websockets")
    broker = Mosquitto(tmp_path, *more).start()
    yield broker, port
    broker.stop()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_websockets(websockets, start_node, temperature_file, protocol):
    broker, port = websockets
    way = f'transport = "websockets"\npath = "/mqtt"\nprotocol = "{protocol}"'
    publishes(start_node(config(port, temperature_file, way)), broker)


def test_a_backlog_over_websockets_arrives(websockets, start_node, tmp_path, subscribe):
    """Batches of 50, which need frames of several lengths, and acknowledgements several at once."""
    broker, port = websockets
    files = {f"s{number}": tmp_path / f"s{number}" for number in range(20)}
    for file in files.values():
        file.write_text("21500\n")
    way = 'transport = "websockets"'
    outbox = '\n[outbox]\nhistory_interval = "0.5s"\ndrain_rate = 1000\n'
    broker.stop()
    node = start_node(sysfs_config(port, files, interval="0.1s", mqtt=way) + outbox)
    node.wait_for_log("no broker")
    wait_until(lambda: ledger_in(node.state_dir).last_seq > 500)
    broker.start()
    wait_until(lambda: ledger_in(node.state_dir).cursor > 600, what="the broker has the backlog")
    everything = subscribe(broker.port)
    wait_until(lambda: len(everything.history()) > 300)
    assert node.terminate() == 0
    cursor = ledger_in(node.state_dir).cursor
    wait_until(lambda: everything.history()[-1]["seq"] >= cursor)
    seqs = [reading["seq"] for reading in everything.history()]
    assert seqs == list(range(seqs[0], seqs[-1] + 1))
    assert node.log.count("connected to") == 1, "no frame has ended the connection"


def test_frames_that_leave_in_parts_arrive_whole(websockets, subscribe):
    """A broker that does not read for a while; paho alone loses a message and spoils the next."""
    broker, port = websockets
    subscriber = subscribe(broker.port, "sensors/test/history")
    events: queue.SimpleQueue[BrokerEvent] = queue.SimpleQueue()
    client = client_of(port, events, None, transport="websockets")
    client.begin()
    assert isinstance(events.get(timeout=PATIENCE_S), Connected)
    opened = client.socket()
    assert opened is not None
    with socket.socket(fileno=os.dup(opened.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    payloads = [str(number % 10).encode() * 100_000 for number in range(20)]
    broker.freeze()
    for payload in payloads:
        client.publish_at_qos_1(Outgoing("sensors/test/history", payload))
        client.send()
    broker.thaw()
    wait_until(lambda: len(subscriber.messages) == len(payloads), what="all messages")
    assert [payload.encode() for _, payload, _ in subscriber.messages] == payloads
    client.end(0)


def require_alpn(context: ssl.SSLContext, broker: Mosquitto, seen: list[str | None]):
    def enter(connection: socket.socket) -> tuple[socket.socket, int]:
        secured = context.wrap_socket(connection, server_side=True)
        seen.append(secured.selected_alpn_protocol())
        if secured.selected_alpn_protocol() != "x-amzn-mqtt-ca":
            raise ValueError
        return secured, broker.port

    return enter


@pytest.mark.parametrize("offered", [True, False])
def test_alpn_and_a_server_name(broker, gate, start_node, temperature_file, tmp_path, offered):
    """AWS IoT on port 443: by the protocol's name; without it the same server closes."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("iot.example").configure_cert(context)
    context.set_alpn_protocols(["x-amzn-mqtt-ca"])
    seen: list[str | None] = []
    port = gate(require_alpn(context, broker, seen)).port
    tls = f'[mqtt.tls]\nca_file = "{tmp_path / "ca.pem"}"\nserver_name = "iot.example"\n'
    node = start_node(
        config(port, temperature_file, "", tls + ('alpn = ["x-amzn-mqtt-ca"]' if offered else ""))
    )
    if offered:
        publishes(node, broker)
        assert set(seen) == {"x-amzn-mqtt-ca"}
    else:
        node.wait_for_log("closes the connection before it answers")
        assert set(seen) == {None}


def connect_proxy(answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"):
    """A proxy that knows CONNECT, and the name of one host."""

    def enter(connection: socket.socket) -> tuple[socket.socket, int]:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        method, target, _ = head.split(b"\r\n")[0].decode().split()
        host, _, port = target.rpartition(":")
        connection.sendall(answer)
        if (method, host) != ("CONNECT", "broker.example") or b" 200 " not in answer:
            raise ValueError
        return connection, int(port)

    return enter


def socks_proxy(connection: socket.socket) -> tuple[socket.socket, int]:
    """SOCKS5 without a login (RFC 1928)."""
    stream = connection.makefile("rb", buffering=0)
    _, methods = stream.read(2)
    stream.read(methods)
    connection.sendall(b"\5\0")
    *_, kind = stream.read(4)
    assert kind == 3, "a name, which the proxy resolves"
    assert stream.read(stream.read(1)[0]) == b"broker.example"
    port = int.from_bytes(stream.read(2), "big")
    connection.sendall(b"\5\0\0\1\0\0\0\0\0\0")
    return connection, port


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_a_proxy_that_knows_the_name(broker, gate, start_node, temperature_file, kind):
    port = gate(connect_proxy() if kind == "http" else socks_proxy).port
    text = config(broker.port, temperature_file, f'proxy = "{kind}://127.0.0.1:{port}"')
    text = replaced(text, ('host = "127.0.0.1"', 'host = "broker.example"'))
    publishes(start_node(text), broker)


def test_a_proxy_that_refuses_is_named(broker, gate, start_node, temperature_file):
    proxy = gate(connect_proxy(b"HTTP/1.1 403 Forbidden\r\n\r\n")).port
    way = f'proxy = "http://127.0.0.1:{proxy}"'
    node = start_node(config(broker.port, temperature_file, way))
    node.wait_for_log(f"the proxy http://127.0.0.1:{proxy}: Tunnel connection failed: 403")
    assert not node.log_lines("Traceback")


def test_variables_of_the_environment_are_no_proxy(broker, start_node, temperature_file):
    """paho would take them, if PySocks is installed."""
    env = {"mqtt_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    publishes(start_node(config(broker.port, temperature_file, ""), env=env), broker)


# -- the login


@pytest.fixture
def token_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that knows one user, one client id, and one password at a time."""
    passwords = tmp_path / "passwords"
    passwords.touch()
    passwords.chmod(0o600)
    acl = tmp_path / "acl"
    acl.write_text("pattern readwrite sensors/#\npattern readwrite homeassistant/#\n")
    broker = Mosquitto(tmp_path, "allow_anonymous false", f"password_file {passwords}")
    set_password(tmp_path, "first")
    yield broker.start()
    broker.stop()


def set_password(folder: Path, password: str) -> None:
    """Of the broker, and of the command that prints it."""
    file = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", str(file), "u", password], check=True)
    (folder / "token").write_text(f"{password}\n")


def test_a_password_of_a_command_is_renewed(token_broker, start_node, temperature_file, tmp_path):
    """By each connection; the broker's log has the client id."""
    way = 'username = "u"\nclient_id = "one-of-ours"\n'
    way += f'password_command = ["/bin/cat", "{tmp_path}/token"]'
    node = start_node(config(token_broker.port, temperature_file, way))
    node.wait_for_log("connected to")
    token_broker.stop()
    set_password(tmp_path, "second")
    token_broker.start()
    wait_until(lambda: node.log.count("connected to") == 2)
    assert "as one-of-ours" in token_broker.log_file.read_text()
    assert "second" not in node.log


def test_a_login_is_renewed_before_it_ends_and_without_a_will(clock, tmp_path, monkeypatch):
    counter = tmp_path / "count"
    counter.write_text("")
    script = tmp_path / "token"
    script.write_text(f'#!/bin/sh\nprintf x >>{counter}\necho "t$(wc -c <{counter})"\n')
    script.chmod(0o755)
    monkeypatch.setattr("node.mqtt.credentials.time", clock)
    table = MqttTable(
        host=HostName("h"),
        username="u",
        password_command=(str(script),),
        password_valid_for=Seconds(3600),
    )
    credentials = Credentials(table)
    credentials.refresh()
    assert (credentials.password, credentials.ends_s) == ("t1", clock.now_s + 3240)
    clock.now_s += 3000
    credentials.refresh()
    assert credentials.password == "t1", "a new connection within its life does not cost a token"
    clock.now_s += 240
    credentials.refresh()
    assert credentials.password == "t2"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("/bin/false",), "failed with exit code 1; run it by hand"),
        (("/bin/true",), "prints is empty"),
        (("/nonexistent",), "cannot be run: No such file or directory"),
        (("/bin/printf", "\\377"), "prints is not text"),
        (("/bin/printf", "a\\nb"), "prints has several lines; it must contain only the password"),
    ],
)
def test_a_command_without_a_password_says_why(command, problem):
    with pytest.raises(ValueError, match=problem):
        password_of_command(command)


def test_a_command_that_fails_is_the_reason_that_is_said(broker, start_node, temperature_file):
    way = 'username = "u"\npassword_command = ["/bin/false"]'
    node = start_node(config(broker.port, temperature_file, way))
    node.wait_for_log("password_command failed with exit code 1; run it by hand")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('path = "/x"', 'path: has no effect unless transport is "websockets"'),
        ('transport = "websocket"', "expected one of tcp, websockets"),
        ('transport = "websockets"\npath = "mqtt"', 'path: expected a path: "/mqtt"'),
        ('proxy = "http://127.0.0.1"', 'expected "http://HOST:PORT" or "socks5://HOST:PORT"'),
        ('proxy = "http://u:p@h:1"', 'expected "http://HOST:PORT" or "socks5://HOST:PORT"'),
        ('username = "u"\npassword_command = []', "expected a program and its arguments"),
        ('username = "u"\npassword_command = ["cat"]', "the program needs its whole path"),
        ('password_command = ["/bin/cat"]', "a password needs a username"),
        ('password_valid_for = "1h"', "has no effect unless password_command is set"),
        (
            'username = "u"\npassword = "x"\npassword_command = ["/bin/cat"]',
            "password and password_command are mutually exclusive",
        ),
        ('client_id = ""', "client_id"),
        ("[mqtt.tls]\nalpn = [1]", "alpn"),
        ('[mqtt.tls]\nserver_name = "https://x"', "server_name: expected a host name, not a URL"),
    ],
)
def test_each_mistake_is_named(tmp_path, temperature_file, lines, problem):
    file = tmp_path / "node.toml"
    file.write_text(config(1883, temperature_file, lines))
    done = subprocess.run(
        [SENSOR_NODE, "check", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78
    assert problem in done.stderr


def test_the_doctor_says_what_it_cannot_look_at(websockets, temperature_file, tmp_path):
    _, port = websockets
    file = tmp_path / "node.toml"
    file.write_text(config(port, temperature_file, 'transport = "websockets"'))
    command = [SENSOR_NODE, "doctor", "--config", str(file), "--state-dir", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "skip  login" in done.stdout
    assert "the doctor does not reach a broker over WebSockets" in " ".join(done.stdout.split())
