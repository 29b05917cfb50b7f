"""`sensor-node doctor` and the broker: each finding by a real fault, and nobody disturbed by it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
import trustme
from doctor_run import Report, doctor, doctors, one_sensor
from homeassistant_schema import problems_in
from hypothesis import given
from hypothesis import strategies as st
from packet_proxy import (
    PUBLISH,
    Link,
    PacketProxy,
    head,
    knows_3_1_1_alone,
    passes_qos_2_on_at_once,
)
from ports import free_port
from support import (
    CONNECT,
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    ScriptedBroker,
    Subscriber,
    ledger_in,
    replaced,
    retained,
    running,
    stop_loop,
    sysfs_config,
    wait_until,
)

from node import demo_broker
from node.doctor.packets import NotMqtt, cut_packet
from node.mqtt.packets import framed
from node.system.node_ids import client_id, device_id

ORDER = [
    *("configuration", "node", "name", "TCP", "TLS", "login", "publish", "subscribe"),
    *("retained", "LWT", "may publish", "may subscribe", "client id", "clock", "disk", "files"),
    *("supply", "sensors"),
]
BROKER_STEPS = ORDER[2:13]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A temperature to be configured."""
    temperature = tmp_path / "temp1_input"
    temperature.write_text("21500\n")
    return temperature


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts brokers, each with lines of its own, that are stopped at the end."""
    started: list[Mosquitto] = []

    def start(*lines: str) -> Mosquitto:
        started.append(Mosquitto(tmp_path, *lines).start())
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def proxy() -> Iterator[Callable[..., PacketProxy]]:
    """Makes proxies that are closed at the end."""
    made: list[PacketProxy] = []

    def make(*arguments: Any, **options: Any) -> PacketProxy:
        made.append(PacketProxy(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


# -- all is well, and how it is told ---------------------------------------------------------------


def test_all_is_well(broker, tmp_path, file):
    """Every step of DESIGN.md, in order; nothing stays behind."""
    report = doctor(tmp_path, one_sensor(broker.port, file))
    assert report.code == 0
    assert list(dict.fromkeys(step["name"] for step in report.steps)) == ORDER
    assert {s["status"] for s in report.steps if s["name"] in BROKER_STEPS} == {"ok", "skipped"}
    assert [s["name"] for s in report.steps if s["status"] == "skipped"] == [
        *("node", "TLS", "supply", "sensors")
    ]
    for step in report.steps:
        assert list(step) == ["name", "status", "message", "remedy", "took_ms"]
    published = [step["message"] for step in report.all("may publish")]
    discovery = f"homeassistant/device/{device_id(tmp_path / 'state')}/config"
    assert published == [
        "sensors/test/status",
        discovery,
        "sensors/test/s/availability",
        "sensors/test/s/state",
        "sensors/test/history",
        "sensors/test/health",
        "sensors/test/cmd/read/result",
        "sensors/test/cmd/identify/result",
        "sensors/test/cmd/restart/result",
        "sensors/test/cmd/replay/result",
    ]
    filters = [step["message"].split()[0] for step in report.all("may subscribe")]
    own = ["sensors/test/status", "sensors/test/health"]
    assert filters == [*own, discovery, "homeassistant/status", "sensors/test/cmd/+"]
    assert retained(broker.port, "#") == {}
    assert client_id("sensors", "test") in report.one("client id")["message"]


def test_the_text_fits_into_80_columns_and_folds_what_is_well(broker, tmp_path, file):
    config = tmp_path / "d.toml"
    config.write_text(one_sensor(broker.port, file, 'username = "u"'))
    command = [SENSOR_NODE, "doctor", "--config", str(config), "--state-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    assert [line for line in lines if line.startswith("ok    may publish    10 topics")]
    assert [line for line in lines if line.startswith("ok    login          accepted with the")]


def test_colour_on_a_terminal_alone_and_not_with_no_color(tmp_path, file):
    config = tmp_path / "d.toml"
    config.write_text(one_sensor(free_port(), file))
    command = [SENSOR_NODE, "doctor", "--config", str(config), "--state-dir", str(tmp_path)]
    for no_color, colour in (("", True), ("1", False)):
        ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": no_color}
        done = subprocess.run(command, stdout=theirs, timeout=60, check=False, env=environment)
        os.close(theirs)
        text = os.read(ours, 65536).decode()
        os.close(ours)
        assert done.returncode == 1
        assert ("\x1b[31mFAIL" in text) is colour
        assert "FAIL" in text


def test_an_invalid_configuration_exits_with_78_and_is_told_as_a_step(tmp_path):
    report = doctor(tmp_path, '[mqtt]\nhost = "h"\nprt = 1\n')
    assert report.code == 78
    step = report.one("configuration")
    assert step["status"] == "failed"
    assert "prt" in step["message"]


def test_wrong_usage_exits_with_2():
    done = subprocess.run([SENSOR_NODE, "doctor", "air"], capture_output=True, check=False)
    assert done.returncode == 2


# -- the way to the broker -------------------------------------------------------------------------


def test_a_name_that_does_not_resolve(tmp_path, file):
    report = doctor(tmp_path, one_sensor(1883, file, host="broker.invalid"))
    assert report.code == 1
    assert list(report.failed) == ["name"]
    assert "the name broker.invalid does not resolve" in report.failed["name"]
    assert "DNS" in report.one("name")["remedy"]
    for name in BROKER_STEPS[1:]:
        assert report.one(name)["status"] == "skipped"
        assert report.one(name)["message"] == "skipped because name failed"


def took_s(report: Report) -> float:
    """By its own clock, without the start of a Python, which takes long on a busy computer."""
    took_ms: float = sum(step["took_ms"] for step in report.steps)
    return took_ms / 1000


def in_network(*commands: str) -> tuple[str, ...]:
    """A prefix that runs a program in a network of its own, set up by `commands` of ip."""
    if shutil.which("ip") is None:
        pytest.skip("needs ip: apt-get install iproute2")
    script = "\n".join(["set -e", *(f"ip {command}" for command in commands), 'exec "$@"'])
    allowed = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("needs the right to make a network namespace, as root has it")
    return ("unshare", "--net", "sh", "-c", script, "sh")


def test_a_host_that_cannot_be_reached(tmp_path, file):
    prefix = in_network("link set lo up", "route add unreachable 10.11.12.13/32")
    report = doctor(tmp_path, one_sensor(1883, file, host="10.11.12.13"), prefix=prefix)
    assert list(report.failed) == ["TCP"]
    assert "10.11.12.13:1883 cannot be reached: No route to host" in report.failed["TCP"]


def test_a_dead_host_is_given_up_within_ten_seconds(tmp_path, file):
    """It swallows every packet."""
    prefix = in_network(
        *("link add hole type veth peer name far", "link set far up", "link set hole up"),
        *("addr add 10.11.12.1/24 dev hole",),
        *("neigh add 10.11.12.13 lladdr 02:00:00:00:00:01 dev hole",),  # nobody's
    )
    report = doctor(tmp_path, one_sensor(1883, file, host="10.11.12.13"), prefix=prefix)
    assert took_s(report) < 10
    assert list(report.failed) == ["TCP"]
    assert "10.11.12.13:1883 does not answer" in report.failed["TCP"]


def test_a_closed_port(tmp_path, file):
    port = free_port()
    report = doctor(tmp_path, one_sensor(port, file))
    assert list(report.failed) == ["TCP"]
    assert report.failed["TCP"] == f"127.0.0.1:{port} refuses the connection"
    assert report.one("name")["status"] == "ok"


def test_a_broker_that_accepts_and_does_not_answer(tmp_path, file):
    silent = ScriptedBroker(lambda *_: None)
    report = doctor(tmp_path, one_sensor(silent.port, file))
    silent.close()
    assert list(report.failed) == ["login"]
    assert "accepts the connection and does not answer" in report.failed["login"]


def test_a_broker_that_stops_answering_after_the_login(tmp_path, file):
    """Each step has an end, and so has the whole."""
    connack = b"\x20\x03\x00\x00\x00"
    frozen = ScriptedBroker(lambda kind, _: connack if kind == CONNECT else None)
    report = doctor(tmp_path, one_sensor(frozen.port, file))
    frozen.close()
    assert took_s(report) < 20
    assert report.failed["connection"].endswith("is no longer answered")
    assert report.one("retained")["status"] == "skipped"
    assert report.one("clock")["status"] in ("ok", "warning")


def test_a_port_that_closes_at_once(tmp_path, file):
    closing = ScriptedBroker(lambda *_: b"close")
    report = doctor(tmp_path, one_sensor(closing.port, file))
    closing.close()
    assert list(report.failed) == ["login"]
    assert "closes the connection before it answers" in report.failed["login"]


def test_a_port_that_speaks_something_else(tmp_path, file):
    web = ScriptedBroker(lambda *_: b"HTTP/1.1 400 Bad Request\r\n\r\n")
    report = doctor(tmp_path, one_sensor(web.port, file))
    web.close()
    assert list(report.failed) == ["login"]
    assert "answers with 'HTTP/1.1 400 Bad Request': not MQTT" in report.failed["login"]
    assert "WebSockets" in report.one("login")["remedy"]


@given(st.binary(max_size=64))
def test_whatever_a_port_answers_is_a_packet_or_no_mqtt(received):
    buffer = bytearray(received)
    try:
        while cut_packet(buffer) is not None:
            pass
    except NotMqtt:
        return
    assert len(buffer) <= len(received)


def test_a_packet_of_200_mb_is_not_waited_for():
    """A retained message of that size on a topic of ours would be kept whole."""
    with pytest.raises(NotMqtt):
        cut_packet(bytearray(b"\x31\x80\x84\xaf\x5f\x00\x03a/b"))


@given(st.integers(2, 15).filter(lambda k: k not in (8, 10, 12)), st.binary(max_size=300))
def test_a_packet_is_cut_as_it_was_framed(kind, body):
    received = bytearray(framed(kind << 4, body) + b"\x20")
    assert cut_packet(received) == (kind << 4, body)
    assert received == b"\x20"


# -- TLS -------------------------------------------------------------------------------------------


class Authority:
    """A CA, and the lines of a mosquitto whose certificate it has signed."""

    def __init__(self, folder: Path, name: str = "localhost", **validity: Any) -> None:
        self.ca = trustme.CA()
        self.file = folder / f"ca-{id(self)}.pem"
        self.ca.cert_pem.write_to_path(str(self.file))
        certificate = self.ca.issue_cert(name, **validity)
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        self.lines = (
            f"certfile {folder}/cert.pem",
            f"keyfile {folder}/key.pem",
            f"cafile {self.file}",
        )


def with_tls(port: int, file: Path, ca_file: Path, *lines: str) -> str:
    mqtt_tls = "\n".join(["[mqtt.tls]", f'ca_file = "{ca_file}"', *lines])
    return one_sensor(port, file, mqtt_tls, host="localhost")


def test_a_port_without_tls(tmp_path, file, start_broker):
    authority = Authority(tmp_path)
    port = start_broker().port
    report = doctor(tmp_path, with_tls(port, file, authority.file))
    assert report.failed == {
        "TLS": f"localhost:{port} is not a TLS port: it speaks MQTT without TLS"
    }


def test_a_tls_port_and_no_tls_configured(tmp_path, file, start_broker):
    port = start_broker(*Authority(tmp_path).lines).port
    report = doctor(tmp_path, one_sensor(port, file))
    assert report.failed == {
        "TLS": f"127.0.0.1:{port} is a TLS port, but [mqtt.tls] is not configured"
    }
    assert report.one("login")["status"] == "skipped"


def test_neither_tls_nor_mqtt(tmp_path, file):
    silent = ScriptedBroker(lambda *_: b"close")
    report = doctor(tmp_path, with_tls(silent.port, file, Authority(tmp_path).file))
    silent.close()
    assert list(report.failed) == ["TLS"]
    assert "no TLS handshake" in report.failed["TLS"]


_NOW = datetime.now(UTC)


def test_a_certificate_that_is_not_right(tmp_path, file, start_broker):
    expired = {"not_before": _NOW - timedelta(days=9), "not_after": _NOW - timedelta(days=1)}
    early = {"not_before": _NOW + timedelta(days=1), "not_after": _NOW + timedelta(days=9)}
    for name, validity, says in (
        ("other.example", {}, "the broker's certificate is not for localhost"),
        ("localhost", expired, "the broker's certificate has expired"),
        ("localhost", early, "the broker's certificate is not valid yet"),
    ):
        authority = Authority(tmp_path, name, **validity)
        port = start_broker(*authority.lines).port
        report = doctor(tmp_path, with_tls(port, file, authority.file))
        assert list(report.failed) == ["TLS"]
        assert says in report.failed["TLS"]


def test_an_unknown_ca(tmp_path, file, start_broker):
    port = start_broker(*Authority(tmp_path).lines).port
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    report = doctor(tmp_path, with_tls(port, file, other))
    assert list(report.failed) == ["TLS"]
    assert f"is not trusted by {other}" in report.failed["TLS"]
    assert "set [mqtt.tls] ca_file" in report.one("TLS")["remedy"]


def test_a_client_certificate_that_is_missing(tmp_path, file, start_broker):
    authority = Authority(tmp_path)
    for version in ("tlsv1.3", "tlsv1.2"):
        lines = ("require_certificate true", f"tls_version {version}")
        port = start_broker(*authority.lines, *lines).port
        report = doctor(tmp_path, with_tls(port, file, authority.file))
        assert list(report.failed) == ["TLS"]
        assert "client certificate" in report.failed["TLS"] + report.one("TLS")["remedy"]
        if version == "tlsv1.3":
            assert "requires a client certificate" in report.failed["TLS"]
            assert report.one("TLS")["remedy"] == "set [mqtt.tls] cert_file and key_file"


def client_certificate(folder: Path, ca: trustme.CA) -> tuple[str, str]:
    """The keys of [mqtt.tls] for a certificate that `ca` has signed."""
    certificate = ca.issue_cert("node")
    certificate.private_key_pem.write_to_path(str(folder / "node.key"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "node.crt"))
    return f'cert_file = "{folder}/node.crt"', f'key_file = "{folder}/node.key"'


def test_a_client_certificate_of_another_ca_and_the_right_one(tmp_path, file, start_broker):
    authority = Authority(tmp_path)
    port = start_broker(*authority.lines, "require_certificate true").port
    wrong = client_certificate(tmp_path, trustme.CA())
    report = doctor(tmp_path, with_tls(port, file, authority.file, *wrong))
    assert list(report.failed) == ["TLS"]
    assert "does not accept this client's certificate" in report.failed["TLS"]
    right = client_certificate(tmp_path, authority.ca)
    report = doctor(tmp_path, with_tls(port, file, authority.file, *right))
    assert report.failed == {}
    assert (report.one("TLS")["status"], report.one("LWT")["status"]) == ("ok", "ok")


# -- login and permissions -------------------------------------------------------------------------


def guarded(folder: Path, acl: str = "") -> tuple[str, ...]:
    """The lines of a mosquitto that knows the user "lab" with the password "secret"."""
    folder = Path(tempfile.mkdtemp(dir=folder))
    passwords = folder / "passwords"
    command = ["mosquitto_passwd", "-c", "-b", str(passwords), "lab", "secret"]
    subprocess.run(command, check=True, capture_output=True)
    lines: tuple[str, ...] = ("allow_anonymous false", f"password_file {passwords}")
    if acl:
        (folder / "acl").write_text(acl)
        lines += (f"acl_file {folder}/acl",)
    return lines


LAB = 'username = "lab"\npassword = "secret"\n'


def test_a_wrong_login(tmp_path, file, start_broker):
    port = start_broker(*guarded(tmp_path)).port
    for login, says in (
        ('username = "lab"\npassword = "wrong"', 'refuses the user "lab"'),
        ('username = "nobody"\npassword = "secret"', 'refuses the user "nobody"'),
        ("", "refuses a client without a user name"),
    ):
        for protocol in ("5", "3.1.1"):
            config = one_sensor(port, file, f'{login}\nprotocol = "{protocol}"')
            report = doctor(tmp_path, config)
            assert list(report.failed) == ["login"]
            assert says in report.failed["login"]
            assert "[mqtt] username and the password" in report.one("login")["remedy"]


ACL = """
user lab
topic readwrite sensors/test/#
topic read homeassistant/status
topic readwrite homeassistant/device/+/config
"""


def test_a_right_login_and_acl(tmp_path, file, start_broker):
    port = start_broker(*guarded(tmp_path, ACL)).port
    report = doctor(tmp_path, one_sensor(port, file, LAB))
    assert report.failed == {}
    birth = next(s for s in report.all("may subscribe") if "homeassistant/status" in s["message"])
    assert birth["message"] == ("homeassistant/status (granted; this login cannot test delivery)")


def test_an_acl_that_denies_publishing(tmp_path, file, start_broker, proxy):
    """Each topic by its name, in both versions of MQTT, and by a round trip where 5 is not known.

    Then discovery is left alone, for nothing is there that could be repeated.
    """
    denied = ["sensors/test/s/state", "sensors/test/health", "sensors/test/cmd/read/result"]
    acl = ACL + "".join(f"topic deny {topic}\n" for topic in denied)
    ports = [start_broker(*guarded(tmp_path, acl)).port for _ in range(3)]
    old = proxy(ports[2], knows_3_1_1_alone)
    reports = doctors(
        tmp_path,
        one_sensor(ports[0], file, LAB),
        one_sensor(ports[1], file, f'{LAB}protocol = "3.1.1"'),
        one_sensor(old.port, file, LAB),
    )
    versions = [report.one("login")["message"].split()[-1] for report in reports]
    assert versions == ["5", "3.1.1", "3.1.1"]
    for report in reports:
        assert set(report.denied("may publish")) == set(denied)
        assert set(report.failed) == {"may publish"}
        steps = report.all("may publish")
        assert len(steps) == 10
        (state,) = [step for step in steps if step["message"].startswith(denied[0])]
        assert "below user lab: topic write sensors/test/s/state" in state["remedy"]
        by_round_trip = report is reports[2]
        (discovery,) = [step for step in steps if "/device/" in step["message"]]
        assert (discovery["status"] == "skipped") is by_round_trip
        if by_round_trip:
            assert discovery["message"].endswith("until the node has published it once")
            assert "does not come back" in state["message"]
        else:
            assert state["message"].endswith("is denied: Not authorized")


def test_an_acl_that_lets_the_node_write_alone(tmp_path, file, start_broker, proxy):
    """What it may not read cannot come back; MQTT 5 tells all the same, and 3.1.1 cannot."""
    acl = "user lab\ntopic write sensors/test/#\ntopic deny sensors/test/history\n"
    ports = [start_broker(*guarded(tmp_path, acl)).port for _ in range(2)]
    link = proxy(ports[1], knows_3_1_1_alone)
    new, old = doctors(tmp_path, one_sensor(ports[0], file, LAB), one_sensor(link.port, file, LAB))
    discovery = f"homeassistant/device/{device_id(tmp_path / 'state')}/config"
    assert set(new.denied("may publish")) == {"sensors/test/history", discovery}
    for name in ("subscribe", "retained", "LWT"):
        assert new.one(name)["status"] == old.one(name)["status"] == "skipped"
    assert "may publish" not in old.failed
    assert {s["status"] for s in old.all("may publish")} == {"skipped"}


def test_an_acl_that_denies_reading(tmp_path, file, start_broker):
    """mosquitto grants the subscription, and keeps the messages back."""
    birth = replaced(ACL, ("read homeassistant/status", "write homeassistant/status"))
    commands = "topic write sensors/test/cmd/#\ntopic readwrite sensors/test/doctor/#"
    commands = replaced(ACL, ("topic readwrite sensors/test/#", commands))
    ports = [start_broker(*guarded(tmp_path, acl)).port for acl in (birth, commands)]
    reports = doctors(tmp_path, *(one_sensor(port, file, LAB) for port in ports))
    assert reports[0].denied("may subscribe") == ["homeassistant/status"]
    assert "granted, but its messages are withheld" in reports[0].failed["may subscribe"]
    assert reports[1].denied("may subscribe") == ["sensors/test/cmd/+"]


def test_a_broker_that_denies_a_subscription_says_so(tmp_path, file, start_broker, proxy):
    """As brokers other than mosquitto do."""

    def deny(link: Link, first: int, body: bytes) -> bytes | None:
        if first >> 4 == 8 and b"/cmd/+" in body:
            properties = b"\x00" if link.version == 5 else b""
            answer = body[:2] + properties + (b"\x87" if link.version == 5 else b"\x80")
            link.reply(bytes((0x90, len(answer))) + answer)
            return b""
        return None

    ports = [proxy(start_broker().port, deny).port for _ in range(2)]
    new, old = doctors(
        tmp_path,
        one_sensor(ports[0], file),
        one_sensor(ports[1], file, 'protocol = "3.1.1"'),
    )
    assert new.failed == {"may subscribe": "sensors/test/cmd/+ is denied: Not authorized"}
    assert old.failed == {"may subscribe": "sensors/test/cmd/+ is denied: refused"}


def test_a_broker_that_answers_a_denied_message_by_closing(tmp_path, file, start_broker, proxy):
    """As some do; the other topics are tried on."""

    def close(link: Link, first: int, body: bytes) -> bytes | None:
        if first >> 4 == PUBLISH and head(body)[0].endswith("/state"):
            link.close()
        return None

    hooks = (close, lambda *packet: knows_3_1_1_alone(*packet) or close(*packet))
    ports = [proxy(start_broker().port, hook).port for hook in hooks]
    for report in doctors(tmp_path, *(one_sensor(port, file) for port in ports)):
        assert report.denied("may publish") == ["sensors/test/s/state"]
        assert "closes the connection" in report.failed["may publish"]


def test_more_topics_than_a_broker_has_room_for(tmp_path, start_broker):
    """QoS 2 messages that stay unanswered are bounded by the broker's Receive Maximum."""
    port = start_broker("max_inflight_messages 3").port
    files = {f"s{number}": tmp_path / f"temp{number}" for number in range(12)}
    report = doctor(tmp_path, sysfs_config(port, files))
    assert report.failed == {}
    assert len(report.all("may publish")) == 32


