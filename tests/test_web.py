"""The status page as a process: what it tells of a log in any state, and that it only reads."""

from __future__ import annotations

import base64
import contextlib
import csv
import fcntl
import io
import itertools
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import (
    PATIENCE_S,
    SENSOR_NODE,
    as_another_user,
    open_folder,
    replaced,
    sysfs_config,
    wait_until,
)
from web_log import health_text, make_log
from web_support import WebProcess

from node.outbox.file import OutboxFile
from node.outbox.reader import _opened_once, look_into, open_log
from node.outbox.records import Batch, Event, Retiming
from node.plot.buckets import SPANS
from node.reading import Layout, Reading
from node.system.clock import SystemClock
from node.system.safe_files import open_lock
from node.system.systemd import Service
from node.web.application import Application
from node.web.server import listening_socket, make_server
from node.web.settings import Settings
from node.web.watcher import Watcher

pytestmark = pytest.mark.real_time

EVIL = "<script>alert(1)</script>\"'&\x1b[31m\u202e"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The lock of a node that runs, by this process."""
    lock = open_lock(folder / "node.lock")
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def now(web: WebProcess) -> dict[str, Any]:
    answer: dict[str, Any] = web.get("/api/v1/now").json
    return answer


def sensor(web: WebProcess, name: str) -> dict[str, Any]:
    found: dict[str, Any] = web.get(f"/api/v1/sensors/{name}").json
    return found


def write(folder: Path, name: str, value: float, **more: Any) -> None:
    """Append a reading as the node does; `retime` sets the clock of its boot."""
    clock = SystemClock()
    log = OutboxFile(folder / "outbox.db")
    ledger = log.ledger
    ledger.last_seq += 1
    one = Reading(
        seq=ledger.last_seq,
        layout=Layout(name, ("temperature",), ("°C",)),
        numbers=(value,),
        boot_id=more.get("boot_id", clock.boot_id),
        boot_ms=round(clock.boot_s() * 1000),
        utc_ms=more.get("utc_ms", round(clock.utc_s() * 1000)),
        synced=more.get("synced", True),
    )
    batch = Batch([one], retimings=more.get("retimings", {}))
    log.commit(batch, ledger, stream=log.stream, keep_ledger=True)
    log.close()


# -- a node that runs


def test_it_shows_what_the_broker_has_and_that_the_node_is_gone(
    broker, subscribe, start_node, start_web, temperature_file, tmp_path
):
    subscriber = subscribe(broker.port)
    files = {"good": temperature_file, "gone": tmp_path / "gone"}
    node = start_node(sysfs_config(broker.port, files, interval="0.5s"))
    subscriber.wait_for_states("good", 2)
    web = start_web(node.state_dir)
    wait_until(lambda: sensor(web, "good")["state"] == "online")
    temperature_file.write_text("33300\n")
    wait_until(lambda: subscriber.states("good")[-1]["temperature"] == 33.3)
    wait_until(lambda: sensor(web, "good")["channels"][0]["text"] == "33.3", seconds=5)
    shown = sensor(web, "good")
    assert shown["seq"] in [state["seq"] for state in subscriber.states("good")]
    assert shown["age_s"] < 5
    wait_until(lambda: sensor(web, "gone")["state"] == "offline")
    gone = sensor(web, "gone")
    assert gone["channels"] == []
    assert "does not exist" in gone["last_error"]
    wait_until(lambda: "broker connected, MQTT 5" in web.get("/").text)
    wait_until(lambda: "gone (sysfs): offline:" in web.get("/").text, what="the last errors")
    wait_until(lambda: web.get("/healthz").code == 200)
    node.kill()
    wait_until(lambda: now(web)["node"]["state"] == "stopped")
    assert sensor(web, "good")["state"] == "offline"
    assert not sensor(web, "good")["channels"][0]["current"]
    assert "the node does not run: start it" in web.get("/").text
    assert (web.get("/healthz").code, web.get("/healthz").text) == (503, "the node does not run\n")
    again = start_node(sysfs_config(broker.port, files, interval="0.5s"))
    wait_until(lambda: sensor(web, "good")["state"] == "online")
    assert now(web)["node"]["process"] == again.process.pid
    assert web.stop() == 0


@pytest.mark.real_time(seconds=17)
def test_the_node_folds_its_log_and_leaves_it_in_good_order_while_pages_are_asked_for(
    broker, start_node, start_web, temperature_file
):
    """No reader holds the WAL: it does not grow, and a clean stop leaves none."""
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="0.1s"))
    web = start_web(node.state_dir)
    wal = node.state_dir / "outbox.db-wal"
    node.wait_for_log("s (sysfs): online")
    began_s, largest = time.monotonic(), 0
    while now(web)["node"]["last_seq"] < 130 and time.monotonic() < began_s + 60:
        assert web.get("/").code == 200
        assert web.get("/export.csv").code == 200
        largest = max(largest, wal.stat().st_size)
    assert now(web)["node"]["last_seq"] >= 130, "or the test proves nothing"
    assert largest < 300 * 1024, "it is folded at 200 pages of a kilobyte"
    assert node.terminate() == 0
    assert not wal.exists()
    assert not (node.state_dir / "outbox.db-shm").exists()


def test_a_page_that_is_killed_or_frozen_in_a_read_does_not_stop_the_node(
    broker, subscribe, start_node, temperature_file
):
    """A reader of the same file, in the midst of a query: frozen, then killed with -9."""
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}, interval="0.1s"))
    subscriber.wait_for_states("s", 5)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom node.outbox.log_file import LogFile\n"
        "log = LogFile(Path(sys.argv[1]))\n"
        "rows = log._db.execute('SELECT * FROM tick')\nnext(rows)\nprint(1, flush=True)\n"
        "time.sleep(600)\n"
    )
    python = str(Path(SENSOR_NODE).with_name("python"))
    reader = subprocess.Popen(
        [python, "-c", program, str(node.state_dir / "outbox.db")], stdout=subprocess.PIPE
    )
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == b"1\n"
        reader.send_signal(signal.SIGSTOP)
        seen = len(subscriber.states("s"))
        subscriber.wait_for_states("s", seen + 10)
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close()
    seen = len(subscriber.states("s"))
    subscriber.wait_for_states("s", seen + 10)
    assert node.terminate() == 0
    assert not (node.state_dir / "outbox.db-wal").exists()
    assert "cannot be written" not in node.log


# -- only reading


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Of each file: inode, size, owner, rights, when its content was changed."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.iterdir()):
        status = file.stat()
        found[file.name] = (
            status.st_ino,
            status.st_size,
            status.st_uid,
            status.st_mode,
            status.st_mtime_ns,
        )
    return found


def ask_everything(web: WebProcess) -> None:
    paths = ["/", "/?span=day", "/?span=2days", "/sensor/s0", "/metrics", "/healthz"]
    paths += ["/export.csv", "/api/v1/now", "/api/v1/health", "/api/v1/sensors/s0/history"]
    for path in paths:
        assert web.get(path).code in (200, 503), path
    time.sleep(1.1)
    web.get("/")


def crashed_log(folder: Path) -> None:
    """A log as a node leaves it that was killed: with WAL and index."""
    make_log(folder, hours=0.5)
    log = OutboxFile(folder / "outbox.db")
    ledger = log.ledger
    ledger.dropped = 7
    log.commit(Batch(), ledger, stream=log.stream, keep_ledger=True)
    for name in ("outbox.db", "outbox.db-wal", "outbox.db-shm"):
        (folder / f"copy-{name}").write_bytes((folder / name).read_bytes())
    log.close()
    for name in ("outbox.db", "outbox.db-wal", "outbox.db-shm"):
        (folder / f"copy-{name}").rename(folder / name)


@pytest.mark.parametrize("state", ["closed", "crashed"])
def test_nothing_in_the_state_directory_is_made_or_changed(tmp_path, start_web, state):
    folder = tmp_path / "state"
    if state == "closed":
        make_log(folder, hours=0.5)
    else:
        crashed_log(folder)
    before = snapshot(folder)
    web = start_web(folder)
    ask_everything(web)
    if state == "crashed":
        assert now(web)["node"]["dropped_readings"] == 7, "what is in the WAL is seen"
    web.stop()
    assert snapshot(folder) == before


def test_a_crashed_log_whose_index_is_lost_waits_for_its_node(tmp_path, start_web):
    """To read it, somebody would have to make the index anew; the page does not."""
    folder = tmp_path / "state"
    crashed_log(folder)
    (folder / "outbox.db-shm").unlink()
    before = snapshot(folder)
    web = start_web(folder)
    assert "the node creates it again when it starts" in web.get("/").text
    assert snapshot(folder) == before


def test_a_reader_without_that_care_would_leave_files_behind(tmp_path):
    """The control: the same log, opened for reading by SQLite's defaults."""
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    before = snapshot(folder)
    db = sqlite3.connect(f"file:{folder / 'outbox.db'}?mode=ro", uri=True)
    db.execute("SELECT count(*) FROM tick").fetchone()
    assert set(snapshot(folder)) > set(before)
    db.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_user_that_may_only_read_sees_a_log_that_is_written(start_web):
    """In a folder where it could make nothing, with files of another's."""
    with open_folder() as folder:
        state = folder / "state"
        make_log(state, hours=0.5)
        log = OutboxFile(state / "outbox.db")
        for file in state.iterdir():
            file.chmod(0o644)
        drop = as_another_user()
        web = start_web(state, prefix=drop)
        first = now(web)["node"]["last_seq"]
        assert first > 0
        ledger = log.ledger
        [newest] = log.newest_readings(1)
        ledger.last_seq += 1
        one = Reading(
            **{f: getattr(newest, f) for f in newest.__struct_fields__} | {"seq": ledger.last_seq}
        )
        log.commit(Batch([one]), ledger, stream=log.stream, keep_ledger=False)
        wait_until(lambda: now(web)["node"]["last_seq"] == first + 1)
        assert {file.stat().st_uid for file in state.iterdir()} == {0}
        web.stop()
        log.close()
        assert not (state / "outbox.db-wal").exists(), "it did not stay open"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
