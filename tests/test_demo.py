"""`sensor-node demo`: a node, a broker and a view, from nothing, and nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE_S, SENSOR_NODE, FakeClock, end, output_until, wait_until
from terminal import Terminal

from node import demo_broker
from node.commands.demo import _Lesson

pytestmark = pytest.mark.real_time

SENSORS = {"air", "water", "box", "probe", "cpu"}


def children(pid: int) -> dict[int, str]:
    """Process id -> command line."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(word): Path(f"/proc/{word}/cmdline").read_text() for word in text.split()}


@contextlib.contextmanager
def demo(**options: Any) -> Iterator[subprocess.Popen[str]]:
    """A demo that shows readings, ended whatever happens."""
    command = [SENSOR_NODE, "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "sensors/demo/" in line:
                    break
            else:
                raise AssertionError(f"no reading; exit code {process.wait(PATIENCE_S)}")
            yield process
        finally:
            end(process)


def test_there_are_readings_of_every_sensor_and_all_is_well():
    def all_states(out: str) -> bool:
        topics = {json.loads(line)["topic"] for line in out.splitlines()}
        return topics >= {f"sensors/demo/{sensor}/state" for sensor in SENSORS}

    out, said = output_until([SENSOR_NODE, "demo", "--json"], all_states)
    messages = [json.loads(line) for line in out.splitlines()]
    states = {m["topic"].split("/")[2] for m in messages if m["topic"].endswith("/state")}
    assert states == SENSORS
    statuses = [m["payload"] for m in messages if m["topic"].endswith("/status")]
    assert statuses[0] == "online"
    assert said == ""


def test_it_has_more_kinds_of_sensors_when_asked_to():
    """Both devices of the simulated RS-485 line, and all channels of each."""
    wanted = {
        "barn": {"temperature", "humidity"},
        "silo": {"temperature_1", "temperature_2"},
        "fridge": {"temperature", "humidity", "battery", "rssi"},
        "garden": {"temperature", "humidity", "pressure"},
    }

    def states(out: str) -> dict[str, set[str]]:
        messages = [json.loads(line) for line in out.splitlines()]
        return {
            m["topic"].split("/")[2]: wanted.get(m["topic"].split("/")[2], set()) & {*m["payload"]}
            for m in messages
            if m["topic"].endswith("/state")
        }

    out, _ = output_until(
        [SENSOR_NODE, "demo", "--json", "--with", "modbus,ble"],
        lambda out: wanted.items() <= states(out).items(),
    )
    assert wanted.items() <= states(out).items()


def test_a_kind_that_it_does_not_have_is_named():
    command = [SENSOR_NODE, "demo", "--with", "modbus,zigbee"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert '"zigbee" is none of modbus' in done.stderr


def test_it_ends_by_itself_after_so_many_seconds():
    command = [SENSOR_NODE, "demo", "--seconds", "1", "--json"]
    subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE_S)


def test_without_a_terminal_it_prints_lines():
    wanted = "sensors/demo/box/state temperature"
    out, _ = output_until([SENSOR_NODE, "demo"], lambda out: wanted in out)
    assert "\x1b" not in out


def test_it_serves_the_status_page_of_its_node_and_says_where():
    """Without waitress it says how to get the page, and goes on."""
    process = subprocess.Popen([SENSOR_NODE, "demo"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("page: ").strip()

        def sensors() -> set[str]:
            with urllib.request.urlopen(f"{address}api/v1/now", timeout=20) as answer:
                now = json.load(answer)
            return {s["id"] for s in now["sensors"] if s["state"] == "online"}

        wait_until(lambda: sensors() == SENSORS)
    finally:
        process.terminate()
        process.communicate(timeout=20)
    out, _ = output_until(
        [sys.executable, "-c", WITHOUT_WAITRESS.replace("DEMO", "'demo'")],
        lambda out: "sensors/demo/box/state temperature" in out,
    )
    assert re.match(r"no status page without .*pip install 'waitress[^']*'", out)


WITHOUT_WAITRESS = """
import sys
sys.modules["waitress"] = None
from importlib import util
found = util.find_spec
util.find_spec = lambda name, *more: None if name == "waitress" else found(name, *more)
from node.cli.main import main
sys.exit(main([DEMO]))
"""

WITHOUT_MOSQUITTO = """
import sys
from node import demo_broker as embedded_broker
assert embedded_broker.find_mosquitto()
asked = []
embedded_broker.find_mosquitto = lambda: asked.append("there is none")
from node.cli.main import main
code = main(["demo", "--json"])
assert asked
sys.exit(code)
"""


def test_without_mosquitto_amqtt_takes_its_place():
    wanted = {f"sensors/demo/{sensor}/state" for sensor in SENSORS}
    output_until(
        [sys.executable, "-c", WITHOUT_MOSQUITTO],
        lambda out: {json.loads(line)["topic"] for line in out.splitlines()} >= wanted,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_at_once_and_leaves_nothing_behind(tmp_path, number):
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with demo(env=env) as process:
        started = children(process.pid)
        assert len(started) == 3, "a broker, a status page and a node"
        began_s = time.monotonic()
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
        assert time.monotonic() - began_s < 2
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_killed_takes_its_programs_with_it(tmp_path):
    """The broker, the node and the page; what they were started with tells them from others."""

    def programs() -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(tmp_path).encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().split(b"\0")[0].decode())
        return [Path(name).name for name in found if name]

    with demo(env={**os.environ, "TMPDIR": str(tmp_path)}) as process:
        assert len(programs()) == 4
        assert "mosquitto" in programs()
        process.kill()
    wait_until(lambda: not programs(), what="they have ended")


def test_a_node_that_dies_ends_the_demo_and_shows_its_log():
    with demo(stderr=subprocess.PIPE) as process:
        (node,) = (pid for pid, line in children(process.pid).items() if "\0run\0" in line)
        os.kill(node, signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
    assert "connected to" in errors


def test_in_a_terminal_it_draws_a_table_of_80_columns():
    """It is drawn over itself; at the end the last one stays below what was there."""
    shown = Terminal(SENSOR_NODE, "demo", before="$ what was there\r\n")
    try:
        before = shown.state_before
        wait_until(
            lambda: shown.line("demo/box", "temperature", "°C").split()[-2:] == ["online", "1s"]
        )
        shown.wait_for("demo/water", "temperature", "▁")
        shown.wait_for("(Ctrl-C ends)")
        assert shown.emulator.scrolled == 0
        shown.type("\x03")
        assert shown.wait() == 0
        assert shown.state == before
        assert shown.screen[0] == "$ what was there"
        assert shown.line("demo/box", "temperature")
    finally:
        shown.close()


@pytest.mark.parametrize("with_mosquitto", [True, False])
def test_the_lesson_takes_the_broker_away_and_brings_it_back(tmp_path, monkeypatch, with_mosquitto):
    """Either broker; every step once, in its order, with one sentence at a time."""
    if not with_mosquitto:
        monkeypatch.setattr(demo_broker, "find_mosquitto", lambda: None)
    clock = FakeClock()
    with demo_broker.embedded_broker(tmp_path) as broker:
        lesson = _Lesson(broker, clock.monotonic)
        seen = []
        for _ in range(70):
            remark = lesson.remark()
            if remark not in seen:
                seen.append(remark)
            assert _listens(broker.port) == ("been stopped" not in remark)
            clock.sleep(1.0)
        assert _listens(broker.port)
    assert not _listens(broker.port)
    words = ("another terminal", "unplugged", "again", "been stopped", "is back", "was all")
    assert len(seen) == len(words)
    assert all(word in remark for word, remark in zip(words, seen, strict=True))
    assert f"--port {broker.port}" in seen[0]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


@pytest.mark.real_time(seconds=20)
def test_the_demo_unplugs_a_sensor_and_says_so():
    wanted = "sensors/demo/water/availability offline"
    out, _ = output_until(
        [SENSOR_NODE, "demo"],
        lambda out: wanted in out.partition('-- "water" has been unplugged')[2],
    )
    assert out.count("-- From another terminal: ") == 1
