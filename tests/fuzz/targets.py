"""What is fuzzed, each by a function that takes a random generator and does one round of it.

A round raises what it should not have raised; `Found` carries what it was given.
"""

from __future__ import annotations

import contextlib
import queue
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grammar import Grammar
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from payloads import TOPICS, hear_everywhere, payload
from support import FakeClock

from node.config import load as configuration
from node.config.schema import HostName, MqttTable, OutboxTable
from node.mqtt.client import NetworkClient
from node.mqtt.events import BrokerEvent, Subscription
from node.mqtt.guarded_socket import GuardedSocket
from node.mqtt.rate_limit import BURST, RateLimit
from node.outbox.outbox import Outbox
from node.outbox.store import FILE_NAME
from node.reading import Layout

__all__ = ["TARGETS", "Found", "check_client", "check_payload"]

ROOT = Path(__file__).resolve().parents[2]
ON_THE_PI = ROOT / "deploy/image/root/usr/lib/sensor-node"
CONNACK = {True: b"\x20\x03\x00\x00\x00", False: b"\x20\x02\x00\x00"}
MAX_ROUND_S = 5.0
"""Far beyond what a round takes on any machine, and below what time that grows with the square of
the size does."""


class Found(Exception):
    """Something that must not be; `case` is what it was given."""

    def __init__(self, case: bytes, why: str) -> None:
        super().__init__(why)
        self.case = case


# -- what a broker sends, in this process: no connection, no pause between two


def client(draw: random.Random) -> None:
    """A whole connection of packets, to the sieve, paho and our callbacks."""
    mqtt_5 = draw.random() < 0.5
    stream = Grammar(draw, mqtt_5=mqtt_5).stream(fatal=True)
    begin = CONNACK[mqtt_5] if draw.random() < 0.95 else b""
    check_client(bytes((mqtt_5,)) + begin + stream)


def check_client(case: bytes) -> None:
    """The first byte of a case says whether it is MQTT 5."""
    events: queue.SimpleQueue[BrokerEvent] = queue.SimpleQueue()
    mqtt_5 = bool(case[0])
    tested: Any = NetworkClient(
        MqttTable(host=HostName("127.0.0.1"), port=1),
        MQTTProtocolVersion.MQTTv5 if mqtt_5 else MQTTProtocolVersion.MQTTv311,
        client_id="sn1",
        generation=1,
        tls_context=None,
        report=events.put,
        will_topic=None,
        subscribe=(Subscription("sensors/test/cmd/+"),),
        rate_limit=RateLimit(FakeClock(), unlimited="homeassistant/device/sn/config".__eq__),
        max_incoming_bytes=65_536,
    )
    near, far = socket.socketpair()
    near.setblocking(False)
    tested._create_socket_connection = lambda: near  # paho's inside, of a version that has it
    begin_s = time.monotonic()
    with near, far:
        tested._sock = tested._create_socket()
        assert isinstance(tested._sock, GuardedSocket)
        far.setblocking(False)
        rest = case[1:]
        result, quiet = MQTTErrorCode.MQTT_ERR_SUCCESS, 0
        while result == MQTTErrorCode.MQTT_ERR_SUCCESS and quiet < 3:
            with contextlib.suppress(OSError):  # no room, or the client has ended it
                rest = rest[far.send(rest[:30_000]) :] if rest else rest
            with contextlib.suppress(OSError):
                far.recv(1 << 20)
            quiet = 0 if rest or (tested._sock and tested._sock.pending()) else quiet + 1
            try:
                result = tested.loop_read()
                if result == MQTTErrorCode.MQTT_ERR_SUCCESS:
                    tested.loop_write()
            except Exception as error:
                raise Found(case, repr(error)) from error
    if events.qsize() > BURST + 10:
        raise Found(case, f"{events.qsize()} events for the loop")
    if time.monotonic() - begin_s > MAX_ROUND_S:
        raise Found(case, f"it took {time.monotonic() - begin_s:.1f} s")


# -- what other clients say in the node's topics


def payloads(draw: random.Random) -> None:
    """A message in the node's name costs nothing, whatever is in it."""
    head = bytes((draw.randrange(len(TOPICS)), draw.randrange(2)))
    check_payload(head + payload(draw, "STREAM"))