def test_a_read_only_file_system_is_read(tmp_path, start_web):
    folder = tmp_path / "state"
    crashed_log(folder)
    prefix = (
        *("unshare", "--mount", "bash", "-c"),
        f'mount --bind -o ro "{folder}" "{folder}" && exec "$@"',
        "bash",
    )
    probe = subprocess.run([*prefix, "touch", str(folder / "x")], capture_output=True, check=False)
    if b"Read-only" not in probe.stderr:
        pytest.skip("needs a machine that lets root mount")
    web = start_web(folder, prefix=prefix)
    assert now(web)["node"]["dropped_readings"] == 7


# -- logs in every state


def test_without_a_log_it_waits_for_one(tmp_path, start_web):
    web = start_web(tmp_path / "state")
    page = web.get("/")
    assert page.code == 200
    assert "has the node been started?" in page.text
    assert web.get("/healthz").code == 503
    families = {f.name: f for f in text_string_to_metric_families(web.get("/metrics").text)}
    assert families["sensor_node_up"].samples[0].value == 0
    make_log(tmp_path / "state", hours=0.1)
    wait_until(lambda: len(now(web)["sensors"]) == 2)


def test_a_log_that_is_replaced_is_read_from_its_beginning(tmp_path, start_web):
    folder = tmp_path / "state"
    make_log(folder, sensors=3, hours=0.2)
    web = start_web(folder)
    assert len(now(web)["sensors"]) == 3
    (folder / "outbox.db").rename(folder / "outbox-set-aside-x.db")
    make_log(folder, sensors=1, hours=0.1)
    wait_until(lambda: [s["id"] for s in now(web)["sensors"]] == ["s0"])


