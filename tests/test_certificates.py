"""Certificates and passwords that are renewed: used without a restart, missed before they end."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from doctor_run import doctor
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port
from support import (
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    replaced,
    sysfs_config,
    wait_until,
)

from node.config.certificates import end_dates, ending_soon, ends_soon
from node.config.schema import TlsTable

DAY_S = 86_400
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
AUTHORITY = trustme.CA()


def certificate(end: datetime, *, authority: trustme.CA = AUTHORITY) -> bytes:
    begin = end - timedelta(days=400)
    issued = authority.issue_cert("node", not_before=begin, not_after=end)
    return issued.cert_chain_pems[0].bytes()


@given(
    end=st.datetimes(datetime(1990, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)),
    before=st.text("abc \n"),
)
def test_the_end_of_a_certificate_is_read(end, before):
    """Before 2050 and after it, which are written in two ways."""
    end = end.replace(microsecond=0)
    pem = certificate(end)
    assert end_dates(before.encode() + pem + b"\n" + pem) == [end.timestamp()] * 2


@given(at=st.integers(0, 900), byte=st.integers(0, 255), cut=st.integers(0, 900))
def test_what_is_no_certificate_has_no_end(at, byte, cut):
    pem = bytearray(certificate(NOW))
    pem[at % len(pem)] = byte
    assert len(end_dates(bytes(pem[: len(pem) - cut]))) <= 1
    assert end_dates(b"nonsense") == []


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (timedelta(days=15), ""),
        (timedelta(days=14, seconds=1), ""),
        (timedelta(days=14), "ends on 2026-12-13, in 14 days"),
        (timedelta(days=1), "ends on 2026-11-30, in 1 day"),
        (timedelta(seconds=1), "ends on 2026-11-29, in 0 days"),
        (timedelta(0), "ended on 2026-11-29"),
        (timedelta(days=-40), "ended on 2026-10-20"),
    ],
)
def test_two_weeks_before_its_end_a_certificate_is_worth_a_word(left, says):
    assert ends_soon((NOW + left).timestamp(), NOW.timestamp()) == says


def test_one_authority_is_enough_and_each_part_of_a_chain_is_needed(tmp_path):
    soon, later = certificate(NOW + timedelta(days=3)), certificate(NOW + timedelta(days=300))
    (tmp_path / "both").write_bytes(soon + later)
    (tmp_path / "soon").write_bytes(soon)
    (tmp_path / "no").write_text("nothing\n")

    def said(**files: str) -> list[str]:
        table = TlsTable(**{key: tmp_path / name for key, name in files.items()})
        return ending_soon(table, NOW.timestamp())

    assert said(ca_file="both") == []
    assert said(ca_file="no", cert_file="missing") == []
    text = f"({tmp_path}/{{}}) ends on 2026-12-02, in 3 days; renew it"
    assert said(ca_file="soon") == ["the certificate of [mqtt.tls] ca_file " + text.format("soon")]
    assert said(cert_file="both") == [
        "the certificate of [mqtt.tls] cert_file " + text.format("both")
    ]
    assert ending_soon(None, 0.0) == []


# -- a node


class Place:
    """What a broker and its node have of one authority; `renew` makes all of it new."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.renew()

    def renew(self, server_days: float = 400, client_days: float = 400) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.folder / "ca.crt"))
        for name, days in (("localhost", server_days), ("greenhouse", client_days)):
            end = datetime.now(UTC) + timedelta(days=days)
            begin = end - timedelta(days=500)
            issued = authority.issue_cert(name, not_before=begin, not_after=end)
            issued.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}.crt"))
            issued.private_key_pem.write_to_path(str(self.folder / f"{name}.key"))

    def broker(self, port: int | None = None) -> Mosquitto:
        files = {"cafile": "ca.crt", "certfile": "localhost.crt", "keyfile": "localhost.key"}
        lines = [f"{key} {self.folder / name}" for key, name in files.items()]
        return Mosquitto(self.folder, *lines, "require_certificate true", port=port)

    def config(self, port: int, file: Path) -> str:
        names = {"ca_file": "ca.crt", "cert_file": "greenhouse.crt", "key_file": "greenhouse.key"}
        lines = [f'{key} = "{self.folder / name}"' for key, name in names.items()]
        config = sysfs_config(port, {"s": file}, mqtt="\n".join(["[mqtt.tls]", *lines]))
        return replaced(config, ("127.0.0.1", "localhost"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def connected_times(node: NodeProcess) -> int:
    return node.log.count("connected to localhost")


def test_a_renewed_authority_and_certificate_are_used_without_a_restart(
    place, start_node, temperature_file
):
    """The broker and the node get theirs from another authority; neither old one is trusted."""
    broker = place.broker().start()
    node = start_node(place.config(broker.port, temperature_file))
    wait_until(lambda: connected_times(node) == 1, what="a connection")
    broker.stop()
    place.renew()
    broker = place.broker(broker.port).start()
    try:
        wait_until(lambda: connected_times(node) == 2, what="a connection with what is new")
        (place.folder / "greenhouse.key").write_text("half a file")
        broker.stop()
        broker.start()
        node.wait_for_log("are not a certificate and its key")
        place.renew()
        broker.stop()
        broker.start()
        wait_until(lambda: connected_times(node) == 3, what="a connection when it is whole")
    finally:
        broker.stop()
    assert node.terminate() == 0


def test_a_password_that_was_changed_is_used_without_a_restart(
    tmp_path, start_node, temperature_file
):
    """By a node that had been refused, too."""
    users = tmp_path / "users"

    def let_in(password: str) -> None:
        command = ["mosquitto_passwd", "-b", "-c", str(users), "greenhouse", password]
        subprocess.run(command, check=True, capture_output=True)

    let_in("first")
    (tmp_path / "secret").write_text("first\n")
    lines = (f"password_file {users}", "allow_anonymous false")
    broker = Mosquitto(tmp_path, *lines).start()
    login = 'username = "greenhouse"\npassword_file = "secret"\n'
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}, mqtt=login))
    wait_until(lambda: node.log.count("connected to") == 1, what="a connection")
    broker.stop()
    let_in("second")
    broker.start()
    try:
        node.wait_for_log('refuses the user "greenhouse"')
        (tmp_path / "secret").write_text("second\n")
        wait_until(lambda: node.log.count("connected to") == 2, what="a connection")
    finally:
        broker.stop()
    assert "second" not in node.log


