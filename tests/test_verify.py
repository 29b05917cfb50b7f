"""The chain of hashes: what `verify` finds in a log and in an export, and what pruning leaves."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import SENSOR_NODE, FakeClock, NodeProcess, sysfs_config, wait_until

from node.config.schema import OutboxTable
from node.health import Health
from node.outbox.chain import HASH_BYTES
from node.outbox.outbox import Outbox
from node.outbox.proof import Head, Verdict, check_export, check_log, stored_from
from node.outbox.reader import look_into
from node.outbox.rows import Row
from node.outbox.store import FILE_NAME
from node.reading import ALARM_ON, AlarmOf, Layout, Reading
from node.topics import history_payload
from node.units import Seconds
from node.web.export import csv_pieces

AIR = Layout("air", ("temperature", "humidity"), ("°C", "%"))
ALARM = Layout(
    "air",
    ("alarm_warm", "alarm_warm_limit", "alarm_warm_value"),
    ("", "°C", "°C"),
    AlarmOf("warm", "temperature", "above"),
)
TABLE = OutboxTable(chain=True, max_readings=1000)


def fill(outbox: Outbox, clock: FakeClock, commits: int, readings: int = 3) -> None:
    for _ in range(commits):
        for _ in range(readings):
            clock.sleep(1)
            clock.wall_s += 1
            layout, numbers = AIR, [21.5, 45]
            if outbox.last_seq % 7 == 5:
                layout, numbers = ALARM, [ALARM_ON, 8.0, 21.5]
            outbox.append(
                layout,
                tuple(numbers),
                boot_s=clock.boot_s(),
                utc_s=clock.utc_s(),
                synced=clock.synced(),
            )
        outbox.commit()


def verdict_on(folder: Path, head: Head | None = None) -> Verdict:
    return look_into(folder / FILE_NAME, lambda log: check_log(log, head))


def exported(outbox: Outbox) -> list[dict[str, Any]]:
    """The messages of history, as a consumer may store them."""
    readings = outbox.read(0, 10_000)
    return [
        json.loads(history_payload(outbox.stream, readings[at : at + 50]))
        for at in range(0, len(readings), 50)
    ]


def verdict_on_export(batches: list[dict[str, Any]], head: Head | None = None) -> Verdict:
    stored = [stored_from(batch["stream"], r) for batch in batches for r in batch["readings"]]
    return check_export(stored, head)


@pytest.fixture
def outbox(tmp_path: Path, clock: FakeClock) -> Iterator[Outbox]:
    made = Outbox(tmp_path, TABLE, clock)
    yield made
    made.close()


def head_of(outbox: Outbox) -> Head:
    assert outbox.chain_head is not None
    seq, value = outbox.chain_head
    return Head(seq, value.hex())


def test_a_log_that_is_whole_passes_with_its_head(outbox, clock, tmp_path):
    fill(outbox, clock, 40)
    verdict = verdict_on(tmp_path, head_of(outbox))
    assert (verdict.faults, verdict.checked, verdict.head_seen) == ([], 120, True)
    verdict = verdict_on_export(exported(outbox), head_of(outbox))
    assert (verdict.faults, verdict.checked, verdict.unchained) == ([], 117, 3)


def test_the_chain_goes_on_over_restarts_and_crashes(outbox, clock, tmp_path):
    fill(outbox, clock, 5)
    copy = tmp_path / "crashed"
    copy.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(tmp_path / (FILE_NAME + suffix), copy)
    again = Outbox(copy, TABLE, clock)
    fill(again, clock, 5)
    again.close()
    again = Outbox(copy, TABLE, clock)
    assert again.chain_head is not None
    fill(again, clock, 5)
    assert (verdict_on(copy).faults, verdict_on(copy).checked) == ([], 45)
    again.close()


def test_pruning_keeps_an_anchor(clock, tmp_path):
    """By age and by number; the export of what is left checks, too."""
    outbox = Outbox(tmp_path, OutboxTable(chain=True, max_readings=300, keep=Seconds(3600)), clock)
    for _ in range(20):
        fill(outbox, clock, 20)
        outbox.acknowledge(outbox.cursor + 1, outbox.last_seq)
    first = verdict_on(tmp_path)
    assert first.first is not None
    assert first.first > 1
    assert (first.faults, first.unchained) == ([], 0)
    verdict = verdict_on(tmp_path, Head(first.first - 1, anchor_of(tmp_path)))
    assert (verdict.faults, verdict.head_seen) == ([], True), "the anchor is a head, too"
    outbox.close()
    outbox = Outbox(tmp_path, TABLE, clock)
    fill(outbox, clock, 3)
    assert verdict_on(tmp_path, head_of(outbox)).faults == []
    outbox.close()


def anchor_of(folder: Path) -> str:
    (value,) = look_into(folder / FILE_NAME, lambda log: log.anchors.all()).values()
    return value.hex()


def test_readings_from_before_the_clock_was_set_are_covered_without_their_time(
    outbox, clock, tmp_path
):
    clock.in_sync = False
    fill(outbox, clock, 5)
    clock.in_sync = True
    outbox.clock_was_set(boot_s=clock.boot_s(), utc_s=clock.utc_s() + 1e6)
    fill(outbox, clock, 5)
    for verdict in (verdict_on(tmp_path), verdict_on_export(exported(outbox))):
        assert verdict.faults == []
        assert verdict.timeless in (12, 15)


def with_row(folder: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    """Change the file as somebody with an editor for SQLite would, checksums included."""
    db = sqlite3.connect(folder / FILE_NAME)
    change(db)
    for values in db.execute("SELECT * FROM tick").fetchall():
        row = Row(*values)
        db.execute(
            "UPDATE tick SET checksum = ? WHERE last_seq = ?", (row.expected_checksum, row.last_seq)
        )
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        (
            "UPDATE tick SET readings = replace(readings, '21.5', '2.15') WHERE last_seq = 30",
            "one of readings 28 to 30 altered",
        ),
        (
            "UPDATE tick SET utc_ms = utc_ms + 1 WHERE last_seq = 30",
            "one of readings 28 to 30 altered",
        ),
        ("DELETE FROM tick WHERE last_seq = 30", "readings 28 to 30 missing"),
        ("DELETE FROM tick WHERE last_seq <= 30", "readings 1 to 30 missing"),
        ("DELETE FROM anchor", "readings 1 to 3 cannot be checked: the hash before is missing"),
        ("DELETE FROM tick WHERE last_seq > 30", "readings 31 to 60 missing at the end"),
        (
            "UPDATE tick SET hash = x'00000000000000' WHERE last_seq = 30",
            "one of readings 28 to 30 altered",
        ),
        ("UPDATE layout SET definition = definition", ""),
    ],
)
def test_what_was_done_to_a_log_is_named(outbox, clock, tmp_path, statement, fault):
    """The first reading that is not as it was; the checksums were made to fit."""
    fill(outbox, clock, 20)
    head = head_of(outbox)
    outbox.close()
    with_row(tmp_path, lambda db: db.execute(statement))
    faults = verdict_on(tmp_path, head).faults
    assert (faults == []) == (fault == "")
    assert fault in (faults or [""])[0]


def test_a_chain_that_was_made_again_is_found_by_a_head_from_elsewhere(outbox, clock, tmp_path):
    """Without one it is not: so health has one each minute."""
    fill(outbox, clock, 20)
    head = head_of(outbox)
    readings = outbox.read(0, 1000)
    outbox.close()
    forged = tmp_path / "forged"
    forged.mkdir()
    again = Outbox(forged, TABLE, clock)
    for reading in readings:
        lower = (2.15, *reading.numbers[1:])
        again.append(
            reading.layout,
            lower if reading.seq == 30 else reading.numbers,
            boot_s=reading.boot_ms / 1000,
            utc_s=reading.utc_ms / 1000,
            synced=True,
        )
    again.commit()
    again.close()
    assert verdict_on(forged).faults == []
    assert "the hash of reading 60 is" in verdict_on(forged, head).faults[0]


@pytest.mark.parametrize("seed", range(20))
def test_what_was_done_to_an_export_is_named_by_its_reading(outbox, clock, seed):
    draw = random.Random(seed)
    fill(outbox, clock, 40)
    batches = exported(outbox)
    rows = [row for batch in batches for row in batch["readings"]]
    kind = draw.choice(["value", "time", "sensor", "removed", "hash", "state"])
    victim = draw.choice([row for row in rows[3:-3] if kind != "hash" or "hash" in row])
    seq = victim["seq"]
    if kind == "removed":
        for batch in batches:
            batch["readings"] = [row for row in batch["readings"] if row is not victim]
    elif kind == "time":
        victim["time"] = victim["time"].replace("2026", "2025")
    elif kind == "sensor":
        victim["sensor"] = "other"
    elif kind == "hash":
        victim["hash"] = "00" * HASH_BYTES
    elif "alarm" in victim:
        victim["alarm"]["state"] = "off"
    else:
        victim["temperature"] += 0.1
    faults = verdict_on_export(batches).faults
    first = seq - (seq - 1) % 3  # of those that were committed together
    altered = f"one of readings {first} to {first + 2} altered"
    assert faults[0] == (f"reading {seq} missing" if kind == "removed" else altered)


def test_readings_that_never_reached_the_log_are_not_taken_for_removed_ones(
    outbox, clock, tmp_path
):
    fill(outbox, clock, 2)
    outbox._ledger.last_seq += 5  # as when they were dropped from memory
    assert head_of(outbox).seq == 6
    fill(outbox, clock, 2)
    for verdict in (verdict_on(tmp_path), verdict_on_export(exported(outbox))):
        assert (verdict.faults, verdict.skipped) == ([], 5)


def test_readings_that_were_sent_from_memory_are_covered_by_the_next_hash(outbox, clock):
    """They came without one, because the disk was full, and were written later."""
    fill(outbox, clock, 10)
    batches = exported(outbox)
    for row in batches[0]["readings"][9:21]:
        row.pop("hash", None)
    verdict = verdict_on_export(batches)
    assert (verdict.faults, verdict.checked) == ([], 27)
    batches[0]["readings"][11]["sensor"] = "other"
    assert verdict_on_export(batches).faults == ["one of readings 10 to 24 altered"]


def test_a_log_is_chained_from_the_moment_on_that_it_is_switched_on(clock, tmp_path):
    """And not while it is switched off; an earlier version can use it until then."""
    for chain, size in ((False, 9), (True, 9), (False, 6), (True, 6)):
        outbox = Outbox(tmp_path, OutboxTable(chain=chain), clock)
        fill(outbox, clock, size // 3)
        outbox.close()
        schema = sqlite3.connect(tmp_path / FILE_NAME).execute("PRAGMA user_version").fetchone()
        assert schema == ((2,) if outbox.last_seq > 9 else (1,))
    verdict = verdict_on(tmp_path)
    assert (verdict.faults, verdict.checked, verdict.unchained) == ([], 15, 15)


def test_a_hash_is_eight_bytes_on_the_card_and_only_of_a_chained_log(clock, tmp_path):
    """One byte says in SQLite's record that there is one, and how long it is."""
    rows = {}
    for chain in (False, True):
        folder = tmp_path / str(chain)
        folder.mkdir()
        outbox = Outbox(folder, OutboxTable(chain=chain), clock)
        fill(outbox, clock, 400, readings=1)
        outbox.close()
        db = sqlite3.connect(folder / FILE_NAME)
        query = "SELECT sum(payload) FROM dbstat WHERE name = 'tick'"
        try:
            (rows[chain],) = db.execute(query).fetchone()
        except sqlite3.OperationalError:
            pytest.skip("this SQLite has no dbstat")
        db.close()
    a_reading = (rows[True] - rows[False]) / 400
    # Checksums, too, are of different lengths there: by 0.07 bytes a reading, one time in three.
    assert 7.5 < a_reading < 8.5


