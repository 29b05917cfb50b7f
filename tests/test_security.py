"""Who is trusted with what: the broker's certificate, the node's password, the sample ACL.

The broker is mosquitto with the files of deploy/, set up by the very commands of its README.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import trustme
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from ports import free_port
from support import (
    PATIENCE_S,
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    dead_letters,
    open_folder,
    output_until,
    replaced,
    stop_loop,
    sysfs_config,
    wait_until,
)

from node.config.load import ConfigError, load
from node.config.schema import Config
from node.demo_broker import find_mosquitto
from node.system.node_ids import device_id

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
        dates: dict[str, Any] = {}
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
    node: NodeProcess = start_node(replaced(config, ("127.0.0.1", host)))
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
        ("TLS 1.1 at most", "localhost", "ends the TLS handshake ("),
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
    assert "connected to" not in node.log
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
        assert "can be read by every user: sudo chown root:sensor-node " in notes[0]
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
            done = subprocess.run(whole, capture_output=True, text=True, check=False)
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
        node.config.write_text(replaced(config, ("keepalive", f"{mistake}\nkeepalive")))
        with pytest.raises(ConfigError) as caught:
            load(node.config)
        assert secret not in caught.value.report() + repr(caught.value.problems)


def arguments_of(pid: int) -> str:
    """The command lines of a process and of those that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return Path(f"/proc/{pid}/cmdline").read_text() + "".join(
        arguments_of(int(child)) for child in children
    )


# -- the sample files of deploy/


def how_to() -> list[list[str]]:
    """The commands of deploy/README.md's section on the broker, block by block."""
    section = (DEPLOY / "README.md").read_text().split("## A broker for it")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [
        [line for line in block.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
        for block in blocks
    ]


class Site:
    """A broker's computer, set up as deploy/README.md says, below a folder instead of /."""

    USERS = ("greenhouse", "cellar", "operator", "homeassistant", "dashboard", "newcomer", "store")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.crt"
        (folder / "certs").mkdir()
        (folder / "deploy").symlink_to(DEPLOY)
        install, _, _ = how_to()
        for command in install:
            if command.split()[0] not in ("apt", "systemctl"):
                self.run(command)
        for user in self.USERS:
            self.run(f"mosquitto_passwd /etc/mosquitto/passwords {user}")

    def run(self, command: str) -> None:
        """Run a command of the how-to, here, for a broker on this computer."""
        password = f"{command.rsplit(maxsplit=1)[-1]}'s\n" * 2
        for there, here in (
            ("/etc/mosquitto/", f"{self.folder}/"),
            ("broker.lan", "localhost"),
            ("192.168.1.10", "127.0.0.1"),
            *(() if IS_ROOT else ((" -o mosquitto -g mosquitto", ""),)),
        ):
            command = command.replace(there, here)
        subprocess.run(
            ["bash", "-ec", command],
            cwd=self.folder,
            input=password,
            text=True,
            check=True,
            capture_output=True,
        )

    def give_certificate(self, user: str) -> None:
        """Make a client certificate, as the how-to says."""
        for command in how_to()[2]:
            self.run(command.replace("greenhouse", user))

    def node_id(self, node: str) -> str:
        """The id that the sample has for a node."""
        acl = (DEPLOY / "mosquitto.acl").read_text()
        ids = dict(re.findall(r"^user (\w+)(?:\n.+)*?/(sn\w{12})/", acl, re.MULTILINE))
        return str(ids[node])

    def broker(
        self, *, with_acl: bool = True, certificates: bool = False, device: str = ""
    ) -> SampleBroker:
        """The sample, with nothing changed but paths, port and the id of "greenhouse"."""
        port = free_port()
        settings = (self.folder / "mosquitto.conf").read_text()
        acl = (DEPLOY / "mosquitto.acl").read_text()
        if device:
            greenhouse = self.node_id("greenhouse")
            acl = replaced(acl, (greenhouse, device), times=acl.count(greenhouse) or 1)
        (self.folder / "mosquitto.acl").write_text(acl)
        state = self.folder / "lib"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir()
        if IS_ROOT:
            shutil.chown(state, "mosquitto", "mosquitto")
        for there, here in (
            ("/etc/mosquitto/", f"{self.folder}/"),
            ("/var/lib/mosquitto/", f"{state}/"),
            ("listener 8883", f"listener {port} 127.0.0.1"),
        ):
            assert there in settings
            settings = settings.replace(there, here)
        if certificates:
            settings, count = re.subn(
                r"^#(cafile|require_certificate|use_identity_as_username)",
                r"\1",
                settings,
                flags=re.MULTILINE,
            )
            assert count == 3
        if not with_acl:
            settings = replaced(settings, ("\nacl_file", "\n#acl_file"))
        return SampleBroker(self, settings, port)


class SampleBroker(Mosquitto):
    """mosquitto with a configuration file as it stands, and those who are logged in."""

    def __init__(self, site: Site, settings: str, port: int) -> None:
        super().__init__(site.folder, port=port)
        self._site = site
        self._settings = settings
        self._clients: list[Client] = []

    def start(self) -> SampleBroker:
        file = self.folder / f"mosquitto-{self.port}.conf"
        file.write_text(self._settings)
        program = find_mosquitto()
        assert program is not None
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(file)], stderr=log, stdout=log)
        wait_until(lambda: self._listens(self.port), what="mosquitto listens")
        return self

    def __enter__(self) -> SampleBroker:
        return self.start()

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self.stop()

    def join(self, user: str, **options: Any) -> Client:
        """A client that is closed before the broker is."""
        self._clients.append(Client(self._site, self.port, user, **options))
        return self._clients[-1]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with open_folder() as folder:  # for mosquitto's user
        yield Site(folder)


