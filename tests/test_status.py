"""`sensor-node status`: what it tells of a node that runs, was killed, or never was."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from support import SENSOR_NODE, NodeProcess, ledger_in, sysfs_config, wait_until
from web_log import health_text

from node.commands.status import _as_text, _Known, _started_s
from node.health import Health, SensorHealth, UpdateHealth, backlog_text
from node.outbox.file import OutboxFile
from node.outbox.records import Batch, Event, Ledger
from node.reading import Layout, Reading
from node.system.clock import SystemClock, utc_text


def status(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [SENSOR_NODE, "status", "--state-dir", str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def knows(folder: Path) -> dict[str, Any]:
    _, text = status(folder, "--json")
    known: dict[str, Any] = json.loads(text)
    return known


def test_a_running_node_and_after_it_was_killed(broker, subscribe, start_node, tmp_path):
    (tmp_path / "good").write_text("21500\n")
    files = {"good": tmp_path / "good", "gone": tmp_path / "gone"}
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, files, interval="0.2s"))
    # A round of history went when it connected; more than one reading waits for the next.
    subscriber.wait_for_states("good", 6)
    code, text = status(node.state_dir)
    assert code == 0
    assert f"node     test, runs as process {node.process.pid}" in text
    assert "broker   connected, MQTT 5" in text
    assert re.search(r"readings? to be sent, the oldest", text)
    rows = [line.split() for line in text.splitlines()]
    assert ["good", "temperature", "21.5", "°C"] in [row[:4] for row in rows]
    assert ["gone", "none", "lately", "offline"] in rows
    assert "gone (sysfs): offline:" in text
    assert all(len(line) <= 80 for line in text.splitlines() if "outbox.db" not in line)
    known = knows(node.state_dir)
    assert known["process"] == node.process.pid
    assert known["sensors"]["good"]["values"] == {"temperature": 21.5}
    assert known["sensors"]["good"]["units"] == {"temperature": "°C"}
    assert known["sensors"]["good"]["age_s"] < 5
    assert known["health"]["sensors"]["gone"]["ok"] == 0
    seen = len(subscriber.states("good"))
    subscriber.wait_for_states("good", seen + 3)
    node.kill()
    code, text = status(node.state_dir)
    assert code == 1
    assert "does not run" in text
    assert "(as of " in text
    assert "good    temperature  21.5 °C" in text
    assert "online" not in text


def test_what_an_earlier_run_knew_is_not_told_as_news(tmp_path, start_node, broker, subscribe):
    file = tmp_path / "temp"
    file.write_text("21500\n")
    config = sysfs_config(broker.port, {"s": file}, interval="0.2s")
    subscriber = subscribe(broker.port)
    node = start_node(config)
    subscriber.wait_for_states("s", 3)
    wait_until(lambda: "connected" in status(node.state_dir)[1])
    node.kill()
    broker.stop()
    file.unlink()
    again = start_node(config)
    again.wait_for_log("s (sysfs): offline")
    _, text = status(again.state_dir)
    assert "connected, MQTT" not in text
    wait_until(lambda: "broker   no broker: " in status(again.state_dir)[1])
    assert "offline" in status(again.state_dir)[1]


def test_no_log_is_an_error_with_a_remedy(tmp_path):
    code, text = status(tmp_path / "nothing")
    assert code == 1
    assert "it does not exist; name the node's folder with --state-dir" in text


def test_a_damaged_log_or_health_of_another_version(start_node, temperature_file):
    node = start_node(sysfs_config(free_port(), {"s": temperature_file}, interval="0.2s"))
    node.wait_for_log("s (sysfs): online")
    node.terminate()
    from node.outbox.rows import checksum_of

    file = node.state_dir / "outbox.db"
    with sqlite3.connect(file) as db:
        *values, _, _ = db.execute("SELECT * FROM ledger").fetchone()[1:]
        values.append('{"version":"9"}')
        db.execute("UPDATE ledger SET health = ?, checksum = ?", (values[-1], checksum_of(*values)))
    db.close()
    code, text = status(node.state_dir)
    assert code == 1
    assert "s       temperature  21.5 °C" in text
    file.write_bytes(bytes(range(256)) * 40)
    code, text = status(node.state_dir)
    assert code == 1
    assert "it is damaged; the node sets it aside" in text


def test_a_node_whose_disk_is_full_is_not_told_to_be_well(tmp_path, temperature_file):
    """The log cannot tell it; its own age does."""
    node = NodeProcess(tmp_path, sysfs_config(free_port(), {"s": temperature_file}))
    try:
        node.wait_for_log("s (sysfs): online")
        wait_until(lambda: ledger_in(node.state_dir).last_seq >= 2)
        log = node.state_dir / "outbox.db"
        node.freeze()
        old_s = time.time() - 3600
        for name in (log, log.with_name("outbox.db-wal")):
            os.utime(name, (old_s, old_s))
        _, text = status(node.state_dir)
    finally:
        node.kill()
    assert "written 1h ago" in text
    assert "problem  the log is not written: is the disk full, or read-only?" in text


def test_nothing_in_the_log_reaches_the_terminal_as_a_command(tmp_path):
    """Whoever may write the log could otherwise do what a terminal obeys (ESC)."""
    evil = "\x1b]0;owned\x07\x1b[2J"
    log = OutboxFile(tmp_path / "outbox.db", new_stream="s")
    reading = Reading(1, Layout(evil, (evil,), (evil,)), (1.0,), "boot", 1, 1, synced=True)
    batch = Batch(readings=[reading], events=[Event(1_795_550_400_000, "ERROR", f"no {evil}")])
    health = health_text({evil: True}, process=1, broker=evil, problems=[evil])
    log.commit(batch, Ledger(last_seq=1, health=health), stream="s", keep_ledger=True)
    log.close()
    _, said = status(tmp_path)
    assert "\x1b" not in said
    assert "\x07" not in said
    assert said.count("\\x1b]0;owned") >= 5, "shown as what it is"


# -- what is true of a sensor, and of what waits --------------------------------------------------


@pytest.fixture
def zone(monkeypatch):
    """Berlin, in this process."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


