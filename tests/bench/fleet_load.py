"""Many simulated nodes in one process: prints what they did, a line of JSON each second.

python fleet_load.py PORT FIRST COUNT INTERVAL_S SPREAD_S [CA_FILE]

They begin spread over the interval (the first ones over 5 s at most), and keep to their grids.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import selectors
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleet_node import FleetNode, fleet_config
from fleet_socket import FleetSocket
from histogram import Histogram

__all__ = ["Load"]

_MINUTE_S = 60.0
_SECONDS_SAID = 200
_CONNECT_WITHIN_S = 5.0


class Load:
    """The nodes `first` to `first + count`, on one selector and one heap of timers."""

    def __init__(
        self,
        port: int,
        first: int,
        count: int,
        interval_s: float,
        spread_s: float = 5.0,
        ca: str | None = None,
        *,
        base_topic: str = "sensors",
        history_s: float = _MINUTE_S,
        mqtt_5: bool = True,
    ) -> None:
        chance = random.Random(first)
        with tempfile.TemporaryDirectory() as folder:
            config = fleet_config(Path(folder), port, interval_s, base_topic)
        self._interval_s = interval_s
        self._history_s = history_s
        self._resting = False
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._began_s = time.monotonic()
        self._lateness = Histogram()
        self._connections: Counter[int] = Counter()
        """Second of the monotonic clock -> connections that the broker has accepted in it."""
        tls = None if ca is None else ssl.create_default_context(cafile=ca)
        self._sockets = [
            FleetSocket(
                FleetNode(config, f"n{number:04}", chance, mqtt_5=mqtt_5),
                port,
                selector=self._selector,
                later=self._later,
                tls=tls,
                chance=chance,
                spread_s=spread_s,
                connected=self._count_connection,
            )
            for number in range(first, first + count)
        ]
        for one in self._sockets:
            self._later(chance.uniform(0, _CONNECT_WITHIN_S), one.connect)
            start_s = self._began_s + chance.uniform(0, interval_s)
            self._tick(one, start_s)
            self._minute(one, start_s + chance.uniform(0, history_s) // interval_s * interval_s)
            self._keep_alive(one)

    def run(self) -> None:
        """For ever."""
        report_s = time.monotonic() + 1
        while True:
            now_s = time.monotonic()
            if now_s >= report_s:
                report_s += 1
                self._report()
            while self._timers and self._timers[0][0] <= now_s:
                due_s, _, what = heapq.heappop(self._timers)
                self._lateness.add((now_s - due_s) * 1000)
                what()
            next_s = min(report_s, self._timers[0][0])
            for key, mask in self._selector.select(max(0.0, next_s - time.monotonic())):
                key.data.ready(mask)

    def _count_connection(self) -> None:
        self._connections[int(time.monotonic())] += 1

    def _later(self, after_s: float, what: Callable[[], None]) -> None:
        self._at(time.monotonic() + after_s, what)

    def _at(self, due_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (due_s, next(self._numbers), what))

    def _tick(self, one: FleetSocket, due_s: float) -> None:
        def tick() -> None:
            if not self._resting:
                one.node.tick(time.time())
            one.send()
            self._tick(one, due_s + self._interval_s)

        self._at(due_s, tick)

    def _minute(self, one: FleetSocket, due_s: float) -> None:
        def minute() -> None:
            one.node.minute(due_s - self._began_s)
            one.send()
            self._minute(one, due_s + self._history_s)

        self._at(due_s, minute)

    def _keep_alive(self, one: FleetSocket) -> None:
        def keep_alive() -> None:
            one.keep_alive()
            self._later(7.5, keep_alive)  # a quarter of the keepalive: `NetworkClient.loop_forever`

        self._later(7.5, keep_alive)

    def rest(self) -> None:
        """Read nothing from now on; send what there is."""
        self._resting = True

    def _report(self) -> None:
        print(json.dumps(self._figures()), flush=True)

    def _figures(self) -> dict[str, Any]:
        acknowledgement = Histogram()
        for one in self._sockets:
            acknowledgement.merge(one.node.link.acknowledgement)
            one.node.link.acknowledgement.take()
        links = [one.node.link for one in self._sockets]
        return {
            "online": sum(link.connected for link in links),
            "published": sum(link.published for link in links),
            "acknowledged": sum(link.acknowledged for link in links),
            "bytes": sum(link.published_bytes for link in links),
            "attempts": sum(one.attempts for one in self._sockets),
            "connections": sorted(self._connections.items())[-_SECONDS_SAID:],
            "losses": sum(one.losses for one in self._sockets),
            "waiting": sum(one.node.unsent for one in self._sockets),
            "lateness": self._lateness.take(),
            "acknowledgement": acknowledgement.take(),
        }


def main() -> None:
    port, first, count, interval_s, spread_s, *more = sys.argv[1:]
    ca = more[0] if more else None
    Load(int(port), int(first), int(count), float(interval_s), float(spread_s), ca).run()


if __name__ == "__main__":
    main()
