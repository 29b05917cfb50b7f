"""`sensor-node status`: what it tells of a node that runs, was killed, or never was."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

from support import SENSOR_NODE, NodeProcess, free_port, ledger_in, sysfs_config, wait_until
from web_log import health_text

from node.outbox.file import OutboxFile
from node.outbox.records import Batch, Event, Ledger
from node.reading import Layout, Reading


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
    assert "readings to be sent, the oldest" in text
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
    assert "there is none; name the folder of the node with --state-dir" in text


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