def test_retained_messages_are_not_supported(tmp_path, file, start_broker):
    configs = [
        one_sensor(start_broker("retain_available false").port, file, f'protocol = "{version}"')
        for version in ("5", "3.1.1")
    ]
    for report in doctors(tmp_path, *configs):
        assert list(report.failed) == ["retained"]
        assert "does not keep retained messages" in report.failed["retained"]
        assert "retain_available true" in report.one("retained")["remedy"]
        assert report.one("LWT")["status"] == "ok"


def test_the_will_of_a_dead_connection_does_not_come(tmp_path, file, broker, proxy):
    """Something between keeps the connection to the broker when the client has gone."""
    link = proxy(broker.port, closes_along=False)
    report = doctor(tmp_path, one_sensor(link.port, file))
    assert list(report.failed) == ["LWT"]
    assert "its will did not arrive" in report.failed["LWT"]


def test_amqtt_which_knows_3_1_1_alone(tmp_path, file, monkeypatch):
    """And ignores a client of MQTT 5 that has a will: its remedy is named."""
    monkeypatch.setattr(demo_broker, "find_mosquitto", lambda: None)
    with demo_broker.embedded_broker(tmp_path) as amqtt:
        port = amqtt.port
        guessed, told = doctors(
            tmp_path, one_sensor(port, file), one_sensor(port, file, 'protocol = "3.1.1"')
        )
    assert list(guessed.failed) == ["login"]
    assert 'protocol = "3.1.1"' in guessed.one("login")["remedy"]
    assert told.failed == {}
    assert told.one("retained")["status"] == "ok"


