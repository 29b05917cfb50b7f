"""Ten sysfs sensors every ten seconds: this node beside the tutorial loop, in one run.

Cold start: the two are started in turn, and their CPU time is read when a subscriber has their
first retained reading. Steady state: both run at the same time against the same broker.
Prints a table; the ratios are what counts, for the machine is the same for both.
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
from process_meter import Counters, read_counters

from node.embedded_broker import embedded_broker

SENSORS = 10
BENCH = Path(__file__).parent
PEERS = ("tutorial", "node")


class Contest:
    """The broker's port, the sensors' files, and what a subscriber has received."""

    def __init__(self, port: int, folder: Path, interval_s: float) -> None:
        self.port = port
        self.folder = folder
        self.interval_s = interval_s
        self.files = []
        for number in range(SENSORS):
            file = folder / f"temp{number}"
            file.write_text(f"{20000 + number * 100}\n")
            self.files.append(str(file))
        self.arrivals: dict[str, list[float]] = {}
        self.first = {peer: threading.Event() for peer in PEERS}
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._arrived
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("sensors/+/+/state", 1)
        self._client.loop_start()

    def _arrived(self, client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        if message.payload and not message.retain:
            self.arrivals.setdefault(message.topic, []).append(time.monotonic())
            self.first[message.topic.split("/")[1]].set()

    def forget(self) -> None:
        self.arrivals.clear()
        for event in self.first.values():
            event.clear()

    def command(self, peer: str) -> list[str]:
        if peer == "tutorial":
            script = str(BENCH / "tutorial_loop.py")
            return [sys.executable, script, str(self.port), str(self.interval_s), *self.files]
        config = self.folder / "node.toml"
        sensors = "".join(
            f'[[sensor]]\nid = "s{number}"\ndriver = "sysfs"\npath = "{file}"\n'
            f"interval = {self.interval_s}\n"
            for number, file in enumerate(self.files)
        )
        config.write_text(
            f'[node]\nname = "node"\n[mqtt]\nhost = "127.0.0.1"\nport = {self.port}\n{sensors}'
        )
        command = [str(Path(sys.executable).with_name("sensor-node")), "run"]
        return [*command, "--config", str(config), "--state-dir", str(self.folder / "state")]

    def start(self, peer: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(peer), stderr=subprocess.DEVNULL)


def cold_start(contest: Contest, peer: str) -> tuple[float, float]:
    """(CPU seconds, wall seconds) from the start to the first reading at the subscriber."""
    contest.forget()
    started_s = time.monotonic()
    process = contest.start(peer)
    try:
        if not contest.first[peer].wait(10):
            raise SystemExit(f"{peer} publishes nothing")
        wall_s = time.monotonic() - started_s
        return read_counters(process.pid).cpu_s, wall_s
    finally:
        process.kill()
        process.wait()


def steady(contest: Contest, seconds: float) -> dict[str, dict[str, float]]:
    """Both peers for `seconds`, after a period to settle in."""
    contest.forget()
    processes = {}
    for peer in PEERS:
        processes[peer] = contest.start(peer)
        time.sleep(contest.interval_s / 2)
    try:
        time.sleep(contest.interval_s)
        before = {peer: read_counters(process.pid) for peer, process in processes.items()}
        counted = {peer: _count(contest, peer) for peer in PEERS}
        time.sleep(seconds)
        after = {peer: read_counters(process.pid) for peer, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return {
        peer: _steady_figures(
            before[peer],
            after[peer],
            seconds,
            _count(contest, peer) - counted[peer],
            contest.arrivals[f"sensors/{peer}/s0/state"],
            contest.interval_s,
        )
        for peer in PEERS
    }


def _count(contest: Contest, peer: str) -> int:
    return sum(len(times) for topic, times in contest.arrivals.items() if f"/{peer}/" in topic)


def _steady_figures(
    before: Counters,
    after: Counters,
    seconds: float,
    readings: int,
    arrivals: list[float],
    interval_s: float,
) -> dict[str, float]:
    period_s = statistics.linear_regression(range(len(arrivals) - 1), arrivals[1:]).slope
    return {
        "cpu_ms_per_reading": (after.cpu_s - before.cpu_s) * 1000 / max(readings, 1),
        "wakeups_per_s": (after.wakeups - before.wakeups) / seconds,
        "rss_mb": after.rss_kb / 1024,
        "pss_mb": after.pss_kb / 1024,
        "drift_ms": (period_s - interval_s) * 1000,
    }


def _row(
    name: str, values: dict[str, float], shown: Callable[[float], str], *, ratio: bool = True
) -> str:
    against = f"{values['node'] / values['tutorial']:6.2f}x" if ratio else "      -"
    return f"{name:<36}{shown(values['tutorial']):>12}{shown(values['node']):>12}{against:>10}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seconds", type=float, default=60, help="of steady state (default: 60)")
    parser.add_argument("--starts", type=int, default=7, help="cold starts of each (default: 7)")
    parser.add_argument("--interval", type=float, default=10, help="in seconds (default: 10)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, embedded_broker(Path(name)) as broker:
        contest = Contest(broker.port, Path(name), arguments.interval)
        starts: dict[str, list[tuple[float, float]]] = {peer: [] for peer in PEERS}
        for _ in range(arguments.starts):
            for peer in PEERS:
                starts[peer].append(cold_start(contest, peer))
        figures = steady(contest, arguments.seconds)
    for peer in PEERS:
        figures[peer]["cold_cpu_ms"] = statistics.median(cpu for cpu, _ in starts[peer]) * 1000
        figures[peer]["cold_wall_ms"] = statistics.median(wall for _, wall in starts[peer]) * 1000
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{SENSORS} sensors every {arguments.interval:g} s; {broker.name} on this machine\n")
    print(f"{'':<36}{'tutorial':>12}{'this node':>12}{'ratio':>10}")
    by_name = {key: {peer: figures[peer][key] for peer in PEERS} for key in figures["node"]}
    print(_row("CPU to the first reading, ms", by_name["cold_cpu_ms"], "{:.0f}".format))
    print(_row("time to the first reading, ms", by_name["cold_wall_ms"], "{:.0f}".format))
    print(_row("CPU per reading, ms", by_name["cpu_ms_per_reading"], "{:.3f}".format))
    print(_row("memory (RSS), MB", by_name["rss_mb"], "{:.1f}".format))
    print(_row("memory (PSS), MB", by_name["pss_mb"], "{:.1f}".format))
    print(_row("wake-ups a second", by_name["wakeups_per_s"], "{:.2f}".format))
    print(_row("drift per period, ms", by_name["drift_ms"], "{:+.3f}".format, ratio=False))


if __name__ == "__main__":
    main()
