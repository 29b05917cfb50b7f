"""What the tests share: a real mosquitto, the real node as a process, a subscriber, a clock."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from ports import free_port

from node.demo_broker import find_mosquitto
from node.outbox.reader import look_into
from node.outbox.records import Ledger
from node.outbox.store import FILE_NAME

SENSOR_NODE = str(Path(sys.executable).with_name("sensor-node"))


class FakeClock:
    """A clock that moves when it is told to, or when somebody sleeps by it."""

    def __init__(self, start_s: float = 1000.0) -> None:
        self.now_s = start_s
        self.wall_s = 1_790_000_000.0
        self.boot_id = "the-first-boot"
        self.in_sync = True
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def boot_s(self) -> float:
        return self.now_s

    def utc_s(self) -> float:
        return self.wall_s

    def synced(self) -> bool:
        return self.in_sync

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


class TickingClock(FakeClock):
    """A clock that moves by half a millisecond at each look, about a transaction's time."""

    def monotonic(self) -> float:
        self.now_s += 0.0005
        return self.now_s


class LibraryTime:
    """The module `time` for a library, on the test's clock."""

    def __init__(self, clock: FakeClock) -> None:
        self.sleep = clock.sleep
        self.monotonic = self.time = self.perf_counter = clock.monotonic

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def put_libraries_on(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every library of a chip that is imported go by `clock`."""
    for name, module in list(sys.modules.items()):
        if not name.startswith(("adafruit_", "sensirion_")) or name.startswith("adafruit_blinka"):
            continue
        if getattr(module, "time", None) is time:
            monkeypatch.setattr(module, "time", LibraryTime(clock))
        if getattr(module, "sleep", None) is time.sleep:
            monkeypatch.setattr(module, "sleep", clock.sleep)


PATIENCE_S = 60.0
"""For what comes within a second where nothing else runs, and is not a claim about time."""


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE_S, what: str = "") -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    deadline_s = time.monotonic() + seconds
    while True:
        late = time.monotonic() > deadline_s
        if value := condition():
            return value
        if late:
            break
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s: {what or condition}")


def replaced(text: str, *changes: tuple[str, str], times: int = 1) -> str:
    """The text with each `(old, new)` done: a change that no longer fits it fails.

    A test that changes a configuration, an ACL or a file of ours rests on the change.
    """
    for old, new in changes:
        found = text.count(old)
        assert found == times, f"{old!r} is there {found} times, and not {times}:\n{text}"
        text = text.replace(old, new)
    return text


_TEMPORARY = Path(tempfile.gettempdir())


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users can get into; pytest's own are closed to them, and some $TMPDIR."""
    above = next(f for f in (_TEMPORARY, Path("/tmp"), Path("/var/tmp")) if is_open(f.resolve()))
    with tempfile.TemporaryDirectory(prefix="sensor-node-test-", dir=above) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_another_user() -> list[str]:
    """The words that run a command as the user nobody; the test is skipped if he has no Python."""
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    tried = subprocess.run([*words, SENSOR_NODE, "--version"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip("needs a checkout and a Python in folders that other users may enter")
    return words


@contextlib.contextmanager
def small_disk_at(folder: Path) -> Iterator[Path]:
    """A file system of half a megabyte, in a folder that is made for it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount, as root has it: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def is_open(folder: Path) -> bool:
    """Whether other users can get into a folder, through all that it is in."""
    return all(f.stat().st_mode & 0o001 for f in (folder, *folder.parents))


class Mosquitto:
    """A mosquitto on a free port of 127.0.0.1, which can be stopped, killed, frozen, restarted."""

    def __init__(self, folder: Path, *lines: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.folder = folder
        self._lines = lines
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Mosquitto:
        settings = self.folder / f"mosquitto-{self.port}.conf"
        lines = [f"listener {self.port} 127.0.0.1", "user root", "log_type all", *self._lines]
        if not any("allow_anonymous" in line for line in lines):
            lines.append("allow_anonymous true")
        settings.write_text("\n".join(lines) + "\n")
        program = find_mosquitto()
        assert program is not None
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(settings)], stderr=log, stdout=log)
        words = [line.split() for line in lines]
        ports = [int(given[1]) for given in words if given[0] == "listener"]
        try:
            wait_until(lambda: all(map(self._listens, ports)), what="mosquitto listens")
        except BaseException:
            self.stop(signal.SIGKILL)  # nobody has it yet who could stop it
            raise
        return self

    @property
    def log_file(self) -> Path:
        return self.folder / f"mosquitto-{self.port}.log"

    def _listens(self, port: int) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log_file.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self._signal(number)
            self._signal(signal.SIGCONT)
            self._process.wait(PATIENCE_S)


class Subscriber:
    """Another client of the broker: keeps every message in order of arrival."""

    def __init__(
        self,
        port: int,
        topic: str = "sensors/#",
        *,
        connected_by: float = PATIENCE_S,
        **options: Any,
    ) -> None:
        self.messages: list[tuple[str, str, bool]] = []
        self.times: list[float] = []
        self._ready = threading.Event()
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            protocol=mqtt.MQTTv5,
            client_id=options.get("session", ""),
        )
        if "username" in options:
            self.client.username_pw_set(options["username"], options["password"])
        if "context" in options:
            self.client.tls_set_context(options["context"])
        self.client.on_message = self._arrived
        self.client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.reconnect_delay_set(1, 1)
        where = (options.get("host", "127.0.0.1"), port, 60)
        if "session" in options:  # the broker keeps what comes while we are away
            self.client.connect(*where, clean_start=False, properties=_for_ever())
        else:
            self.client.connect(*where)
        self.client.loop_start()
        if not self._ready.wait(connected_by):
            self.close()
            raise AssertionError(f"no SUBACK within {connected_by:g} s")

    def _arrived(self, client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        self.times.append(time.monotonic())
        self.messages.append((message.topic, message.payload.decode(), bool(message.retain)))

    def on(self, topic: str) -> list[str]:
        return [payload for t, payload, _ in list(self.messages) if t == topic]

    def states(self, sensor: str, node: str = "test") -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in self.on(f"sensors/{node}/{sensor}/state")]

    def history(self, node: str = "test") -> list[dict[str, Any]]:
        """Every reading that came as history, in order of arrival, with its stream."""
        readings = []
        for payload in self.on(f"sensors/{node}/history"):
            batch = json.loads(payload)
            assert 1 <= len(batch["readings"]) <= 50
            readings += [{**r, "stream": batch["stream"]} for r in batch["readings"]]
        return readings

    def health(self, node: str = "test") -> dict[str, Any]:
        """The newest health of the node; the first is waited for."""
        healths = wait_until(lambda: self.on(f"sensors/{node}/health"))
        newest: dict[str, Any] = json.loads(healths[-1])
        return newest

    def times_of(self, topic: str) -> list[float]:
        return [
            at for at, (t, _, _) in zip(self.times, list(self.messages), strict=False) if t == topic
        ]

    def wait_for(self, topic: str, payload: str, seconds: float = PATIENCE_S) -> float:
        """Until the newest message on `topic` is `payload`; returns the monotonic time."""
        wait_until(
            lambda: self.on(topic)[-1:] == [payload],
            seconds,
            f"{payload} on {topic}; there is {self.on(topic)[-3:]}",
        )
        return time.monotonic()

    def wait_for_states(self, sensor: str, count: int, seconds: float = PATIENCE_S) -> None:
        wait_until(
            lambda: len(self.states(sensor)) >= count, seconds, f"{count} states of {sensor}"
        )

    def close(self) -> None:
        self.client.disconnect()
        stop_loop(self.client)


def stop_loop(client: mqtt.Client) -> None:
    """End the thread of a client that has disconnected, and wait for it.

    `loop_stop` of paho 2 asks whether there is a thread, and joins it: one that ends in between has
    forgotten itself, and `None` has no `join`.
    """
    thread = client._thread
    with contextlib.suppress(AttributeError):
        client.loop_stop()
    if thread is not None:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "paho's thread does not end"


def _for_ever() -> Properties:
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0xFFFFFFFF
    return properties


def retained(port: int, topic: str = "sensors/#", **options: Any) -> dict[str, str]:
    """What the broker keeps: topic -> payload."""
    subscriber = Subscriber(port, topic, **options)
    end = "no-sensor/end-of-what-is-kept"  # published after it was sent, so it comes after it
    try:
        subscriber.client.subscribe(end, 1)
        subscriber.client.publish(end, "", 1)
        wait_until(lambda: subscriber.on(end))
    finally:
        subscriber.close()
    return {topic: payload for topic, payload, kept in subscriber.messages if kept}


def ledger_in(state_dir: Path) -> Ledger:
    """What a node has committed of itself, while it runs and afterwards."""
    return look_into(state_dir / FILE_NAME, lambda log: log.ledger)


def end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM first, so that what it has started ends with it."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
        process.kill()


def output_until(
    command: list[str], seen: Callable[[str], Any], env: dict[str, str] | None = None
) -> tuple[str, str]:
    """What a program prints until `seen` holds of its standard output, and is then interrupted.

    Returns its standard output and standard error; it has to end with 0.
    """
    out = ""
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(env or {})},
        ) as process,
    ):
        assert process.stdout is not None
        too_late = threading.Timer(2 * PATIENCE_S, process.terminate)
        too_late.start()
        try:
            while not seen(out) and (line := process.stdout.readline()):
                out += line
            process.send_signal(signal.SIGINT)
            out += process.stdout.read()
            code = process.wait()
        finally:
            too_late.cancel()
            end(process)
        errors.seek(0)
        said = errors.read()
    assert code == 0, f"exit code {code} after:\n{out}{said}"
    assert seen(out), f"not seen in:\n{out}{said}"
    return out, said


class NodeProcess:
    """`sensor-node run` as a process of its own, with its log."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *arguments: str,
        env: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        program: tuple[str, ...] = (SENSOR_NODE,),
    ) -> None:
        self.config = folder / "node.toml"
        self.config.write_text(config)
        self.log_file = folder / "node.log"
        self.state_dir = folder / "state"
        command = [*prefix, *program, "run", "--config", str(self.config)]
        command += ["--state-dir", str(self.state_dir), *arguments]
        with self.log_file.open("ab") as log:
            self._log_starts = log.tell()
            self.process = subprocess.Popen(
                command, stderr=log, stdout=log, env={**os.environ, **(env or {})}
            )

    @property
    def log(self) -> str:
        """What this process has said; those before it said it to the same file."""
        return self.log_file.read_bytes()[self._log_starts :].decode()

    def log_lines(self, containing: str) -> list[str]:
        return [line for line in self.log.splitlines() if containing in line]

    def wait_for_log(self, text: str, seconds: float = PATIENCE_S) -> None:
        try:
            wait_until(lambda: text in self.log, seconds)
        except AssertionError:
            raise AssertionError(
                f"no {text!r} within {seconds} s in the log:\n{self.log}"
            ) from None

    def terminate(self, seconds: float = PATIENCE_S) -> int:
        """SIGTERM; fails if the node is not gone in time. Returns its exit code."""
        self.process.terminate()
        return self.process.wait(seconds)

    def freeze(self) -> None:
        """SIGSTOP, until it has stopped (proc_pid_stat(5)); SIGCONT lets it go on."""
        self.process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{self.process.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", what="it stops")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)


class Proxy:
    """A link that can be cut, or swallow everything; between the node and a broker."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        self._passes = threading.Event()
        self._passes.set()
        self._cut = False
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """End every connection, and refuse new ones, until `mend`."""
        self._cut = True
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def blackhole(self) -> None:
        """Take everything and pass nothing on, not even an end; what was taken is lost."""
        self._passes.clear()

    def mend(self) -> None:
        self._cut = False
        if not self._passes.is_set():
            self.cut()  # a sender whose bytes were lost would wait for ever
            self._cut = False
        self._passes.set()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    assert not self._cut
                    far = socket.create_connection(("127.0.0.1", self._to_port))
                except (AssertionError, OSError):
                    near.close()
                    continue
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                if self._passes.is_set():
                    sink.sendall(content)
        for end in (source, sink) if self._passes.is_set() else ():
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        self._server.close()


def dead_letters(state_dir: Path) -> list[tuple[str, bytes, str]]:
    """(topic, payload, reason) of what the broker would not take, from the log of a node."""
    with contextlib.closing(sqlite3.connect(state_dir / "outbox.db")) as db:
        return list(db.execute("SELECT topic, payload, reason FROM dead_letter ORDER BY id"))


class ScriptedBroker:
    """A broker on a raw socket that answers as a test says, and keeps what it was sent.

    `answer(packet_type, body)` returns the bytes to send back, or None to say nothing.
    """

    def __init__(self, answer: Callable[[int, bytes], bytes | None]) -> None:
        self._answer = answer
        self.packets: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self.connections = self.ended = 0
        self.newest: socket.socket | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                self.connections += 1
                self.newest = connection
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            self._listen(connection)
        finally:
            self.ended += 1

    def _listen(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError, IndexError):
            stream = connection.makefile("rb")
            while True:
                first = stream.read(1)
                if not first:
                    return
                length = shift = 0
                while True:
                    byte = stream.read(1)[0]
                    length |= (byte & 0x7F) << shift
                    shift += 7
                    if not byte & 0x80:
                        break
                body = stream.read(length)
                self.packets.put((first[0] >> 4, body))
                reply = self._answer(first[0] >> 4, body)
                if reply == b"close":
                    return
                if reply is not None:
                    connection.sendall(reply)

    def close(self) -> None:
        self._server.close()


CONNECT, PUBLISH, PINGREQ = 1, 3, 12


def published_topic(body: bytes) -> str:
    """The topic of a PUBLISH."""
    length = int.from_bytes(body[:2], "big")
    return body[2 : 2 + length].decode()


def puback(body: bytes) -> bytes:
    """The PUBACK for a QoS 1 PUBLISH (the same bytes in MQTT 3.1.1 and 5)."""
    length = int.from_bytes(body[:2], "big")
    return b"\x40\x02" + body[2 + length : 4 + length]


def taken_s(state: dict[str, Any]) -> float:
    """When a reading was taken, by its node, in seconds since 1970."""
    return datetime.fromisoformat(state["time"]).timestamp()


def sysfs_config(port: int, files: dict[str, Path], *, interval: str = "1s", mqtt: str = "") -> str:
    """A configuration with a sysfs sensor per file, all with the same interval."""
    sensors = "".join(
        f'\n[[sensor]]\nid = "{name}"\ndriver = "sysfs"\npath = "{file}"\ninterval = "{interval}"\n'
        for name, file in files.items()
    )
    return (
        f'[node]\nname = "test"\n\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n'
        f'keepalive = "5s"\n{mqtt}\n{sensors}'
    )


@contextlib.contextmanager
def running(node: NodeProcess) -> Iterator[NodeProcess]:
    """The node, killed at the end whatever happens."""
    try:
        yield node
    finally:
        node.kill()