# -- another client with our id --------------------------------------------------------------------


def test_another_client_has_the_nodes_id(tmp_path, file, broker):
    """A client that reconnects when it is thrown out, as all do; no node runs here."""
    other = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id("sensors", "test"))
    other.connect("127.0.0.1", broker.port)
    other.loop_start()
    wait_until(other.is_connected)
    report = doctor(tmp_path, one_sensor(broker.port, file))
    other.disconnect()
    stop_loop(other)
    assert list(report.failed) == ["client id"]
    assert "another client has the node's id" in report.failed["client id"]
    assert "/etc/machine-id" in report.one("client id")["remedy"]


def test_another_node_has_the_name_while_ours_does_not_run(tmp_path, file, broker, subscribe):
    """It is not thrown out to find that out."""
    (tmp_path / "other").mkdir()
    subscriber = subscribe(broker.port)
    with running(NodeProcess(tmp_path / "other", one_sensor(broker.port, file))) as node:
        subscriber.wait_for_states("s", 1)
        report = doctor(tmp_path, one_sensor(broker.port, file))
        assert list(report.failed) == ["client id"]
        assert "sensors/test/status is online, and no node runs in" in report.failed["client id"]
        assert subscriber.on("sensors/test/status") == ["online"]
        assert "lost" not in node.log


