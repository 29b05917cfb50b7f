"""`sensor-node watch`: real nodes at a real broker, seen in a real pseudo-terminal or a pipe."""

from __future__ import annotations

import base64
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.publish import single
from ports import free_port
from support import (
    PATIENCE_S,
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    Proxy,
    replaced,
    sysfs_config,
    wait_until,
)
from terminal import Terminal

from node.system.clock import utc_text

NODES = ("attic", "cellar", "greenhouse")


def start(
    folder: Path, port: int, name: str, *, interval: str = "0.5s", sensor: str = "tank"
) -> NodeProcess:
    """A node with one sensor, a file of the kernel's."""
    folder.mkdir(exist_ok=True)
    file = folder / "temp1_input"
    file.write_text("21500\n")
    mqtt_table = '[outbox]\nhistory_interval = "1s"\n'
    config = sysfs_config(port, {sensor: file}, interval=interval, mqtt=mqtt_table)
    return NodeProcess(folder, replaced(config, ('name = "test"', f'name = "{name}"')))


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Iterator[Mosquitto]:
    """A broker with three nodes."""
    folder = tmp_path_factory.mktemp("house")
    broker = Mosquitto(folder).start()
    nodes = [start(folder / name, broker.port, name) for name in NODES]
    yield broker
    for node in nodes:
        node.kill()
    broker.stop()


def watch(port: int, *arguments: str) -> list[str]:
    return [SENSOR_NODE, "watch", "--host", "127.0.0.1", "--port", str(port), *arguments]