def test_another_stream_in_the_same_file_is_followed(tmp_path):
    """The node gives its log another stream when it could not write for a while."""
    make_log(tmp_path / "state", hours=0.1)
    watcher = Watcher(tmp_path / "state", _Hurried())
    before = watcher.look()
    log = OutboxFile(tmp_path / "state" / "outbox.db")
    log.commit(Batch(), log.ledger, stream="another", keep_ledger=True)
    log.close()
    after = watcher.look()
    assert (before.stream, after.stream) == ("5f2c000000000001", "another")
    assert after.ledger.last_seq == before.ledger.last_seq
    assert len(watcher.summary.sensors) == 2


class _Hurried(SystemClock):
    """So that each look looks."""

    def monotonic(self) -> float:
        self._at_s = getattr(self, "_at_s", 0.0) + 2
        return self._at_s


def break_row(folder: Path, which: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "outbox.db", isolation_level=None)) as db:
        db.execute(
            "UPDATE tick SET checksum = checksum + 1 WHERE last_seq IN "
            f"(SELECT last_seq FROM tick ORDER BY last_seq {which})"
        )


def test_readings_before_and_behind_a_damage_are_shown(tmp_path, start_web):
    folder = tmp_path / "state"
    make_log(folder, hours=1)
    break_row(folder, "LIMIT 3 OFFSET 50")
    web = start_web(folder)
    shown = web.get("/api/v1/sensors/s0/history?span=hour").json
    assert sum(b["count"] for b in shown["channels"][0]["buckets"]) in (116, 117, 118)
    assert "a part of the log is damaged and not shown" in web.get("/").text
    # Behind the damage it goes on in growing steps.
    assert 4 * (121 - 6) <= len(web.get("/export.csv").text.splitlines()) <= 1 + 4 * (121 - 3)


@pytest.mark.parametrize("damage", ["newest", "garbage", "empty", "folder"])
def test_a_log_that_cannot_be_read_is_said_so_and_the_page_lives(tmp_path, start_web, damage):
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    web = start_web(folder)
    assert now(web)["node"]["problems"] != []
    file = folder / "outbox.db"
    if damage == "newest":
        break_row(folder, "DESC LIMIT 1")
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(bytes(range(256)) * 40 if damage == "garbage" else b"")
    wait_until(lambda: now(web)["node"]["state"] == "unknown")
    page = web.get("/").text
    assert "cannot be read:" in page
    assert web.get("/healthz").code == 503
    assert {s["state"] for s in now(web)["sensors"]} <= {"unknown"}
    assert web.get("/export.csv").code == 200
    list(text_string_to_metric_families(web.get("/metrics").text))


def test_a_log_of_a_later_version_is_not_guessed_at(tmp_path, start_web):
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    with contextlib.closing(sqlite3.connect(folder / "outbox.db")) as db:
        db.execute("PRAGMA user_version = 99")
        db.commit()
    web = start_web(folder)
    assert "restart the page with the version that the node has" in web.get("/").text


def test_health_of_another_version_costs_only_itself(tmp_path, start_web):
    folder = tmp_path / "state"
    make_log(folder, hours=0.1, health='{"node": 5}')
    with held(folder):
        web = start_web(folder)
        assert now(web)["node"]["state"] == "starting"
        assert [s["state"] for s in now(web)["sensors"]] == ["unknown", "unknown"]


def test_readings_that_get_their_true_time_later_are_drawn_there(tmp_path):
    """The boot of before was an hour in the past when its clock was not set yet."""
    folder = tmp_path / "state"
    make_log(folder, hours=0.01)
    clock = _Hurried()
    watcher = Watcher(folder, clock)
    wrong_ms = round(clock.utc_s() * 1000) - 30 * 86_400_000
    write(folder, "late", 5.0, boot_id="before", utc_ms=wrong_ms, synced=False)
    watcher.look()
    [late] = watcher.summary.sensors["late"].channels.values()
    assert late.buckets.days.between(0, 1 << 62) == [], "a month ago: in no plot"
    boot_ms = watcher.summary.sensors["late"].newest.boot_ms  # type: ignore[union-attr]
    true_ms = round(clock.utc_s() * 1000) - 600_000
    retiming = Retiming(set_at_ms=boot_ms + 1, offset_ms=true_ms - boot_ms)
    write(folder, "other", 1.0, retimings={"before": retiming})
    watcher.look()
    [late] = watcher.summary.sensors["late"].channels.values()
    [found] = late.buckets.hour.between(0, 1 << 62)
    assert abs(found.start_ms - true_ms) <= 15_000
    assert not found.unsynced
    assert watcher.scans == 2
    watcher.look()
    assert watcher.scans == 2, "and no third time"


class _Stepped(_Hurried):
    """A clock that somebody sets; `ahead_s` lets time pass."""

    step_s = 0.0
    ahead_s = 0.0

    def utc_s(self) -> float:
        return super().utc_s() + self.step_s + self.ahead_s

    def boot_s(self) -> float:
        return super().boot_s() + self.ahead_s


@pytest.mark.parametrize("step_s", [-3 * 86_400.0, -7200.0, 0.0])
def test_after_the_clock_was_set_back_new_readings_are_drawn(tmp_path, step_s):
    """A page that was there before has buckets of a time to come; so has the control, of now."""
    folder = tmp_path / "state"
    make_log(folder, hours=0.2, sensors=1, layout=(("temperature",), ("°C",)))
    clock = _Stepped()
    watcher = Watcher(folder, clock)
    watcher.look()
    clock.step_s = step_s
    for _ in range(4):
        clock.ahead_s += 30
        write(folder, "s0", 1.0, utc_ms=round(clock.utc_s() * 1000))
        watcher.look()
    [channel] = watcher.summary.sensors["s0"].channels.values()
    shown = channel.buckets.of(SPANS["hour"], watcher.now_ms())
    assert sum(bucket.low == 1.0 for bucket in shown) == 4
    assert watcher.scans == (2 if step_s else 1), "once for a step, and not again"


