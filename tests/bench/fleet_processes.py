"""What a measurement of a fleet runs: mosquitto, processes of nodes, subscribers."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import paho.mqtt.client as mqtt
from histogram import Histogram
from process_meter import read_counters

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ports import free_port

from node.demo_broker import find_mosquitto

__all__ = [
    "QUEUE",
    "Broker",
    "Reporting",
    "Spent",
    "connections",
    "listener",
    "load",
    "read_counters",
    "started",
    "total",
    "wait_for",
]

HERE = Path(__file__).parent
QUEUE = ("max_queued_messages 20000", "max_queued_bytes 16777216")
"""As in deploy/mosquitto.conf; mosquitto's own is 1,000 messages."""
_DROPPED = "$SYS/broker/publish/messages/dropped"


class Broker:
    """A mosquitto on a free port of 127.0.0.1, with persistence; it can be killed and restarted.

    Set up as `deploy/mosquitto.conf`, but for TLS, passwords and the ACL; `lines` come on top.
    """

    def __init__(self, folder: Path, *lines: str, open_files: int = 8192) -> None:
        self.port = free_port()
        self.store = folder / "mosquitto.db"
        self.log = folder / "mosquitto.log"
        self._open_files = open_files
        self._settings = folder / "mosquitto.conf"
        own = [line.replace("{port}", str(self.port)) for line in lines]
        if not any(line.startswith("listener") for line in own):
            own.insert(0, f"listener {self.port} 127.0.0.1")
        self._settings.write_text(
            "\n".join(own) + "\nallow_anonymous true\nuser root\npersistence true\n"
            f"persistence_location {folder}/\nautosave_interval 30\nset_tcp_nodelay true\n"
            "log_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\nsys_interval 1\n"
        )
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        program = find_mosquitto()
        if program is None:
            raise SystemExit("fleet: mosquitto is not installed: apt-get install mosquitto")
        limit = f"--nofile={self._open_files}:{max(self._open_files, 8192)}"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["prlimit", limit, program, "-c", str(self._settings)],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_for(self._listens, 10, "mosquitto")

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    @property
    def pid(self) -> int:
        return self._process.pid

    def save(self) -> None:
        """Have it write its persistence file now (mosquitto(8), SIGUSR1)."""
        self._process.send_signal(signal.SIGUSR1)

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(how)
        self._process.wait()

    def dropped(self) -> int:
        """How many messages it has dropped for subscribers that were too slow; by its own count."""
        heard = threading.Event()
        counts: list[int] = []
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)

        def arrived(_client: object, _userdata: object, message: mqtt.MQTTMessage) -> None:
            counts.append(int(message.payload))
            heard.set()

        client.on_message = arrived
        client.connect("127.0.0.1", self.port)
        client.subscribe(_DROPPED)
        client.loop_start()
        heard.wait(3)
        client.disconnect()
        client.loop_stop()
        return counts[-1] if counts else 0


class Reporting:
    """A process that prints what it has done, a line of JSON each second."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=None)
        self.pid = self._process.pid
        self.figures: dict[str, Any] = {}
        self._histograms: dict[str, Histogram] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        stream: IO[bytes] | None = self._process.stdout
        assert stream is not None
        for line in stream:
            figures = json.loads(line)
            for name, value in figures.items():
                if isinstance(value, dict):
                    whole = self._histograms.setdefault(name, Histogram())
                    whole.merge(Histogram(value["counts"], value["longest"]))
            self.figures = figures

    def begin(self) -> None:
        """Forget the durations of before."""
        self._histograms.clear()

    def histogram(self, name: str) -> Histogram:
        return self._histograms.get(name, Histogram())

    def __getitem__(self, name: str) -> int:
        return int(self.figures.get(name, 0))

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(how)
        self._process.wait()


class Spent:
    """Processor time of processes since `Spent` was made, as a share of one processor."""

    def __init__(self, **pids: list[int] | int) -> None:
        self._pids = {k: v if isinstance(v, list) else [v] for k, v in pids.items()}
        self._began_s = time.monotonic()
        self._before_s = self._now_s()

    def _now_s(self) -> dict[str, float]:
        return {
            name: sum(read_counters(pid).cpu_s for pid in pids) for name, pids in self._pids.items()
        }

    def seconds(self) -> dict[str, float]:
        return {name: now - self._before_s[name] for name, now in self._now_s().items()}

    def shares(self) -> dict[str, float]:
        took_s = time.monotonic() - self._began_s
        return {name: spent / took_s for name, spent in self.seconds().items()}


@contextlib.contextmanager
def started(*lines: str, open_files: int = 8192) -> Iterator[Broker]:
    """A broker in a folder of its own, that has begun to listen."""
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder), *lines, open_files=open_files)
        broker.start()
        try:
            yield broker
        finally:
            broker.end(signal.SIGKILL)


@contextlib.contextmanager
def load(
    port: int,
    *,
    nodes: int,
    processes: int,
    interval_s: float,
    spread_s: float = 5.0,
    ca: Path | None = None,
) -> Iterator[list[Reporting]]:
    """So many simulated nodes, in so many processes."""
    each = nodes // processes
    running = []
    try:
        for number in range(processes):
            command = [sys.executable, str(HERE / "fleet_load.py"), str(port)]
            command += [str(number * each), str(each), str(interval_s), str(spread_s)]
            running.append(Reporting([*command, str(ca)] if ca else command))
        yield running
    finally:
        for process in running:
            process.end(signal.SIGKILL)


@contextlib.contextmanager
def listener(port: int, *filters: str, work_ms: float = 0) -> Iterator[Reporting]:
    """A subscriber with paho."""
    command = [sys.executable, str(HERE / "fleet_listener.py"), str(port), str(work_ms), *filters]
    process = Reporting(command)
    try:
        yield process
    finally:
        process.end(signal.SIGKILL)


def total(processes: list[Reporting], name: str) -> int:
    """A figure of all of them."""
    return sum(process[name] for process in processes)


def connections(processes: list[Reporting], since_s: float) -> list[int]:
    """How many nodes the broker has accepted in each second from `since_s` on, of all of them."""
    counts: Counter[int] = Counter()
    for process in processes:
        counts.update(dict(process.figures.get("connections", ())))
    seconds = [second for second in counts if second >= int(since_s)]
    return [counts[second] for second in range(int(since_s), max(seconds, default=0) + 1)]


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until it holds."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > seconds:
            raise SystemExit(f"fleet: not within {seconds:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began_s
