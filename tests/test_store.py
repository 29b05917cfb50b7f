"""`sensor-node store`: each reading once, whatever dies; what is missing is asked for."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import paho.mqtt.client as mqtt
import pytest
from hypothesis import given, settings
from prometheus_client.parser import text_string_to_metric_families
from store_support import StoreProcess
from support import (
    CONNECT,
    SENSOR_NODE,
    Mosquitto,
    ScriptedBroker,
    ledger_in,
    published_topic,
    sysfs_config,
    wait_until,
)

from node.mqtt.packets import framed
from node.store.batches import Batch, Unusable, parse_batch
from node.store.database import Refused
from node.store.influx import InfluxDatabase, lines
from node.store.spans import new_numbers, united
from node.store.sqlite import SqliteDatabase

SAVES = ("persistence true", "autosave_interval 1", "autosave_on_changes true")


def payload(*seqs: int, stream: str = "s1", **more: Any) -> bytes:
    readings = [
        {
            "seq": seq,
            "sensor": "air",
            "time": f"2026-11-24T03:13:{seq % 60:02}.123Z",
            "clock": "synced",
            "temperature": 20 + seq / 10,
            **more,
        }
        for seq in seqs
    ]
    return json.dumps({"stream": stream, "readings": readings}).encode()


def batch(*seqs: int, node: str = "n", **more: Any) -> Batch:
    return parse_batch(f"sensors/{node}/history", payload(*seqs, **more), "sensors")


# -- what a message says


def test_a_reading_has_its_numbers_and_the_rest_is_an_event():
    found = batch(7, state="active", humidity=45, ok=True, nothing=None)
    assert (found.node, found.stream, found.simulated) == ("n", "s1", False)
    (reading,) = found.readings
    assert reading.values == {"temperature": 20.7, "humidity": 45.0}
    assert reading.other == {"state": "active", "ok": True, "nothing": None}
    assert reading.time.isoformat() == "2026-11-24T03:13:07.123000+00:00"
    assert reading.synced


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a JSON object"),
        (b"\xff", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'{"stream":"s","readings":{}}', "not a JSON object"),
        (payload(1).replace(b'"seq": 1', b'"seq": -1'), "1 of its items have no seq"),
        (payload(1).replace(b'"air"', b'"a\\u0000"'), "the name 'a\\x00' is not usable"),
        (payload(1).replace(b'"air"', b'""'), "the name '' is not usable"),
        (payload(1).replace(b"temperature", b"x" * 200), "is not usable"),
        (payload(1).replace(b"2026-11-24", b"yesterday-"), "is not a time"),
        (payload(1, stream="\x1b[2J"), "is not usable"),
    ],
)
def test_a_message_that_is_not_a_batch_says_why(content, problem):
    with pytest.raises(Unusable, match=problem.replace("\\", "\\\\")):
        parse_batch("sensors/n/history", content, "sensors")


def test_line_protocol_escapes_what_it_uses_itself():
    """https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/#special-characters"""
    content = payload(1, stream='a"b').replace(b'"air"', b'"a b,c=d"')
    found = parse_batch("sensors/n/history", content, "sensors")
    assert list(lines(found, found.readings)) == [
        'sensor_node,node=n,sensor=a\\ b\\,c\\=d temperature=20.1,seq=1i,stream="a\\"b",'
        "synced=true 1795489981123"
    ]


# -- numbers


def test_numbers_that_somebody_has_made_up_do_not_stop_the_counting(tmp_path):
    """Whoever may publish history may send any; a database that fails is taken for one away."""
    database = SqliteDatabase(tmp_path / "x.db")
    for stream in ("a", "b", "c"):
        database.write([batch(1, 2**63 - 2, stream=stream)])
    missing, lost = database.missing()
    assert missing == pytest.approx(3 * 2**63)
    assert lost == 0
    assert len(database.gaps(99)) == 3
    database.close()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=20))
def test_united_spans_have_the_same_numbers_and_do_not_touch(pairs):
    spans = [(first, first + length) for first, length in pairs]
    numbers = {n for first, last in spans for n in range(first, last + 1)}
    after = united(spans)
    assert {n for first, last in after for n in range(first, last + 1)} == numbers
    assert all(b[0] > a[1] + 1 for a, b in pairwise(after))
    assert new_numbers(after, range(70)) == set(range(70)) - numbers


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.integers(1, 40), min_size=1, max_size=8)),
        min_size=1,
        max_size=12,
    )
)
def test_any_order_and_repetition_is_stored_once_and_the_rest_is_a_gap(tmp_path_factory, sent):
    database = SqliteDatabase(tmp_path_factory.mktemp("db") / "x.db")
    new = again = 0
    for stream, seqs in sent:
        written = database.write([batch(*seqs, stream=stream)])
        new += written.new
        again += written.again
    content = sqlite3.connect(database._file)
    rows = content.execute("SELECT stream, seq, value FROM readings").fetchall()
    wanted = {(stream, seq) for stream, seqs in sent for seq in seqs}
    assert sorted((stream, seq) for stream, seq, _ in rows) == sorted(wanted)
    assert all(value == 20 + seq / 10 for _, seq, value in rows)
    assert (new, new + again) == (len(wanted), sum(len(seqs) for _, seqs in sent))
    missing = {
        (gap.stream, n) for gap in database.gaps(99) for n in range(gap.first_seq, gap.last_seq + 1)
    }
    newest = {stream: max(n for s, n in wanted if s == stream) for stream, _ in wanted}
    assert missing == {(s, n) for s, last in newest.items() for n in range(1, last)} - wanted
    assert database.missing() == (len(missing), 0)
    database.close()