def test_two_nodes_with_one_id(tmp_path, file, broker):
    """Ours runs; its log tells of the fight."""
    (tmp_path / "other").mkdir()
    config = one_sensor(broker.port, file)
    with (
        running(NodeProcess(tmp_path, config)) as ours,
        running(NodeProcess(tmp_path / "other", config)),
    ):
        ours.wait_for_log("connections do not last", 20)

        def fails() -> bool:
            return "client id" in doctor(tmp_path, config).failed

        wait_until(fails, 20, "the fight is in the log")


# -- a node that runs ------------------------------------------------------------------------------


def test_a_configuration_that_differs_and_a_second_node_of_one_name(
    tmp_path, file, broker, subscribe
):
    """The second one has another id, and the same topics: told by whose health is retained."""
    config = one_sensor(broker.port, file)
    subscriber = subscribe(broker.port)
    with running(NodeProcess(tmp_path, config)) as node:
        wait_until(lambda: doctor(tmp_path, config).one("node")["status"] == "ok", 20)
        second = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        second.connect("127.0.0.1", broker.port)
        second.loop_start()
        nested = b'{"x":' + b"[" * 100_000
        health = subscriber.health()
        second.publish("sensors/test/health", nested, 1, retain=True).wait_for_publish(10)
        same, other = doctors(tmp_path, config, config + "# another line\n")
        assert (same.failed, other.failed) == ({}, {})
        assert same.one("node")["message"].endswith("with this configuration")
        step = other.one("node")
        assert step["status"] == "warning"
        assert (
            f"running as process {node.process.pid}, with a configuration that differs"
            in (step["message"])
        )
        assert "systemctl restart sensor-node" in step["remedy"]
        theirs = {**health, "process": 1, "time": "2126-11-24T12:00:00.000Z"}
        second.publish("sensors/test/health", json.dumps(theirs), 1, retain=True)
        node.wait_for_log("another node is named test at this broker")
        wait_until(lambda: "another node" in ledger_in(node.state_dir).health)
        report = doctor(tmp_path, config)
        second.disconnect()
        stop_loop(second)
        assert list(report.failed) == ["client id"]
        assert "another node has this name" in report.failed["client id"]
    assert "not running" in doctor(tmp_path, one_sensor(free_port(), file)).one("node")["message"]


