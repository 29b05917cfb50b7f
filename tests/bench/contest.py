"""One round: a broker, its subscriber, and peers with files of their own that are counted.

Used as a context: what it has started has ended when the block is left, however that is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from broker import Broker
from counters import Feeder, SensorFiles
from peers import Job, Peer
from subscriber import Message, Subscriber

__all__ = ["Arrival", "Contest", "Workshop", "open_contest"]

_TOPICS = "sensors/#"


class Arrival(NamedTuple):
    """A reading that has reached the subscriber."""

    at_s: float
    topic: str
    sensor: int
    number: int


class Workshop(NamedTuple):
    """Where the bench keeps its things: `disk` on a real disk, `memory` in memory."""

    disk: Path
    memory: Path
    feeder: Feeder
    peers: Sequence[Peer]

    def only(self, names: Sequence[str]) -> Workshop:
        return self._replace(peers=[peer for peer in self.peers if peer.name in names])


class Contest:
    """`files`, `processes` and `jobs` are those of each peer, by its name."""

    def __init__(
        self, workshop: Workshop, sensors: int, interval_s: float, *, session: bool
    ) -> None:
        self.interval_s = interval_s
        self.sensors = sensors
        self.peers = {p.name: p for p in workshop.peers if p.shortest_s <= interval_s}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, SensorFiles] = {}
        self._workshop = workshop
        self._session = session
        self._subscriber: Subscriber | None = None
        self.broker = Broker(workshop.disk / "broker")
        for name in self.peers:
            files = SensorFiles(workshop.memory / name, sensors)
            folder = workshop.disk / name
            folder.mkdir(parents=True)
            self.files[name] = files
            self.jobs[name] = Job(folder, self.broker.port, interval_s, files.paths)

    def open(self) -> None:
        """Start the broker and subscribe, and count reads from now on."""
        self.broker.start()
        self._subscriber = Subscriber(self.broker.port, _TOPICS, session=self._session)
        if self._session:
            self.broker.save()
        for files in self.files.values():
            self._workshop.feeder.watch(files)

    def close(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        if self._subscriber is not None:
            self._subscriber.close()
        self.broker.kill()
        for files in self.files.values():
            self._workshop.feeder.forget(files)
            shutil.rmtree(files.folder, ignore_errors=True)
        for name in [*self.files, "broker"]:
            shutil.rmtree(self._workshop.disk / name, ignore_errors=True)

    @property
    def subscriber(self) -> Subscriber:
        assert self._subscriber is not None
        return self._subscriber

    def start(self, name: str, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        """Start a peer for its job, or with another command."""
        command = command or self.peers[name].command(self.jobs[name])
        with (self._workshop.memory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=_environment(),
                cwd=self.jobs[name].folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def start_all(self) -> None:
        """Spread over an interval, so that no two of them publish at the same instant."""
        begun_s = time.monotonic()
        for place, name in enumerate(self.peers):
            due_s = begun_s + place * self.interval_s / len(self.peers)
            time.sleep(max(0.0, due_s - time.monotonic()))
            self.start(name)

    def stop(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def running(self) -> dict[str, int]:
        """Name -> process id of those that have not ended."""
        return {n: p.pid for n, p in self.processes.items() if p.poll() is None}

    def arrivals(self, name: str, since_s: float = 0.0, until_s: float = 1e18) -> list[Arrival]:
        """The readings of a peer that came in a time, in the order in which they came."""
        return list(self._readings(name, since_s, until_s))

    def _readings(self, name: str, since_s: float, until_s: float) -> Iterator[Arrival]:
        begin = f"sensors/{name}/"
        peer = self.peers[name]
        for at_s, topic, payload in list(self.subscriber.messages):
            if since_s <= at_s < until_s and topic.startswith(begin):
                for sensor, number in peer.readings(topic, payload):
                    yield Arrival(at_s, topic, sensor, number)

    def is_reading(self, name: str, message: Message) -> bool:
        topic = message.topic
        return topic.startswith(f"sensors/{name}/") and bool(
            self.peers[name].readings(topic, message.payload)
        )


@contextmanager
def open_contest(
    workshop: Workshop, sensors: int, interval_s: float, *, session: bool = False
) -> Iterator[Contest]:
    """`session`: the subscriber misses nothing when the broker is away (see subscriber.py)."""
    contest = Contest(workshop, sensors, interval_s, session=session)
    try:
        contest.open()
        yield contest
    finally:
        contest.close()


def _environment() -> dict[str, str]:
    """A plain one: nothing of the caller's Python settings, such as PYTHONDONTWRITEBYTECODE."""
    kept = ("PATH", "HOME", "LANG", "TZ")
    return {name: os.environ[name] for name in kept if name in os.environ}