class Client:
    """A client of the sample broker, logged in and subscribed to everything."""

    def __init__(
        self,
        site: Site,
        port: int,
        user: str,
        *,
        version: MQTTProtocolVersion = mqtt.MQTTv5,
        session: str = "",
        will: str = "",
        certificate: bool = False,
        username: str = "",
    ) -> None:
        self.received: list[tuple[str, str]] = []
        self.retained: dict[str, str] = {}
        self._answers: dict[int, bool] = {}
        self._connected: list[str] = []
        self._ready = threading.Event()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, protocol=version, client_id=session
        )
        context = ssl.create_default_context(cafile=str(site.ca_file))
        if certificate:
            context.load_cert_chain(site.folder / f"{user}.crt", site.folder / f"{user}.key")
        else:
            self.client.username_pw_set(user, f"{user}'s")
        if username:
            self.client.username_pw_set(username, f"{username}'s")
        self.client.tls_set_context(context)
        if will:
            self.client.will_set(will, "offline", 1, retain=True)
        self.client.on_message = self._arrived
        self.client.on_publish = self._acknowledged
        self.client.on_connect = self._answered
        self.client.on_subscribe = lambda *_: self._ready.set()
        options: dict[str, Any] = {}
        if session:
            lasting = Properties(PacketTypes.CONNECT)
            lasting.SessionExpiryInterval = 600
            options = {"clean_start": False, "properties": lasting}
        self.client.connect("localhost", port, **options)
        self.client.loop_start()
        wait_until(lambda: self._connected, what=f"an answer to {user}")
        if self._connected == ["Success"]:
            assert self._ready.wait(PATIENCE_S)

    @property
    def refused(self) -> bool:
        return self._connected != ["Success"]

    def _answered(self, client: Any, userdata: Any, flags: Any, reason: Any, *_: Any) -> None:
        if not reason.is_failure:
            client.subscribe("#", 1)
        self._connected.append(str(reason))

    def _arrived(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:
        if message.retain:
            self.retained[message.topic] = message.payload.decode()
        else:
            self.received.append((message.topic, message.payload.decode()))

    def _acknowledged(self, client: Any, userdata: Any, mid: int, reason: Any, *_: Any) -> None:
        self._answers[mid] = not reason.is_failure

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> int:
        """The message's id, for `accepted`."""
        return self.client.publish(topic, payload, 1, retain).mid

    def has_seen_the_end(self) -> bool:
        return any(payload == "the end" for _, payload in self.received)

    def has_of_retained(self, topics: set[str]) -> bool:
        return set(self.retained) >= topics

    def accepted(self, message_id: int) -> bool:
        """Whether the broker took a message; it always says so in MQTT 3.1.1."""
        wait_until(lambda: message_id in self._answers, what="an acknowledgement")
        return self._answers[message_id]

    def break_off(self) -> None:
        """End without DISCONNECT, so that the broker publishes the will."""
        self.client.socket().close()  # type: ignore[union-attr]
        self.client.disconnect()
        stop_loop(self.client)

    def close(self) -> None:
        self.client.disconnect()
        stop_loop(self.client)


RIGHTS = """
                                   greenhouse cellar operator homeassistant dashboard newcomer store
sensors/greenhouse/status             pr         -      r        r             r         -        -
sensors/greenhouse/health             pr         -      r        r             r         -        -
sensors/greenhouse/history            pr         -      r        r             r         -        r
sensors/greenhouse/air/state          pr         -      r        r             r         -        -
sensors/greenhouse/air/availability   pr         -      r        r             r         -        -
sensors/greenhouse/air/alarm/warm     pr         -      r        r             r         -        -
sensors/cellar/air/alarm/warm         -          pr     r        r             r         -        -
sensors/greenhouse/air/temperature    pr         -      r        r             r         -        -
sensors/greenhouse/cmd/read           r          -      pr       pr            r         -        -
sensors/greenhouse/cmd/restart        r          -      pr       pr            r         -        -
sensors/greenhouse/cmd/read/result    pr         -      r        r             r         -        -
sensors/greenhouse/cmd/read/result/7  pr         -      r        r             r         -        -
sensors/greenhouse/cmd/replay         r          -      pr       pr            r         -        p
sensors/greenhouse/cmd/replay/result  pr         -      r        r             r         -        r
sensors/greenhouse/cmd                -          -      r        r             r         -        -
sensors/greenhouse/cmd/read/more      -          -      r        r             r         -        -
sensors/greenhouse/doctor/1/state     pr         -      r        r             r         -        -
sensors/greenhouse/air/state/more     -          -      r        r             r         -        -
sensors/greenhouse                    -          -      r        r             r         -        -
sensors/cellar/status                 -          pr     r        r             r         -        -
sensors/cellar/history                -          pr     r        r             r         -        r
sensors/cellar/air/state              -          pr     r        r             r         -        -
sensors/cellar/cmd/read               -          r      pr       pr            r         -        -
sensors/cellar/cmd/read/result        -          pr     r        r             r         -        -
sensors/newcomer/air/state            -          -      r        r             r         pr       -
sensors/newcomer/cmd/read             -          -      pr       pr            r         -        -
sensors/operator/status               -          -      -        r             r         -        -
sensors/operator/air/state            -          -      -        r             r         -        -
sensors/operator/cmd/read             -          -      -        pr            r         -        -
sensors/homeassistant/air/state       -          -      r        -             r         -        -
sensors/dashboard/status              -          -      r        r             -         -        -
sensors/dashboard/air/state           -          -      r        r             -         -        -
sensors/dashboard/cmd/read            -          -      pr       pr            -         -        -
sensors/dashboard/cmd/read/result     -          -      r        r             -         -        -
sensors                               -          -      r        r             r         -        -
homeassistant/status                  r          r      r        pr            -         -        -
homeassistant/device/GREENHOUSE/config pr        -      r        pr            -         -        -
homeassistant/device/CELLAR/config    -          pr     r        pr            -         -        -
homeassistant/sensor/other/config     -          -      r        r             -         -        -
homeassistant/sensor/GREENHOUSE-entities/uptime/config - - r pr - - -
elsewhere                             -          -      -        -             -         -        -
"""
"""What each user may: p to publish, r to receive; a newcomer has a password and no line."""


def rights(site: Site) -> dict[str, dict[str, str]]:
    """topic -> user -> letters."""
    heading, *rows = RIGHTS.strip("\n").splitlines()
    users = heading.split()
    table = {}
    for row in rows:
        topic, *letters = row.split()
        for node in ("greenhouse", "cellar"):
            topic = topic.replace(node.upper(), site.node_id(node))
        table[topic] = dict(zip(users, letters, strict=True))
    return table


def try_everything(
    clients: dict[str, Client], topics: list[str]
) -> tuple[set[tuple[str, str]], dict[tuple[str, str], set[str]]]:
    """Let every user publish on every topic.

    Returns the (user, topic) of which the broker said that it took them, and for each the users
    who received the message.
    """
    sent = {
        (user, topic): client.publish(topic, f"{user} {topic}", retain=True)
        for user, client in clients.items()
        for topic in topics
    }
    taken = {pair for pair, mid in sent.items() if clients[pair[0]].accepted(mid)}
    for user in clients:  # what comes last has everything before it
        clients["operator"].publish(f"sensors/{user}/cmd/identify", "the end")
        clients["greenhouse"].publish("sensors/greenhouse/status", "the end")
        clients["greenhouse"].publish("sensors/greenhouse/history", "the end")
        clients["newcomer"].publish("sensors/newcomer/status", "the end")
    for user, client in clients.items():
        wait_until(client.has_seen_the_end, what=f"the end at {user}")
    receivers: dict[tuple[str, str], set[str]] = {pair: set() for pair in sent}
    for user, client in clients.items():
        for topic, payload in client.received:
            if payload != "the end":
                receivers[payload.split()[0], topic].add(user)
    return taken, receivers


@pytest.mark.parametrize("version", [mqtt.MQTTv5, mqtt.MQTTv311], ids=["5", "3.1.1"])
def test_everybody_may_what_the_table_says_and_nothing_else(site, version):
    """Every user on every topic: who may publish, and who receives it, at once or later.

    So no node publishes as another, or reads its topics, or commands anybody, itself included;
    operators and Home Assistant alone command; readers publish nothing.
    """
    table = rights(site)
    with site.broker() as broker:
        clients = {user: broker.join(user, version=version) for user in Site.USERS}
        taken, receivers = try_everything(clients, list(table))
        late = {user: broker.join(user, version=version) for user in Site.USERS}
        for user, topic in receivers:
            may_publish = "p" in table[topic][user]
            expected = {u for u, letters in table[topic].items() if "r" in letters}
            assert receivers[user, topic] == (expected if may_publish else set()), (user, topic)
            if version == mqtt.MQTTv5:
                assert ((user, topic) in taken) == may_publish, (user, topic)
        ended = {"sensors/greenhouse/status"}
        for user, client in late.items():
            expected = {
                topic
                for topic, letters in table.items()
                if "r" in letters[user] and any("p" in may for may in letters.values())
            }
            wait_until(partial(client.has_of_retained, expected), what=f"{user}'s")
            assert set(client.retained) - ended == expected - ended, user


def test_control_without_the_acl_everybody_may_everything(site):
    """The same trial finds what the ACL holds back, and lets it through without one."""
    table = rights(site)
    with site.broker(with_acl=False) as broker:
        clients = {user: broker.join(user) for user in Site.USERS}
        taken, receivers = try_everything(clients, list(table))
    forbidden = {
        (user, topic)
        for topic, letters in table.items()
        for user in Site.USERS
        if "p" not in letters[user]
    }
    assert len(forbidden) > 150
    assert forbidden <= taken
    assert all(receivers[pair] == set(Site.USERS) for pair in receivers)


def test_a_will_is_held_to_the_acl_as_any_message_is(site):
    """A node that dies takes itself offline, and no other one."""
    with site.broker() as broker:
        observer = broker.join("operator")
        for topic in ("sensors/greenhouse/status", "sensors/cellar/status"):
            Client(site, broker.port, "cellar", will=topic).break_off()
        wait_until(lambda: observer.received, what="the will of cellar")
        assert observer.received == [("sensors/cellar/status", "offline")]


def test_a_session_that_is_taken_over_gives_nothing_away(site):
    """With a reader's client id, a node gets the reader's subscriptions, and its own rights."""
    with site.broker() as broker:
        broker.join("dashboard", session="archive").close()
        node = broker.join("greenhouse")
        assert node.accepted(node.publish("sensors/greenhouse/air/state", "for the archive"))
        thief = broker.join("cellar", session="archive")
        thief.publish("sensors/cellar/status", "the end")
        wait_until(lambda: thief.received)
        assert thief.received == [("sensors/cellar/status", "the end")]


def test_nobody_gets_in_without_the_right_password(site):
    with site.broker() as broker:
        assert broker.join("stranger").refused
        assert not broker.join("greenhouse").refused, "control"
        anonymous = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        anonymous.tls_set_context(ssl.create_default_context(cafile=str(site.ca_file)))
        answers: list[str] = []
        anonymous.on_connect = lambda *arguments: answers.append(str(arguments[3]))
        anonymous.connect("localhost", broker.port)
        anonymous.loop_start()
        wait_until(lambda: answers)
        assert answers[0] == "Not authorized"
        anonymous.disconnect()
        stop_loop(anonymous)


def node_config(
    site: Site, port: int, file: Path, *, name: str = "greenhouse", login: str = ""
) -> str:
    """The configuration of the how-to, with two sensors and a history twice a second."""
    other = file.parent / "2" / file.name
    other.parent.mkdir()
    other.write_text("8000\n")
    files = {"air": file, "water": other}
    mqtt_keys = f'payload = "both"\n{login}\n[mqtt.tls]\nca_file = "{site.ca_file}"'
    config = sysfs_config(port, files, interval="0.3s", mqtt=mqtt_keys)
    config += '[outbox]\nhistory_interval = "0.5s"\n'
    return replaced(config, ('"test"', f'"{name}"'), ("127.0.0.1", "localhost"))


def test_a_node_with_the_sample_files_lacks_nothing(site, start_node, temperature_file, tmp_path):
    """All its topics and its discovery arrive, before and after a restart of the broker.

    And those who come later get what is retained: the broker checks its source once more.
    """
    (temperature_file.parent / "secret").write_text("greenhouse's\n")
    login = 'username = "greenhouse"\npassword_file = "secret"'
    device = device_id(tmp_path / "state")
    with site.broker(device=device) as broker:
        reader = broker.join("dashboard")
        home = broker.join("homeassistant")
        node = start_node(node_config(site, broker.port, temperature_file, login=login))
        base = "sensors/greenhouse"
        retained = {f"{base}/status", f"{base}/health"} | {
            f"{base}/{sensor}/{topic}"
            for sensor in ("air", "water")
            for topic in ("availability", "state", "temperature")
        }
        expected = retained | {f"{base}/history"}
        wait_until(lambda: {topic for topic, _ in reader.received} >= expected)
        discovery = f"homeassistant/device/{device}/config"
        wait_until(lambda: discovery in {topic for topic, _ in home.received})
        reader.close()
        broker.stop()
        with broker:
            late = broker.join("dashboard")
            wait_until(lambda: f"{base}/air/state" in late.retained)
            node.wait_for_log("no broker: lost")
            wait_until(lambda: len(node.log_lines("connected to")) == 2)
            wait_until(lambda: any(topic == f"{base}/history" for topic, _ in late.received))
            assert node.terminate() == 0
            wait_until(lambda: (f"{base}/status", "offline") in late.received)
    assert "the broker rejected" not in node.log
    assert dead_letters(node.state_dir) == []


def test_a_node_obeys_operators_and_nobody_else(site, start_node, temperature_file, tmp_path):
    """The real node: another node, a reader, and somebody with its own login are not heard."""
    login = 'username = "greenhouse"\npassword = "greenhouse\'s"'
    device = device_id(tmp_path / "state")
    with site.broker(device=device) as broker:
        operator = broker.join("operator")
        start_node(node_config(site, broker.port, temperature_file, login=login))
        wait_until(lambda: ("sensors/greenhouse/status", "online") in operator.received)
        command = "sensors/greenhouse/cmd/read"
        for user in ("cellar", "dashboard", "greenhouse"):
            client = broker.join(user)
            assert not client.accepted(client.publish(command, "water"))
        operator.publish(command, "air")
        wait_until(lambda: any(topic == f"{command}/result" for topic, _ in operator.received))
        results = [text for topic, text in operator.received if topic == f"{command}/result"]
        assert [list(json.loads(text)["sensors"]) for text in results] == [["air"]]


def test_a_node_with_the_login_of_another_gets_nothing_through(site, start_node, temperature_file):
    """The real node, named cellar, as greenhouse: everything is refused, and it says so."""
    login = 'username = "greenhouse"\npassword = "greenhouse\'s"'
    with site.broker() as broker:
        observer = broker.join("operator")
        config = node_config(site, broker.port, temperature_file, name="cellar", login=login)
        node = start_node(config)
        node.wait_for_log("the broker rejected sensors/cellar/history: Not authorized")
        for topic in ("status", "health", "air/state", "water/availability"):
            assert f"rejected sensors/cellar/{topic}: Not authorized" in node.log
        node.terminate()
        client = broker.join("greenhouse")
        client.publish("sensors/greenhouse/status", "the end")
        wait_until(lambda: observer.received)
        assert [topic for topic, _ in observer.received] == ["sensors/greenhouse/status"]
    assert dead_letters(node.state_dir)


def test_the_operator_watches_as_the_how_to_says(site, start_node, temperature_file, tmp_path):
    """Node and operator both have their passwords from the environment."""
    with site.broker() as broker:
        login = 'username = "greenhouse"'
        config = node_config(site, broker.port, temperature_file, login=login)
        start_node(config, env={VARIABLE: "greenhouse's"}).wait_for_log("connected to")
        operator = tmp_path / "operator.toml"
        operator.write_text(
            f'[mqtt]\nhost = "localhost"\nport = {broker.port}\nusername = "operator"\n'
            f'[mqtt.tls]\nca_file = "{site.ca_file}"\n'
        )
        watch = next(line for line in how_to()[1] if line.startswith("sensor-node watch"))
        command = watch.replace("sensor-node", SENSOR_NODE).replace("operator.toml", str(operator))
        wanted = "sensors/greenhouse/air/state temperature 21.5"
        _, errors = output_until(
            command.split(), lambda out: wanted in out, {VARIABLE: "operator's"}
        )
        assert errors == ""


def test_with_client_certificates_the_name_in_it_is_the_user(
    site, start_node, temperature_file, tmp_path
):
    """Whatever user name is sent beside it; and it makes nobody a broker."""
    for user in ("greenhouse", "operator"):
        site.give_certificate(user)
    verify = "openssl verify -CAfile ca.crt -purpose"
    site.run(f"{verify} sslclient greenhouse.crt")
    with pytest.raises(subprocess.CalledProcessError):
        site.run(f"{verify} sslserver greenhouse.crt")
    device = device_id(tmp_path / "state")
    with site.broker(certificates=True, device=device) as broker:
        observer = broker.join("operator", certificate=True)
        config = node_config(site, broker.port, temperature_file)
        files = f'cert_file = "{site.folder}/greenhouse.crt"\n'
        files += f'key_file = "{site.folder}/greenhouse.key"\n'
        node = start_node(replaced(config, ("[mqtt.tls]\n", f"[mqtt.tls]\n{files}")))
        state = "sensors/greenhouse/air/state"
        wait_until(lambda: any(topic == state for topic, _ in observer.received))
        liar = broker.join("greenhouse", certificate=True, username="operator")
        assert liar.accepted(liar.publish("sensors/greenhouse/status", "itself"))
        assert not liar.accepted(liar.publish("sensors/cellar/status", "as another"))
        assert not liar.accepted(liar.publish("sensors/greenhouse/cmd/restart", "as an operator"))
        node.terminate()
        assert dead_letters(node.state_dir) == []
        assert "the broker rejected" not in node.log


def test_a_node_without_the_client_certificate_is_told_what_is_missing(
    site, start_node, temperature_file
):
    """TLS 1.3 reports that only after the handshake, so it looks like a closed connection."""
    with site.broker(certificates=True) as broker:
        login = 'username = "greenhouse"\npassword = "greenhouse\'s"'
        node = start_node(node_config(site, broker.port, temperature_file, login=login))
        node.wait_for_log("does it require a client certificate?")
        assert "connected to" not in node.log
