"""`sensor-node store` as a process, for the tests of its folder and of the suite."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from support import PATIENCE_S, SENSOR_NODE, wait_until

__all__ = ["StoreProcess"]


class StoreProcess:
    """`sensor-node store` on a broker of 127.0.0.1."""

    def __init__(
        self, folder: Path, to: str, port: int, *arguments: str, env: dict[str, str] | None = None
    ) -> None:
        self.log_file = folder / "store.log"
        command = [SENSOR_NODE, "store", "--to", to, "--broker", f"127.0.0.1:{port}"]
        command += ["--log-level", "info", "--state-dir", str(folder), *arguments]
        with self.log_file.open("ab") as log:
            self._log_starts = log.tell()
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )

    @property
    def log(self) -> str:
        """What this process has said; those before it said it to the same file."""
        return self.log_file.read_bytes()[self._log_starts :].decode()

    def wait_for_log(self, pattern: str, seconds: float = PATIENCE_S) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            return re.search(pattern, self.log)

        match: re.Match[str] = wait_until(found, seconds, f"{pattern!r} in the log of store")
        return match

    def terminate(self, seconds: float = PATIENCE_S) -> int:
        self.process.terminate()
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
