"""The status page as a process, for its tests; and what asks it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from support import PATIENCE_S, SENSOR_NODE, wait_until

__all__ = ["Reply", "WebProcess"]

START_PATIENCE_S = 60.0
"""Beside as many Chromiums as there are workers, all on one processor, a Python starts late."""


class Reply(NamedTuple):
    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WebProcess:
    """`sensor-node web` on a port that the kernel chooses, on the log in `state_dir`."""

    def __init__(
        self,
        state_dir: Path,
        *arguments: str,
        config: str | None = None,
        folder: Path | None = None,
        prefix: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        port: int = 0,
    ) -> None:
        folder = folder or state_dir.parent
        self.log_file = folder / "web.log"
        command = [*prefix, SENSOR_NODE, "web", "--state-dir", str(state_dir)]
        command += ["--port", str(port), *arguments]
        if config is not None:
            file = folder / "web.toml"
            file.touch(0o600)
            file.write_text(config)
            command += ["--config", str(file)]
        environment = {**os.environ, "SENSOR_NODE_CONFIG": "/nonexistent", **(env or {})}
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            match = wait_until(self._told, START_PATIENCE_S, "the page says where it is")
        except BaseException:
            self.kill()  # nobody else knows of it yet
            raise
        self.port = int(match[1])
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def _told(self) -> re.Match[str] | None:
        assert self.process.poll() is None, self.log
        return re.search(r"the status page is at http://.*:(\d+)/", self.log)

    def post(self, path: str, body: str = "", **headers: str) -> Reply:
        """What a form sends."""
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.get(path, "POST", body.encode(), **{**kind, **headers})

    def get(
        self, path: str, method: str = "GET", body: bytes | None = None, /, **headers: str
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return Reply(
                answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def raw(self, content: bytes, *, shut: bool = False, seconds: float = PATIENCE_S) -> bytes:
        """Everything that comes back for some bytes, until the page closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), seconds) as connection:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                connection.sendall(content)
                if shut:
                    connection.shutdown(socket.SHUT_WR)
            received = b""
            # A server that closes before it has read everything resets the connection.
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    received += part
            return received

    @property
    def rss_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert match is not None
        return int(match[1]) / 1024

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
