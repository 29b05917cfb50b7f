"""What goes to the broker first: states before history, and each topic forwards only."""

from __future__ import annotations

import pytest

from node.mqtt.connection import BrokerConnection
from node.mqtt.events import Acknowledged, Outgoing
from node.mqtt.publisher import WINDOW, Outcome, Publisher
from node.mqtt.reasons import BUSY, Reason
from node.mqtt.retained_topics import RetainedTopics


@pytest.fixture
def publisher(mqtt_link: BrokerConnection) -> Publisher:
    mqtt_link.connected = True
    return Publisher(mqtt_link, status_topic="sensors/test/status", refused=lambda *_: None)


def acknowledge_oldest(publisher: Publisher) -> None:
    message_id = next(iter(publisher._message_of))
    publisher.acknowledged(Acknowledged(publisher._link.generation, message_id, None))


def test_there_is_no_room_for_history_while_a_state_waits(publisher):
    """A backlog of a day would otherwise be between a state and its subscribers."""
    for number in range(2 * WINDOW):
        publisher.set(f"sensors/test/s{number}/state", b"{}")
    waited = 0
    while publisher.flush() or not publisher.sent:
        assert publisher.sent or publisher.history_room <= 0
        waited += not publisher.sent
        acknowledge_oldest(publisher)
    assert waited >= WINDOW
    assert publisher.history_room > 0, "when all of them are on their way"


def test_history_leaves_room_for_a_state(publisher):
    while publisher.history_room > 0:
        history = Outgoing("sensors/test/history", b"{}", retain=False)
        publisher.send(history, lambda _outcome: None)
    publisher.set("sensors/test/s/state", b"{}")
    assert publisher.flush()


def test_a_newer_state_that_waits_for_the_one_before_it_holds_no_history_up(publisher):
    publisher.set("sensors/test/s/state", b"1")
    publisher.flush()
    for payload in (b"2", b"3"):
        publisher.set("sensors/test/s/state", payload)
        assert not publisher.flush(), "one at a time, so that none overtakes another"
    assert publisher.history_room > 0
    acknowledge_oldest(publisher)
    assert publisher.flush()
    (newest,) = publisher._message_of.values()
    assert newest.payload == b"3"


@pytest.mark.parametrize("code", [*sorted(BUSY), 0x99])
def test_history_that_a_busy_broker_refuses_is_sent_later(mqtt_link, code):
    """0x99, Payload format invalid, is the negative control: it speaks of the message itself."""
    mqtt_link.connected = True
    dead: list[str] = []
    publisher = Publisher(
        mqtt_link, status_topic="sensors/test/status", refused=lambda topic, *_: dead.append(topic)
    )
    outcomes: list[Outcome] = []
    publisher.send(Outgoing("sensors/test/history", b"{}", retain=False), outcomes.append)
    (message_id,) = publisher._message_of
    reason = Reason(code, "why")
    publisher.acknowledged(Acknowledged(mqtt_link.generation, message_id, reason))
    is_busy = code in BUSY
    assert outcomes == [Outcome.LATER if is_busy else Outcome.REFUSED]
    assert dead == ([] if is_busy else ["sensors/test/history"])
    assert publisher.history_refusal == ("why" if is_busy else "")


def test_the_topics_of_many_sensors_are_written_once_and_not_with_each_window(
    mqtt_link, tmp_path, monkeypatch
):
    """Those of a thousand sensors were written 166 times, all that were known each time."""
    mqtt_link.connected = True
    written: list[bytes] = []
    monkeypatch.setattr(
        "node.mqtt.retained_topics.write_file", lambda _file, content: written.append(content)
    )
    retained = RetainedTopics(tmp_path, "sensors/test")
    publisher = Publisher(
        mqtt_link, status_topic="sensors/test/status", refused=lambda *_: None, retained=retained
    )
    for number in range(10 * WINDOW):
        publisher.set(f"sensors/test/s{number}/state", b"{}")
    publisher.set("sensors/test/gone/state", b"")
    while publisher.flush() or not publisher.sent:
        for message in publisher._message_of.values():
            assert message.topic in retained.own or not message.payload, "noted before it is sent"
        acknowledge_oldest(publisher)
    assert len(written) == 1
    assert len(retained.own) == 10 * WINDOW
