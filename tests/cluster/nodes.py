"""Simulated nodes in one process: prints each second what they did, and what they have committed.

python nodes.py PORT FIRST COUNT INTERVAL_S HISTORY_S MQTT_5

`rest` on standard input ends the reading of sensors; what there is goes on being sent.
"""

from __future__ import annotations

import os
import selectors
import sys
from typing import Any

from fleet_load import Load

__all__: list[str] = []


class _ClusterLoad(Load):
    """Nodes that are told when to rest."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        os.set_blocking(sys.stdin.fileno(), False)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self)

    def ready(self, _mask: int) -> None:
        """Obey standard input."""
        if b"rest" in os.read(sys.stdin.fileno(), 100):
            self.rest()

    def _figures(self) -> dict[str, Any]:
        nodes = [one.node for one in self._sockets]
        return {**super()._figures(), "committed": {n.name: n.committed for n in nodes}}


def main() -> None:
    port, first, count, interval_s, history_s, mqtt_5 = sys.argv[1:]
    _ClusterLoad(
        int(port),
        int(first),
        int(count),
        float(interval_s),
        history_s=float(history_s),
        mqtt_5=mqtt_5 == "True",
    ).run()


if __name__ == "__main__":
    main()