def test_a_log_that_is_opened_and_closed_meanwhile_is_read(tmp_path, monkeypatch):
    """Its WAL and the index of it come and go; a look that meets that looks once more."""
    make_log(tmp_path / "state", hours=0.1)
    file = tmp_path / "state" / "outbox.db"
    wal = file.with_name("outbox.db-wal")
    wal.touch()  # and no index: as in the midst of closing
    with pytest.raises(sqlite3.OperationalError):
        _opened_once(file)
    looks = []
    monkeypatch.setattr("node.outbox.reader.time.sleep", lambda _s: wal.unlink(missing_ok=True))
    with open_log(file) as log:
        looks.append(log.ledger.last_seq)
    wal.touch()
    looks.append(look_into(file, lambda log: log.ledger.last_seq))
    assert looks[0] == looks[1] > 0


def test_a_log_that_goes_on_failing_is_given_up_soon(tmp_path, monkeypatch):
    make_log(tmp_path / "state", hours=0.1)
    (tmp_path / "state" / "outbox.db-wal").touch()
    slept_s: list[float] = []
    monkeypatch.setattr("node.outbox.reader.time.sleep", slept_s.append)
    with pytest.raises(sqlite3.OperationalError, match="was not closed properly"):
        look_into(tmp_path / "state" / "outbox.db", lambda log: log.ledger)
    assert sum(slept_s) < 1


def test_the_watchdog_is_fed_while_a_long_log_is_read_anew(tmp_path, monkeypatch):
    """All threads wait for it then: on a Pi Zero it takes longer than the watchdog waits.

    The server does not run: what is fed is fed by the reading, by a clock that is always due.
    """
    folder = tmp_path / "state"
    make_log(folder, sensors=100, hours=12, interval_s=120)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        watcher, service = Watcher(folder, _Hurried()), Service(_Hurried())
        listener = listening_socket("127.0.0.1", 0)
        server = make_server(Application(watcher, Settings()), listener, watcher, service)
        try:
            watcher.look()
            assert fed(systemd) >= 3
            watcher.look()
            assert fed(systemd) == 0, "the control: nothing was read anew"
            (tmp_path / "copy").write_bytes((folder / "outbox.db").read_bytes())
            (tmp_path / "copy").rename(folder / "outbox.db")
            watcher.look()
            assert fed(systemd) >= 3
            assert watcher.scans == 2
        finally:
            server.task_dispatcher.shutdown()
            server.close()


