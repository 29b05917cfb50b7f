"""Brokers that have too much to do, or send the node elsewhere; and how a fleet comes back."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme
from doctor_run import doctor
from paho.mqtt import publish
from ports import free_port
from support import (
    CONNECT,
    PINGREQ,
    PUBLISH,
    Mosquitto,
    ScriptedBroker,
    ledger_in,
    puback,
    published_topic,
    retained,
    sysfs_config,
    wait_until,
)
from test_homeassistant import in_process

from node.cli.main import main
from node.config.load import ConfigError, load
from node.config.schema import HostName, MqttTable, ServerAddress, TlsTable
from node.config.tls import tls_files
from node.doctor.broker import Broker
from node.doctor.broker_checks import check_way_in
from node.event_queue import EventQueue
from node.mqtt.client import CONNECT_TIMEOUT_S
from node.mqtt.connection import BrokerConnection, Change
from node.mqtt.events import BrokerEvent, Connected, Disconnected
from node.mqtt.leftovers import Leftovers, NoBroker
from node.mqtt.packets import framed, length, text
from node.mqtt.reasons import BUSY, SERVER_MOVED, USE_ANOTHER_SERVER, Reason
from node.mqtt.referrals import MAX_HOPS, TRY_OTHER_AFTER_S, Referrals
from node.mqtt.sieve import Sieve
from node.mqtt.spread import reconnect_delays, reconnect_ranges
from node.system.clock import SystemClock
from node.topics import Topics
from node.units import Seconds

CONNACK_TYPE, DISCONNECT_TYPE = 0x20, 0xE0
ACCEPTED = b"\x20\x03\x00\x00\x00"
SERVER_REFERENCE = 0x1C


def reference_property(reference: str) -> bytes:
    named = bytes((SERVER_REFERENCE,)) + text(reference) if reference else b""
    return length(len(named)) + named


def refusal(code: int, reference: str = "") -> bytes:
    """A CONNACK (MQTT 5, §3.2)."""
    return framed(CONNACK_TYPE, bytes((0, code)) + reference_property(reference))


def disconnect(code: int, reference: str = "") -> bytes:
    """A DISCONNECT (MQTT 5, §3.14)."""
    return framed(DISCONNECT_TYPE, bytes((code,)) + reference_property(reference))


# -- how soon a node comes back --------------------------------------------------------------------


@pytest.mark.parametrize("spread_s", [5.0, 30.0, 600.0])
def test_the_longest_gap_between_two_attempts_is_within_the_spread(spread_s):
    """Between two SYNs of one attempt lie 2 s at most, and 1 s between its last and its end."""
    (_, first_s), (_, longest_s) = reconnect_ranges(spread_s)
    last_syn_s = 3.0
    gap_s = CONNECT_TIMEOUT_S - last_syn_s + longest_s
    assert gap_s < spread_s
    assert first_s < longest_s + 0.1


def test_the_default_is_what_it_was():
    """Negative control of the test below: within 0.6 s of one another, as soon as may be."""
    drawn = [reconnect_delays(5.0) for _ in range(500)]
    assert all(0.7 <= first <= 1.3 and 2.4 <= longest <= 3.2 for first, longest in drawn)


def test_a_longer_spread_is_used_from_the_first_attempt_on():
    """All of a fleet loses a broker that is restarted at once in the same instant."""
    firsts = sorted(reconnect_delays(60.0)[0] for _ in range(1000))
    assert firsts[0] < 5
    assert firsts[-1] > 50
    fullest = max(sum(at <= each < at + 1 for each in firsts) for at in range(60))
    assert fullest < 60, "of 1,000 nodes, 18 a second are expected"


def test_the_clients_delays_are_those_of_the_configuration(clock):
    mqtt = MqttTable(host=HostName("broker.example"), reconnect_spread=Seconds(300))
    link = BrokerConnection(
        mqtt, clock, client_id="sn1", tls_context=None, report=lambda event: None
    )
    clients = [link._new_client() for _ in range(20)]
    assert max(client._reconnect_min_delay for client in clients) > 20
    assert min(client._reconnect_max_delay for client in clients) > 200


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ('reconnect_spread = "4s"', "[mqtt] reconnect_spread: must be between 5s"),
        ('reconnect_spread = "11m"', "and 10m"),
        ('servers = ["b.example:99999"]', 'expected "HOST" or "HOST:PORT"'),
        ('servers = ["mqtt://b.example"]', 'expected "HOST" or "HOST:PORT"'),
        ('servers = "b.example"', "expected a list"),
    ],
)
def test_each_mistake_is_named(tmp_path, lines, problem):
    file = tmp_path / "node.toml"
    file.write_text(f'[mqtt]\nhost = "a.example"\n{lines}\n[[sensor]]\nid = "c"\ndriver = "cpu"\n')
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert problem in " ".join(map(str, caught.value.problems))


def test_check_says_what_was_chosen(tmp_path, capsys):
    file = tmp_path / "node.toml"
    chosen = 'reconnect_spread = "1m"\nservers = ["b.example", "[::1]:1884"]'
    file.write_text(f'[mqtt]\nhost = "a.example"\n{chosen}\n[[sensor]]\nid = "c"\ndriver = "cpu"\n')
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "connected again within 1m of the broker's return" in said
    assert "other servers that it may send the node to: b.example, [::1]:1884" in said


# -- which servers are followed --------------------------------------------------------------------

HOME = MqttTable(host=HostName("a.example"), port=1884)
WITH_TLS = MqttTable(host=HostName("a.example"), tls=TlsTable())


def listing(table: MqttTable, *servers: str) -> MqttTable:
    fields = {field: getattr(table, field) for field in table.__struct_fields__}
    return MqttTable(**{**fields, "servers": tuple(map(ServerAddress, servers))})


@pytest.mark.parametrize(
    ("configured", "reference", "address"),
    [
        (WITH_TLS, "b.example", "b.example:8883"),
        (WITH_TLS, "b.example:443", "b.example:443"),
        (WITH_TLS, "[2001:db8::1]:443", "2001:db8::1:443"),
        (WITH_TLS, "not/a:host b.example", "b.example:8883"),
        (listing(HOME, "b.example"), "B.example.", "b.example:1884"),
        (listing(HOME, "b.example", "b.example:1885"), "b.example:1885", "b.example:1885"),
        (listing(HOME, "c.example"), "b.example c.example", "c.example:1884"),
        (listing(WITH_TLS, "b.example"), "b.example", "b.example:8883"),
    ],
)
def test_a_server_that_may_be_followed_is(configured, reference, address):
    """By a broker that has proved who it is, or that the configuration knows."""
    referrals = Referrals(configured, None, 0.0)
    assert referrals.follow(USE_ANOTHER_SERVER, reference) == ""
    assert referrals.place.address == address


@pytest.mark.parametrize(
    ("configured", "reference", "why"),
    [
        (HOME, "b.example", "only with TLS, or if [mqtt] servers lists it"),
        (HOME, "a.example:1885", "only with TLS"),  # anything may listen on another port
        (listing(HOME), "b.example", "is not in [mqtt] servers"),
        (listing(HOME, "b.example"), "b.example:22", "is not in [mqtt] servers"),
        (listing(WITH_TLS, "c.example"), "b.example", "is not in [mqtt] servers"),
        (WITH_TLS, "", "names none"),
        (WITH_TLS, "b.example/\x1b[2J", "'b.example/\\x1b[2J', which is not the address"),
        (WITH_TLS, "x" * 4000, "x', which is not the address of a server"),
        (WITH_TLS, "a.example", "which has not kept it"),
    ],
)
def test_a_server_that_may_not_be_followed_is_not(configured, reference, why):
    """Whoever sits between could else have the login of every node."""
    referrals = Referrals(configured, None, 0.0)
    assert referrals.follow(SERVER_MOVED, reference).endswith(why) or why in referrals.follow(
        SERVER_MOVED, reference
    )
    assert referrals.place is configured
    assert len(referrals.follow(SERVER_MOVED, reference)) < 250


def test_servers_that_send_the_node_round_and_round_are_left_alone():
    referrals = Referrals(WITH_TLS, None, 0.0)
    assert referrals.follow(USE_ANOTHER_SERVER, "b.example") == ""
    assert "which has not kept it" in referrals.follow(USE_ANOTHER_SERVER, "a.example")
    referrals.gave_up(0.0)
    hops = [referrals.follow(USE_ANOTHER_SERVER, f"s{n}.example") for n in range(MAX_HOPS + 1)]
    assert hops[:-1] == [""] * MAX_HOPS
    assert "as 4 others before it have done" in hops[-1]


def test_a_server_that_has_kept_the_node_may_send_it_back():
    """Negative control of the test above."""
    referrals = Referrals(WITH_TLS, None, 0.0)
    referrals.follow(USE_ANOTHER_SERVER, "b.example")
    referrals.arrived()
    referrals.lasted()
    assert referrals.follow(USE_ANOTHER_SERVER, "a.example") == ""
    assert referrals.place is WITH_TLS


def test_for_now_lasts_as_long_as_the_connection_and_is_not_remembered(tmp_path):
    referrals = Referrals(WITH_TLS, tmp_path / "moved.json", 0.0)
    referrals.follow(USE_ANOTHER_SERVER, "b.example")
    referrals.arrived()
    assert referrals.moved_to == ""
    assert referrals.lost(10.0)
    assert referrals.place is WITH_TLS
    assert not (tmp_path / "moved.json").exists()


def test_a_move_is_remembered_until_the_configuration_changes(tmp_path):
    file = tmp_path / "moved.json"
    referrals = Referrals(WITH_TLS, file, 0.0)
    referrals.follow(SERVER_MOVED, "[2001:db8::1]:443")
    assert not file.exists(), "the other server has not let the node in yet"
    referrals.arrived()
    assert Referrals(WITH_TLS, file, 0.0).moved_to == "2001:db8::1:443"
    another = MqttTable(host=HostName("c.example"), tls=TlsTable())
    assert Referrals(another, file, 0.0).moved_to == ""
    assert Referrals(listing(WITH_TLS), file, 0.0).moved_to == "", "it may not be followed now"
    referrals.lost(5.0)
    assert referrals.place.address == "2001:db8::1:443"
    referrals.lasted()
    assert referrals.follow(SERVER_MOVED, "a.example") == ""
    referrals.arrived()
    assert not file.exists()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"configured":"a","moved_to":"::"}', b"\xff"])
def test_a_damaged_memory_is_said_and_costs_nothing(tmp_path, caplog, content):
    file = tmp_path / "moved.json"
    file.write_bytes(content)
    assert Referrals(WITH_TLS, file, 0.0).place is WITH_TLS
    assert "cannot be read" in caplog.text


def test_where_there_is_no_connection_for_long_the_other_places_are_looked_at():
    """One attempt each: the first place has to be noticed soon when it is back."""
    referrals = Referrals(WITH_TLS, None, 0.0)
    referrals.follow(SERVER_MOVED, "b.example")
    referrals.arrived()
    referrals.follow(USE_ANOTHER_SERVER, "c.example")
    referrals.arrived()
    referrals.lost(0.0)
    tried: list[str] = []
    for second in range(1, 4 * int(TRY_OTHER_AFTER_S)):
        referrals.failed(float(second))
        tried.append(referrals.place.host)
    assert tried.count("b.example") > 100
    assert {tried.count("a.example"), tried.count("c.example")} <= {1, 2}


# -- the link --------------------------------------------------------------------------------------


class Owner:
    """Owns a link as the loop does, with delays that a test need not wait for."""

    def __init__(self, mqtt: MqttTable, **options: Any) -> None:
        self._events: EventQueue[BrokerEvent] = EventQueue()
        self.link = BrokerConnection(
            mqtt,
            SystemClock(),
            client_id="snstorm",
            tls_context=tls_files(mqtt.tls),
            report=self._events.put,
            **options,
        )
        self.begins: list[float] = []
        start = self.link.start

        def begin(after_s: float = 0.0) -> None:
            self.begins.append(after_s)
            start(min(after_s, 0.05))

        self.link.start = begin  # type: ignore[method-assign]
        self.link.start()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + 20
        while not condition():
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, what
            for event in self._events.wait(min(left_s, 0.05)):
                self.link.follow(event)


@pytest.fixture
def owner() -> Iterator[Callable[..., Owner]]:
    made: list[Owner] = []

    def make(mqtt: MqttTable, **options: Any) -> Owner:
        made.append(Owner(mqtt, **options))
        return made[-1]

    yield make
    for each in made:
        each.link.disconnect(1.0)


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedBroker]]:
    made: list[ScriptedBroker] = []

    def make(*answers: bytes, kind: type[ScriptedBroker] = ScriptedBroker) -> ScriptedBroker:
        """A broker that gives one answer to each CONNECT, the last one again and again."""
        waiting = list(answers)

        def answer(packet: int, body: bytes) -> bytes | None:
            if packet == CONNECT:
                return waiting.pop(0) if len(waiting) > 1 else waiting[0]
            if packet == PUBLISH:
                return puback(body)
            return b"\xd0\x00" if packet == PINGREQ else None

        made.append(kind(answer))
        return made[-1]

    yield make
    for each in made:
        each.close()


def table(port: int, *servers: int, **more: Any) -> MqttTable:
    addresses = tuple(ServerAddress(f"127.0.0.1:{each}") for each in servers)
    return MqttTable(host=HostName("127.0.0.1"), port=port, servers=addresses, **more)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        *(("CONNACK", code) for code in (0x89, 0x97, 0x9F)),  # MQTT 5, §3.2.2.2
        *(("DISCONNECT", code) for code in sorted(BUSY)),  # §3.14.2.1
    ],
)
def test_a_busy_broker_is_left_alone_for_longer_and_longer(owner, scripted, code, how):
    """Until it takes the node."""
    answer = refusal(code) if how == "CONNACK" else ACCEPTED + disconnect(code)
    broker = scripted(*[answer] * 7, ACCEPTED)
    own = owner(table(broker.port))
    own.until(lambda: len(own.begins) == 8, "seven pauses")
    for number, pause_s in enumerate(own.begins[1:], start=1):
        assert 0.5 * min(2.0**number, 60) <= pause_s <= min(2.0**number, 60)
    own.until(lambda: own.link.connected, "a connection at last")


@pytest.mark.parametrize("code", [0x88, 0x8B])
def test_a_broker_that_is_only_away_is_tried_as_soon_as_ever(owner, scripted, code):
    """Negative control: Server unavailable, Server shutting down."""
    broker = scripted(*[refusal(code) if code == 0x88 else ACCEPTED + disconnect(code)] * 2)
    own = owner(table(broker.port))
    own.until(lambda: broker.connections >= 2, "a second attempt, of paho's own")
    assert own.begins == [0.0]


def test_the_pause_starts_again_after_a_connection_that_lasted(clock, monkeypatch):
    link = BrokerConnection(
        HOME, clock, client_id="sn1", tls_context=None, report=lambda event: None
    )
    link._client = link._new_client()
    pauses: list[float] = []

    def start(after_s: float = 0.0) -> None:
        pauses.append(after_s)
        link._generation += 1

    monkeypatch.setattr(link, "start", start)
    monkeypatch.setattr("node.mqtt.spread.uniform", lambda low, high: high)
    rate = Reason(0x96, "Message rate too high")
    for life_s in (1.0, 1.0, 60.0, 1.0):
        up = Connected(link.generation, refused=None, window=20, max_packet_bytes=1000)
        assert link.follow(up) is Change.UP
        clock.now_s += life_s
        assert link.follow(Disconnected(link.generation, 1, rate)) is Change.DOWN
    assert pauses == [2, 4, 2, 4]
    assert link.short_connections == 0, "nothing is said of another client with this id"


class Slow:
    """A broker that ends the connection when more than so many messages of history come at once."""

    def __init__(self, most: int) -> None:
        self.seqs: set[int] = set()
        self.ended = 0
        self._most = most
        self._came: list[float] = []
        self.broker = ScriptedBroker(self._answer)

    def _answer(self, kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            self._came.clear()
            return ACCEPTED
        if kind != PUBLISH:
            return b"\xd0\x00" if kind == PINGREQ else None
        if published_topic(body).endswith("/history"):
            now_s = time.monotonic()
            self._came = [at for at in self._came if at > now_s - 0.2] + [now_s]
            if len(self._came) > self._most:
                self.ended += 1
                return disconnect(0x96)
            self.seqs |= {int(seq) for seq in re.findall(rb'"seq":(\d+)', body)}
        return puback(body)


def test_history_is_sent_more_slowly_after_too_high_a_rate(tmp_path, monkeypatch):
    """100 messages of backlog, and a broker that takes six within 0.2 s; 100 a second are 20."""
    monkeypatch.setattr("node.mqtt.spread.uniform", lambda low, high: 0.05)
    monkeypatch.setattr("node.report.history.BATCH", 1)
    broker = Slow(6)
    files = {f"s{number}": tmp_path / f"temp{number}_input" for number in range(10)}
    for file in files.values():
        file.write_text("21500\n")
    absent = sysfs_config(free_port(), files, interval="0.1s")
    with in_process(tmp_path, absent):
        wait_until(lambda: ledger_in(tmp_path / "state").last_seq >= 100)
    with in_process(tmp_path, sysfs_config(broker.broker.port, files, interval="60s")):
        wait_until(lambda: broker.seqs >= set(range(1, 101)), 120)
    assert 1 <= broker.ended <= 8, "the rate is halved each time; at the first one it ends 16 times"
    assert ledger_in(tmp_path / "state").dead_letters == 0


@pytest.mark.parametrize("how", ["CONNACK", "DISCONNECT"])
def test_another_server_is_used(owner, scripted, how):
    there = scripted(ACCEPTED)
    named = (USE_ANOTHER_SERVER, f"127.0.0.1:{there.port}")
    here = scripted(refusal(*named) if how == "CONNACK" else ACCEPTED + disconnect(*named))
    own = owner(table(here.port, there.port))
    own.until(lambda: own.link.connected and there.connections == 1, "a connection there")
    assert own.link.server == f"127.0.0.1:{there.port}"
    assert f"to 127.0.0.1:{there.port}, where 127.0.0.1:{here.port} has" in own.link.described
    assert own.link.problem == ""
    assert there.newest is not None
    there.newest.shutdown(2)
    own.until(lambda: here.connections == 2, "the way back, once that connection is lost")


def test_a_server_that_is_not_listed_gets_nothing(owner, scripted):
    """Not one byte, and the broker that named it is not asked again at once."""
    there = scripted(ACCEPTED)
    here = scripted(refusal(SERVER_MOVED, f"127.0.0.1:{there.port}"), ACCEPTED)
    own = owner(MqttTable(host=HostName("127.0.0.1"), port=here.port))
    own.until(lambda: own.link.connected, "the broker that is configured")
    assert there.connections == 0
    assert len(own.begins) == 2
    assert own.begins[1] >= 1.0


def test_two_servers_that_name_each_other_are_visited_once_in_a_while(owner, scripted):
    here = scripted(b"")
    there = scripted(b"")
    here._answer = lambda kind, body: refusal(USE_ANOTHER_SERVER, f"127.0.0.1:{there.port}")
    there._answer = lambda kind, body: refusal(USE_ANOTHER_SERVER, f"127.0.0.1:{here.port}")
    own = owner(table(here.port, there.port))
    own.until(lambda: len(own.begins) >= 9, "four rounds")
    assert own.begins[1::2][:4] == [0.0] * 4, "on the way there"
    for number, pause_s in enumerate(own.begins[2::2][:4], start=1):
        assert pause_s >= 2.0**number / 2, "before each round"


def test_a_server_that_cannot_be_reached_costs_one_attempt(owner, scripted):
    gone = free_port()
    here = scripted(refusal(USE_ANOTHER_SERVER, f"127.0.0.1:{gone}"), ACCEPTED)
    own = owner(table(here.port, gone))
    own.until(lambda: own.link.connected, "the configured broker, which takes the node now")
    assert own.link.server == ""


class Secured(ScriptedBroker):
    """The same behind TLS, for the name `localhost`, or another one."""

    authority = trustme.CA()
    names = "localhost"

    def _listen(self, connection: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(self.names).configure_cert(context)
        try:
            secured = context.wrap_socket(connection, server_side=True)
        except OSError:
            connection.close()
            return
        super()._listen(secured)


class OfAnotherName(Secured):
    names = "other.example"


@pytest.mark.parametrize("kind", [Secured, OfAnotherName])
def test_with_tls_another_server_has_to_prove_its_name(owner, scripted, tmp_path, kind):
    """The login is not sent to one whose certificate is for another name."""
    ca_file = tmp_path / "ca.crt"
    Secured.authority.cert_pem.write_to_path(str(ca_file))
    there = scripted(ACCEPTED, kind=kind)
    here = scripted(refusal(USE_ANOTHER_SERVER, f"localhost:{there.port}"), ACCEPTED, kind=Secured)
    mqtt = MqttTable(host=HostName("localhost"), port=here.port, tls=TlsTable(ca_file=ca_file))
    own = owner(mqtt)
    own.until(lambda: own.link.connected, "a connection")
    proved = kind is Secured
    assert own.link.server == (f"localhost:{there.port}" if proved else "")
    assert there.packets.empty() is not proved


def test_the_doctor_goes_where_the_broker_sends_it(broker: Mosquitto, scripted):
    here = scripted(refusal(SERVER_MOVED, f"127.0.0.1:{broker.port}"))
    examined = Broker(table(here.port, broker.port), Topics("sensors", "test"), None)
    with examined.closing():
        steps = [step for step in check_way_in(examined) if step.name == "login"]
    assert [step.status for step in steps] == ["warning", "ok"]
    assert f"has moved to 127.0.0.1:{broker.port}" in steps[0].message
    assert steps[0].remedy == f"set [mqtt] host and port to 127.0.0.1:{broker.port}"


def test_the_doctor_says_what_would_let_it_go_there(broker: Mosquitto, scripted):
    """Negative control: without TLS, and not listed."""
    here = scripted(refusal(USE_ANOTHER_SERVER, f"127.0.0.1:{broker.port}"))
    mqtt = MqttTable(host=HostName("127.0.0.1"), port=here.port)
    examined = Broker(mqtt, Topics("sensors", "test"), None)
    with examined.closing():
        *_, login = check_way_in(examined)
    assert login.status == "failed"
    assert "which the node follows only with TLS" in login.message
    assert "list the server in [mqtt] servers" in login.remedy


def test_a_command_that_looks_at_the_broker_goes_there_too(broker: Mosquitto, scripted):
    """As `sensor-node forget` does. A busy broker is tried again, as long as the command waits."""
    here = scripted(refusal(USE_ANOTHER_SERVER, f"127.0.0.1:{broker.port}"))
    publish.single("sensors/gone/status", "offline", 1, True, "127.0.0.1", broker.port)
    leftovers = Leftovers(table(here.port, broker.port), None, "snforget1", ["sensors/#"])
    try:
        assert leftovers.find() == {"sensors/gone/status": b"offline"}
    finally:
        leftovers.close()
    busy = scripted(refusal(0x97))
    refused = Leftovers(table(busy.port), None, "snforget2", ["sensors/#"])
    with pytest.raises(NoBroker, match="Quota exceeded; the node tries again"):
        refused.begin(0.3)
    refused.close()


# -- what may pass of the broker's packets ---------------------------------------------------------


def sifted(packet: bytes) -> bytes:
    sieve = Sieve(mqtt_5=True, max_bytes=65_536)
    sieve.feed(ACCEPTED)
    return sieve.feed(packet)


def test_a_disconnect_keeps_its_reference_and_nothing_else():
    reason_string = bytes((0x1F,)) + text("for people")
    reference = bytes((SERVER_REFERENCE,)) + text("b.example")
    both = reason_string + reference
    packet = framed(DISCONNECT_TYPE, bytes((0x9C,)) + length(len(both)) + both)
    assert sifted(packet) == disconnect(0x9C, "b.example")


@pytest.mark.parametrize(
    "properties",
    [
        b"\x7f",
        b"\x05\x1c\x00\x09ab",
        b"\x05\x1c\x00\x02\xff\xfe",
        b"\x0a" + 2 * b"\x1c\x00\x02bb",
        length(5000) + bytes((0x1C,)) + text("b" * 4997),
    ],
)
def test_a_disconnect_that_cannot_be_read_keeps_its_code(properties):
    assert sifted(framed(DISCONNECT_TYPE, b"\x9c" + properties)) == b"\xe0\x01\x9c"


# -- the whole node --------------------------------------------------------------------------------


def test_a_node_follows_its_broker_and_says_where_it_is(
    broker: Mosquitto, scripted, start_node, temperature_file, tmp_path
):
    """To a real mosquitto; remembered after the first broker is gone for good."""
    there = f"127.0.0.1:{broker.port}"
    here = scripted(refusal(SERVER_MOVED, there))
    listed = f'servers = ["{there}"]'
    config = sysfs_config(here.port, {"s": temperature_file}, interval="0.2s", mqtt=listed)
    node = start_node(config)
    wait_until(lambda: "sensors/test/s/state" in retained(broker.port, "sensors/#"))
    wait_until(
        lambda: json.loads(retained(broker.port, "sensors/#")["sensors/test/health"])["server"]
    )
    health = json.loads(retained(broker.port, "sensors/#")["sensors/test/health"])
    assert health["server"] == there
    remedy = f"127.0.0.1:{here.port} has moved to {there}: set [mqtt] host and port to it"
    assert remedy in health["problems"]
    report = doctor(tmp_path, config, file_name="node.toml")
    assert f"connected to {there}, where the broker has sent it" in report.one("node")["message"]
    moved, login = report.all("name")[0], report.one("login")
    assert (moved["status"], login["status"]) == ("warning", "ok")
    assert f"set [mqtt] host and port to {there}" in moved["remedy"]
    node.terminate()
    here.close()
    again = start_node(config)
    wait_until(lambda: again.log_lines(f"connected to {there}"), what="it is remembered")
