"""The mosquitto that all peers publish to, on a free port of the loopback interface.

Its queues are unbounded, so that what is lost was lost by a peer. A persistent session is saved
when the broker is told to (SIGUSR1) and when it ends: killed and started again it still knows its
subscriber, which therefore misses nothing, however fast a peer is back.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ports import free_port

from node.demo_broker import find_mosquitto

__all__ = ["Broker", "mosquitto_version"]


class Broker:
    """A mosquitto process; its files are in `folder`. `start` begins it, again as well."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser root\n"
            f"persistence true\npersistence_location {folder}/\nautosave_interval 0\n"
            "max_queued_messages 0\n"
        )

    def start(self) -> None:
        program = find_mosquitto()
        if program is None:
            raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._folder / "mosquitto.conf")],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + 5
        while time.monotonic() < deadline_s:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        said = (self._folder / "mosquitto.log").read_text(errors="replace")
        raise SystemExit(f"mosquitto does not start: {said.strip() or 'no reason given'}")

    def save(self) -> None:
        """Write sessions and retained messages to the disk, and wait until that is done."""
        saved = self._folder / "mosquitto.db"
        saved.unlink(missing_ok=True)
        self._signal(signal.SIGUSR1)
        while not saved.exists():
            time.sleep(0.01)

    def stop(self) -> None:
        """In good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)
            self._process.wait()
            self._process = None


def mosquitto_version() -> str:
    said = subprocess.run(
        [str(find_mosquitto()), "-h"], capture_output=True, text=True, check=False
    )
    return said.stdout.split("\n", 1)[0].removeprefix("mosquitto version ")