CLOCK = SystemClock()
LAYOUT = Layout("air", ("temperature",), ("°C",))


def known_of(sensors: dict[str, SensorHealth], *newest: Reading, **health: Any) -> _Known:
    """What the log has of a node that is this process."""
    health.setdefault("uptime_s", round(CLOCK.boot_s() - _started_s(os.getpid())))
    told = Health(node="n", process=os.getpid(), time=utc_text(0), sensors=sensors, **health)
    return _Known(
        clock=CLOCK,
        file=Path("outbox.db"),
        written_s=0.0,
        process=os.getpid(),
        ledger=Ledger(),
        health=told,
        newest={reading.sensor: reading for reading in newest},
        oldest=None,
        events=[Event(1_764_428_400_000, "WARNING", "it rains")],
    )


def read_s_ago(age_s: float) -> Reading:
    return Reading(
        seq=1,
        layout=LAYOUT,
        numbers=(21.5,),
        boot_id=CLOCK.boot_id,
        boot_ms=round((CLOCK.boot_s() - age_s) * 1000),
        utc_ms=round((CLOCK.utc_s() - age_s) * 1000),
        synced=True,
    )


@pytest.mark.parametrize(
    ("health", "newest", "says"),
    [
        ({"online": True, "ok": 1}, [0.1], "online"),
        # Health is that of the start: it was read since, so it is online.
        ({}, [0.0], "online"),
        ({"ok": 1}, [0.0], "online"),
        # Not read since the start, whatever an earlier run knew of it.
        ({}, [], "starting"),
        ({}, [10**6], "starting"),
        ({"failed": 1}, [0.0], "offline"),
        ({"rejected": 1, "ok": 1}, [0.0], "offline"),
        ({"last_error": "no answer"}, [], "offline"),
    ],
)
def test_what_is_true_of_a_sensor_just_after_the_start(health, newest, says):
    known = known_of({"air": SensorHealth(**health)}, *map(read_s_ago, newest))
    (row,) = [line.split() for line in _as_text(known).splitlines() if line.startswith("air")]
    assert row[-1] == says