def fed(systemd: socket.socket) -> int:
    """How often the watchdog was fed since it was asked last."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += b"WATCHDOG=1" in systemd.recv(1000)
    return count


def test_rows_that_are_deleted_are_no_trouble(tmp_path, start_web):
    folder = tmp_path / "state"
    ledger = make_log(folder, hours=1)
    web = start_web(folder)
    assert len(now(web)["sensors"]) == 2
    log = OutboxFile(folder / "outbox.db")
    log.purge(ledger.last_seq - 10, log.ledger, stream=log.stream)
    log.close()
    write(folder, "s0", 77.0)
    wait_until(lambda: sensor(web, "s0")["channels"][0]["value"] == 77.0)
    assert len(web.get("/export.csv").text.splitlines()) < 40


# -- what is served


def health_for_two(**more: Any) -> str:
    return health_text({"s0": True, "s1": False}, process=os.getpid(), **more)


@pytest.fixture
def shown(tmp_path: Path, start_web) -> Iterator[WebProcess]:
    """A page over a log of an hour, with a node that runs."""
    folder = tmp_path / "state"
    events = (Event(1_795_550_400_000, "ERROR", "the broker refuses: check username"),)
    make_log(folder, hours=1, health=health_for_two(), events=events)
    with held(folder):
        yield start_web(folder)


def test_the_api_is_as_documented(shown):
    """The examples of node/web/README.md have the keys that the answers have."""
    text = (Path(__file__).parent.parent / "node" / "web" / "README.md").read_text()
    blocks = re.findall(r"`GET (/\S+?)`.*?```json\n(.*?)```", text, re.S)
    assert len(blocks) >= 5
    for path, block in blocks:
        example = json.loads(block)
        answer = shown.get(path.replace("air", "s0")).json
        assert set(example) == set(answer), path
        for key in ("sensors", "channels"):
            if isinstance(example.get(key), list):
                assert set(example[key][0]) == set(answer[key][0]), (path, key)


def test_a_page_beyond_the_last_is_kept_fresh_with_the_values_of_the_last(shown):
    """Sensors may become fewer while somebody looks; page and script go by one rule."""
    assert shown.get("/?page=9").text.count("data-sensor") == 2
    assert len(shown.get("/api/v1/now?page=9").json["sensors"]) == 2


def test_history_has_the_resolution_that_was_asked_for(shown):
    hour = shown.get("/api/v1/sensors/s0/history?span=hour&channel=temperature").json
    assert hour["resolution_s"] == 15
    assert [c["channel"] for c in hour["channels"]] == ["temperature"]
    assert sum(b["count"] for b in hour["channels"][0]["buckets"]) in (119, 120, 121)
    wide = shown.get("/api/v1/sensors/s0/history?span=hour&resolution=600").json
    assert 6 <= len(wide["channels"][0]["buckets"]) <= 7
    for wrong in (
        "span=week",
        "resolution=7",
        "resolution=0",
        "resolution=x",
        "span=day&resolution=60",
    ):
        assert shown.get(f"/api/v1/sensors/s0/history?{wrong}").code == 400, wrong
    assert shown.get("/api/v1/sensors/nobody/history").code == 404
    assert shown.get("/api/v1/sensors/s0/history?channel=x").code == 404


def test_metrics_are_what_prometheus_reads(shown):
    answer = shown.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {f.name: f for f in text_string_to_metric_families(answer.text)}
    assert all(f.documentation and f.type in ("gauge", "counter") for f in families.values())
    assert all(name.startswith("sensor_node_") for name in families)
    found = families["sensor_node_reading"].samples
    assert {(s.labels["sensor"], s.labels["channel"], s.labels["unit"]) for s in found} == {
        ("s0", "temperature", "°C"),
        ("s0", "humidity", "%"),
    }, "s1 is offline: its value is not current"
    assert found[0].value == sensor(shown, "s0")["channels"][0]["value"]
    online = {s.labels["sensor"]: s.value for s in families["sensor_node_sensor_online"].samples}
    assert online == {"s0": 1, "s1": 0}
    assert families["sensor_node_up"].samples[0].value == 1
    assert families["sensor_node_broker_connected"].samples[0].value == 1
    assert families["sensor_node_clock_synced"].samples[0].value == 1
    assert families["sensor_node_simulated"].samples[0].value == 0
    assert families["sensor_node_outbox_readings"].samples[0].value == 0
    assert families["sensor_node_read_failures"].samples[0].name.endswith("_total")


def test_healthz_says_why_not(tmp_path, start_web):
    folder = tmp_path / "state"
    make_log(folder, hours=1, health=health_for_two(), keep=lambda age_s: age_s > 1800)
    with held(folder):
        web = start_web(folder)
        answer = web.get("/healthz")
    assert answer.code == 503
    assert answer.text == ("no sensor has given a reading that was committed for three intervals\n")


@pytest.mark.parametrize(
    ("online", "more", "dot"),
    [
        ({"s0": True, "s1": True}, {}, "running"),
        ({"s0": True, "s1": False}, {}, "sensor-offline"),
        (
            {"s0": True, "s1": True},
            {"connected": False, "broker": "no broker: h refuses"},
            "no-broker",
        ),
    ],
)
def test_the_dot_is_no_better_than_broker_and_sensors(tmp_path, start_web, online, more, dot):
    """It was green without a broker, and beside a sensor that was unplugged."""
    folder = tmp_path / "state"
    make_log(folder, hours=1, health=health_text(online, process=os.getpid(), **more))
    with held(folder):
        text = start_web(folder).get("/").text
    assert f'class="dot-{dot}"' in text
    assert "broker no broker" not in text
    assert "Simulated hardware" not in text
    css = (Path(__file__).parent.parent / "node" / "web" / "static" / "page.css").read_text()
    assert f".dot-{dot}" in css


def test_the_page_of_simulated_hardware_says_so_on_every_page(tmp_path, start_web):
    folder = tmp_path / "state"
    make_log(folder, hours=1, health=health_for_two(simulated=True))
    with held(folder):
        web = start_web(folder)
        for path in ("/", "/sensor/s0"):
            assert "Simulated hardware: no reading here is real." in web.get(path).text
        assert "sensor_node_simulated 1" in web.get("/metrics").text


def test_an_alarm_that_is_on_stands_on_its_sensor_and_in_the_metrics(tmp_path, start_web):
    folder = tmp_path / "state"
    health = json.loads(health_for_two())
    on = {"state": "on", "condition": "above", "limit": 8.0, "unit": "°C", "value": 9.1}
    health["sensors"]["s0"]["alarms"] = {"warm": on, "icy": {"state": "unknown"}}
    health["sensors"]["s1"]["alarms"] = {"silent": {"state": "off"}}
    make_log(folder, hours=1, health=json.dumps(health))
    with held(folder):
        web = start_web(folder)
        for path in ("/", "/sensor/s0"):
            assert web.get(path).text.count("Alarm warm: above 8 °C, 9.1, since ") == 1
        lines = web.get("/metrics").text.splitlines()
        assert [line for line in lines if line.startswith("sensor_node_alarm{")] == [
            'sensor_node_alarm{sensor="s0",alarm="warm"} 1',
            'sensor_node_alarm{sensor="s1",alarm="silent"} 0',
        ]


def test_the_log_as_csv(shown):
    answer = shown.get("/export.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.body.count(b"\r\n") == answer.body.count(b"\n")
    rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert len(rows) == 121 * 2 * 2
    assert [int(row["seq"]) for row in rows] == sorted(int(row["seq"]) for row in rows)
    assert rows[0].keys() == {"seq", "sensor", "time", "clock", "channel", "value", "unit"}
    newest = [row for row in rows if row["sensor"] == "s0" and row["channel"] == "temperature"][-1]
    assert float(newest["value"]) == sensor(shown, "s0")["channels"][0]["value"]
    some = list(csv.DictReader(io.StringIO(shown.get("/export.csv?since=10m&sensor=s1").text)))
    assert {row["sensor"] for row in some} == {"s1"}
    assert 19 * 2 <= len(some) <= 21 * 2
    assert shown.get("/export.csv?since=nonsense").code == 400
    assert shown.get("/export.csv?sensor=nobody").code == 404
    assert shown.get("/export.csv?sensors=s1").code == 400


def test_names_and_messages_cannot_leave_their_place(tmp_path, start_web):
    """A log may hold anything: somebody else's driver, or a disk, has written it."""
    folder = tmp_path / "state"
    health = health_text({"x": True}, process=os.getpid(), node=EVIL, problems=[EVIL], broker=EVIL)
    health = replaced(health, ('"x":', '"<i>=cmd|x":'), ('"last_error":null', '"last_error":"<b>"'))
    events = (Event(0, "ERROR", EVIL),)
    make_log(folder, hours=0.1, sensors=1, layout=((EVIL,), (EVIL,)), health=health, events=events)
    write(folder, EVIL, 1.0)
    write(folder, "=HYPERLINK(1)", 1.0)
    with held(folder):
        web = start_web(folder)
        page = web.get("/").text
        for text in (page, web.get("/sensor/s0").text):
            assert "<script>alert" not in text
            assert "<i>" not in text
            assert "\x1b" not in text
            assert "\u202e" not in text
            assert len(re.findall("<script", text)) == 1
        assert "&lt;script&gt;alert(1)" in page
        assert "'=HYPERLINK(1)" in web.get("/export.csv").text
        list(text_string_to_metric_families(web.get("/metrics").text))
        assert web.get("/api/v1/now").json["node"]["name"] == EVIL


def test_no_answer_has_a_style_or_script_of_its_own_and_all_have_the_headers(shown):
    for path in ("/", "/sensor/s0", "/metrics", "/api/v1/now", "/export.csv", "/healthz", "/x"):
        answer = shown.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    page = shown.get("/").text
    assert not re.search(r"<style| style=| on\w+=|javascript:", page)
    outside = [a for a in re.findall(r'(?:href|src)="([^"]+)"', page) if not a.startswith("/")]
    assert outside == []
    for path in re.findall(r'(?:href|src)="(/page\.[^"]+)"', page):
        assert "immutable" in shown.get(path).headers["cache-control"]