def topics_of_the_node(subscriber: Subscriber) -> list[tuple[str, str]]:
    return [
        (topic, payload)
        for topic, payload, _ in list(subscriber.messages)
        if not topic.startswith("sensors/test/doctor/")
    ]


@pytest.mark.parametrize("hook", [None, knows_3_1_1_alone, passes_qos_2_on_at_once])
def test_nobody_is_misled_while_the_node_runs(
    tmp_path, file, broker, proxy, subscribe, start_node, hook
):
    """By none of the three ways of asking: the node stays connected, and the last value is right.

    Where others see the question, it is the newest value once more, which one that the node
    publishes at that moment may overtake; the newer one then follows again.
    """
    subscriber = subscribe(broker.port, "#")
    node = start_node(sysfs_config(broker.port, {"s": file, "gone": tmp_path / "gone"}))
    subscriber.wait_for_states("s", 2)
    # The doctor believes the health of the node, in its log, which may be of the time before.
    log = node.state_dir
    wait_until(lambda: json.loads(ledger_in(log).health)["sensors"]["gone"]["last_error"])
    before = len(subscriber.messages)
    port = broker.port if hook is None else proxy(broker.port, hook).port
    report = doctor(tmp_path, sysfs_config(port, {"s": file, "gone": tmp_path / "gone"}))
    assert set(report.failed) == {"sensors"}  # the one that is gone
    seen = len(subscriber.states("s"))
    subscriber.wait_for_states("s", seen + 1)
    assert node.log.count("connected to") == 1
    assert "lost" not in node.log
    assert "the command doctor" not in node.log
    assert not subscriber.on("sensors/test/cmd/doctor/result")
    seqs = [state["seq"] for state in subscriber.states("s")]
    assert seqs[-1] == max(seqs)
    if hook is None:
        assert seqs == sorted(seqs)
    assert set(subscriber.on("sensors/test/status")) == {"online"}
    assert set(subscriber.on("sensors/test/gone/availability")) == {"offline"}
    assert "" not in subscriber.on("sensors/test/s/state")
    assert "" not in subscriber.on("sensors/test/health")
    for topic, payload in topics_of_the_node(subscriber):
        if topic.endswith("/config"):
            assert problems_in(topic, payload.encode()) == []
            assert payload
    during = topics_of_the_node(subscriber)[before:]
    unexpected = [
        (topic, payload)
        for topic, payload in during
        if topic.startswith("sensors/test/") and payload == ""
    ]
    if hook is None:
        assert unexpected == [("sensors/test/cmd/doctor", "")]
        assert len([t for t, _ in during if t == "sensors/test/status"]) == 0
    else:
        harmless = {"sensors/test/gone/state", "sensors/test/cmd/doctor"}
        harmless |= {
            f"sensors/test/cmd/{n}/result" for n in ("read", "identify", "restart", "replay")
        }
        assert {topic for topic, _ in unexpected} <= harmless
        assert len([t for t, _ in during if t == "sensors/test/status"]) == 1
    kept = retained(broker.port, "#")
    assert not [topic for topic in kept if "/doctor/" in topic]
    assert json.loads(kept["sensors/test/s/state"])["seq"] >= seqs[-1]