# -- the command


def sensor_node(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        [SENSOR_NODE, "verify", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_command_checks_a_log_and_each_form_of_an_export(
    broker, subscribe, start_node, temperature_file, tmp_path
):
    """A real node, a consumer of its history, its health, and the CSV of the page."""
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="200ms")
    node: NodeProcess = start_node(config + "\n[outbox]\nchain = true\nhistory_interval = 0\n")
    wait_until(lambda: len(subscriber.history()) >= 8)
    node.terminate()
    health = look_into(
        node.state_dir / FILE_NAME, lambda log: json.loads(log.ledger.health or "{}")
    )
    assert set(health) >= {"chain_seq", "chain_hash"}
    assert Health().chain_seq is None
    kept = tmp_path / "history.jsonl"
    kept.write_text("\n".join(subscriber.on("sensors/test/history")) + "\n")
    code, out, err = sensor_node(str(kept))
    assert (code, err) == (0, "")
    assert "as written" in out
    page = b"".join(csv_pieces(node.state_dir / FILE_NAME, since_ms=None, sensor=None))
    (tmp_path / "readings.csv").write_bytes(page)
    assert sensor_node(str(tmp_path / "readings.csv"))[0] == 0
    code, out, _ = sensor_node("--state-dir", str(node.state_dir), "--json")
    assert code == 0
    (found,) = json.loads(out)["streams"].values()
    assert found["faults"] == []
    code, out, _ = sensor_node("-", "--head", "1:00000000000000", stdin=kept.read_text())
    assert (code, "WRONG: " in out) == (1, True)
    code, _, err = sensor_node("-", stdin="nonsense\n")
    assert (code, "line 1 is not a reading" in err) == (1, True)
    code, _, err = sensor_node("--head", "nonsense")
    assert (code, "expected SEQ:HASH" in err) == (2, True)
    code, _, err = sensor_node(str(tmp_path / "nothing.csv"))
    assert (code, "cannot be read: No such file" in err) == (1, True)


def test_the_readings_of_a_consumer_have_their_hashes(outbox, clock):
    fill(outbox, clock, 3)
    (batch,) = exported(outbox)
    hashes = [len(row.get("hash", "")) for row in batch["readings"]]
    assert hashes == [0, 0, 2 * HASH_BYTES] * 3, "one for those that were committed together"
    first: list[Reading] = outbox.read(4, 3)
    assert [r.hash.hex() for r in first] == ["", batch["readings"][5]["hash"], ""]
