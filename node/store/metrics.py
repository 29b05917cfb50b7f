"""The metrics of `store`, for Prometheus, by its own client library."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from node.store.consumer import Counts

__all__ = ["StoreCollector", "serve_metrics"]

_PREFIX = "sensor_node_store_"


class StoreCollector:
    """What a registry of that library collects."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        for name, text, value in (
            ("stored", "Readings stored since the start", counts.stored),
            ("duplicates", "Readings that were stored already", counts.again),
            ("rejected", "Messages that could not be stored as readings", counts.rejected),
        ):
            yield CounterMetricFamily(_PREFIX + name, text, value)
        for name, text, level in (
            ("waiting_messages", "Messages that the database does not have yet", counts.waiting),
            ("missing_readings", "Readings in the gaps, as the numbers show", counts.missing),
            ("lost_readings", "Those of them that the node does not have either", counts.lost),
            ("lag_seconds", "Age of the newest reading when it was stored", counts.lag_s),
            ("stored_timestamp_seconds", "When a reading was stored last", counts.stored_at_s),
            ("broker_connected", "1 while the broker is connected", float(counts.connected)),
            ("database_up", "1 while the database works", float(not counts.database_problem)),
        ):
            yield GaugeMetricFamily(_PREFIX + name, text, level)
        of_nodes = GaugeMetricFamily(
            f"{_PREFIX}newest_reading_timestamp_seconds",
            "When the newest reading of a node was taken, of those stored since the start",
            labels=["node"],
        )
        for node, taken_s in counts.newest_s.copy().items():  # the other thread changes it
            of_nodes.add_metric([node], taken_s)
        yield of_nodes


def serve_metrics(counts: Counts, host: str, port: int) -> int:
    """Serve `/metrics` on a thread of its own; return the port.

    Raises:
        OSError: it cannot listen there.
    """
    registry = CollectorRegistry()
    registry.register(StoreCollector(counts))
    server, _ = start_http_server(port, addr=host, registry=registry)
    return int(server.server_port)