def test_the_last_word_on_a_topic_is_the_newest(tmp_path, file, broker, proxy, subscribe):
    """Where the doctor's repetition comes after a newer value of the node's, that is repeated.

    The value is published while the repetition is on its way, held back until it is there.
    """
    topic = "sensors/test/s/state"
    node = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    node.connect("127.0.0.1", broker.port)
    node.loop_start()
    node.publish(topic, '{"seq":1}', 1, retain=True).wait_for_publish(5)

    def overtake(link: Link, first: int, body: bytes) -> bytes | None:
        if first >> 4 == PUBLISH and head(body)[0] == topic and b'{"seq":1}' in body:
            node.publish(topic, '{"seq":2}', 1, retain=True).wait_for_publish(5)
        return knows_3_1_1_alone(link, first, body)

    subscriber = subscribe(broker.port, topic)
    report = doctor(tmp_path, one_sensor(proxy(broker.port, overtake).port, file))
    node.disconnect()
    stop_loop(node)
    assert topic not in report.denied("may publish")
    said = ['{"seq":1}', '{"seq":2}', '{"seq":1}', '{"seq":2}']
    wait_until(lambda: len(subscriber.on(topic)) >= len(said))  # the last is on its way to us
    assert subscriber.on(topic) == said
    assert retained(broker.port, topic) == {topic: '{"seq":2}'}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_retained(
    tmp_path, file, broker, proxy, subscribe, number
):
    """The signal comes while a message of the doctor's is retained."""
    held: list[Link] = []

    def hold(link: Link, first: int, _body: bytes) -> bytes | None:
        if first >> 4 == PUBLISH and first & 1 and not held:
            link.hears = False  # the doctor waits for an acknowledgement
            held.append(link)
        return None

    config = tmp_path / "d.toml"
    config.write_text(one_sensor(proxy(broker.port, hold).port, file))
    command = [SENSOR_NODE, "doctor", "--config", str(config), "--state-dir", str(tmp_path)]
    subscriber = subscribe(broker.port, "sensors/test/doctor/#")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until(lambda: any(t.endswith("/retained") for t, _, _ in subscriber.messages), 15)
    assert retained(broker.port, "sensors/test/doctor/#") != {}, "or the test proves nothing"
    process.send_signal(number)
    held[0].hears = True
    assert process.wait(15) == 130
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert retained(broker.port, "#") == {}
    assert not [t for t, _, _ in subscriber.messages if t.endswith("/will")]
