"""Bad times: brokers that are absent, killed, frozen or refuse; sensors that fail or block."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from ports import free_port
from support import (
    CONNECT,
    PATIENCE_S,
    PUBLISH,
    Mosquitto,
    NodeProcess,
    ScriptedBroker,
    ledger_in,
    published_topic,
    replaced,
    retained,
    running,
    sysfs_config,
    taken_s,
    wait_until,
)

from drivers.sim.board import SimulatedBoard
from drivers.sim.chips import SimulatedBme280
from node.config.load import load
from node.loop import Node
from node.system.clock import SystemClock


def test_a_broker_that_is_absent_at_start(tmp_path, subscribe, start_node, temperature_file):
    """Said once, with what to do; connected within 5 s of its coming."""
    port = free_port()
    node = start_node(sysfs_config(port, {"s": temperature_file}))
    time.sleep(7)
    assert len(node.log_lines("refuses the connection; is the broker running")) == 1
    mosquitto = Mosquitto(tmp_path, port=port).start()
    try:
        began_s = time.monotonic()
        subscriber = subscribe(port)
        subscriber.wait_for("sensors/test/status", "online")
        assert time.monotonic() - began_s < 5
        subscriber.wait_for_states("s", 1)
    finally:
        mosquitto.stop()


@pytest.mark.real_time(seconds=15)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_broker_that_stops_and_comes_back(tmp_path, start_node, temperature_file, number):
    """Everything retained is there again within 5 s, though the broker has lost it."""
    mosquitto = Mosquitto(tmp_path).start()
    node = start_node(sysfs_config(mosquitto.port, {"s": temperature_file}))
    wait_until(lambda: "sensors/test/s/state" in retained(mosquitto.port))
    mosquitto.stop(number)
    node.wait_for_log("no broker: lost")
    time.sleep(9)
    again = Mosquitto(tmp_path, port=mosquitto.port).start()
    try:
        began_s = time.monotonic()
        wait_until(lambda: len(retained(again.port)) == 4)
        assert time.monotonic() - began_s < 5.3
        assert len(node.log_lines("no broker: lost")) == 1
        assert len(node.log_lines("refuses the connection")) == 1
        assert len(node.log_lines("connected to")) == 2
    finally:
        again.stop()


@pytest.mark.real_time(seconds=20)
def test_a_broker_that_is_frozen_and_thaws(broker, subscribe, start_node, temperature_file):
    """The link is half open: noticed by the keepalive, and mended within 5 s of the thaw."""
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.5s")
    # No message waits for its acknowledgement, which would be missed after 10 s as well.
    config += '[sensor.channel.temperature]\ndelta = 0.5\nheartbeat = "30m"\n'
    node = start_node(config)
    subscriber.wait_for_states("s", 1)
    wait_until(lambda: time.monotonic() > subscriber.times[-1] + 2, what="all is acknowledged")
    broker.freeze()
    try:
        node.wait_for_log("no broker: lost", seconds=20)
        temperature_file.write_text("23000\n")
        time.sleep(2)
    finally:
        broker.thaw()
    thawed_s = time.monotonic()
    wait_until(lambda: subscriber.states("s")[-1]["temperature"] == 23.0)
    assert time.monotonic() - thawed_s < 5
    numbers = [state["seq"] for state in subscriber.states("s")]
    assert numbers == sorted(numbers), "a retained topic went backwards"


def test_a_broker_that_is_frozen_for_a_moment_gets_nothing_stale(
    broker, subscribe, start_node, temperature_file
):
    """Shorter than the keepalive: the link survives, and the newest value follows at once."""
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="0.1s"))
    subscriber.wait_for_states("s", 3)
    broker.freeze()
    try:
        upto = ledger_in(node.state_dir).last_seq + 15
        wait_until(lambda: ledger_in(node.state_dir).last_seq >= upto)
    finally:
        broker.thaw()
    wait_until(lambda: subscriber.states("s")[-1]["seq"] >= upto)
    numbers = [state["seq"] for state in subscriber.states("s")]
    assert numbers == sorted(set(numbers))
    gap = max(b - a for a, b in itertools.pairwise(numbers))
    assert gap >= 10, "readings made meanwhile are not replayed on the retained topic"


@pytest.mark.real_time(seconds=20)
def test_a_broker_that_is_frozen_keeps_its_version(broker, subscribe, start_node, temperature_file):
    """An unanswered CONNECT says nothing of what the broker can: still MQTT 5 afterwards."""
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="0.5s"))
    subscriber.wait_for_states("s", 1)
    broker.freeze()
    try:
        node.wait_for_log("accepts the connection and does not answer", seconds=30)
    finally:
        broker.thaw()
    wait_until(lambda: len(node.log_lines("connected to")) >= 2)
    assert "MQTT 3.1.1" not in node.log
    assert "closes the connection" not in node.log


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"close"])
def test_a_broker_that_refuses_every_version_is_not_hammered(start_node, temperature_file, answer):
    broker = ScriptedBroker(lambda kind, body: answer)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    began_s = time.monotonic()
    time.sleep(6)
    node.wait_for_log("no broker")
    wait_until(lambda: broker.connections >= 2)
    assert broker.connections <= 2 * (time.monotonic() - began_s)
    assert len(node.log_lines("no broker")) == 1


@pytest.mark.real_time(seconds=15)
def test_two_nodes_with_one_client_id_notice_each_other(
    broker, start_node, temperature_file, tmp_path
):
    """A cloned SD card: they take over from each other, ever more slowly, and say so."""
    other = tmp_path / "other"
    other.mkdir()
    config = sysfs_config(broker.port, {"s": temperature_file})
    node = start_node(config)
    with running(NodeProcess(other, config)) as clone:
        began_s = time.monotonic()
        wait_until(
            lambda: "is there another client with the id sn" in node.log + clone.log,
            seconds=10 + PATIENCE_S,
        )
        time.sleep(max(0.0, began_s + 15 - time.monotonic()))
        logs = (node.log, clone.log)
    for log in logs:
        assert log.count("connected to") <= 8
        assert log.count("another client") <= 1


def test_a_wrong_password_is_said_once_with_the_remedy(tmp_path, start_node, temperature_file):
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(passwords), "u", "right"], check=True)
    mosquitto = Mosquitto(tmp_path, f"password_file {passwords}", "allow_anonymous false").start()
    try:
        login = 'username = "u"\npassword = "hunter2"'
        config = sysfs_config(mosquitto.port, {"s": temperature_file}, mqtt=login)
        node = start_node(config, "--log-level", "debug")
        node.wait_for_log('refuses the user "u"')
        time.sleep(5)
        assert len(node.log_lines('refuses the user "u"')) == 1
        assert "check [mqtt] username and the password" in node.log
        assert "hunter2" not in node.log
        assert node.process.poll() is None
        node.kill()
        right = start_node(replaced(config, ("hunter2", "right")))
        right.wait_for_log("connected to")
    finally:
        mosquitto.stop()


def test_a_name_that_does_not_resolve_is_said_once(start_node, temperature_file):
    config = sysfs_config(1883, {"s": temperature_file})
    config = replaced(config, ("127.0.0.1", "broker.invalid"))
    # A resolver that does not answer is asked once, for a second (resolv.conf(5)).
    node = start_node(config, env={"RES_OPTIONS": "timeout:1 attempts:1"})
    node.wait_for_log("the name broker.invalid does not resolve; check [mqtt] host, DNS")
    time.sleep(4)
    assert len(node.log_lines("does not resolve")) == 1
    assert node.process.poll() is None


class Authority:
    """A private CA, and a mosquitto whose certificate it has signed for `name`."""

    def __init__(self, folder: Path, name: str = "localhost") -> None:
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        certificate = self.ca.issue_cert(name)
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        self.lines = (f"certfile {folder}/cert.pem", f"keyfile {folder}/key.pem")

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context


def tls_config(port: int, file: Path, ca_file: Path, host: str = "localhost") -> str:
    config = sysfs_config(port, {"s": file}, mqtt=f'[mqtt.tls]\nca_file = "{ca_file}"')
    return replaced(config, ("127.0.0.1", host))


def test_tls_with_a_private_ca(tmp_path, subscribe, start_node, temperature_file):
    authority = Authority(tmp_path)
    mosquitto = Mosquitto(tmp_path, *authority.lines).start()
    try:
        node = start_node(tls_config(mosquitto.port, temperature_file, authority.ca_file))
        subscriber = subscribe(mosquitto.port, host="localhost", context=authority.trusting())
        subscriber.wait_for_states("s", 1)
        assert "MQTT 5 with TLS" in node.log
    finally:
        mosquitto.stop()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("wrong host name", "the broker's certificate is not for localhost"),
        ("unknown CA", "is not trusted by"),
        ("not a TLS port", "no TLS handshake"),
    ],
)
def test_a_broker_that_cannot_be_trusted_is_refused(
    tmp_path, start_node, temperature_file, fault, says
):
    """Said once, and nothing is sent; the node goes on."""
    authority = Authority(tmp_path, "other.example" if fault == "wrong host name" else "localhost")
    lines = () if fault == "not a TLS port" else authority.lines
    ca_file = authority.ca_file
    if fault == "unknown CA":
        ca_file = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(str(ca_file))
    mosquitto = Mosquitto(tmp_path, *lines).start()
    try:
        node = start_node(tls_config(mosquitto.port, temperature_file, ca_file))
        node.wait_for_log(says)
        time.sleep(4)
        assert len(node.log_lines(says)) == 1
        assert "connected to" not in node.log
        assert node.process.poll() is None
    finally:
        mosquitto.stop()


def test_a_certificate_file_that_is_none_is_an_error_of_the_configuration(
    tmp_path, temperature_file
):
    (tmp_path / "ca.pem").write_text("not a certificate\n")
    with running(
        NodeProcess(tmp_path, tls_config(1, temperature_file, tmp_path / "ca.pem"))
    ) as node:
        assert node.process.wait(PATIENCE_S) == 78
    assert "does not contain a PEM certificate" in node.log


def test_a_sensor_that_blocks_costs_the_others_nothing(broker, subscribe, start_node, tmp_path):
    """A FIFO blocks its reader until somebody writes: 5 s first, then for ever, then answers."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    files = {"stuck": fifo}
    for number in range(3):
        files[f"s{number}"] = tmp_path / f"t{number}"
        files[f"s{number}"].write_text("20000\n")
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, files))
    subscriber.wait_for_states("s0", 2)
    began_s = time.monotonic()
    node.wait_for_log("stuck (sysfs): offline: no answer for ")
    assert "check its wiring" in node.log
    time.sleep(max(0.0, 5 - (time.monotonic() - began_s)))
    for number in range(3):
        times = [taken_s(state) for state in subscriber.states(f"s{number}")]
        periods = [b - a for a, b in itertools.pairwise(times)]
        assert len(periods) >= 4
        assert max(periods) < 1.5, "2 s would be a slot that was missed"
    assert subscriber.on("sensors/test/stuck/availability") == ["offline"]

    enough = threading.Event()

    def feed() -> None:
        """One value for each read: a second one in the same read would be a third number."""
        while not enough.wait(0.02):
            before = outcomes()
            with contextlib.suppress(OSError):  # nobody reads just now
                descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
                with open(descriptor, "wb") as end:
                    end.write(b"25000\n")
                while outcomes() == before and not enough.wait(0.02):
                    pass

    def outcomes() -> int:
        return len(node.log_lines("stuck (sysfs)")) + len(subscriber.states("stuck"))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        subscriber.wait_for("sensors/test/stuck/availability", "online")
        subscriber.wait_for_states("stuck", 1)
    finally:
        enough.set()
        feeder.join()
    assert subscriber.states("stuck")[-1]["temperature"] == 25.0
    assert "stuck (sysfs): online" in node.log
    assert len(node.log_lines("stuck (sysfs)")) == 3, "stuck, then late, then online"


