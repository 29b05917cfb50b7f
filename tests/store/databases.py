"""The databases of these tests, as processes on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
from ports import free_port
from support import PATIENCE_S, wait_until

__all__ = ["HttpServer", "InfluxDB", "Postgres", "VictoriaMetrics"]

_START_S = 60.0


class _Server:
    """A process that is killed, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.folder, process_group=0
            )
        wait_until(self.answers, _START_S, f"{self.command()[0]} answers")

    def send(self, number: int) -> None:
        """Send a signal to the server and its children."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGCONT)
            self.send(number)
            self._process.wait(PATIENCE_S)


class Postgres(_Server):
    """A cluster of PostgreSQL, in a folder that others may reach.

    It runs as another user where this one is root, as PostgreSQL demands.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        newest = max(Path("/usr/lib/postgresql").glob("[0-9]*"), key=lambda path: int(path.name))
        self._programs = newest / "bin"
        self._data = folder / "data"
        self._as_user: list[str] = []
        if os.getuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        initdb = [*self._as_user, str(self._programs / "initdb"), "-D", str(self._data)]
        initdb += ["--username=store", "--auth=trust", "--no-sync", "--encoding=UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder)

    @property
    def address(self) -> str:
        return f"postgresql://store@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        options = ["-D", str(self._data), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        options += ["-c", "unix_socket_directories="]
        return [*self._as_user, str(self._programs / "postgres"), *options]

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.Error), psycopg.connect(self.address):
            return True
        return False

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.address, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def stored(self) -> list[tuple[str, str, int]]:
        """(node, stream, seq) of all values, duplicates included."""
        try:
            query = "SELECT node, stream, seq FROM sensor_node.readings ORDER BY 1, 2, 3"
            return [(node, stream, seq) for node, stream, seq in self.ask(query)]
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return []


class HttpServer(_Server):
    """A server that answers `ping` when it has started."""

    ping: str

    def get(self, path: str, **parameters: str) -> bytes:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        address = f"http://127.0.0.1:{self.port}{path}{query}"
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:
            content: bytes = answer.read()
        return content

    def answers(self) -> bool:
        with contextlib.suppress(OSError, urllib.error.URLError):
            self.get(self.ping)
            return True
        return False


class InfluxDB(HttpServer):
    """InfluxDB 1."""

    END = signal.SIGKILL
    _SEQS = """SELECT seq FROM sensor_node WHERE node = 'attic'"""

    ping = "/ping"

    @staticmethod
    def is_installed() -> bool:
        return shutil.which("influxd") is not None

    def command(self) -> list[str]:
        settings = self.folder / "influxdb.conf"
        settings.write_text(
            f'bind-address = "127.0.0.1:{free_port()}"\nreporting-disabled = true\n'
            f'[meta]\ndir = "{self.folder}/meta"\n'
            f'[data]\ndir = "{self.folder}/data"\nwal-dir = "{self.folder}/wal"\n'
            f'[http]\nbind-address = "127.0.0.1:{self.port}"\n'
        )
        return ["influxd", "-config", str(settings)]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/write?db=sensors"

    def make_database(self) -> None:
        body = urllib.parse.urlencode({"q": "CREATE DATABASE sensors"}).encode()
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/query", body).read()

    def stored(self) -> list[int]:
        """The seq of all points of the node attic, duplicates included."""
        found = json.loads(self.get("/query", db="sensors", q=self._SEQS))
        series = found["results"][0].get("series", [{"values": []}])
        return [seq for _, seq in series[0]["values"]]


class VictoriaMetrics(HttpServer):
    """It acknowledges what is in its memory, and writes it some seconds later."""

    END = signal.SIGTERM
    ping = "/health"

    def command(self) -> list[str]:
        return [
            "victoria-metrics",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            f"-storageDataPath={self.folder}/data",
            "-retentionPeriod=100y",
            "-search.latencyOffset=0s",
            "-search.disableCache",
        ]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/write"

    def stored(self) -> list[int]:
        """The seq of all points of the node attic, duplicates included."""
        content = self.get("/api/v1/export", **{"match[]": "sensor_node_seq{node='attic'}"})
        lines = map(json.loads, content.splitlines())
        return sorted(int(seq) for line in lines for seq in line["values"])