def check_payload(case: bytes) -> None:
    """See `hear_everywhere` for what a case is."""
    try:
        wrong = hear_everywhere(case)
    except Exception as error:
        raise Found(case, repr(error)) from error
    if wrong:
        raise Found(case, wrong)


# -- the configuration, the files of the card, the log


def _mangled(draw: random.Random, content: bytes) -> bytes:
    """With lines that are doubled, dropped, or put elsewhere, and bytes that are others."""
    lines = content.splitlines(keepends=True)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(lines))
        how = draw.randrange(4)
        if how == 0:
            lines.insert(draw.randrange(len(lines)), lines[at])
        elif how == 1 and len(lines) > 1:
            del lines[at]
        elif how == 2:
            words = (b"[", b"[[a]]\n", b"=", b"true", b"-1", b"1e999", b"nan", b'"', b"\0", b"{}")
            place = draw.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + draw.choice(words) + lines[at][place:]
        else:
            place = draw.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + draw.randbytes(1) + lines[at][place + 1 :]
    if draw.random() < 0.02:
        lines.append(b"x = " + b"[" * draw.randrange(5000) + b"\n")
    return b"".join(lines)


CONFIGURATION = (ROOT / "deploy/image/boot/sensor-node.toml").read_bytes().replace(b"\n# ", b"\n")


def config(draw: random.Random) -> None:
    """A configuration is right, or every mistake is told; nothing else is raised."""
    content = _mangled(draw, CONFIGURATION)
    try:
        with contextlib.suppress(configuration.ConfigError):
            configuration.parse(Path("/nowhere/node.toml"), content)
    except Exception as error:
        raise Found(content, repr(error)) from error


def card(draw: random.Random) -> None:
    """A mistake in a file of the FAT partition is a `BadFile`, which costs that file alone."""
    sys.path.insert(0, str(ON_THE_PI))
    try:
        import card as card_files  # type: ignore[import-not-found, unused-ignore]
        import panel  # type: ignore[import-not-found, unused-ignore]
    finally:
        sys.path.remove(str(ON_THE_PI))
    example = (
        b'country = "DE"\n[[network]]\nssid = "home"\npassword = "secret words"\nhidden = true\n'
    )
    content = _mangled(draw, example)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "wifi.toml"
        file.write_bytes(content)
        try:
            with contextlib.suppress(card_files.BadFile):
                conf = panel.wpa_supplicant_conf(card_files.read_toml(file))
                assert conf.count("{") == conf.count("}")
            panel.ssh_keys(content.decode("utf-8", "replace"))
            panel.host_name({"node": {"name": content.decode("latin-1")}}, "1f2e")
        except Exception as error:
            raise Found(content, repr(error)) from error


def log(draw: random.Random) -> None:
    """Whatever a card makes of the log: no reading is another one, and new ones are kept."""
    layout = Layout("s", ("temperature",), ("°C",))
    clock = FakeClock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "log"
        outbox = Outbox(folder, OutboxTable(), clock)
        for number in range(1, 61):
            outbox.append(layout, (float(number),), boot_s=1.0, utc_s=1.8e9, synced=True)
            if number % 5 == 0:
                outbox.commit()
        outbox.acknowledge(1, 20)
        outbox.commit()
        crashed = Path(name) / "crashed"
        shutil.copytree(folder, crashed)
        outbox.close()
        files = [f for f in (crashed / FILE_NAME, crashed / f"{FILE_NAME}-wal") if f.exists()]
        file = draw.choice(files)
        content = bytearray(file.read_bytes())
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(content))
            if draw.random() < 0.2:
                del content[at:]
                content += b"\0"
            else:
                noise = draw.randbytes(draw.randint(1, 200))
                content[at : at + len(noise)] = noise[: len(content) - at]
        file.write_bytes(content)
        try:
            again = Outbox(crashed, OutboxTable(), clock)
            for reading in again.read(0, 1000):
                assert reading.numbers == (float(reading.seq),), reading
            new = again.append(layout, (7.0,), boot_s=1.0, utc_s=1.8e9, synced=True)
            again.commit()
            assert not again.problem, again.problem
            assert again.read(new.seq - 1, 1) == [new]
            again.close()
        except Exception as error:
            raise Found(bytes(content), f"{file.name}: {error!r}") from error


TARGETS: dict[str, Callable[[random.Random], None]] = {
    "client": client,
    "payloads": payloads,
    "config": config,
    "card": card,
    "log": log,
}
