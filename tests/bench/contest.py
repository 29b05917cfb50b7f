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
from peer import Job, Peer
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
    remarks: list[str]
    """What could not be measured, and why; for the reader of the table."""

    def only(self, names: Sequence[str]) -> Workshop:
        return self._replace(peers=[peer for peer in self.peers if peer.name in names])


class Contest:
    """`files`, `processes` and `jobs` are those of each peer, by its name."""

    def __init__(
        self,
        workshop: Workshop,
        sensors: int,
        interval_s: float,
        *,
        session: bool,
        counting: bool,
    ) -> None:
        self.interval_s = interval_s
        self.sensors = sensors
        self.peers = {p.name: p for p in workshop.peers if p.shortest_s <= interval_s}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, SensorFiles] = {}
        self._arrivals: dict[str, list[Arrival]] = {name: [] for name in self.peers}
        self._decoded = dict.fromkeys(self.peers, 0)
        """How many of the subscriber's messages were looked at for a peer."""
        self._workshop = workshop
        self._session = session
        self._counting = counting
        self._subscriber: Subscriber | None = None
        self.broker = Broker(workshop.disk / "broker")
        for name in self.peers:
            files = workshop.feeder.make(workshop.memory / name, sensors)
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
        for files in self.files.values() if self._counting else ():
            self._workshop.feeder.watch(files)

    def close(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        if self._subscriber is not None:
            self._subscriber.close()
        self.broker.kill()
        for files in self.files.values():
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

    def end(self, name: str) -> None:
        """Stop a peer, if it was started and was not stopped."""
        if name in self.processes:
            self.stop(name)

    def drop_the_late(self, patience_s: float) -> None:
        """Wait until every sensor of every peer has arrived once. A peer that does not manage it
        is stopped, remarked on, and takes no further part."""
        deadline_s = time.monotonic() + patience_s
        while wanting := self._wanting():
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.25)
        for name, seen in wanting.items():
            self.stop(name)
            del self.peers[name]
            self._workshop.remarks.append(
                f"{name}, {self.sensors} every {self.interval_s:g} s: "
                f"{seen} of them have arrived {patience_s:g} s after the start"
            )

    def _wanting(self) -> dict[str, int]:
        """Name -> how many sensors have arrived, of those that are not complete."""
        seen = {name: len({a.sensor for a in self.arrivals(name)}) for name in self.processes}
        return {name: count for name, count in seen.items() if count < self.sensors}

    def running(self) -> dict[str, int]:
        """Name -> process id of those that have not ended."""
        return {n: p.pid for n, p in self.processes.items() if p.poll() is None}

    def arrivals(self, name: str, since_s: float = 0.0, until_s: float = 1e18) -> list[Arrival]:
        """The readings of a peer that came in a time, in the order in which they came."""
        known = self._arrivals[name]
        begin = f"sensors/{name}/"
        peer = self.peers[name]
        messages = self.subscriber.messages
        for index in range(self._decoded[name], len(messages)):
            at_s, topic, payload = messages[index]
            if topic.startswith(begin):
                known += [Arrival(at_s, topic, *found) for found in peer.readings(topic, payload)]
            self._decoded[name] = index + 1
        return [arrival for arrival in known if since_s <= arrival.at_s < until_s]

    def is_reading(self, name: str, message: Message) -> bool:
        topic = message.topic
        return topic.startswith(f"sensors/{name}/") and bool(
            self.peers[name].readings(topic, message.payload)
        )


@contextmanager
def open_contest(
    workshop: Workshop,
    sensors: int,
    interval_s: float,
    *,
    session: bool = False,
    counting: bool = True,
) -> Iterator[Contest]:
    """`session`: the subscriber misses nothing when the broker is away (see subscriber.py).
    `counting`: the numbers in the files go up as they are read."""
    contest = Contest(workshop, sensors, interval_s, session=session, counting=counting)
    try:
        contest.open()
        yield contest
    finally:
        contest.close()


def _environment() -> dict[str, str]:
    """A plain one: nothing of the caller's Python settings, such as PYTHONDONTWRITEBYTECODE."""
    kept = ("PATH", "HOME", "LANG", "TZ")
    return {name: os.environ[name] for name in kept if name in os.environ}