def test_a_reading_that_is_newer_than_the_health_is_believed():
    failed = {"air": SensorHealth(failed=1, last_error="no answer")}
    known = known_of(failed, read_s_ago(0), uptime_s=0)
    known.process = 1  # which began long before
    (row,) = [line for line in _as_text(known).splitlines() if line.startswith("air")]
    assert row.endswith("online")


def test_a_sensor_that_never_gave_a_value_is_shown_and_all_in_the_order_of_the_file():
    sensors = {"roof": SensorHealth(), "air": SensorHealth(online=True)}
    text = _as_text(known_of(sensors, read_s_ago(0)))
    names = [line.split()[0] for line in text.splitlines() if line.startswith(("roof", "air"))]
    assert names == ["roof", "air"]
    alone = _as_text(known_of({"roof": SensorHealth(failed=3)}))
    assert "roof             none lately       offline" in alone
    # One that the configuration has no more, and a node of which nothing is known yet.
    assert "not configured" in _as_text(known_of({"roof": SensorHealth()}, read_s_ago(0)))
    unknown = known_of({}, read_s_ago(0))
    unknown.health = None
    assert "starting" in _as_text(unknown)


@pytest.mark.parametrize(
    ("unsent", "oldest_s", "health", "says"),
    [
        (0, None, {"connected": True}, "0 readings to be sent"),
        (4, 44, {"connected": True}, "the oldest 44s old (history is sent every 1m)"),
        (1, 5, {"connected": True}, "1 reading to be sent, the oldest 5s old (history is sent"),
        (4, 300, {"connected": True}, "the oldest 5m old: late, because history is sent every 1m"),
        (
            4,
            300,
            {"connected": True, "history_interval_s": 600.0},
            "the oldest 5m old (history is sent every 10m)",
        ),
        (400, 3600, {}, "the oldest 1h old: waiting for the broker"),
        (4, None, {"connected": True}, "the oldest ? old (history"),
    ],
)
def test_a_normal_wait_is_told_from_a_jam(unsent, oldest_s, health, says):
    assert says in backlog_text(unsent, oldest_s, Health(**health))


@pytest.mark.usefixtures("zone")
def test_times_are_local_and_name_their_zone():
    text = _as_text(known_of({}))
    assert "2025-11-29 16:00:00 CET  it rains" in text
    summer = known_of({})
    summer.events = [Event(1_750_000_000_000, "WARNING", "it rains")]
    assert "2025-06-15 17:06:40 CEST  it rains" in _as_text(summer)
    stopped = known_of({})
    stopped.process = None
    assert "(as of 1970-01-01 01:00:00 CET)" in _as_text(stopped)


def test_an_update_from_afar_is_shown_while_there_is_something_to_say():
    coming = UpdateHealth(state="fetching", text="it is coming", update_percentage=20)
    assert "\nupdate   fetching, 20 %: it is coming\n" in _as_text(known_of({}, update=coming))
    over = UpdateHealth(state="undone", text="it did not read")
    assert "\nupdate   undone: it did not read\n" in _as_text(known_of({}, update=over))
    for nothing in (None, UpdateHealth()):
        assert "\nupdate " not in _as_text(known_of({}, update=nothing))


def test_simulated_hardware_is_said_at_the_top():
    assert _as_text(known_of({}, simulated=True)).splitlines()[1].startswith("SIMULATED")
    assert "SIMULATED" not in _as_text(known_of({}))


def test_no_sensor_of_a_node_that_has_just_started_is_said_to_be_offline(
    broker, start_node, temperature_file
):
    """Looked at again and again from the first moment: never offline, and online in the end."""
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    seen: list[str] = []

    def is_online() -> bool:
        _, text = status(node.state_dir)
        if f"process {node.process.pid}" in text:
            seen.extend(line.split()[-1] for line in text.splitlines() if line.startswith("s "))
        return bool(seen) and seen[-1] == "online"

    wait_until(is_online)
    assert set(seen) <= {"starting", "online"}
