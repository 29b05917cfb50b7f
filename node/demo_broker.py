"""A broker for the demo, on a free port of the loopback interface.

It is mosquitto if that is installed, else amqtt in a thread of this process. amqtt speaks only
MQTT 3.1.1. Asked for MQTT 5 with a will it neither answers nor closes (0.12.1), so its clients
must be configured for 3.1.1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drivers.packages import install_command
from node.config.schema import MqttVersion
from node.system.child import end_child, start_child

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "BrokerUnavailable",
    "EmbeddedBroker",
    "embedded_broker",
    "find_mosquitto",
    "free_port",
]

START_S = 5.0


class BrokerUnavailable(Exception):
    """Neither broker can be started; the message says what to install."""


class EmbeddedBroker:
    """A broker on 127.0.0.1, and the MQTT version that it speaks; it can be stopped for a while."""

    def __init__(self, name: str, port: int, protocol: MqttVersion, server: _Server) -> None:
        self.name = name
        self.port = port
        self.protocol = protocol
        self._server = server

    def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            BrokerUnavailable: it does not start.
        """
        self._server.start()
        if not self._server.runs() or not _wait_until_listening(self.port):
            raise BrokerUnavailable(f"{self.name} does not start: {self._server.said()}")

    def stop(self) -> None:
        """End it, and every connection to it."""
        self._server.stop()


def find_mosquitto() -> str | None:
    """Return the path of mosquitto; Debian installs it outside of a user's PATH."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which("mosquitto", path=path)


@contextlib.contextmanager
def embedded_broker(folder: Path) -> Iterator[EmbeddedBroker]:
    """Run a broker during the block; its files go to `folder`.

    Raises:
        BrokerUnavailable: no broker is installed, or it does not start.
    """
    port = free_port()
    program = find_mosquitto()
    if program is not None:
        mosquitto = _Mosquitto(program, port, folder)
        broker = EmbeddedBroker("mosquitto", port, MqttVersion("auto"), mosquitto)
    else:
        broker = EmbeddedBroker("amqtt", port, MqttVersion("3.1.1"), _Amqtt(port))
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_until_listening(port: int) -> bool:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return True
        time.sleep(0.02)
    return False


class _Server(Protocol):
    """A program or a thread that is the broker."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def runs(self) -> bool: ...

    def said(self) -> str: ...


class _Mosquitto:
    """A child process."""

    def __init__(self, program: str, port: int, folder: Path) -> None:
        self._settings = folder / "mosquitto.conf"
        self._log_file = folder / "mosquitto.log"
        self._command = [program, "-c", str(self._settings)]
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence false"]
        if os.geteuid() == 0:
            # As another user it would no longer end with us, because the change of user clears
            # PR_SET_PDEATHSIG (prctl(2)).
            lines.append("user root")
        self._settings.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def start(self) -> None:
        with self._log_file.open("wb") as log:
            self._process = start_child(self._command, output=log, own_session=True)

    def stop(self) -> None:
        if self._process is not None:
            end_child(self._process, patience_s=2.0)
            self._process = None

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        return self._log_file.read_text(errors="replace").strip() or "no reason given"


class _Amqtt:
    """A thread with a separate event loop."""

    def __init__(self, port: int) -> None:
        self._settings: dict[str, Any] = {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._broker: Any = None

    def start(self) -> None:
        import asyncio

        try:
            from amqtt.broker import Broker
        except ImportError as error:
            raise BrokerUnavailable(
                f"no broker for the demo: sudo apt install mosquitto, or {install_command('demo')}"
            ) from error
        for name in ("amqtt", "transitions"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="amqtt", daemon=True)
        self._thread.start()

        async def start() -> Any:
            broker = Broker(self._settings, loop)
            await broker.start()
            return broker

        self._broker = asyncio.run_coroutine_threadsafe(start(), loop).result(START_S)

    def stop(self) -> None:
        if self._loop is None or self._thread is None:
            return
        import asyncio

        if self._broker is not None:
            with contextlib.suppress(Exception):
                ending = asyncio.run_coroutine_threadsafe(self._broker.shutdown(), self._loop)
                ending.result(1.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)
        self._loop = self._thread = self._broker = None

    def runs(self) -> bool:
        return self._broker is not None

    def said(self) -> str:
        return "no reason given"