def test_it_can_only_be_read(shown):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"):
        answer = shown.get("/", method)
        assert (answer.code, answer.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/", "/export.csv", "/metrics"):
        head = shown.get(path, "HEAD")
        assert (head.code, head.body) == (200, b"")


@pytest.mark.parametrize("path", ["/../etc/passwd", "/%2e%2e/x", "/sensor/%ff", "/page.css/x"])
def test_there_is_nothing_beside_what_is_served(shown, path):
    assert shown.get(path).code == 404


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("localhost", 200),
        ("localhost:80", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("LOCALHOST.", 200),
        ("evil.example", 421),
        ("evil.example:8080", 421),
        ("localhost.evil.example", 421),
        ("192.168.1.5", 421),
        ("", 421),
        ("[", 421),
        ("a:b:c", 421),
    ],
)
def test_another_name_for_this_computer_is_not_answered_on_loopback(shown, host, code):
    """DNS rebinding: a page of the web that has its own name lead to 127.0.0.1."""
    assert shown.get("/api/v1/now", Host=host).code == code


# -- the configuration


def test_a_password_is_wanted_and_no_answer_has_it(tmp_path, start_web):
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    config = (
        '[node]\nname = "n"\n[mqtt]\nhost = "h"\nusername = "mqtt-user-7"\n'
        'password = "mqtt-secret-7"\n[web]\nenabled = true\npassword = "page-secret-7"\n'
    )
    web = start_web(folder, config=config)
    for path in ("/", "/metrics", "/api/v1/now", "/export.csv", "/page.css", "/healthz"):
        answer = web.get(path)
        assert answer.code == 401
        assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert "WARNING" not in web.log, "on loopback nobody can listen in"
    right = {"Authorization": "Basic " + base64.b64encode(b":page-secret-7").decode()}
    told = b""
    paths = ["/", "/sensor/s0", "/metrics", "/healthz", "/export.csv", "/page.js"]
    paths += ["/api/v1/now", "/api/v1/node", "/api/v1/health", "/api/v1/sensors", "/nothing"]
    for path in paths:
        answer = web.get(path, **right)
        assert answer.code in (200, 404, 503)
        told += answer.body + repr(answer.headers).encode()
    for secret in (b"page-secret-7", b"mqtt-secret-7", b"mqtt-user-7"):
        assert secret not in told
        assert secret.decode() not in web.log
    command = Path(f"/proc/{web.process.pid}/cmdline").read_bytes()
    assert b"secret" not in command


def test_wrong_passwords_are_slowed_down_and_hold_nobody_up(tmp_path, start_web):
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    web = start_web(folder, config='[web]\npassword_file = "page.password"\n', **_secret(tmp_path))
    wrong = {"Authorization": "Basic " + base64.b64encode(b":guess").decode()}
    asked_s, answered_s, answers = [], [], []
    for _ in range(12):
        asked_s.append(time.monotonic())
        answers.append(web.get("/", **wrong))
        answered_s.append(time.monotonic())
    assert [answer.code for answer in answers[:5]] == [401] * 5
    assert {answer.code for answer in answers[5:]} - {401} == {429}
    tried = [number for number, answer in enumerate(answers) if answer.code == 401]
    for times, (before, after) in enumerate(itertools.pairwise(tried[4:])):
        assert answered_s[after] - asked_s[before] >= 2**times, "seconds"
    for refused in answers:
        assert refused.code == 401 or 1 <= int(refused.headers["retry-after"]) <= 60
    # Another address, the same computer.
    request = b"GET /healthz HTTP/1.0\r\nAuthorization: Basic OnNlc2FtZQ==\r\n\r\n"
    import socket

    with socket.create_connection(("127.0.0.1", web.port), PATIENCE_S, ("127.0.0.9", 0)) as other:
        other.sendall(request)
        assert b" 503 " in other.recv(100), "admitted; only the node does not run"


def test_the_right_password_is_never_locked_out(tmp_path, start_web):
    """Behind a proxy, or in one IPv6 network, all addresses are one."""
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    web = start_web(folder, config='[web]\npassword_file = "page.password"\n', **_secret(tmp_path))
    wrong = {"Authorization": "Basic " + base64.b64encode(b":guess").decode()}
    right = {"Authorization": "Basic " + base64.b64encode(b":sesame").decode()}
    answers = [web.get("/", **wrong).code for _ in range(8)]
    assert answers[-1] == 429, "the control: it would have to wait"
    assert web.get("/", **right).code == 200
    assert web.get("/", **wrong).code == 429, "and the guesses are no better off for it"


@pytest.mark.parametrize("mode", [0o644, 0o640])
@pytest.mark.parametrize("place", ["password_file", "password"])
def test_a_password_of_the_page_that_every_user_can_read_is_worth_a_warning(
    tmp_path, start_web, place, mode
):
    from node.config import load as configuration

    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    (tmp_path / "page.password").write_text("sesame\n")
    (tmp_path / "page.password").chmod(mode if place == "password_file" else 0o600)
    value = '"page.password"' if place == "password_file" else '"sesame"'
    config = tmp_path / "n.toml"
    config.write_text(f'[mqtt]\nhost = "h"\n[web]\n{place} = {value}\n')
    config.chmod(mode if place == "password" else 0o600)
    said = "".join(configuration.load(config).notes)
    web = start_web(folder, "--config", str(config))
    assert web.get("/").code == 401
    for each in (said, web.log):
        assert ("can be read by every user: sudo chown" in each) == (mode == 0o644)


def _secret(folder: Path) -> dict[str, Any]:
    (folder / "page.password").write_text("sesame\n")
    return {}


