"""The node as systemd meets it: readiness, watchdog, signals, and the unit file."""

from __future__ import annotations

import configparser
import itertools
import os
import signal
import socket
import time
import uuid
from functools import partial
from pathlib import Path

import pytest
from ports import free_port
from support import sysfs_config, wait_until

from node.outbox.reader import health_of, look_into

UNIT = Path(__file__).parent.parent / "deploy" / "sensor-node.service"


class NotifySocket:
    """The other end of sd_notify(3)."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path.replace("@", "\0"))
        self._socket.setblocking(False)
        self.messages: list[str] = []
        self.times: list[float] = []

    def read(self) -> list[str]:
        while True:
            try:
                self.messages.append(self._socket.recv(4096).decode())
                self.times.append(time.monotonic())
            except BlockingIOError:
                return self.messages

    def count(self, message: str) -> int:
        return self.read().count(message)


@pytest.fixture
def notify(open_folder):
    """In a folder with a short name: a socket's path has 107 bytes at most (unix(7))."""
    return NotifySocket(str(open_folder / "notify"))


def env(notify: NotifySocket, watchdog_s: float = 1.5) -> dict[str, str]:
    return {"NOTIFY_SOCKET": notify.path, "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}


def test_ready_comes_without_a_broker(notify, start_node, temperature_file):
    """Started means that the loop turns."""
    node = start_node(sysfs_config(free_port(), {"s": temperature_file}), env=env(notify))
    wait_until(lambda: notify.count("READY=1"))
    wait_until(lambda: "STATUS=no broker, 1 of 1 sensors online" in notify.read())
    node.terminate()
    assert notify.count("STOPPING=1") == 1


def test_status_describes_a_node_as_soon_as_it_is_ready(notify, start_node, temperature_file):
    """`systemctl start` has returned, and somebody looks: the log has this process's health."""
    config = sysfs_config(free_port(), {"s": temperature_file}, interval="1h")

    def is_ready(times: int) -> bool:
        said: int = notify.count("READY=1")
        return said == times

    for start in (1, 2):  # the second is told from the first
        node = start_node(config, env=env(notify))
        wait_until(partial(is_ready, start))
        known = look_into(node.state_dir / "outbox.db", lambda log: log.ledger)
        health = health_of(known, node.process.pid)
        assert health is not None, "that of an earlier process, or none"
        assert health.broker.startswith(("no broker", "not connected"))
        node.terminate()


def test_an_abstract_socket_is_spoken_to(start_node, temperature_file):
    """systemd may name one, with an @ for the NUL (sd_notify(3))."""
    notify = NotifySocket(f"@sensor-node-test-{uuid.uuid4().hex}")
    start_node(sysfs_config(free_port(), {"s": temperature_file}), env=env(notify))
    wait_until(lambda: notify.count("READY=1"))


def test_the_watchdog_is_fed_in_time_and_status_says_how_it_is(
    broker, notify, start_node, temperature_file
):
    """Every third of its time: a node that is held up for the other two is no dead one."""
    start_node(sysfs_config(broker.port, {"s": temperature_file}), env=env(notify, watchdog_s=6.0))
    wait_until(lambda: notify.count("WATCHDOG=1") >= 4)
    fed_s = [at for at, m in zip(notify.times, notify.messages, strict=True) if m == "WATCHDOG=1"]
    assert max(b - a for a, b in itertools.pairwise(fed_s)) < 6.0, "systemd would have killed it"
    assert notify.messages.count("STATUS=connected, 1 of 1 sensors online") == 1


def test_a_loop_that_hangs_does_not_feed_the_watchdog(broker, notify, start_node, temperature_file):
    """SIGSTOP stands for a loop that does not turn."""
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}), env=env(notify))
    wait_until(lambda: notify.count("WATCHDOG=1") >= 2)
    node.freeze()
    fed = notify.count("WATCHDOG=1")
    time.sleep(1.5)
    assert notify.count("WATCHDOG=1") == fed
    node.process.send_signal(signal.SIGCONT)
    wait_until(lambda: notify.count("WATCHDOG=1") > fed)


def test_a_dead_network_thread_does_not_feed_the_watchdog(notify, tmp_path, monkeypatch):
    """The feed is skipped while paho's thread is dead, and a new thread is started."""
    from drivers.sim.board import SimulatedBoard
    from node.config.load import load
    from node.loop import Node
    from node.system.clock import SystemClock

    config = tmp_path / "n.toml"
    config.write_text(f'[node]\nname = "n"\n[mqtt]\nhost = "127.0.0.1"\nport = {free_port()}\n')
    for name, value in env(notify).items():
        monkeypatch.setenv(name, value)
    node = Node(load(config), SimulatedBoard(), SystemClock(), client_id="n", state_dir=None)
    fed: list[bool] = []
    restarts: list[int] = []
    for alive in (False, True):
        monkeypatch.setattr(type(node._link), "alive", alive)
        monkeypatch.setattr(node._link, "restart", lambda: restarts.append(1))
        before = notify.count("WATCHDOG=1")
        node._service.next_feed_s = 0.0
        node._watch_network_thread(SystemClock().monotonic())
        fed.append(notify.count("WATCHDOG=1") > before)
    assert fed == [False, True]
    assert len(restarts) == 1


def test_without_systemd_nothing_is_sent_and_nothing_is_missing(start_node, temperature_file):
    clean = {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": ""}
    node = start_node(sysfs_config(free_port(), {"s": temperature_file}), env=clean)
    node.wait_for_log("s (sysfs): online")
    assert node.terminate() == 0


def test_a_watchdog_meant_for_another_process_is_not_fed(notify, start_node, temperature_file):
    settings = {**env(notify), "WATCHDOG_PID": str(os.getpid())}
    start_node(sysfs_config(free_port(), {"s": temperature_file}), env=settings)
    wait_until(lambda: notify.count("READY=1"))
    time.sleep(1.5)
    assert notify.count("WATCHDOG=1") == 0


def test_a_watchdog_of_no_time_is_none(notify, start_node, temperature_file):
    """It would be fed without a pause."""
    node = start_node(sysfs_config(free_port(), {"s": temperature_file}), env=env(notify, 0))
    node.wait_for_log("no broker")
    wait_until(lambda: notify.count("READY=1"))
    assert node.terminate() == 0
    assert notify.count("WATCHDOG=1") == 0


def test_log_lines_carry_priorities_in_the_journal_and_times_elsewhere(
    start_node, temperature_file, tmp_path
):
    node = start_node(sysfs_config(free_port(), {"s": temperature_file}))
    node.wait_for_log("no broker")
    assert "WARNING no broker" in node.log
    assert node.log[:2] == "20", "a time"
    node.kill()
    log = tmp_path / "node.log"
    status = log.stat()
    stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    journal = start_node(sysfs_config(free_port(), {"s": temperature_file}), env=stream)
    journal.wait_for_log("<4>no broker")
    journal.wait_for_log("<6>s (sysfs): online")


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_is_what_the_node_expects():
    service = unit()["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"] == "78"
    assert service["StateDirectory"] == "sensor-node"
    assert int(service["WatchdogSec"]) >= 30
    assert service["User"] == "sensor-node"
    assert service["ExecStart"].split()[1:] == [
        "run",
        "--config",
        "/etc/sensor-node/node.toml",
    ]


def test_the_example_configuration_is_valid():
    from node.config.load import load

    config = load(UNIT.parent / "node.toml")
    assert [sensor.id for sensor in config.sensors] == ["cpu"]