def test_what_the_node_does_not_have_is_lost_and_what_comes_late_is_not(tmp_path):
    database = SqliteDatabase(tmp_path / "x.db")
    database.write([batch(5, 9)])
    newest, oldest = database.gaps(9)
    assert ((oldest.first_seq, oldest.last_seq), (newest.first_seq, newest.last_seq)) == (
        (1, 4),
        (6, 8),
    )
    database.answered(oldest, (1, 4), begins=3)
    assert database.missing() == (5, 2), "3 and 4; the stream begins with 3"
    database.write([batch(3, 4, 7)])
    assert database.missing() == (2, 0)


def test_two_consumers_do_not_ask_for_the_same(tmp_path):
    first, second = (SqliteDatabase(tmp_path / "x.db") for _ in range(2))
    first.write([batch(5)])
    (gap,) = first.gaps(9)
    assert first.claim(gap.stream_id, 60)
    assert not second.claim(gap.stream_id, 60)
    first.answered(gap, (1, 4), None)
    assert second.claim(gap.stream_id, 60)


def test_tables_of_a_newer_version_are_left_alone(tmp_path):
    database = SqliteDatabase(tmp_path / "x.db")
    database.open()
    database.close()
    with sqlite3.connect(tmp_path / "x.db") as content:
        content.execute("UPDATE schema_version SET version = 99")
    done = store_once(f"sqlite:{tmp_path / 'x.db'}", 1)
    assert done.returncode == 1
    assert done.stderr == (
        "its tables are of version 99, and this sensor-node knows up to 1: update it\n"
    )


def test_nothing_of_a_refused_transaction_is_sent_later(tmp_path, monkeypatch):
    """Its numbers are not stored, so its values would be there without them."""
    sent: list[bytes] = []
    database = InfluxDatabase("http://h/write?db=x", tmp_path / "x.db", token=None)
    monkeypatch.setattr(database, "_post", sent.append)
    huge = msgspec.structs.replace(batch(2).readings[0], seq=1 << 70)
    refused = msgspec.structs.replace(batch(2, node="z"), readings=[huge])
    with pytest.raises(Refused):
        database.write([batch(3, node="a"), refused])
    assert database.write([batch(1)]).new == 1
    assert [content.count(b"seq=") for content in sent] == [1]
    database.close()


# -- the process