def test_a_sensor_without_a_good_reading_for_three_intervals_is_offline(
    broker, subscribe, start_node, temperature_file
):
    """And its retained value is not refreshed meanwhile, nor by a reconnect."""
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    subscriber.wait_for_states("s", 2)
    temperature_file.unlink()
    gone_s = subscriber.wait_for("sensors/test/s/availability", "offline")
    last_s = subscriber.times_of("sensors/test/s/state")[-1]
    assert 2.8 <= gone_s - last_s < 3.9
    assert len(node.log_lines("s (sysfs): offline:")) == 1
    states = len(subscriber.states("s"))
    time.sleep(2.5)
    assert len(subscriber.states("s")) == states
    temperature_file.write_text("22000\n")
    subscriber.wait_for("sensors/test/s/availability", "online")


def test_a_sensor_that_was_online_in_an_earlier_life_is_offline_at_once(
    broker, subscribe, start_node, temperature_file
):
    """The retained `online` of the last run is corrected on connecting."""
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    subscriber.wait_for("sensors/test/s/availability", "online")
    node.terminate()
    temperature_file.unlink()
    start_node(sysfs_config(broker.port, {"s": temperature_file}))
    subscriber.wait_for("sensors/test/s/availability", "offline")


def test_sigterm_ends_within_two_seconds_with_a_stuck_sensor_and_a_silent_broker(
    broker, subscribe, start_node, tmp_path, temperature_file
):
    os.mkfifo(tmp_path / "fifo")
    files = {"stuck": tmp_path / "fifo", "good": temperature_file}
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, files))
    subscriber.wait_for_states("good", 1)
    broker.freeze()
    try:
        time.sleep(0.5)
        assert node.terminate(seconds=2.0) == 0
    finally:
        broker.thaw()
    subscriber.wait_for("sensors/test/status", "offline")


