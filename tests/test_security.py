"""Who is trusted with what: the broker's certificate, the node's password, the sample ACL."""

from __future__ import annotations

import json
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
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    sysfs_config,
    wait_until,
)

from node.config import ConfigError, load
from node.schema import Config

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


# -- the node's password

LOGIN = '[mqtt]\nhost = "localhost"\nusername = "greenhouse"\n'
VARIABLE = "SENSOR_NODE_MQTT_PASSWORD"


@pytest.fixture
def load_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Loads a configuration with passwords in the places that are named."""

    def load_it(text: str = LOGIN, **places: str | bytes) -> Config:
        for place, password in places.items():
            content = password.encode() if isinstance(password, str) else password
            if place == "environment":
                monkeypatch.setenv(VARIABLE, os.fsdecode(content))
            elif place == "credential":
                (tmp_path / "mqtt.password").write_bytes(content)
                monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
            elif place == "inline":
                text += f"password = {json.dumps(password)}\n"
            else:
                (tmp_path / "secret").write_bytes(content)
                (tmp_path / "secret").chmod(0o640)
                text += 'password_file = "secret"\n'
        (tmp_path / "node.toml").write_text(text)
        (tmp_path / "node.toml").chmod(0o640)
        return load(tmp_path / "node.toml")

    return load_it


@pytest.mark.parametrize("winner", ["inline", "file", "environment", "credential"])
def test_the_password_comes_from_the_first_place_that_has_one(load_with, winner):
    """The file's own key, then the environment, then the credential of systemd."""
    places = {"environment": "by variable", "credential": "by credential"}
    if winner == "credential":
        del places["environment"]
    if winner in ("inline", "file"):
        places[winner] = f"by {winner}"
    config = load_with(**places)
    assert str(config.mqtt.password) == f"by {winner}".replace("environment", "variable")
    unused = [note for note in config.notes if f"${VARIABLE} has no effect" in note]
    assert len(unused) == (winner in ("inline", "file"))


@pytest.mark.parametrize("place", ["file", "environment", "credential"])
@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("greenhouse:secret\noperator:secret\n", "has several lines"),
        ("x" * 65_536, "is too long"),
        (b"secret\xff", "is not text"),
    ],
)
def test_what_cannot_be_a_password_is_an_error_that_does_not_show_it(
    load_with, place, written, says
):
    if written == "\n" and place == "environment":
        written = ""  # a shell's $(cat file) takes the line's end away
    with pytest.raises(ConfigError) as caught:
        load_with(**{place: written})
    assert len(caught.value.problems) == 1
    where = f"${VARIABLE}" if place == "environment" else "/"
    assert where in caught.value.problems[0].message
    assert says in caught.value.report()
    assert "secret\\" not in caught.value.report()
    assert "secret:" not in caught.value.report()
    assert "xxx" not in caught.value.report()


def test_a_byte_order_mark_is_not_a_part_of_the_password(load_with):
    """Windows' editor puts one before the text, and a line's end of its own after it."""
    assert str(load_with(file=b"\xef\xbb\xbfhunter2\r\n").mqtt.password) == "hunter2"


def test_a_password_of_the_environment_needs_a_username_too(load_with):
    with pytest.raises(ConfigError, match="1 problems") as caught:
        load_with('[mqtt]\nhost = "localhost"\n', environment="hunter2")
    assert "a password needs a username" in caught.value.report()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
@pytest.mark.parametrize("secret", ["password_file", "password", "key_file"])
def test_a_secret_that_every_user_can_read_is_worth_a_warning(tmp_path, secret, mode):
    """The file of the password, of the key, or the configuration with the password in it."""
    text = LOGIN
    if secret == "password_file":
        text += 'password_file = "secret"\n'
        file = tmp_path / "secret"
        file.write_text("hunter2\n")
    elif secret == "password":
        text += 'password = "hunter2"\n'
        file = tmp_path / "node.toml"
    else:
        issued = trustme.CA().issue_cert("greenhouse")
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / "node.crt"))
        file = tmp_path / "node.key"
        issued.private_key_pem.write_to_path(str(file))
        text += '[mqtt.tls]\ncert_file = "node.crt"\nkey_file = "node.key"\n'
    text += '[[sensor]]\nid = "cpu"\ndriver = "cpu"\n'
    (tmp_path / "node.toml").write_text(text)
    for each in tmp_path.iterdir():
        each.chmod(0o640)
    file.chmod(mode)
    notes = load(tmp_path / "node.toml").notes
    if mode == 0o644:
        assert len(notes) == 1
        assert notes[0].startswith(f"{file} ")
        assert "can be read by every user: chown root:sensor-node, and chmod 640" in notes[0]
    else:
        assert notes == ()


@pytest.mark.parametrize("place", ["inline", "file", "environment", "credential"])
def test_the_password_is_shown_nowhere(tmp_path, start_node, temperature_file, monkeypatch, place):
    """In no log, no error, no result, no process's arguments, and in none of the node's files.

    The broker refuses it, at the most talkative level of the log.
    """
    secret = "correct-horse-battery"
    login = 'username = "greenhouse"\n'
    if place == "inline":
        login += f'password = "{secret}"\n'
    elif place == "file":
        (tmp_path / "secret").write_text(secret)
        login += 'password_file = "secret"\n'
    elif place == "environment":
        monkeypatch.setenv(VARIABLE, secret)
    else:
        (tmp_path / "credentials").mkdir()
        (tmp_path / "credentials" / "mqtt.password").write_text(secret)
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    mosquitto = Mosquitto(tmp_path, "allow_anonymous false").start()
    config = sysfs_config(mosquitto.port, {"s": temperature_file}, mqtt=login)
    try:
        node = start_node(config, "--log-level", "debug")
        node.wait_for_log('refuses the user "greenhouse"')
        shown = arguments_of(node.process.pid)
        for command in (["check"], ["check", "--json"], ["watch", "--seconds", "0.5"]):
            whole = [SENSOR_NODE, *command, "--config", str(node.config)]
            done = subprocess.run(whole, capture_output=True, text=True)
            shown += done.stdout + done.stderr
        assert node.terminate() == 0
    finally:
        mosquitto.stop()
    shown += node.log + "".join(
        file.read_bytes().decode("latin-1") for file in node.state_dir.iterdir()
    )
    assert all(part in shown for part in ("sensor-node\0run", '"ok":true', "SQLite", "no broker"))
    assert secret not in shown
    for mistake in ("port = 0", "nonsense = 1", "[mqtt", "password = [", 'password_file = "x"'):
        node.config.write_text(config.replace("keepalive", f"{mistake}\nkeepalive"))
        with pytest.raises(ConfigError) as caught:
            load(node.config)
        assert secret not in caught.value.report() + repr(caught.value.problems)


def arguments_of(pid: int) -> str:
    """The command lines of a process and of those that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return Path(f"/proc/{pid}/cmdline").read_text() + "".join(
        arguments_of(int(child)) for child in children
    )