def store_once(to: str, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [SENSOR_NODE, "store", "--to", to, "--broker", f"127.0.0.1:{port}", "--name", "t"]
    return subprocess.run(
        [*command, "--once", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def keeping_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that keeps sessions on its disk."""
    broker = Mosquitto(tmp_path, *SAVES, f"persistence_location {tmp_path}/")
    yield broker.start()
    broker.stop()


@pytest.fixture
def start_store(tmp_path: Path) -> Iterator[Callable[..., StoreProcess]]:
    started: list[StoreProcess] = []

    def start(port: int, *arguments: str, to: str = "") -> StoreProcess:
        to = to or f"sqlite:{tmp_path / 'readings.db'}"
        started.append(StoreProcess(tmp_path, to, port, "--name", "t", *arguments))
        return started[-1]

    yield start
    for store in started:
        store.kill()


def stored(folder: Path) -> list[tuple[str, int]]:
    """(stream, seq) of all readings, duplicates included."""
    if not (folder / "readings.db").exists():
        return []
    with sqlite3.connect(folder / "readings.db", timeout=30) as content:
        try:
            return content.execute("SELECT stream, seq FROM readings ORDER BY seq").fetchall()
        except sqlite3.OperationalError:  # the tables are not there yet
            return []


def acknowledged(state_dir: Path) -> set[int]:
    """The numbers of the readings that the broker has had; the rest waits for the next start."""
    return set(range(1, ledger_in(state_dir).cursor + 1))


def test_what_waits_for_a_consumer_is_stored_when_it_comes_again(keeping_broker, tmp_path):
    to = f"sqlite:{tmp_path / 'readings.db'}"
    assert store_once(to, keeping_broker.port).returncode == 0, "it has a session now"
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", keeping_broker.port)
    client.loop_start()
    for content in (payload(1, 2), b"not a batch", payload(2, 3)):
        client.publish("sensors/n/history", content, 1).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()
    done = store_once(to, keeping_broker.port)
    assert done.returncode == 0, done.stderr
    assert "sensors/n/history: a message is not stored: it is not a JSON object" in done.stderr
    assert stored(tmp_path) == [("s1", 1), ("s1", 2), ("s1", 3)]
    with sqlite3.connect(tmp_path / "readings.db") as database:
        rejected = database.execute("SELECT topic, payload FROM rejected").fetchall()
    assert rejected == [("sensors/n/history", b"not a batch")]


def test_the_metrics_have_the_newest_reading_of_each_node(keeping_broker, start_store):
    """That of the time at which it was taken: a late batch is no sign of life."""
    store = start_store(keeping_broker.port, "--metrics", "0")
    address = store.wait_for_log(r"metrics are at (\S+)")[1]
    store.wait_for_log("connected to")
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.connect("127.0.0.1", keeping_broker.port)
    client.loop_start()
    began_s = time.time()
    for node, content in (
        ("late", payload(9)),
        ("late", payload(2)),
        ("unsure", payload(3).replace(b'"synced"', b'"unsynced"')),
        ("ahead", payload(4).replace(b"2026-", b"2126-")),
    ):
        client.publish(f"sensors/{node}/history", content, 1).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()

    def metrics() -> dict[str, float]:
        text = urllib.request.urlopen(address).read().decode()
        families = text_string_to_metric_families(text)
        samples = [sample for family in families for sample in family.samples]
        return {sample.labels.get("node", sample.name): sample.value for sample in samples}

    found = wait_until(lambda: (m := metrics())["sensor_node_store_stored_total"] == 4 and m)
    assert found["late"] == datetime.fromisoformat("2026-11-24T03:13:09.123Z").timestamp()
    assert began_s <= found["ahead"] <= time.time()
    assert "unsure" not in found


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_broker_that_cannot_share_sends_everything(start_store, version):
    """RabbitMQ 4 and NATS accept a shared subscription, and send nothing for it."""
    wanted: list[str] = []
    subscribe, level = 8, 6  # of the protocol, in CONNECT (§3.1.2.2)

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT and version == "5":
            return b"\x20\x05\x00\x00\x02\x2a\x00"  # Shared Subscription Available: 0
        if kind == CONNECT:
            return b"\x20\x02\x00\x00" if body[level] == 4 else b"\x20\x03\x00\x84\x00"
        if kind == subscribe:
            topic_at = 3 if version == "5" else 2
            wanted.append(published_topic(body[topic_at:]))
            no_properties = b"\x00" if version == "5" else b""
            return framed(0x90, body[:2] + no_properties + b"\x01")
        return None

    broker = ScriptedBroker(answer)
    store = start_store(broker.port, "--share", "all")
    store.wait_for_log(
        "subscription to .share/all/sensors/./history: it does not support shared subscriptions, "
        "and sends all of sensors/./history\n"
    )
    wait_until(lambda: len(wanted) == 2)
    assert wanted == ["sensors/+/history", "sensors/+/cmd/replay/result"]
    broker.close()


@pytest.mark.real_time(seconds=15)
def test_nothing_is_lost_or_twice_whatever_is_killed(
    keeping_broker, start_store, start_node, temperature_file, tmp_path
):
    """The consumer and the broker are killed; then the broker forgets the session, too."""
    config = sysfs_config(keeping_broker.port, {"s": temperature_file}, interval="0.2s")
    node = start_node(config + '\n[outbox]\nhistory_interval = "0.5s"\n')
    store = start_store(keeping_broker.port)
    for _ in range(2):
        enough = len(stored(tmp_path)) + 5
        wait_until(lambda: len(stored(tmp_path)) >= enough)  # noqa: B023 - it is called at once
        store.kill()
        store = start_store(keeping_broker.port)
        keeping_broker.stop(9)
        keeping_broker.start()
    # A broker that has forgotten everything: what the node sends meanwhile reaches nobody.
    store.terminate()
    connections = node.log.count("connected to")
    keeping_broker.stop(9)
    for file in tmp_path.glob("mosquitto*.db"):
        file.unlink()
    keeping_broker.start()
    wait_until(lambda: node.log.count("connected to") > connections)
    lost = ledger_in(node.state_dir).cursor + 3
    wait_until(lambda: ledger_in(node.state_dir).cursor >= lost, what="the broker had it")
    store = start_store(keeping_broker.port)
    store.wait_for_log("test: asking for its readings")

    def is_whole() -> bool:
        """Whether nothing is missing before the newest: a gap can be filled while the node runs."""
        seqs = {seq for _, seq in stored(tmp_path)}
        return max(seqs, default=0) > lost and seqs == set(range(1, max(seqs) + 1))

    wait_until(is_whole, 60)
    node.terminate()
    wait_until(lambda: {seq for _, seq in stored(tmp_path)} >= acknowledged(node.state_dir))
    assert store.terminate() == 0
    assert len(stored(tmp_path)) == len(set(stored(tmp_path)))
