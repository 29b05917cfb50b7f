"""What the link makes of the events of its client, one at a time and without a broker."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from node.config.schema import HostName, MqttTable, TlsTable
from node.mqtt.connection import BrokerConnection, Change
from node.mqtt.errors import connect_failure, refusal
from node.mqtt.events import Connected, ConnectFailed, Disconnected, SubscribeRefused
from node.mqtt.protocol import SILENT_CLOSES_LATER
from node.mqtt.reasons import (
    BAD_CLIENT_ID,
    BAD_LOGIN,
    KEEP_ALIVE_TIMEOUT,
    NO_SHARING,
    NO_WILDCARDS,
    NOT_AUTHORIZED,
    PROTOCOL_ERROR,
    QUOTA_EXCEEDED,
    UNSPECIFIED,
    UNSUPPORTED_VERSION,
    Reason,
)

MQTT = MqttTable(host=HostName("broker.example"))
SILENTLY = Reason(UNSPECIFIED, "as paho calls it")
UP = Connected(0, refused=None, window=20, max_packet_bytes=1000)


@pytest.fixture
def link(caplog, clock) -> BrokerConnection:
    """A link that is not started, on the fake clock; its client exists and is not connected."""
    caplog.set_level("INFO")
    link = BrokerConnection(
        MQTT, clock, client_id="sn123", tls_context=None, report=lambda event: None
    )
    link._client = link._new_client()
    return link


def test_a_loss_that_is_reported_again_and_again_is_one_loss(link, caplog):
    """paho calls on_disconnect for each turn of its loop without a socket."""
    assert link.follow(UP) is Change.UP
    assert link.follow(Disconnected(0, 1, SILENTLY)) is Change.DOWN
    for _ in range(10):
        assert link.follow(Disconnected(0, 1, SILENTLY)) is Change.NONE
    assert [record.getMessage() for record in caplog.records] == [
        "connected to broker.example:1883, MQTT 5",
        "no broker: lost broker.example:1883; reconnecting",
    ]


def test_connections_that_are_closed_without_an_answer_are_a_complaint(link, caplog):
    """Negative control of the test above: two connections, two closes."""
    link.follow(UP)
    for attempt in (1, 2, 3):
        link.follow(Disconnected(0, attempt, SILENTLY))
    assert "closes the connection before it answers" in caplog.text


def test_what_no_broker_may_answer_is_a_complaint_and_the_other_version_is_tried(
    link, caplog, monkeypatch
):
    """Such a thing may understand 3.1.1, if it is a broker at all."""
    monkeypatch.setattr(link, "start", lambda _after_s: None)
    fault = Reason(PROTOCOL_ERROR, "a packet of type 15 before CONNACK")
    for attempt in range(1, 3):
        link.follow(Disconnected(0, attempt, fault))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "sends what no MQTT broker may (a packet of type 15 before CONNACK); is this" in said
    assert str(link._protocol) == "3.1.1"


def test_each_reason_is_said_once_until_there_is_a_broker(link, caplog):
    refused = ConnectFailed(0, ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    unknown = ConnectFailed(0, socket.gaierror(-2, "unknown"))
    for _ in range(5):
        link.follow(refused)
        link.follow(unknown)
    assert len(caplog.records) == 2
    link.follow(UP)
    link.follow(Disconnected(0, 1, SILENTLY))
    link.follow(refused)
    assert len(caplog.records) == 5


def test_events_of_an_earlier_client_are_ignored(link, caplog):
    assert link.follow(Connected(7, refused=None, window=1, max_packet_bytes=1)) is Change.NONE
    assert not link.connected
    assert caplog.text == ""


def flap(link: BrokerConnection, clock, lives_s: list[float]) -> None:
    """A connection for each of `lives_s`, lost after so long."""
    for attempt, life_s in enumerate(lives_s, start=1):
        link.follow(UP)
        clock.now_s += life_s
        link.follow(Disconnected(0, attempt, Reason(0x8E, "Session taken over")))


def test_connections_that_do_not_last_are_said_once_and_slow_the_node_down(link, clock, caplog):
    """The pause grows with each, up to a minute."""
    pauses: list[float] = []
    link._client.pause_before_reconnecting = pauses.append
    flap(link, clock, [0.5] * 12)
    said = [r.getMessage() for r in caplog.records if "another client" in r.getMessage()]
    assert len(said) == 1
    assert "sn123" in said[0]
    assert pauses == [0, 0, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]


def test_connections_that_last_change_nothing(link, clock, caplog):
    """Negative control: lost as often, after a minute each; and a long one ends the slowness."""
    pauses: list[float] = []
    link._client.pause_before_reconnecting = pauses.append
    flap(link, clock, [60.0] * 5)
    assert pauses == [0] * 5
    assert "another client" not in caplog.text
    flap(link, clock, [1.0] * 4 + [60.0])
    assert pauses[-2:] == [4, 0]


@pytest.mark.parametrize("how", ["refused", "shutting down"])
def test_a_broker_that_is_restarted_again_and_again_is_noticed_soon_each_time(
    link, clock, caplog, how
):
    """It was away between, so there is no other client to blame, and no pause."""
    pauses: list[float] = []
    link._client.pause_before_reconnecting = pauses.append
    away = Reason(0x8B, "Server shutting down") if how == "shutting down" else SILENTLY
    for attempt in range(1, 9):
        link.follow(UP)
        clock.now_s += 5.0
        link.follow(Disconnected(0, attempt, away))
        if how == "refused":
            link.follow(ConnectFailed(0, ConnectionRefusedError()))
    assert pauses[0] == 0
    assert set(pauses) == {0}
    assert "another client" not in caplog.text


def test_a_version_that_was_only_guessed_is_tried_anew_after_a_loss(link, monkeypatch):
    """3.1.1, because something closed two connections: MQTT 5 first, the next time."""
    monkeypatch.setattr(link, "start", lambda _after_s: None)
    link.follow(Disconnected(0, 1, SILENTLY))
    link.follow(Disconnected(0, 2, SILENTLY))
    assert str(link._protocol) == "3.1.1"
    link.follow(UP)
    link.follow(Disconnected(0, 3, SILENTLY))
    assert str(link._protocol) == "5"


def test_a_broker_that_was_away_behind_a_balancer_gets_mqtt_5_again(link, monkeypatch):
    """The balancer closes each connection meanwhile, which looks like a broker of old."""
    monkeypatch.setattr(link, "start", lambda _after_s: None)
    assert link.follow(UP) is Change.UP
    assert link.follow(Disconnected(0, 1, SILENTLY)) is Change.DOWN
    for attempt in range(2, 2 + SILENT_CLOSES_LATER):
        link.follow(Disconnected(0, attempt, SILENTLY))
    assert str(link._protocol) == "3.1.1"
    assert link.follow(UP) is Change.NONE
    assert str(link._protocol) == "5"
    assert not link.connected
    # It was replaced by one of old: then 3.1.1 it is, soon.
    link.follow(Disconnected(0, 10, SILENTLY))
    link.follow(Disconnected(0, 11, SILENTLY))
    assert str(link._protocol) == "3.1.1"
    assert link.follow(UP) is Change.UP


def test_a_version_that_was_refused_is_not_tried_again(link, monkeypatch):
    monkeypatch.setattr(link, "start", lambda _after_s: None)
    refused = Reason(UNSUPPORTED_VERSION, "as a broker of tomorrow may call it")
    link.follow(Connected(0, refused=refused, window=1, max_packet_bytes=1))
    assert str(link._protocol) == "3.1.1"
    link.follow(UP)
    link.follow(Disconnected(0, 1, SILENTLY))
    assert str(link._protocol) == "3.1.1"


def test_a_broker_that_accepts_the_connection_and_says_nothing_is_a_complaint_of_its_own(
    link, caplog
):
    link.follow(Disconnected(0, 1, Reason(KEEP_ALIVE_TIMEOUT, "any")))
    assert "accepts the connection and does not answer" in caplog.text


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        (NOT_AUTHORIZED, ": any; allow it in the broker's ACL"),
        (NO_WILDCARDS, ": any"),
        (QUOTA_EXCEEDED, ": any"),
        (NO_SHARING, ": any"),
    ],
)
def test_a_refused_subscription_has_a_remedy_where_there_is_one(link, caplog, code, ends):
    link.follow(SubscribeRefused(0, "sensors/n/cmd/+", Reason(code, "any")))
    assert caplog.records[-1].getMessage().endswith(f"sensors/n/cmd/+{ends}")


def certificate_error(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "what OpenSSL says"
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (socket.gaierror(-2, "unknown"), "does not resolve; check [mqtt] host, DNS"),
        (ConnectionRefusedError(111, "refused"), "is the broker running, and the port right?"),
        (TimeoutError("timed out"), "does not answer; is the host up"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "is the network up?"),
        (ConnectionResetError(104, "reset"), "closes the connection at once"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_a_failure_to_connect_is_put_into_words(error, says):
    assert says in str(connect_failure(error, MQTT))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionRefusedError(111, "refused"), "is the broker running, and the port right?"),
        (ConnectionResetError(104, "reset"), "b:8883: no TLS handshake"),
        (certificate_error(62), "is not for b;"),
        (certificate_error(10), "has expired; renew it, or check this computer's clock"),
        (certificate_error(9), "is this computer's clock right?"),
        (certificate_error(19), "set [mqtt.tls] ca_file to the CA that signed it"),
        (ssl.SSLError(1, "wrong version number"), "is this the broker's TLS port"),
    ],
)
def test_a_failure_of_tls_is_put_into_words(error, says):
    assert says in str(connect_failure(error, MqttTable(host=HostName("b"), tls=TlsTable())))


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (Reason(BAD_LOGIN, "any"), "refuses a client without a user name: any; check [mqtt]"),
        (Reason(NOT_AUTHORIZED, "any"), "refuses a client without a user name: any; check [mqtt]"),
        (Reason(BAD_CLIENT_ID, "any"), "restrict client ids"),
        (Reason(0x89, "Server busy"), "refuses the connection: Server busy"),
    ],
)
def test_a_refusal_is_put_into_words(reason, says):
    assert says in str(refusal(reason, MQTT))
