"""Who is trusted with what: the broker's certificate, the node's password, the sample ACL."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from support import (
    NodeProcess,
    sysfs_config,
    wait_until,
)

DEPLOY = Path(__file__).parents[1] / "deploy"
IS_ROOT = os.geteuid() == 0


# -- the broker's certificate


class TlsServer:
    """Accepts connections with a certificate, and keeps what it is sent inside of TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.received: list[bytes] = []
        self.refusals: list[str] = []
        self._context = context
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            try:
                connection.settimeout(5)
                with self._context.wrap_socket(connection, server_side=True) as inside:
                    self.received.append(inside.recv(1024))
            except OSError as error:
                self.refusals.append(str(error))

    def close(self) -> None:
        self._server.close()


def openssl(command: str, folder: Path) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


class Certificates:
    """What a broker may show, right or wrong; `ca.pem` is what the node trusts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ca = trustme.CA()
        self._trust(self._ca)

    def _trust(self, ca: trustme.CA) -> None:
        ca.cert_pem.write_to_path(str(self.folder / "ca.pem"))

    def server(self, kind: str) -> ssl.SSLContext:
        now = datetime.now(UTC)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = ["other.example"] if kind == "another name" else ["localhost"]
        dates: dict[str, datetime] = {}
        if kind == "expired":
            dates = {"not_before": now - timedelta(9), "not_after": now - timedelta(1)}
        elif kind == "not yet valid":
            dates = {"not_before": now + timedelta(1), "not_after": now + timedelta(9)}
        elif kind == "an address":
            names = ["127.0.0.1"]
        elif kind == "TLS 1.2 at most":
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        elif kind == "TLS 1.1 at most":
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        if kind in ("self-signed", "an old CA"):
            self._by_openssl(kind)
            context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
            return context
        ca = trustme.CA() if kind == "an unknown CA" else self._ca
        ca.issue_cert(*names, **dates).configure_cert(context)
        return context

    def _by_openssl(self, kind: str) -> None:
        keys = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc"
        if kind == "self-signed":
            server = "-keyout server.key -out server.crt -days 9 -subj /CN=localhost"
            openssl(f"req -x509 {keys} {server} -addext subjectAltName=DNS:localhost", self.folder)
            return
        # As mosquitto-tls(7) has it: no keyUsage in the authority, no extension in the other.
        openssl(
            f"req -new -x509 -days 9 -extensions v3_ca {keys} -subj /CN=old -keyout ca.key "
            "-out ca.pem",
            self.folder,
        )
        openssl(f"req -new {keys} -keyout server.key -subj /CN=localhost -out csr", self.folder)
        openssl(
            "x509 -req -in csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.crt -days 9",
            self.folder,
        )


def start_node_with(
    start_node: Callable[..., NodeProcess], port: int, folder: Path, host: str
) -> NodeProcess:
    (folder / "temp").write_text("21500\n")
    tls = f'[mqtt.tls]\nca_file = "{folder}/ca.pem"'
    config = sysfs_config(port, {"s": folder / "temp"}, mqtt=tls)
    node: NodeProcess = start_node(config.replace("127.0.0.1", host))
    return node


@pytest.mark.parametrize(
    ("certificate", "host"),
    [
        ("right", "localhost"),
        ("an address", "127.0.0.1"),
        ("an old CA", "localhost"),
        ("TLS 1.2 at most", "localhost"),
    ],
)
def test_a_broker_with_a_right_certificate_is_spoken_to(tmp_path, start_node, certificate, host):
    """Control of the next test, and what must not be refused: the server gets a CONNECT."""
    server = TlsServer(Certificates(tmp_path).server(certificate))
    start_node_with(start_node, server.port, tmp_path, host)
    wait_until(lambda: server.received, what="a CONNECT")
    assert server.received[0][0] >> 4 == 1
    server.close()


@pytest.mark.parametrize(
    ("certificate", "host", "says"),
    [
        ("an unknown CA", "localhost", "certificate is not trusted by"),
        ("self-signed", "localhost", "certificate is not trusted by"),
        ("another name", "localhost", "certificate is not for localhost"),
        ("right", "127.0.0.1", "certificate is not for 127.0.0.1"),
        ("expired", "localhost", "certificate has expired"),
        ("not yet valid", "localhost", "certificate is not valid yet"),
        ("TLS 1.1 at most", "localhost", "no TLS handshake"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_a_broker_that_cannot_be_trusted_is_told_nothing(
    tmp_path, start_node, certificate, host, says
):
    """Not one byte inside of TLS, so no user name and no password."""
    server = TlsServer(Certificates(tmp_path).server(certificate))
    node = start_node_with(start_node, server.port, tmp_path, host)
    node.wait_for_log(says)
    wait_until(lambda: server.refusals, what="the end of the handshake")
    assert server.received == []
    assert len(node.log_lines("no broker")) == 1
    server.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_control_the_server_with_tls_1_1_serves_who_takes_it(tmp_path):
    """Otherwise the test above would prove nothing."""
    server = TlsServer(Certificates(tmp_path).server("TLS 1.1 at most"))
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as inside,
    ):
        assert inside.version() == "TLSv1.1"
        inside.sendall(b"hello")
        wait_until(lambda: server.received == [b"hello"])
    server.close()