def test_sigterm_ends_at_once_without_a_broker(start_node, temperature_file):
    node = start_node(sysfs_config(free_port(), {"s": temperature_file}))
    node.wait_for_log("s (sysfs): online")
    assert node.terminate(seconds=2.0) == 0


def test_offline_is_acknowledged_before_the_connection_is_closed(start_node, temperature_file):
    """A broker that does not acknowledge `offline` gets no DISCONNECT, so its will is sent."""
    from test_node import answering

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == PUBLISH and body.endswith(b"offline") and b"status" in body:
            return None
        return answering(True)(kind, body)

    for scripted, disconnects in ((answering(True), 1), (answer, 0)):
        broker = ScriptedBroker(scripted)
        node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
        packets: list[tuple[int, bytes]] = []

        def has_state(broker=broker, packets=packets) -> bool:
            while not broker.packets.empty():
                packets.append(broker.packets.get())
            return any(
                kind == PUBLISH and published_topic(body) == "sensors/test/s/state"
                for kind, body in packets
            )

        wait_until(has_state)
        node.terminate(seconds=2.0)
        wait_until(partial(lambda broker: broker.ended == broker.connections, broker))
        has_state()  # and all that came after it
        kinds = [kind for kind, _ in packets]
        assert kinds[0] == CONNECT
        assert kinds.count(14) == disconnects, "DISCONNECT packets"
        goodbye = [body for kind, body in packets if kind == PUBLISH][-2:]
        topics = ["sensors/test/status", "sensors/test/s/availability"]
        assert [published_topic(body) for body in goodbye] == topics
        assert all(body.endswith(b"offline") for body in goodbye)


