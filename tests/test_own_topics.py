"""What others publish in a node's name: neither an odd message nor many cost the log anything."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from support import FakeClock, sysfs_config, wait_until
from test_outbox import fill

from node.config.schema import OutboxTable
from node.mqtt.events import Arrived
from node.outbox.outbox import Outbox
from node.report.own_topics import OwnTopics
from node.topics import Topics

STATE, HEALTH = "sensors/test/air/state", "sensors/test/health"


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Outbox:
    """A log with three readings that are not sent."""
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    fill(outbox, clock, 3)
    return outbox


@pytest.fixture
def own(outbox: Outbox, clock: FakeClock) -> OwnTopics:
    return OwnTopics(Topics("sensors", "test"), outbox, clock)


def hear(own: OwnTopics, topic: str, payload: bytes, *, retained: bool) -> None:
    assert own.hear(Arrived(1, topic, payload, retained), opening=retained)


@pytest.mark.parametrize("topic", [STATE, HEALTH])
@pytest.mark.parametrize("retained", [True, False])
@pytest.mark.parametrize(
    "odd",
    [
        {"seq": -(1 << 63), "time": "2026-11-29T00:00:00Z"},
        {"seq": -1},
        {"seq": 1 << 63},
        {"seq": 10**30},
        {"seq": 3, "time": "0001-01-01"},
        {"seq": 1000, "time": "0001-01-01"},
        {"seq": 1000, "time": "0001-01-01T00:00:00+23:59"},
        {"seq": 1000, "time": "9999-12-31T23:59:59-23:59"},
        {"seq": 1000, "time": "9999-12-31"},
        b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
        b'{"x":' + b'{"x":' * 100_000,
        b'{"stream": "\xff"}',
        b"",
    ],
)
def test_an_odd_message_is_ignored_or_begins_a_stream(own, outbox, topic, retained, odd):
    """A restored card's message cannot be told from one that a neighbour has made up."""
    if isinstance(odd, dict):
        odd = json.dumps({"stream": outbox.stream, "clock": "synced", **odd}).encode()
    hear(own, topic, odd, retained=retained)
    own.opened()
    own.opened()
    assert [reading.seq for reading in outbox.read(0, 10)] == [1, 2, 3], "none is lost"


def test_a_made_up_health_begins_one_stream_an_hour(own, outbox, clock, caplog):
    """Everybody at the broker can read the stream's name, and say it again."""
    caplog.set_level(logging.WARNING)
    streams = set()
    for _ in range(30):
        hear(own, HEALTH, json.dumps({"stream": outbox.stream}).encode(), retained=False)
        streams.add(outbox.stream)
        clock.now_s += 60
    assert len(streams) == 1
    assert caplog.text.count("another stream is begun") == 1
    clock.now_s += 3600
    hear(own, HEALTH, json.dumps({"stream": outbox.stream}).encode(), retained=False)
    assert outbox.stream not in streams, "as for a copy that was made meanwhile"


def test_a_false_offline_is_corrected_once_a_second(own, clock):
    """Two nodes of one name, or somebody who does it on purpose."""
    corrections = 0
    for _ in range(250):
        hear(own, "sensors/test/status", b"offline", retained=False)
        corrections += own.contradicts(clock.monotonic())
        clock.now_s += 0.01
    assert corrections == 3, "in two and a half seconds"
    clock.now_s += 1.0
    assert own.contradicts(clock.monotonic()), "the last one too"
    assert not own.contradicts(clock.monotonic() + 60)


def test_a_made_up_state_does_not_silence_the_history(
    broker, subscribe, start_node, temperature_file
):
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"air": temperature_file}, interval="0.5s")
    config += '\n[outbox]\nhistory_interval = "0.5s"\n'
    node = start_node(config)
    subscriber.wait_for_states("air", 2)
    node.terminate()
    stream, sent = subscriber.states("air")[-1]["stream"], len(subscriber.history())
    state = {"stream": stream, "seq": 1000, "time": "0001-01-01", "clock": "synced"}
    subscriber.client.publish(STATE, json.dumps(state), 1, retain=True).wait_for_publish(10)
    node = start_node(config)
    wait_until(lambda: len(subscriber.history()) > sent + 2, what="history goes on")
    assert "failed to" not in node.log
