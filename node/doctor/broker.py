"""The way to the broker in single steps: name, TCP, TLS, login; each with a separate time limit.

`Broker` holds the results, and opens the further connections that checks need. `node.mqtt.errors`
has the messages for failures.
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
from pathlib import Path
from typing import Any

import msgspec

from node.config.schema import MqttTable
from node.doctor.packets import Connack, Will, WireError
from node.doctor.wire import Connection
from node.mqtt.reasons import Reason
from node.mqtt.referrals import Referrals
from node.topics import Topics

__all__ = ["TEST_PAYLOAD", "Broker", "LoggedIn", "LoginRefused"]

TEST_PAYLOAD = b"a test of sensor-node doctor, and no reading"

NAME_S = 3.0
CONNECT_S = 4.0
"""The same limit as in `node.mqtt.client`."""
ALERT_S = 0.3
"""How soon after a TLS 1.3 handshake a broker reports that it requires a client certificate."""

_Address = tuple[Any, ...]


class LoginRefused(Exception):
    """The broker refuses the login; the text is the name of the reason."""

    def __init__(self, reason: Reason, server_reference: str = "") -> None:
        super().__init__(reason.name)
        self.reason = reason
        self.server_reference = server_reference


class LoggedIn(msgspec.Struct):
    """A connection that the broker has accepted, with the broker's answer."""

    connection: Connection
    connack: Connack


class Broker:
    """The broker of a configuration, as the node's user sees it.

    The doctor's client ids begin like the node's, because some brokers require that, and differ
    each time: a connection with the node's own id would disconnect the node.
    """

    def __init__(
        self,
        mqtt: MqttTable,
        topics: Topics,
        tls_context: ssl.SSLContext | None,
        moved_file: Path | None = None,
    ) -> None:
        """`moved_file`: where the node remembers that the broker has moved."""
        self.referrals = Referrals(mqtt, moved_file, time.monotonic())
        self.topics = topics
        self.version = 5
        """The protocol level of the login."""
        mark = secrets.token_hex(4)
        self.scratch = f"{topics.base}/{topics.node}/doctor/{mark}"
        """The doctor's topic; one level deeper than any topic with readings."""
        self._id_stem = f"sndoctor{mark}"
        self._ids = 0
        self._tls_context = tls_context
        self.certificate_ends_s = math.inf
        """The end of the broker's certificate, once it was seen, in seconds of UTC."""
        self._addresses: list[tuple[int, _Address]] = []
        self._open: list[Connection] = []

    @property
    def mqtt(self) -> MqttTable:
        """Return the configuration's table, with the address of the present server."""
        return self.referrals.place

    @property
    def topics_filter(self) -> str:
        """Return the filter for every topic of the node."""
        return f"{self.topics.base}/{self.topics.node}/#"

    # -- the steps

    def resolve(self) -> list[str]:
        """Find the addresses of the host.

        Raises:
            socket.gaierror: there is none, or there was no answer within `NAME_S`.
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
            OSError: none does within `CONNECT_S`; of several errors the last one.
        """
        deadline_s = time.monotonic() + CONNECT_S
        failure: OSError = TimeoutError()
        for tried, (family, address) in enumerate(self._addresses):
            # A dead address must leave time for the others.
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
            name = (self.mqtt.tls.server_name if self.mqtt.tls else None) or self.mqtt.host
            secured = self._tls_context.wrap_socket(sock, server_hostname=name)
            self._await_alert(secured)
        except (OSError, ValueError):
            sock.close()
            raise
        not_after = (secured.getpeercert() or {}).get("notAfter")
        if isinstance(not_after, str):
            self.certificate_ends_s = ssl.cert_time_to_seconds(not_after)
        return secured

    def _await_alert(self, secured: ssl.SSLSocket) -> None:
        """Wait for an alert of the broker over the client's certificate.

        With TLS 1.3 the client's handshake is complete before the broker has checked its
        certificate (RFC 8446, §2). Data sent before the alert would make the broker reset the
        connection, and the alert would be lost.
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
        """Send CONNECT with the configured user, in the present version.

        Raises:
            LoginRefused: the broker rejects the login.
            WireError, OSError: the broker does not answer.
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
            raise LoginRefused(connack.refused, connack.server_reference)
        return LoggedIn(connection, connack)

    # -- more of it

    def another(self, *, version: int | None = None, client_id: str | None = None) -> LoggedIn:
        """Open a further connection, all steps at once."""
        if version is None or version == self.version:
            return self.log_in(self.secure(self.connect()), client_id=client_id)
        usual, self.version = self.version, version
        try:
            return self.log_in(self.secure(self.connect()), client_id=client_id)
        finally:
            self.version = usual

    def speaks_plain_mqtt(self) -> bool:
        """Return whether the port accepts MQTT without TLS; sends no user name or password."""
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
        """Return whether the port makes a TLS handshake; trusts nothing, and sends no data."""
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
        """Close every connection at the end."""
        try:
            yield
        finally:
            for connection in self._open:
                connection.leave()


def _resolve(host: str, port: int) -> list[Any]:
    """Call getaddrinfo(3), and give up after `NAME_S`: without an answer it may take 30 s."""
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