@pytest.mark.parametrize("step", ["-1h", "+1h", "-31d", "+31d"])
def test_a_step_of_the_computers_clock_changes_no_schedule(
    broker, subscribe, start_node, temperature_file, tmp_path, step
):
    """The real process under libfaketime, which steps its wall clock and not the monotonic one."""
    control = tmp_path / "faketime"
    control.write_text("+0")
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    env = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(control),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.2s")
    node = start_node(config, env=env)
    try:
        subscriber.wait_for_states("s", 5)
        control.write_text(step)
        stepped_s, before = time.monotonic(), len(subscriber.states("s"))
        subscriber.wait_for_states("s", before + 15)
    finally:
        node.terminate()  # killed, it would leave libfaketime's shared memory behind
    made = len(subscriber.states("s")) - before
    # libfaketime's own lock costs some on a busy machine; one for each slot of the step, or none
    # at all, would be another matter.
    assert made <= (time.monotonic() - stepped_s) / 0.2 + 5
    years = {state["time"][:7] for state in subscriber.states("s")}
    hours = {state["time"][:13] for state in subscriber.states("s")}
    assert len(years | hours) > 2, "the clock was not stepped at all"


class InProcess:
    """A node in this process on a simulated board, whose parts a test can break."""

    def __init__(self, folder: Path, port: int, sensors: str) -> None:
        config_file = folder / "in-process.toml"
        config_file.write_text(
            f'[node]\nname = "test"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n{sensors}'
        )
        config = load(config_file)
        self.board = SimulatedBoard()
        for sensor in config.sensors:
            self.board.attach(sensor.driver, sensor.options)
        self.node = Node(
            config,
            self.board,
            SystemClock(),
            client_id=f"test-{port}",
            state_dir=folder / "in-process-state",
        )
        self._thread = threading.Thread(target=self.node.run)

    def __enter__(self) -> InProcess:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.node.stop("the test ends")
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        wait_until(lambda: not self._readers(), what="no read is under way")

    def _readers(self) -> list[object]:
        """Reads that go on: a library that sleeps in one would do so on a later test's clock."""
        sensors = self.node._scheduler._sensors.values()
        return [s for s in sensors if s.port.reading_since_s is not None]


