"""A broker for the demo, on a free port of the loopback interface.

mosquitto where it is installed, else amqtt in a thread of this process. amqtt speaks MQTT 3.1.1
alone; asked for MQTT 5 with a will it neither answers nor closes (0.12.1), so its clients have to
be told.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from node.config.schema import MqttVersion
from node.system.child import end_child, start_child

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


class EmbeddedBroker(msgspec.Struct, frozen=True):
    """A broker on 127.0.0.1, and the version to speak to it."""

    name: str
    port: int
    protocol: MqttVersion


def find_mosquitto() -> str | None:
    """The mosquitto program; Debian keeps it where a user's PATH does not lead."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which("mosquitto", path=path)


@contextlib.contextmanager
def embedded_broker(folder: Path) -> Iterator[EmbeddedBroker]:
    """Run a broker during the block; its files go to `folder`.

    Raises:
        BrokerUnavailable: there is none, or it does not start.
    """
    port = free_port()
    program = find_mosquitto()
    if program is not None:
        with _mosquitto(program, port, folder):
            yield EmbeddedBroker("mosquitto", port, MqttVersion("auto"))
    else:
        with _amqtt(port):
            yield EmbeddedBroker("amqtt", port, MqttVersion("3.1.1"))


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
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


@contextlib.contextmanager
def _mosquitto(program: str, port: int, folder: Path) -> Iterator[None]:
    settings = folder / "mosquitto.conf"
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "persistence false"]
    if os.geteuid() == 0:
        # As another user it would no longer end with us: that clears PR_SET_PDEATHSIG (prctl(2)).
        lines.append("user root")
    settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (folder / "mosquitto.log").open("wb") as log:
        process = start_child([program, "-c", str(settings)], output=log, own_session=True)
    try:
        if not _wait_until_listening(port) or process.poll() is not None:
            said = (folder / "mosquitto.log").read_text(errors="replace").strip()
            raise BrokerUnavailable(f"mosquitto does not start: {said or 'no reason given'}")
        yield
    finally:
        end_child(process, patience_s=2.0)


@contextlib.contextmanager
def _amqtt(port: int) -> Iterator[None]:
    import asyncio

    try:
        from amqtt.broker import Broker
    except ImportError as error:
        raise BrokerUnavailable(
            "no broker for the demo: sudo apt install mosquitto, "
            "or pip install 'pi-sensor-node[demo]'"
        ) from error
    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    settings: dict[str, Any] = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    loop = asyncio.new_event_loop()

    async def start() -> Any:
        broker = Broker(settings, loop)
        await broker.start()
        return broker

    thread = threading.Thread(target=loop.run_forever, name="amqtt", daemon=True)
    thread.start()
    starting = asyncio.run_coroutine_threadsafe(start(), loop)
    try:
        broker = starting.result(START_S)
        if not _wait_until_listening(port):
            raise BrokerUnavailable("amqtt does not start")
        yield
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(broker.shutdown(), loop).result(1.0)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(1.0)