def test_beyond_loopback_it_warns_and_takes_names_of_this_network(tmp_path, start_web):
    """A page of the web that has its own name lead here (DNS rebinding) is not answered."""
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    web = start_web(folder, "--host", "0.0.0.0")
    for host in ("greenhouse.lan", "greenhouse", "greenhouse.local:8080", "192.168.1.5:8080"):
        assert web.get("/healthz", Host=host).code == 503
    for host in ("[fd00::7]:8080", "greenhouse.home.arpa", "LOCALHOST."):
        assert web.get("/healthz", Host=host).code == 503
    for host in ("evil.example", "evil.example:8080", "192.168.1.5.evil.example", "lan.evil.com"):
        answer = web.get("/healthz", Host=host)
        assert answer.code == 421
        assert "open it by its address" in answer.text
    assert web.get("/healthz", Host="a:b:c").code == 421
    assert "everybody on the network can read the page" in web.log, "before it answers anybody"
    web.kill()
    config = '[web]\nhost = "0.0.0.0"\npassword = "p"\n'
    web = start_web(folder, config=config)
    assert web.get("/healthz", Host="sensors.example.org").code == 401
    assert "cross the network unencrypted, without TLS" in web.log


@pytest.mark.parametrize("open_to_all", [True, False])
def test_an_open_page_tells_neither_the_broker_nor_the_login(tmp_path, start_web, open_to_all):
    """Where a password is asked for, or on this computer alone, they help to find what is wrong."""
    folder = tmp_path / "state"
    trouble = 'no broker: 10.11.12.13:1883 refuses the user "mqtt-user-7": wrong password'
    events = (Event(round(SystemClock().utc_s() * 1000), "WARNING", trouble),)
    health = health_text({"s0": True}, process=os.getpid(), broker=trouble, problems=[trouble])
    make_log(folder, hours=0.1, health=health, events=events)
    config = tmp_path / "n.toml"
    config.write_text('[mqtt]\nhost = "10.11.12.13"\nusername = "mqtt-user-7"\n')
    host = "0.0.0.0" if open_to_all else "127.0.0.1"
    with held(folder):
        web = start_web(folder, "--host", host, "--config", str(config))
        paths = ("/", "/metrics", "/api/v1/now", "/api/v1/node", "/api/v1/health", "/export.csv")
        told = "".join(web.get(path).text for path in paths)
    assert "refuses the user" in told
    assert ("mqtt-user-7" in told) is not open_to_all
    assert ("10.11.12.13" in told) is not open_to_all


def in_avahis_place(folder: Path, then: str = "") -> tuple[dict[str, str], Path]:
    """A program that writes down its process and its words, does `then`, and waits.

    The PATH that leads to it, and the file that it writes.
    """
    (folder / "bin").mkdir()
    program = folder / "bin" / "avahi-publish-service"
    told = folder / "told"
    lines = ("#!/bin/sh", f'echo "$$" "$@" >"{told}.new"', f'mv "{told}.new" "{told}"', then)
    program.write_text("\n".join([*lines, "exec sleep 600", ""]))
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}, told


@pytest.mark.parametrize("has_setpriv", [True, False])
def test_avahi_is_asked_to_tell_of_a_page_that_others_can_reach(tmp_path, start_web, has_setpriv):
    """By its own program; with a setpriv that may do nothing, as in the unit, as well."""
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    env, told = in_avahis_place(tmp_path)
    if not has_setpriv:
        (tmp_path / "bin" / "setpriv").write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / "bin" / "setpriv").chmod(0o755)
    config = '[node]\nname = "greenhouse"\n'
    web = start_web(folder, "--host", "0.0.0.0", config=config, env=env)
    wait_until(told.exists)
    process, *words = told.read_text().split()
    assert " ".join(words) == f"-f greenhouse (sensor-node) _http._tcp {web.port} path=/"
    assert web.stop() == 0
    wait_until(lambda: has_ended(int(process)))
    told.unlink()
    web = start_web(folder, config=config, env=env)
    assert web.get("/").code == 200
    assert not told.exists(), "nobody else could open it"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_page_that_is_ended_while_it_starts_leaves_no_announcement(tmp_path, number):
    """By the program in avahi's place: at its first step, when the page hardly knows that it runs.

    What ends a process says nothing of its children: it takes the kernel to end them.
    """
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    path, told = in_avahis_place(tmp_path, f'kill -{number:d} "$PPID"')
    env = {**path, "SENSOR_NODE_CONFIG": "/nonexistent"}
    for _ in range(5):
        command = [SENSOR_NODE, "web", "--state-dir", str(folder), "--host", "0.0.0.0", "--port=0"]
        subprocess.run(command, env={**os.environ, **env}, timeout=PATIENCE_S, check=False)
        process = int(told.read_text().split()[0])
        wait_until(partial(has_ended, process), what="the announcement ends")
        told.unlink()


def test_control_a_child_that_the_kernel_does_not_end_outlives_its_parent():
    """As avahi's did: killed, its parent ends nothing."""
    script = "import subprocess; print(subprocess.Popen(['sleep', '600']).pid, flush=True); input()"
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    try:
        assert not has_ended(child)
    finally:
        os.kill(child, signal.SIGKILL)


def has_ended(process: int) -> bool:
    """Whether it runs no more; as a zombie it still waits for its parent, or for init."""
    try:
        return "State:\tZ" in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return True


def test_the_rest_of_the_configuration_may_be_wrong(tmp_path, start_web):
    """The page is there when it is needed most; and on the last good one, when it is no TOML."""
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    web = start_web(folder, config='[mqtt]\nhots = 1\n[[sensor]]\nid = "s0"\ninterval = "x"\n')
    assert web.get("/").code == 200
    web.kill()
    good = tmp_path / "good.toml"
    good.write_text('[node]\nname = "kept"\n')
    web = start_web(folder, "--last-good", str(good), config="[mqtt\n")
    assert now(web)["node"]["name"] == "kept"