ALL = """
[[sensor]]
id = "air"
driver = "dht22"
pin = 4
interval = "2s"
[[sensor]]
id = "water"
driver = "ds18b20"
address = "28-0316a2795bff"
interval = "0.5s"
[[sensor]]
id = "box"
driver = "bme280"
address = 0x76
interval = "0.5s"
[[sensor]]
id = "probe"
driver = "mcp3008"
interval = "0.5s"
"""


def nack(_address: int) -> None:
    raise OSError(121, "Remote I/O error")


def box(board: SimulatedBoard) -> SimulatedBme280:
    """The chip of the sensor "box"."""
    chip = board.i2c_ports[1].chips[0x76]
    assert isinstance(chip, SimulatedBme280)
    return chip


def break_(board: SimulatedBoard, fault: str) -> None:
    """Inject a fault at the level of the bus."""
    from drivers.sim.dht_line import encode_frame
    from drivers.sim.one_wire import POWER_ON_SCRATCHPAD, w1_slave_text

    line, port, address = board.dht_lines[4], board.i2c_ports[1], "28-0316a2795bff"
    good = encode_frame("DHT22", 20, 50)
    if fault == "silence":
        line.frame = lambda: None
    elif fault == "bad checksum":
        line.frame = lambda: good[:4] + b"\x00"
    elif fault == "missing edges":
        line.distort = lambda widths: widths[:40] + widths[44:]
    elif fault == "NACK":
        port.before_answer = nack
    elif fault == "stuck bus":
        box(board).busy = True
    elif fault == "unplugged":
        del board.one_wire.text[address]
    elif fault == "85 degrees":
        board.one_wire.text[address] = lambda: w1_slave_text(POWER_ON_SCRATCHPAD)
    elif fault == "CRC":
        text = w1_slave_text(bytes.fromhex("72014b467fff0e10"), crc_right=False)
        board.one_wire.text[address] = lambda: text
    elif fault == "short":
        board.analog_chips[8].volts[0] = lambda: 0.0
    else:
        raise AssertionError(fault)


@pytest.mark.real_time(seconds=15)
@pytest.mark.parametrize(
    ("fault", "sensor", "remedy"),
    [
        ("silence", "air", "pull-up and the pin number"),
        ("bad checksum", "air", "checksum differs"),
        ("missing edges", "air", "edges are missing"),
        ("NACK", "box", "check power, SDA and SCL"),
        ("stuck bus", "box", "switch its power off and on"),
        ("unplugged", "water", "check 3V3, the data wire"),
        ("85 degrees", "water", "power-on value"),
        ("CRC", "water", "CRC error"),
        ("short", "probe", "short or an open wire"),
    ],
)
def test_each_fault_of_a_bus_ends_offline_with_a_remedy_and_costs_itself_alone(
    broker, subscribe, tmp_path, caplog, fault, sensor, remedy
):
    """The others stay online; the broken one comes back when the fault is gone."""
    caplog.set_level("INFO")
    subscriber = subscribe(broker.port)
    with InProcess(tmp_path, broker.port, ALL) as running:
        for name in ("air", "water", "box", "probe"):
            subscriber.wait_for(f"sensors/test/{name}/availability", "online")
        healthy = dict(vars(running.board.dht_lines[4]))
        text = dict(running.board.one_wire.text)
        volts = dict(running.board.analog_chips[8].volts)
        break_(running.board, fault)
        subscriber.wait_for(f"sensors/test/{sensor}/availability", "offline")
        # It may go offline in the middle of a conversion, and say why at the end of it.
        wait_until(lambda: remedy in caplog.text, what=remedy)
        for name in {"air", "water", "box", "probe"} - {sensor}:
            assert subscriber.on(f"sensors/test/{name}/availability")[-1] == "online"
        vars(running.board.dht_lines[4]).update(healthy)
        running.board.one_wire.text.update(text)
        running.board.analog_chips[8].volts.update(volts)
        running.board.i2c_ports[1].before_answer = lambda address: None
        box(running.board).busy = False
        subscriber.wait_for(f"sensors/test/{sensor}/availability", "online")


