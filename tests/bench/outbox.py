"""The log of readings beside raw paho: throughput, bytes written, memory; in one run.

Throughput: readings that wait in the log are sent by a node without sensors and without a rate
limit, one a message and fifty a message, in turn with paho publishing the same from memory (QoS 1,
20 in flight). Bytes are those that the kernel passes on to the disk (proc(5), write_bytes), so
the temporary directory must be on one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as mqtt
from process_meter import read_counters

from node import history
from node.clock import SystemClock
from node.config import load
from node.embedded_broker import embedded_broker, free_port
from node.loop import Node
from node.messages import history_payload
from node.outbox import Outbox
from node.reading import Layout, Reading
from node.schema import OutboxTable

WINDOW = 20


def fill(folder: Path, ticks: int, per_tick: int) -> list[Reading]:
    """A log with so many readings, committed tick by tick."""
    clock = SystemClock()
    outbox = Outbox(folder, OutboxTable(), clock)
    layouts = [Layout(f"s{number}", ("temperature",), ("°C",)) for number in range(per_tick)]
    made = []
    for tick in range(ticks):
        for layout in layouts:
            value = 20 + tick % 40 / 10
            made.append(
                outbox.append(
                    layout, (value,), boot_s=clock.boot_s(), utc_s=clock.utc_s(), synced=True
                )
            )
        outbox.commit()
    outbox.close()
    return made


def raw_paho(port: int, payloads: list[bytes]) -> float:
    """Seconds from the first publish to the last acknowledgement."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.max_inflight_messages_set(WINDOW)
    connected, done = threading.Event(), threading.Event()
    left = len(payloads)

    def acknowledged(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    client.on_connect = lambda *_: connected.set()
    client.on_publish = acknowledged
    client.connect("127.0.0.1", port)
    client.loop_start()
    connected.wait(5)
    started_s = time.monotonic()
    for payload in payloads:
        client.publish("sensors/raw/history", payload, qos=1)
    if not done.wait(60):
        raise SystemExit("paho did not get every acknowledgement")
    took_s = time.monotonic() - started_s
    client.disconnect()
    client.loop_stop()
    return took_s


def through_the_log(port: int, folder: Path, readings: int, batch: int) -> float:
    """Seconds that so many readings take; the last window of them is left out, for nobody looks
    at its acknowledgements before there is something else to do."""
    config = folder / "node.toml"
    config.write_text(
        f'[node]\nname = "log"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
        "[outbox]\ndrain_rate = 1000000\n"
    )
    history.BATCH = batch
    node = Node(load(config), NoBoard(), SystemClock(), client_id="log", state_dir=folder / "log")
    thread = threading.Thread(target=node.run)
    thread.start()
    outbox = node._reporter._outbox
    while outbox.cursor == 0:
        time.sleep(0.0005)
    started_s, begun_at = time.monotonic(), outbox.cursor
    while outbox.unsent > WINDOW * batch:
        time.sleep(0.0005)
    took_s = (time.monotonic() - started_s) * readings / (outbox.cursor - begun_at)
    node.stop("done")
    thread.join()
    return took_s


class NoBoard:
    """A board for a node without sensors."""

    def path(self, absolute: str) -> Path:
        return Path(absolute)


def throughput(port: int, readings: int, runs: int) -> dict[str, float]:
    """Readings a second: medians of runs in turn."""
    rates: dict[str, list[float]] = {
        "raw paho": [],
        "log, 1 a message": [],
        "log, 50 a message": [],
    }
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as name:
            made = fill(Path(name) / "log", readings // 10, 10)
            payloads = [history_payload("0123456789abcdef", [reading]) for reading in made]
            rates["raw paho"].append(readings / raw_paho(port, payloads))
            took_s = through_the_log(port, Path(name), readings, 1)
            rates["log, 1 a message"].append(readings / took_s)
        with tempfile.TemporaryDirectory() as name:
            fill(Path(name) / "log", readings // 10, 10)
            took_s = through_the_log(port, Path(name), readings, 50)
            rates["log, 50 a message"].append(readings / took_s)
    return {name: statistics.median(values) for name, values in rates.items()}


def bytes_per_reading(ticks: int, per_tick: int) -> float:
    """What reaches the disk, with the checkpoints that it takes."""
    with tempfile.TemporaryDirectory() as name:
        before = _write_bytes()
        fill(Path(name), ticks, per_tick)
        return (_write_bytes() - before) / (ticks * per_tick)


def _write_bytes() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    raise LookupError("write_bytes")


def memory_growth_kib(readings: int) -> float:
    """What a node's RSS grows by while it queues so many readings, without a broker."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sensors = ""
        for number in range(100):
            file = folder / f"temp{number}"
            file.write_text(f"{20000 + number}\n")
            sensors += (
                f'[[sensor]]\nid = "s{number}"\ndriver = "sysfs"\npath = "{file}"\ninterval = 0.1\n'
            )
        config = folder / "node.toml"
        config.write_text(
            f'[node]\nname = "n"\n[mqtt]\nhost = "127.0.0.1"\nport = {free_port()}\n{sensors}'
        )
        command = [str(Path(sys.executable).with_name("sensor-node")), "run"]
        command += ["--config", str(config), "--state-dir", str(folder / "log")]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            time.sleep(3)
            before = read_counters(process.pid).rss_kb
            time.sleep(readings / 1000)
            return read_counters(process.pid).rss_kb - before
        finally:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--readings", type=int, default=20_000, help="to drain (default: 20000)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, embedded_broker(Path(name)) as broker:
        figures = throughput(broker.port, arguments.readings, arguments.runs)
    figures["bytes a reading, 10 a tick"] = bytes_per_reading(3000, 10)
    figures["bytes a reading, 100 a tick"] = bytes_per_reading(1000, 100)
    figures["KiB for 12,000 readings queued"] = memory_growth_kib(12_000)
    if arguments.json:
        print(json.dumps(figures))
        return
    raw = figures["raw paho"]
    print(f"the log of readings; {broker.name} on this machine\n")
    print(f"{'':<36}{'':>12}{'beside raw':>12}{'asked':>12}")
    shown: Callable[[float], str] = "{:,.0f}".format
    for name, asked in (
        ("raw paho", ""),
        ("log, 1 a message", ">= 0.5x"),
        ("log, 50 a message", "> 1x"),
    ):
        ratio = f"{figures[name] / raw:.2f}x"
        print(f"{'readings a second, ' + name:<36}{shown(figures[name]):>12}{ratio:>12}{asked:>12}")
    for name, asked in (
        ("bytes a reading, 10 a tick", "<= 1,300"),
        ("bytes a reading, 100 a tick", "<= 150"),
        ("KiB for 12,000 readings queued", "<= 1,024"),
    ):
        print(f"{name:<36}{shown(figures[name]):>12}{'':>12}{asked:>12}")


if __name__ == "__main__":
    main()