def web_command(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SENSOR_NODE, "web", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "SENSOR_NODE_CONFIG": "/nonexistent", **env},
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[web]\nprot = 1\n", "[web] prot: unknown key; did you mean port?"),
        ("[web]\nport = 0\n", "[web] port:"),
        ('[web]\nhost = "http://x"\n', "[web] host: expected a host name, not a URL"),
        ('[web]\npassword = "a"\npassword_file = "b"\n', "mutually exclusive"),
        ('[web]\npassword_file = "missing"\n', "cannot be read"),
        ('[web]\npassword = ""\n', "[web] password:"),
    ],
)
def test_a_web_table_that_is_wrong_exits_with_78(tmp_path, text, problem):
    file = tmp_path / "node.toml"
    file.write_text(text)
    done = web_command("--config", str(file))
    assert done.returncode == 78
    assert problem in done.stderr


def test_run_is_not_stopped_by_a_password_of_the_page_that_is_missing(tmp_path):
    from node.config import load as configuration

    file = tmp_path / "node.toml"
    file.write_text('[mqtt]\nhost = "h"\n[web]\npassword_file = "missing.txt"\n')
    config = configuration.load(file)
    [note] = [note for note in config.notes if "[web]" in note]
    assert "missing.txt cannot be read" in note
    assert "the status page does not start" in note


def test_is_enabled_tells_the_unit_whether_to_start(tmp_path):
    file = tmp_path / "node.toml"
    for text, code in (("", 1), ("[web]\nenabled = true\n", 0), ("[web]\nenabled = 5\n", 1)):
        file.write_text(text)
        assert web_command("--config", str(file), "--is-enabled").returncode == code
    assert web_command("--is-enabled").returncode == 1


def test_a_port_that_is_taken_is_said_so(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = web_command("--port", port, "--state-dir", str(tmp_path))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in done.stderr


def test_without_waitress_it_says_how_to_get_it(tmp_path):
    program = (
        "import sys\nfrom importlib import util\nutil.find_spec = lambda *_: None\n"
        "from node.cli.main import main\nsys.exit(main(['web', '--state-dir', sys.argv[1]]))\n"
    )
    python = str(Path(SENSOR_NODE).with_name("python"))
    done = subprocess.run(
        [python, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("the status page needs waitress: ")
    assert "pip install 'waitress<" in done.stderr


def test_run_imports_nothing_of_the_page():
    """The control is the page itself: it imports each of them."""
    program = (
        "import sys\nimport node.commands.run\n"
        "found = lambda: {m.split('.')[-1] if m.startswith('node.') else m for m in sys.modules\n"
        "    if m.startswith(('node.web.', 'waitress', 'html'))}\n"
        "print(found())\nimport waitress, node.web.application\n"
        "print({'application', 'waitress', 'html'} <= found())"
    )
    python = str(Path(SENSOR_NODE).with_name("python"))
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", "True"]


# -- plot


def plot(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SENSOR_NODE, "plot", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "TZ": "CET-1CEST,M3.5.0,M10.5.0/3"},  # it takes no tzdata
    )


def test_plot_draws_a_sensor_into_a_file_or_to_standard_output(tmp_path):
    import xml.etree.ElementTree as ET

    folder = tmp_path / "state"
    make_log(folder, hours=3, keep=lambda age_s: not 3000 < age_s < 6000)
    before = snapshot(folder)
    file = tmp_path / "air.svg"
    done = plot("s0", "--since", "2h", "-o", str(file), "--state-dir", str(folder))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = file.read_text()
    assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert len(re.findall('class="line"', text)) == 2, "a gap"
    assert "s0 temperature, °C, since" in text
    assert "CET" in text or "CEST" in text
    done = plot("s0", "--channel", "humidity", "-o", "-", "--state-dir", str(folder))
    assert "s0 humidity, %" in done.stdout
    assert snapshot(folder) == before


def test_plot_is_utf_8_whatever_the_terminal_is(tmp_path):
    make_log(tmp_path / "state", hours=0.1)
    done = subprocess.run(
        [SENSOR_NODE, "plot", "s0", "-o", "-", "--state-dir", str(tmp_path / "state")],
        capture_output=True,
        timeout=30,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert "s0 temperature, °C" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("output", ["file", "standard output"])
def test_plot_leaves_the_file_that_was_there_when_the_disk_is_full(tmp_path, output):
    """A limit to the size of files stands for the disk; the control has none."""
    make_log(tmp_path / "state", hours=0.1)
    folder = tmp_path / "plots"
    folder.mkdir()
    file = folder / "air.svg"
    file.write_text("old")
    file.chmod(0o600)

    def run(limit: str) -> subprocess.CompletedProcess[str]:
        target = "-" if output == "standard output" else str(file)
        redirect = "> /dev/full" if target == "-" and limit == "1" else ">> /dev/null"
        script = (
            f'trap "" XFSZ; ulimit -f {limit}; "$0" plot s0 -o "$1" --state-dir "$2" {redirect}'
        )
        command = ["bash", "-c", script, SENSOR_NODE, target, str(tmp_path / "state")]
        # Else Python would leave the first kilobyte of a module's bytecode, for all that follow.
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, env=env
        )

    done = run("1")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == "old"
    assert list(folder.iterdir()) == [file]
    assert run("unlimited").returncode == 0
    if output == "file":
        assert file.read_text().startswith("<?xml")
        assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["nobody", "-o", "-"],
            1,
            "no reading of nobody in this time; sensors with readings: s0, s1",
        ),
        (["s0", "--channel", "x", "-o", "-"], 1, "s0 has no channel x: humidity, temperature"),
        (["s0", "--since", "soon", "-o", "-"], 2, "expected a duration"),
        (["s0", "--since", "2999-01-01", "-o", "-"], 2, "not in the past"),
        (["s0", "-o", "/nonexistent/x.svg"], 1, "cannot be written: No such file"),
        (["s0", "-o", "t.png"], 2, "t.png: plot writes SVG; end the name in .svg"),
        (["s0", "-o", "T.PDF"], 2, "plot writes SVG"),
        (["s0"], 2, "--output"),
    ],
)
def test_plot_says_what_is_wrong(tmp_path, arguments, code, said):
    folder = tmp_path / "state"
    make_log(folder, hours=0.1)
    done = plot(*arguments, "--state-dir", str(folder))
    assert done.returncode == code
    assert said in done.stderr