def test_a_disk_that_takes_its_time_makes_no_sensor_offline(
    broker, subscribe, tmp_path, monkeypatch
):
    """The loop was held up for more than three intervals: nobody was asked meanwhile."""
    from node.outbox.file import OutboxFile

    subscriber = subscribe(broker.port)
    with InProcess(tmp_path, broker.port, ALL):
        subscriber.wait_for_states("water", 3)
        commit = OutboxFile.commit
        began = threading.Event()

        def slow(*arguments: Any, **options: Any) -> None:
            began.set()
            time.sleep(2)
            commit(*arguments, **options)

        monkeypatch.setattr(OutboxFile, "commit", slow)
        assert began.wait(PATIENCE_S)
        monkeypatch.setattr(OutboxFile, "commit", commit)
        seen = len(subscriber.states("water"))
        subscriber.wait_for_states("water", seen + 3)
        for name in ("air", "water", "box", "probe"):
            assert "offline" not in subscriber.on(f"sensors/test/{name}/availability")[1:]


def test_a_dead_network_thread_is_replaced(broker, subscribe, tmp_path, monkeypatch, caplog):
    """paho's thread ends when a callback raises; the node notices, and gets a new one."""
    from node import loop

    monkeypatch.setattr(loop, "NETWORK_THREAD_CHECK_S", 0.5)
    subscriber = subscribe(broker.port)
    with InProcess(tmp_path, broker.port, ALL) as running:
        subscriber.wait_for_states("box", 1)
        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        client = running.node._link._client

        def explode(*_: object) -> None:
            raise ZeroDivisionError

        client._report = explode
        wait_until(lambda: "the network thread has died" in caplog.text)
        seen = len(subscriber.states("box"))
        subscriber.wait_for_states("box", seen + 2)
        assert subscriber.on("sensors/test/status")[-1] == "online"


def test_power_is_switched_off_and_on_after_five_failures(
    broker, subscribe, tmp_path, monkeypatch, caplog
):
    """A sensor that comes back only without power; its first reading afterwards is dropped."""
    from node.sensors import supply as power

    monkeypatch.setattr(power, "OFF_S", 0.5)
    monkeypatch.setattr(power, "SETTLE_S", 0.2)
    sensors = replaced(ALL, ('id = "water"', 'id = "water"\npower_pin = 22'))
    subscriber = subscribe(broker.port)
    with InProcess(tmp_path, broker.port, sensors) as running:
        subscriber.wait_for("sensors/test/water/availability", "online")
        pin = running.board.pin_factory().pin(22)
        tree = running.board.one_wire
        healthy = tree.text["28-0316a2795bff"]
        tree.text["28-0316a2795bff"] = lambda: ""
        wait_until(lambda: not pin.state, what="the power is off")
        tree.text["28-0316a2795bff"] = healthy
        wait_until(lambda: pin.state, what="the power is on again")
        subscriber.wait_for("sensors/test/water/availability", "online")
        assert "water: switching its power off" in caplog.text


@pytest.mark.real_time(seconds=10)
def test_a_bus_with_more_to_do_than_time_is_said_and_its_readings_are_used(
    broker, subscribe, tmp_path, caplog
):
    """Four sensors of 0.3 s each on one 1-Wire bus, at 1 s: each is read when its turn comes."""
    sensors = "".join(
        f'[[sensor]]\nid = "w{n}"\ndriver = "ds18b20"\naddress = "28-00000000000{n}"\n'
        'interval = "1s"\n'
        for n in range(4)
    )
    subscriber = subscribe(broker.port)
    with InProcess(tmp_path, broker.port, sensors) as running:
        tree = running.board.one_wire
        tree.has_bulk_read, tree.CONVERSION_S, tree.TRAFFIC_S = False, 0.3, 0.0
        for n in range(4):
            subscriber.wait_for_states(f"w{n}", 6, seconds=8 + PATIENCE_S)
        for n in range(4):
            assert subscriber.on(f"sensors/test/w{n}/availability")[-1] == "online"
    assert "was discarded" not in caplog.text


def test_state_is_json_whatever_the_sensor_is_called(
    broker, subscribe, start_node, temperature_file
):
    subscriber = subscribe(broker.port)
    start_node(sysfs_config(broker.port, {"A-1_b": temperature_file}))
    subscriber.wait_for_states("A-1_b", 1)
    payload = subscriber.on("sensors/test/A-1_b/state")[0]
    assert json.loads(payload)["temperature"] == 21.5
    assert sys.getsizeof(payload) < 400