def piped(port: int, *arguments: str, lines: int) -> subprocess.CompletedProcess[str]:
    """What it prints into a pipe until it has printed so many lines."""
    command = watch(port, *arguments, "--seconds", "20")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        printed = "".join(process.stdout.readline() for _ in range(lines))
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=10)
    return subprocess.CompletedProcess(command, process.returncode, printed + rest, errors)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*command: str, **options: Any) -> Terminal:
        made.append(Terminal(*command, before="$ what was there\r\n", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def publish(port: int, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
    single(topic, payload, 1, retain, hostname="127.0.0.1", port=port)


# -- the table


def test_three_nodes_are_shown_at_80_by_24(house, terminal):
    """Sorted, whole, with age, status, rate and trend; and units from discovery."""
    component = {"stat_t": "~/state", "unit_of_meas": "°C", "val_tpl": "{{value_json.temperature}}"}
    for node in NODES:
        config = {"~": f"sensors/{node}/tank", "cmps": {"t": component, "odd": []}}
        publish(house.port, f"homeassistant/device/{node}/config", json.dumps(config), retain=True)
    publish(house.port, "homeassistant/device/odd/config", b"\xff{", retain=True)
    shown = terminal(*watch(house.port))
    for node in NODES:
        shown.wait_for(f"{node}/tank", "temperature", "21.5 °C", "online", "0.5s", "▁▁▁")
    lines = shown.screen
    assert lines[0].startswith(f"sensors/+/# at 127.0.0.1:{house.port}  connected, MQTT 5")
    assert lines[1].split() == ["SENSOR", "CHANNEL", "VALUE", "TREND", "AGE", "STATUS", "EVERY"]
    assert [line.split("/")[0] for line in lines[2:5]] == sorted(NODES)
    assert not any(lines[5:])
    assert "…" not in shown.text
    wait_until(lambda: {line.split()[-3] for line in shown.screen[2:5]} <= {"0s", "1s"})
    assert shown.emulator.scrolled == 0
    assert "homeassistant" not in shown.text


def test_the_table_follows_the_size_of_the_window(house, terminal):
    shown = terminal(*watch(house.port))
    shown.wait_for("greenhouse/tank", "21.5")
    shown.resize(40, 24)
    wait_until(lambda: shown.line("ank", "tem", "21.5").endswith(" online"))
    assert not shown.line("TREND")
    shown.resize(200, 24)
    shown.wait_for("TREND", "EVERY")
    shown.resize(80, 4)
    shown.wait_for("... 2 more rows than this window has room for")
    assert len(shown.screen) == 4
    shown.resize(80, 24)
    shown.wait_until_gone("more rows")
    shown.wait_for("greenhouse/tank", "21.5")
    assert shown.emulator.scrolled == 0


def test_nodes_appear_stop_and_vanish(broker, tmp_path, terminal):
    shown = terminal(*watch(broker.port))
    shown.wait_for("connected, MQTT 5; waiting for the first message on sensors/+/#")
    first = start(tmp_path / "first", broker.port, "first")
    shown.wait_for("first/tank", "21.5", "online")
    second = start(tmp_path / "second", broker.port, "second")
    shown.wait_for("second/tank", "21.5", "online")
    second.kill()
    shown.wait_for("second/tank", "21.5", "node offline")

    def age_s() -> int:
        match = re.search(r" (\d+)s +node offline", shown.line("second/tank", "21.5"))
        return int(match[1]) if match else 0

    first_s = age_s()
    wait_until(lambda: age_s() >= max(first_s, 1) + 1, what="it grows older")
    for topic in ("status", "health", "tank/availability", "tank/state"):
        publish(broker.port, f"sensors/second/{topic}", "", retain=True)
    shown.wait_until_gone("second")
    first.terminate()
    shown.wait_for("first/tank", "node offline")


def test_topics_of_others_are_shown_with_their_numbers(broker, terminal):
    payloads = {
        "zigbee2mqtt/kitchen": '{"temperature":21.5,"update":{"state":"idle"}}',
        "zigbee2mqtt/plain": "7",
        "zigbee2mqtt/bridge/state": "online",
        "sensors/a/b/state": '{"t":1}',
    }
    for topic, payload in payloads.items():
        publish(broker.port, topic, payload, retain=True)
    shown = terminal(*watch(broker.port, "--topic", "zigbee2mqtt/#"))
    shown.wait_for("TOPIC", "CHANNEL", "VALUE")
    shown.wait_for("zigbee2mqtt/kitchen", "temperature", "21.5")
    shown.wait_for("zigbee2mqtt/plain", " 7 ")
    shown.wait_for("zigbee2mqtt/bridge/state", "online")
    assert "sensors/a" not in shown.text


def test_a_reading_from_the_future_is_no_reading_of_now(broker, terminal):
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    payload = f'{{"temperature":1,"time":"{later}","clock":"synced","seq":1}}'
    publish(broker.port, "sensors/n/air/state", payload, retain=True)
    shown = terminal(*watch(broker.port))
    shown.wait_for("n/air", "temperature", "in ")
    shown.wait_for("Some readings are from the future, by up to")


# -- the link


def test_it_says_why_there_is_no_broker_and_connects_when_there_is_one(tmp_path, terminal):
    port = free_port()
    shown = terminal(*watch(port))
    shown.wait_for("no broker: ", "refuses the connection")
    broker = Mosquitto(tmp_path, port=port).start()
    try:
        publish(port, "sensors/n/air/state", '{"temperature":1.5}', retain=True)
        shown.wait_for("connected, MQTT 5")
        shown.wait_for("n/air", "1.5")
    finally:
        broker.stop()
    assert shown.emulator.scrolled == 0


def test_without_a_link_nothing_is_current_and_it_reconnects(house, terminal):
    proxy = Proxy(house.port)
    shown = terminal(*watch(proxy.port))
    try:
        shown.wait_for("attic/tank", "online")
        # How old a retained value is, nobody knows where the clock is not set.
        wait_until(lambda: shown.line("attic/tank").split()[-3] != "?", what="a new value")
        proxy.cut()
        shown.wait_for("no broker: ")
        wait_until(lambda: "the rows below are older" in " ".join(shown.text.split()))
        shown.wait_for("attic/tank", "21.5", "no link")

        def age_s() -> int:
            return int(shown.line("attic/tank").split()[-3].removesuffix("s"))

        first_s = age_s()
        wait_until(lambda: age_s() > max(first_s, 1), what="it grows older")
        assert not shown.line("online")
        proxy.mend()
        shown.wait_for("attic/tank", "21.5", "online")
        shown.wait_until_gone("no broker")
        assert shown.emulator.scrolled == 0
    finally:
        proxy.close()


# -- the terminal is left as it was


def ended(shown: Terminal, port: int, before: dict[str, object]) -> None:
    """The terminal is as before, what was there is there, and below it the last table."""
    assert shown.state == before
    lines = shown.screen
    assert lines[0] == "$ what was there"
    assert lines[1].startswith(f"sensors/+/# at 127.0.0.1:{port}")
    assert lines[2].startswith("SENSOR")
    assert lines[3].startswith("attic/tank")
    assert not any(lines[6:])
    assert shown.emulator.cursor.y == 6


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGHUP", "SIGQUIT", "--seconds"])
def test_however_it_ends_the_terminal_is_as_before(house, terminal, how):
    more = ["--seconds", "8"] if how == "--seconds" else []
    shown = terminal(*watch(house.port, *more))
    before = shown.state_before
    for node in NODES:
        shown.wait_for(f"{node}/tank", "online")
    assert shown.state != before
    assert not shown.line("what was there")
    if how == "Ctrl-C":
        shown.type("typed by mistake\x03")
    elif not more:
        shown.send_signal(getattr(signal, how))
    assert shown.wait() == 0
    assert "typed by mistake" not in shown.text
    ended(shown, house.port, before)


def test_a_view_that_is_killed_leaves_traces(house, terminal):
    """The control of the tests above: what they would see."""
    shown = terminal(*watch(house.port))
    before = shown.state_before
    shown.wait_for("greenhouse/tank", "online")
    shown.send_signal(signal.SIGKILL)
    shown.wait()
    after = shown.state
    traces = {name for name in before if before[name] != after[name]}
    assert traces >= {"attributes", "cursor hidden", "modes", "alternate"}


ENDS_BADLY = """
import os, sys
from node.config.schema import HostName, MqttTable
from node.watch.session import watch
def go_on():
    print("a line for standard error", file=sys.stderr)
    return not os.path.exists(sys.argv[2]) or 1 / 0
watch(MqttTable(host=HostName("127.0.0.1"), port=int(sys.argv[1])), go_on=go_on)
"""


def test_after_an_exception_the_terminal_is_as_before_and_shows_it(house, terminal, tmp_path):
    now = tmp_path / "now"
    shown = terminal(sys.executable, "-c", ENDS_BADLY, str(house.port), str(now))
    before = shown.state_before
    shown.wait_for("greenhouse/tank", "online")
    assert not shown.line("a line for standard error")
    now.touch()
    assert shown.wait() == 1
    assert shown.state == before
    assert shown.line("ZeroDivisionError")
    assert b"a line for standard error" in shown.written


def test_a_terminal_that_is_closed_ends_it(house, terminal):
    shown = terminal(*watch(house.port))
    shown.wait_for("greenhouse/tank", "online")
    shown.hang_up()
    assert shown.process.wait(PATIENCE_S) == 0


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(house, terminal, tmp_path):
    """With a shell's job control; the shell's terminal is the same before, within and after."""
    bash = ("bash", "--norc", "--noprofile", "-i")
    shown = terminal(*bash, PS1="$ ", HISTFILE="", LANGUAGE="en")  # it says "Stopped"
    shown.wait_for("$")
    shown.type(
        f"cd {shlex.quote(str(tmp_path))}; stty -a > before; "
        + shlex.join(watch(house.port))
        + "\n"
    )
    shown.wait_for("greenhouse/tank", "online")
    assert shown.emulator.alternate
    shown.type("\x1a")
    shown.wait_for("Stopped")
    assert not shown.emulator.alternate
    assert not shown.emulator.cursor.hidden
    assert not shown.line("greenhouse/tank")
    assert shown.line("what was there")
    # It has no business on the terminal then: the kernel stops it when it wants to draw.
    shown.type("bg; until jobs -s | grep -q watch; do sleep 0.1; done; echo stopped 'again'\n")
    shown.wait_for("stopped again")
    assert not shown.emulator.alternate
    shown.type("fg\n")
    shown.wait_for("greenhouse/tank", "online")
    assert shown.emulator.alternate
    shown.type("\x03")
    shown.wait_for("SENSOR")
    wait_until(lambda: not shown.emulator.alternate)
    shown.type("clear; stty -a | cmp - before && echo the 'same'\n")
    shown.wait_for("the same")
    assert not shown.emulator.cursor.hidden


# -- whatever is published


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe\x00\x08\r\n"


@pytest.fixture
def hostile(broker: Mosquitto) -> Mosquitto:
    publish(broker.port, "sensors/evil/air/state", HOSTILE, retain=True)
    publish(broker.port, "sensors/evil/air/availability", HOSTILE, retain=True)
    publish(broker.port, "sensors/evil/air/co2", b"\xff\xfe\x00", retain=True)
    publish(
        broker.port, "sensors/evil/air/text", json.dumps(HOSTILE, ensure_ascii=False), retain=True
    )
    config = {"cmps": {"x": {"stat_t": "sensors/evil/air/t", "unit_of_meas": HOSTILE}}}
    publish(broker.port, "homeassistant/device/evil/config", json.dumps(config), retain=True)
    publish(broker.port, "sensors/evil/air/t", "1", retain=True)
    past = {"seq": 1, "sensor": HOSTILE, "time": HOSTILE, "clock": "synced", HOSTILE: 1}
    batch = json.dumps({"stream": HOSTILE, "readings": [past]})
    publish(broker.port, "sensors/evil/history", batch, retain=True)
    return broker


def test_no_payload_commands_the_terminal(hostile, terminal):
    shown = terminal(*watch(hostile.port, "--history"))
    before = shown.state_before
    shown.wait_for("evil/air/state", r"\x1b]0;owned\x07\x1b[2J")
    shown.wait_for("evil/air/co2", "3 bytes, not UTF-8: ff fe 00")
    shown.wait_for("evil", "seq 1", r"\x1b]0;owned")
    assert shown.emulator.title == ""
    assert shown.emulator.scrolled == 0
    shown.type("\x03")
    assert shown.wait() == 0
    assert shown.state == before
    for command in (b"\x1b]", b"\x1b[2J\xc2", "\x9b".encode(), "\u202e".encode(), b"\x07", b"\0"):
        assert command not in shown.written


@pytest.mark.parametrize("how", [[], ["--history"], ["--json"], ["--json", "--history"]])
def test_no_payload_commands_the_terminal_from_a_line(hostile, how):
    """Lines may be looked at in a terminal too."""
    done = piped(hostile.port, *how, lines=6)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 6
    assert all(line.isprintable() for line in done.stdout.splitlines())
    if "--json" in how:
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        payloads = {line["topic"]: line.get("payload") for line in lines}
        assert payloads["sensors/evil/air/state"] == HOSTILE
        assert payloads["sensors/evil/air/text"] == HOSTILE
    else:
        assert "sensors/evil/air/co2 3 bytes, not UTF-8: ff fe 00" in done.stdout


def test_a_flood_leaves_the_view_usable_and_the_memory_bounded(broker, terminal):
    """10,000 messages as fast as they go, of 2,500 topics, and some of a megabyte."""
    publish(broker.port, "flood/0000", "the first", retain=True)
    shown = terminal(*watch(broker.port, "--topic", "flood/#"))
    shown.wait_for("flood/0000", "the first")
    status = Path(f"/proc/{shown.process.pid}/status")
    drawn, began_s = shown.written.count(b"\x1b[1;1H"), time.monotonic()
    flood = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    flood.connect("127.0.0.1", broker.port)
    flood.loop_start()
    for number in range(10_000):
        flood.publish(f"flood/{number % 2500:04}", number)
    for _ in range(30):
        flood.publish("flood/big", b"x" * 1_000_000)
    flood.publish("flood/0000", "the last", qos=1).wait_for_publish(60)
    flood.disconnect()
    flood.loop_stop()
    shown.wait_for("flood/0000", "the last", seconds=60)
    shown.wait_for("There are more topics than are kept")
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 120_000, "kB; the megabytes alone would be 30,000"
    drawn = shown.written.count(b"\x1b[1;1H") - drawn
    assert drawn <= (time.monotonic() - began_s) / 0.5 + 3
    shown.type("\x03")
    assert shown.wait() == 0


# -- lines of JSON


def test_json_has_the_same_keys_for_every_message(broker):
    payloads: dict[str, str | bytes] = {
        "sensors/n/status": "online",
        "sensors/n/air/state": '{\n "t": 21.50,\r\n "big": 123456789012345678901234567890}',
        "sensors/n/air/plain": "21.50",
        "sensors/n/odd": b"\xff\xfe\x00",
        "sensors/n/deep": "[" * 300 + "]" * 300,
        "other/topic": '"a text"',
    }
    for topic, payload in payloads.items():
        publish(broker.port, topic, payload, retain=True)
    done = piped(broker.port, "+", "--topic", "other/#", "--json", lines=6)
    assert done.returncode == 0
    lines = {line["topic"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert lines.keys() == payloads.keys()
    keys = {"time", "topic", "node", "sensor", "retained", "utf8", "payload"}
    assert all(line.keys() == keys for line in lines.values())
    assert all(line["retained"] for line in lines.values())
    told = {topic: (x["node"], x["sensor"], x["utf8"]) for topic, x in lines.items()}
    assert told == {
        "sensors/n/status": ("n", None, True),
        "sensors/n/air/state": ("n", "air", True),
        "sensors/n/air/plain": ("n", "air", True),
        "sensors/n/odd": ("n", None, False),
        "sensors/n/deep": ("n", None, True),
        "other/topic": (None, None, True),
    }
    assert lines["sensors/n/status"]["payload"] == "online"
    assert lines["sensors/n/air/state"]["payload"]["big"] == 123456789012345678901234567890
    assert '"payload":21.50}' in done.stdout, "a number as it was written"
    assert base64.b64decode(lines["sensors/n/odd"]["payload"]["base64"]) == b"\xff\xfe\x00"
    assert isinstance(lines["sensors/n/deep"]["payload"], str), "jq goes no deeper than 256"


def test_nodes_are_chosen_by_name_and_by_wildcard(house):
    def nodes(*arguments: str) -> set[str]:
        done = piped(house.port, *arguments, "--json", lines=16)
        assert done.returncode == 0
        return {json.loads(line)["node"] for line in done.stdout.splitlines()}

    assert nodes("attic", "cellar") == {"attic", "cellar"}
    assert nodes("+", "--topic", "sensors/greenhouse/+/state") == set(NODES)


def test_overlapping_filters_show_a_message_once(broker):
    publish(broker.port, "sensors/n/air/state", "1", retain=True)
    with subprocess.Popen(
        watch(broker.port, "n", "+", "--topic", "sensors/#", "--json"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            topics = [json.loads(process.stdout.readline())["topic"]]
            for topic in ("sensors/n/water/state", "sensors/n/end"):
                publish(broker.port, topic, "1")
            while topics[-1] != "sensors/n/end":
                topics.append(json.loads(process.stdout.readline())["topic"])
        finally:
            process.kill()
    assert topics == ["sensors/n/air/state", "sensors/n/water/state", "sensors/n/end"]


def test_when_nobody_reads_on_it_ends_quietly_and_at_once(broker):
    """Though no message comes that it could notice it by: `watch | head -1`."""
    publish(broker.port, "sensors/n/air/state", "1", retain=True)
    pipe = subprocess.PIPE
    with subprocess.Popen(watch(broker.port, "--json"), stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert json.loads(process.stdout.readline())["payload"] == 1
            process.stdout.close()
            assert process.wait(5) == 0
            assert process.stderr.read() == b""
        finally:
            process.kill()


def test_a_full_disk_is_told_in_a_line(house):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            watch(house.port, "--json"), stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "the output cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


# -- history


def test_a_backlog_is_shown_as_it_arrives_after_an_outage(broker, tmp_path):
    """Nothing is missing, nothing comes twice unsaid, though the node was cut off for a while."""
    proxy = Proxy(broker.port)
    node = start(tmp_path / "n", proxy.port, "n", interval="0.1s")
    command = watch(broker.port, "--json", "--history")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        try:
            readings: list[dict[str, Any]] = []
            backlog: list[dict[str, Any]] = []
            mended_s = 0.0
            for line in map(json.loads, watching.stdout):
                if "seq" not in line:
                    continue
                readings.append(line)
                if len(readings) == 5:
                    proxy.cut()
                    time.sleep(1.2)  # an outage lasts
                    proxy.mend()
                    mended_s = time.time()
                if mended_s and line["received"] > utc(mended_s):
                    backlog.append(line)
                if len(backlog) >= 12:
                    break
        finally:
            node.kill()
            proxy.close()
            watching.kill()
    news = [reading for reading in readings if not reading["again"]]
    assert [r["seq"] for r in news] == list(range(news[0]["seq"], news[0]["seq"] + len(news)))
    assert not any(reading["missing"] for reading in readings)
    first = readings[0]
    assert first.keys() == {
        *("time", "topic", "node", "sensor", "retained", "stream", "seq", "clock", "values"),
        *("again", "missing", "received"),
    }
    assert (first["node"], first["sensor"], first["values"]) == ("n", "tank", {"temperature": 21.5})
    assert len({reading["stream"] for reading in readings}) == 1
    assert backlog[0]["time"] < utc(mended_s - 0.5), "taken in the outage, sent after it"


def utc(seconds: float) -> str:
    return utc_text(round(seconds * 1000))


def past(*numbers: int, stream: str = "one") -> str:
    readings = [
        {"seq": n, "sensor": "air", "time": "2026-11-24T03:13:00.000Z", "clock": "synced", "t": n}
        for n in numbers
    ]
    return json.dumps({"stream": stream, "readings": readings})


def test_gaps_and_duplicates_stay_on_the_screen(broker, terminal):
    publish(broker.port, "sensors/n/history", past(1, 2, 3), retain=True)  # or it comes too soon
    shown = terminal(*watch(broker.port, "--history"))
    shown.wait_for("HISTORY  3 readings")
    shown.wait_for("n  seq 3  air  2026-11-24 03:13:00  t 3")
    publish(broker.port, "sensors/n/history", past(3, 7))
    shown.wait_for("HISTORY  5 readings, 1 duplicate, 3 missing")
    shown.wait_for("seq 4 to 6 missing, 3 readings")
    shown.wait_for("seq 3", "(duplicate)")
    publish(broker.port, "sensors/n/history", past(*range(4, 7), *range(8, 60)))
    shown.wait_for("HISTORY  60 readings, 1 duplicate")
    shown.wait_for("seq 59")
    assert not shown.line("3 missing")
    publish(broker.port, "sensors/n/history", past(1, stream="another"))
    shown.wait_for("a new stream, another")
    assert shown.emulator.scrolled == 0


def test_history_is_lines_in_a_pipe(broker):
    publish(broker.port, "sensors/n/history", past(1, 2, 5), retain=True)
    lines = piped(broker.port, "--history", lines=4).stdout.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "seq 1  air  2026-11-24 03:13:00  t 1",
        "seq 2  air  2026-11-24 03:13:00  t 2",
        "seq 3 to 4 missing, 2 readings",
        "seq 5  air  2026-11-24 03:13:00  t 5",
    ]
    (line,) = piped(broker.port, lines=1).stdout.splitlines()
    assert line.endswith("sensors/n/history seq 1 to 5 (--history shows them)")


def test_a_batch_that_is_none_stays_a_message(broker):
    """Nothing of it is lost to a reader of JSON."""
    payload = {"stream": "s", "readings": [{"seq": 1, "sensor": "air"}]}
    publish(broker.port, "sensors/n/history", json.dumps(payload), retain=True)
    (line,) = piped(broker.port, "--json", "--history", lines=1).stdout.splitlines()
    assert json.loads(line)["payload"] == payload


# -- usage


def test_a_retained_line_says_so_and_how_old_it_is(broker):
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 7200))
    payload = f'{{"temperature":1.5,"time":"{now}","clock":"synced","seq":1}}'
    publish(broker.port, "sensors/n/air/state", payload, retain=True)
    publish(broker.port, "sensors/n/air/plain", "7", retain=True)
    lines = piped(broker.port, lines=2).stdout.splitlines()
    assert sorted(line.split(maxsplit=1)[1] for line in lines) == [
        "sensors/n/air/plain 7  (retained)",
        "sensors/n/air/state temperature 1.5  (retained, 2h old)",
    ]


def test_when_nothing_was_heard_the_exit_code_says_so(broker):
    publish(broker.port, "homeassistant/device/n/config", "{}", retain=True)
    done = subprocess.run(
        watch(broker.port, "nobody", "--seconds", "1"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no message on sensors/nobody/#" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--topic", "a/#/b"], "# matches all following levels, so it must be the last level"),
        (["--topic", "a/b+"], "+ and # match whole levels"),
        (["--topic", ""], "a topic filter has at least one character"),
        (["n#"], "+ and # match whole levels"),
        (["a/b"], "a node's name has no /; for other topics use --topic"),
        (["--port", "0"], "expected a port from 1 to 65535"),
    ],
)
def test_wrong_usage_is_told_with_the_reason(arguments, reason):
    done = subprocess.run(
        [SENSOR_NODE, "watch", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert reason in done.stderr


@pytest.mark.parametrize("why", ["TERM=dumb", "NO_COLOR=1", "PYTHONPATH=without_rich"])
def test_where_there_can_be_no_table_it_prints_lines(house, terminal, tmp_path, monkeypatch, why):
    (tmp_path / "without_rich").mkdir()
    (tmp_path / "without_rich" / "rich.py").write_text("raise ImportError")
    monkeypatch.chdir(tmp_path)
    shown = terminal("env", why, *watch(house.port))
    shown.wait_for("sensors/attic/tank/state temperature 21.5")
    shown.type("\x03")
    assert shown.wait() == 0
    assert b"\x1b" not in shown.written
    assert (b"for a live table: " in shown.written) == ("rich" in why)
