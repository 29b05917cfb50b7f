"""States of real nodes as fast as the broker acknowledges them: how much it bears.

python fleet_flood.py PORT CONNECTIONS RATE

Each connection keeps to a node's window of messages in flight, and all of them to RATE messages a
second (0: no limit). They are encoded beforehand, so that the flood costs less than the broker
that it is for. Prints what was acknowledged, each second.
"""

from __future__ import annotations

import json
import random
import selectors
import socket
import sys
import tempfile
import time
from pathlib import Path

from fleet_node import FleetNode, fleet_config

from node.mqtt.publisher import WINDOW

__all__ = ["flood"]

_ROUNDS = 40
_SENSORS = 5


class _Flooder:
    """One connection; `packets` go round and round."""

    def __init__(self, node: FleetNode, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        node.link.begin()
        self._talk(node)
        while node.link.acknowledged < node.link.published or not node.link.connected:
            node.happened(node.link.take(self._socket.recv(65_536)))
            self._talk(node)
        self._packets: list[bytes] = []
        for _ in range(_ROUNDS):
            node.tick(time.time())
            self._packets.append(bytes(node.link.out))
            node.link.out.clear()
            node.lost()
            node.link.connected = True
        self._received = bytearray()
        self._at = self._settled = 0
        self._room = WINDOW // _SENSORS

    def _talk(self, node: FleetNode) -> None:
        self._socket.sendall(node.link.out)
        node.link.out.clear()

    @property
    def socket(self) -> socket.socket:
        return self._socket

    def send(self) -> int:
        """Send five messages, if the window lets them; how many were sent."""
        if self._room == 0:
            return 0
        self._room -= 1
        self._socket.sendall(self._packets[self._at % _ROUNDS])
        self._at += 1
        return _SENSORS

    def take(self) -> int:
        """Count the acknowledgements that are there."""
        self._received += self._socket.recv(65_536)
        received, at, count = self._received, 0, 0
        # A PUBACK's length is in its second byte (MQTT 5, §3.4): it may bring a reason or not.
        while at + 1 < len(received) and at + 2 + received[at + 1] <= len(received):
            at += 2 + received[at + 1]
            count += 1
        del received[:at]
        self._settled += count
        while self._settled >= _SENSORS:
            self._settled -= _SENSORS
            self._room += 1
        return count


def flood(port: int, connections: int, rate: int) -> None:
    """For ever."""
    with tempfile.TemporaryDirectory() as folder:
        config = fleet_config(Path(folder), port, 1.0)
    selector = selectors.DefaultSelector()
    chance = random.Random(connections)
    flooders = [
        _Flooder(FleetNode(config, f"n{number:04}", chance), port) for number in range(connections)
    ]
    for one in flooders:
        selector.register(one.socket, selectors.EVENT_READ, one)
    sent = acknowledged = 0
    began_s = time.monotonic()
    report_s = began_s + 1
    while True:
        now_s = time.monotonic()
        if now_s >= report_s:
            report_s = now_s + 1
            print(json.dumps({"acknowledged": acknowledged}), flush=True)
        allowed = (now_s - began_s) * rate if rate else sys.maxsize
        for one in flooders:
            while sent < allowed and (count := one.send()):
                sent += count
        for key, _ in selector.select(0.001 if rate else None):
            acknowledged += key.data.take()


def main() -> None:
    flood(*map(int, sys.argv[1:]))


if __name__ == "__main__":
    main()
