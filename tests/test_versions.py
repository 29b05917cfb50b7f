"""Three numbers promise something: of the contract, of the API for drivers, of the log's format.

The logs in tests/logs are those of nodes of earlier commits (`old_logs.py` has made them).
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest
from old_logs import LOGS, READINGS, VALUES, count, run_node, unpack
from promised import FILE, Promises, broken, promises

from node.config.schema import OutboxTable
from node.outbox.log_file import LogFile, NewerSchema
from node.outbox.outbox import Outbox
from node.outbox.reader import why_not
from node.outbox.store import FILE_NAME

ROOT = Path(__file__).parent.parent
OLD_LOGS = sorted(LOGS.glob("*.db"))


def promised() -> Promises:
    found: Promises = json.loads(FILE.read_text())
    return found


# -- what was promised is there --------------------------------------------------------------


@pytest.fixture(scope="module", name="now")
def promises_now() -> Promises:
    return promises()


def test_nothing_that_was_promised_is_gone(now):
    """Names may be added; a release writes them down (tests/promised.py)."""
    assert broken(promised(), now) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("contract", "sensor-node check --config"),
        ("contract", "[configuration] mqtt.tls.ca_file"),
        ("contract", "[configuration] sensor.channel.max_rate"),
        ("contract", 'driver = "dht22": pin'),
        ("contract", "health: outbox_readings"),
        ("driver API", "drivers.errors.SensorError"),
        ("driver API", "DriverInfo.scan may be left out"),
        ("driver API", "Board.i2c"),
        ("log", "schema 1: tick.cursor INTEGER"),
        ("log", "schema 2: tick.hash BLOB"),
    ],
)
def test_each_of_them_would_be_missed(now, kind, name):
    """And is no longer, once a new version says that it is gone."""
    now = copy.deepcopy(now)
    now[kind]["names"].remove(name)
    version = now[kind]["version"]
    assert broken(promised(), now) == [f"{kind} {version}: {name} is gone since {version}"]
    patch = copy.deepcopy(now)
    if kind != "log":
        patch[kind]["version"] = version + ".9"
        assert broken(promised(), patch), "a patch may not take anything away"
    now[kind]["version"] = {"contract": "0.2.0", "driver API": "0.2", "log": "3"}[kind]
    assert broken(promised(), now) == []


def test_the_numbers_that_contributing_gives_are_those_of_the_code(now):
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    for kind, facts in now.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {kind}"))
        assert f"`{facts['version']}`" in row


# -- the log -----------------------------------------------------------------------------------


def stream_in(log: Path) -> str:
    db = sqlite3.connect(log)
    (stream,) = db.execute("SELECT stream FROM ledger").fetchone()
    db.close()
    return str(stream)


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("old", OLD_LOGS, ids=lambda file: file.stem)
def test_the_log_of_an_earlier_version_goes_on(old, chain, tmp_path, clock):
    """Its readings are there, unsent as they were, and the next one has the next number."""
    shutil.copy(old, tmp_path / FILE_NAME)
    outbox = Outbox(tmp_path, OutboxTable(chain=chain), clock)
    assert outbox.set_aside == []
    assert outbox.stream == stream_in(old)
    readings = outbox.read(0, 1000)
    assert [reading.seq for reading in readings] == list(range(1, outbox.last_seq + 1))
    assert outbox.last_seq >= READINGS
    assert outbox.cursor == 0
    assert {(r.sensor, r.values["temperature"]) for r in readings} == set(VALUES.items())
    outbox.close()
    again = Outbox(tmp_path, OutboxTable(chain=chain), clock)
    assert again.read(0, 1000) == readings
    again.close()


@pytest.mark.real_time
@pytest.mark.parametrize("old", OLD_LOGS, ids=lambda file: file.stem)
def test_a_node_reads_on_in_the_log_of_an_earlier_one(old, tmp_path):
    """The real process: the same stream, and no number is skipped or used twice."""
    state = tmp_path / "state"
    state.mkdir()
    shutil.copy(old, state / FILE_NAME)
    before = count(old)
    run_node(ROOT, tmp_path, before + 2)
    assert stream_in(state / FILE_NAME) == stream_in(old)
    assert count(state / FILE_NAME) >= before + 2
    assert [file.name for file in state.glob("outbox-set-aside-*")] == []


def test_there_is_a_log_of_each_earlier_version():
    assert [file.stem for file in OLD_LOGS] == ["2cd8325", "f772fcd"]


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """A log of a format that does not exist yet."""
    log = tmp_path / FILE_NAME
    shutil.copy(OLD_LOGS[0], log)
    db = sqlite3.connect(log)
    db.execute("PRAGMA user_version = 99")
    db.close()
    return log


def test_a_log_of_a_newer_version_is_refused_in_words_and_stays_as_it_is(
    newer, tmp_path, clock, caplog
):
    content = newer.read_bytes()
    outbox = Outbox(tmp_path, OutboxTable(), clock)
    (aside,) = outbox.set_aside
    assert (tmp_path / aside).read_bytes() == content
    outbox.close()
    (said,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert "a newer version of sensor-node wrote it, in format 99" in said
    assert "this version (0.1.0) knows formats up to 2" in said
    assert "install the newer version again" in said
    assert aside in said


def test_a_look_at_a_log_of_a_newer_version_is_refused_in_words(newer):
    content = newer.read_bytes()
    with pytest.raises(NewerSchema) as refused:
        LogFile(newer)
    said = why_not(newer, refused.value)
    assert "in format 99, and this version (0.1.0) knows formats up to 2" in said
    assert newer.read_bytes() == content


@pytest.mark.real_time
@pytest.mark.parametrize("commit", [file.stem for file in OLD_LOGS])
def test_an_earlier_version_refuses_a_log_of_this_one_in_words(commit, tmp_path, clock):
    """Where the format has changed: a log with a chain. It is set aside, whole."""
    if not unpack(commit, tmp_path / "code"):
        pytest.skip(f"not run: needs a checkout with the history of git ({commit})")
    state = tmp_path / "state"
    Outbox(state, OutboxTable(chain=True), clock).close()
    digest = hashlib.sha256((state / FILE_NAME).read_bytes()).hexdigest()
    said = run_node(tmp_path / "code", tmp_path, 2)
    assert re.search(r"the log cannot be used \(.*schema 2.*\): set aside as", said)
    (aside,) = state.glob("outbox-set-aside-*.db")
    assert hashlib.sha256(aside.read_bytes()).hexdigest() == digest
