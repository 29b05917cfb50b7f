"""The way to the broker in single steps: name, TCP, TLS, login; each within a time of its own.

`Broker` holds what they have found out, and opens the further connections that checks need. The
words for what goes wrong are those of `node.mqtt.errors`.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import math
import queue
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from node.config.schema import MqttTable
from node.doctor.packets import Connack, Will, WireError
from node.doctor.wire import Connection
from node.mqtt.reasons import Reason
from node.topics import Topics

__all__ = ["TEST_PAYLOAD", "Broker", "LoggedIn", "LoginRefused"]

TEST_PAYLOAD = b"a test of sensor-node doctor, and no reading"

NAME_S = 3.0
CONNECT_S = 4.0
"""As `node.mqtt.client` has it."""
ALERT_S = 0.3
"""How soon a broker says, after the handshake of TLS 1.3, that it wants a client certificate."""

_Address = tuple[Any, ...]


class LoginRefused(Exception):
    """The broker refuses the login; the text is the name of its reason."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.name)
        self.reason = reason


class LoggedIn(msgspec.Struct):
    """A connection that the broker has accepted, and what it said of itself."""

    connection: Connection
    connack: Connack


class Broker:
    """The broker of a configuration, as the node's user meets it.

    The doctor's own client ids begin as the node's do, for brokers that ask for that, and are
    others each time: with the node's id it would throw the node out.
    """

    def __init__(self, mqtt: MqttTable, topics: Topics, tls_context: ssl.SSLContext | None) -> None:
        self.mqtt = mqtt
        self.topics = topics
        self.version = 5
        """The protocol level that the login was made with."""
        mark = secrets.token_hex(4)
        self.scratch = f"{topics.base}/{topics.node}/doctor/{mark}"
        """A topic of our own; a level deeper than any that has readings."""
        self._id_stem = f"sndoctor{mark}"
        self._ids = 0
        self._tls_context = tls_context
        self.certificate_ends_s = math.inf
        """When the broker's certificate ends, once it was seen, in seconds of UTC."""
        self._addresses: list[tuple[int, _Address]] = []
        self._open: list[Connection] = []

    @property
    def topics_filter(self) -> str:
        """Every topic of the node."""
        return f"{self.topics.base}/{self.topics.node}/#"

    # -- the steps

    def resolve(self) -> list[str]:
        """Find the addresses of the host.

        Raises:
            socket.gaierror: there is none, or nobody answers within `NAME_S`.
        """
        found = _resolve(self.mqtt.host, self.mqtt.broker_port)
        self._addresses = [(entry[0], entry[4]) for entry in found]
        return list(dict.fromkeys(str(address[0]) for _, address in self._addresses))

    @property
    def host_is_address(self) -> bool:
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(self.mqtt.host))
        return False

    def connect(self) -> socket.socket:
        """Open a TCP connection to the first address that accepts one.

        Raises:
            OSError: none does within `CONNECT_S`; of several reasons the last one.
        """
        deadline_s = time.monotonic() + CONNECT_S
        failure: OSError = TimeoutError()
        for tried, (family, address) in enumerate(self._addresses):
            # One that is dead must leave time for the others.
            left_s = max(0.1, deadline_s - time.monotonic()) / (len(self._addresses) - tried)
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.settimeout(left_s)
            try:
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    def secure(self, sock: socket.socket) -> socket.socket:
        """Make the TLS handshake, if the configuration wants TLS.

        Raises:
            OSError: it fails; the socket is closed.
        """
        if self._tls_context is None:
            return sock
        try:
            sock.settimeout(CONNECT_S)
            secured = self._tls_context.wrap_socket(sock, server_hostname=self.mqtt.host)
            self._await_alert(secured)
        except (OSError, ValueError):
            sock.close()
            raise
        not_after = (secured.getpeercert() or {}).get("notAfter")
        if isinstance(not_after, str):
            self.certificate_ends_s = ssl.cert_time_to_seconds(not_after)
        return secured

    def _await_alert(self, secured: ssl.SSLSocket) -> None:
        """With TLS 1.3 the client is done before the broker has looked at its certificate.

        (RFC 8446, §2.) What is sent before its alert would have it reset the connection, and the
        alert be lost.
        """
        tls = self.mqtt.tls
        if secured.version() != "TLSv1.3" or tls is None or tls.cert_file is not None:
            return
        if select.select([secured], [], [], ALERT_S)[0]:
            secured.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):  # session tickets, most often
                if secured.recv(1) == b"":
                    raise ConnectionResetError(errno.ECONNRESET, "closed after the handshake")

    def log_in(
        self, sock: socket.socket, *, will: Will | None = None, client_id: str | None = None
    ) -> LoggedIn:
        """CONNECT with the user of the configuration, in the present version.

        Raises:
            LoginRefused: the broker does not want the login.
            WireError, OSError: there is no answer to be had.
        """
        connection = Connection(sock, version=self.version)
        self._open.append(connection)
        if client_id is None:
            self._ids += 1
            client_id = f"{self._id_stem}{self._ids}"
        try:
            connack = connection.log_in(client_id, self.mqtt.username, self.mqtt.password, will)
        except BaseException:
            connection.drop()
            raise
        if connack.refused:
            connection.drop()
            raise LoginRefused(connack.refused)
        return LoggedIn(connection, connack)

    # -- more of it

    def another(self, *, version: int | None = None, client_id: str | None = None) -> LoggedIn:
        """A further connection, all steps at once."""
        if version is None or version == self.version:
            return self.log_in(self.secure(self.connect()), client_id=client_id)
        usual, self.version = self.version, version
        try:
            return self.log_in(self.secure(self.connect()), client_id=client_id)
        finally:
            self.version = usual

    def speaks_plain_mqtt(self) -> bool:
        """Whether the port takes MQTT without TLS; asked without a user name or password."""
        try:
            sock = self.connect()
            connection = Connection(sock, version=4)
            try:
                connection.log_in(f"{self._id_stem}x")
            finally:
                connection.leave()
        except (OSError, WireError):
            return False
        return True

    def speaks_tls(self) -> bool:
        """Whether the port makes a TLS handshake; nobody is trusted, and nothing is sent."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with self.connect() as sock:
                sock.settimeout(CONNECT_S / 2)
                with context.wrap_socket(sock, server_hostname=self.mqtt.host):
                    return True
        except (OSError, ValueError):
            return False

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Leave every connection at the end."""
        try:
            yield
        finally:
            for connection in self._open:
                connection.leave()


def _resolve(host: str, port: int) -> list[Any]:
    """getaddrinfo(3), given up after `NAME_S`: with no answer it may take half a minute."""
    outcome: queue.SimpleQueue[list[Any] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            outcome.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            outcome.put(error)

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = outcome.get(timeout=NAME_S)
    except queue.Empty:
        raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {NAME_S:g} s") from None
    if isinstance(found, list):
        return found
    if isinstance(found, socket.gaierror):
        raise found
    raise socket.gaierror(socket.EAI_FAIL, str(found))
