"""What is around the brokers: balancer, simulated and real nodes, consumers, database."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from brokers import DEPLOY, PATIENCE_S, Broker
from databases import Postgres
from store_support import StoreProcess
from support import NodeProcess, ledger_in, replaced, sysfs_config, wait_until

__all__ = ["Balancer", "Count", "Plant", "Simulated"]

PORT = 1883
_DUPLICATES = """SELECT count(*) - count(DISTINCT (channel_id, stream_id, seq))
    FROM sensor_node.reading"""
_NEWEST = "SELECT node, extract(epoch FROM max(time)) FROM sensor_node.readings GROUP BY node"
_ASKED = "asking for its readings"


class Balancer:
    """haproxy of the root file system, with the configuration of deploy/cluster."""

    def __init__(self, root: Path) -> None:
        (root / "etc/haproxy/haproxy.cfg").write_text((DEPLOY / "haproxy.cfg").read_text())
        self.log = root / "srv/haproxy.log"
        command = ["chroot", str(root), "haproxy", "-f", "/etc/haproxy/haproxy.cfg"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._listens, PATIENCE_S, f"haproxy; see {self.log}")

    def _listens(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), 2):
            return True
        return False

    def connections(self, broker: Broker) -> int:
        """How many clients it has sent to a broker."""
        command = ["ss", "-Htn", "state", "established", "dst", f"{broker.host.address}:1883"]
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return len(found.splitlines())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Simulated:
    """Many nodes in one process; `figures` is what it has said last."""

    def __init__(self, count: int, interval_s: float, history_s: float, mqtt_5: bool) -> None:
        program = Path(__file__).with_name("nodes.py")
        numbers = [PORT, 0, count, interval_s, history_s, mqtt_5]
        self.count = count
        self.figures: dict[str, Any] = {}
        self._process = subprocess.Popen(
            [sys.executable, str(program), *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.figures = json.loads(line)

    def rest(self) -> None:
        """Let them read nothing from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"rest\n")
        self._process.stdin.flush()

    def committed(self) -> set[tuple[str, int]]:
        nodes = self.figures["committed"].items()
        return {(name, seq) for name, (_, last) in nodes for seq in range(1, last + 1)}

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Count(NamedTuple):
    """The rows of the database against what the nodes have committed."""

    committed: int
    missing: int
    twice: int
    asked: int
    """How often a consumer has asked a node for readings again."""


class Plant:
    """Everything but the brokers, on this host."""

    def __init__(self, folder: Path, *, mqtt_5: bool) -> None:
        self._folder = folder
        self._mqtt_5 = mqtt_5
        database = folder / "database"
        database.mkdir()
        self.database = Postgres(database)
        self.database.start()
        self.stores: dict[str, StoreProcess] = {}
        self.real: dict[str, NodeProcess] = {}
        self.simulated: Simulated | None = None

    def start_consumers(self, count: int) -> None:
        for number in range(1, count + 1):
            self.start_consumer(f"consumer{number}")
        for store in self.stores.values():
            store.wait_for_log("connected to", PATIENCE_S)

    def start_consumer(self, name: str) -> None:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        options = ["--name", name, "--share", "all"]
        self.stores[name] = StoreProcess(folder, self.database.address, PORT, *options)

    def start_nodes(self, count: int, real: int, interval_s: float, history_s: float) -> None:
        """`real` of them are `sensor-node run`, with a log on the disk, and can replay."""
        if count > real:
            self.simulated = Simulated(count - real, interval_s, history_s, self._mqtt_5)
        for number in range(1, real + 1):
            name = f"real{number}"
            folder = self._folder / name
            folder.mkdir()
            (folder / "air").write_text("21500\n")
            config = sysfs_config(PORT, {"air": folder / "air"}, interval=f"{interval_s}s")
            config = replaced(config, ('name = "test"', f'name = "{name}"'))
            config += f'\n[outbox]\nhistory_interval = "{history_s}s"\n'
            self.real[name] = NodeProcess(folder, config)

    def wait_until_all_are_stored(self) -> None:
        """Until the database has a reading of each node that is taken from now on."""
        now_s = time.time()
        expected = len(self.real) + (self.simulated.count if self.simulated else 0)

        def all_are_there() -> bool:
            return sum(at_s >= now_s for at_s in self.newest().values()) >= expected

        wait_until(all_are_there, PATIENCE_S, f"a reading of each of {expected} nodes")

    def committed(self) -> set[tuple[str, int]]:
        simulated = self.simulated.committed() if self.simulated else set()
        return simulated | {
            (name, seq)
            for name, node in self.real.items()
            if (node.state_dir / "outbox.db").exists()
            for seq in range(1, ledger_in(node.state_dir).last_seq + 1)
        }

    def rest(self) -> None:
        """No node reads any more; what they have goes on being sent."""
        if self.simulated:
            self.simulated.rest()
        for name in self.real:
            (self._folder / name / "air").unlink()  # so that it cannot be read

    def online(self) -> int:
        """How many simulated nodes are connected."""
        return self.simulated.figures.get("online", 0) if self.simulated else 0

    def stored(self) -> set[tuple[str, int]]:
        rows = self.database.ask("SELECT DISTINCT node, seq FROM sensor_node.readings")
        return {(node, seq) for node, seq in rows}

    def newest(self) -> dict[str, float]:
        """Node -> when its newest reading in the database was taken, in seconds since 1970."""
        with contextlib.suppress(psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return {node: float(at_s) for node, at_s in self.database.ask(_NEWEST)}
        return {}

    def asked(self) -> int:
        return sum(store.log_file.read_text().count(_ASKED) for store in self.stores.values())

    def count(self, within_s: float) -> Count:
        """Wait until all that was committed is in the database, or the time is over; count."""
        committed = self.committed()
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.committed() <= self.stored(), within_s)
        committed = self.committed()
        ((twice,),) = self.database.ask(_DUPLICATES)
        return Count(len(committed), len(committed - self.stored()), twice, self.asked())

    def stop(self) -> None:
        for store in self.stores.values():
            store.kill()
        for node in self.real.values():
            node.kill()
        if self.simulated:
            self.simulated.kill()