def test_health_and_status_warn_of_a_certificate_that_ends_soon(
    place, start_node, temperature_file, tmp_path
):
    place.renew(client_days=9.5)
    node = start_node(place.config(free_port(), temperature_file))

    def problems() -> list[str]:
        command = [SENSOR_NODE, "status", "--json", "--state-dir", str(node.state_dir)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        health = json.loads(done.stdout or "{}").get("health") or {}
        found: list[str] = health.get("problems", [])
        return found

    wait_until(problems, what="a problem")
    [problem] = problems()
    assert problem.startswith(
        f"the certificate of [mqtt.tls] cert_file ({tmp_path}/greenhouse.crt)"
    )
    assert ", in 9 days; renew it" in problem


@pytest.mark.parametrize("days", [9.5, 30])
def test_doctor_warns_of_a_certificate_that_ends_soon(place, temperature_file, tmp_path, days):
    """The node's own, and the broker's, which it sees."""
    place.renew(server_days=days, client_days=days)
    broker = place.broker().start()
    try:
        report = doctor(tmp_path, place.config(broker.port, temperature_file))
    finally:
        broker.stop()
    assert report.failed == {}
    warned = {s["name"]: s["message"] for s in report.steps if s["status"] == "warning"}
    assert ("ends on" in warned.get("TLS", "")) == (days < 14)
    assert ("cert_file" in warned.get("files", "")) == (days < 14)
