"""The answer of `/metrics`: Prometheus' text format, version 0.0.4. Pure.

Names and units follow Prometheus' conventions (https://prometheus.io/docs/practices/naming/). A
value that is not current is left out, so that Prometheus marks it as stale, too.
"""

from __future__ import annotations

from collections.abc import Iterable

from node import __version__
from node.health import shown_fields
from node.web.view import NodeView

__all__ = ["CONTENT_TYPE", "metrics_text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = dict[str, str]
Sample = tuple[Labels, float]


def metrics_text(node: NodeView) -> str:
    """Return every metric with its help and type."""
    return "".join(
        _family(name, kind, text, samples) for name, kind, text, samples in _families(node)
    )


def _families(node: NodeView) -> Iterable[tuple[str, str, str, list[Sample]]]:
    known, sensors = node.known, node.sensors
    up = node.state in ("running", "starting")
    broker = node.health is not None and node.health.connected
    version = known.health.version if known.health else ""
    yield "up", "gauge", "Whether the node runs.", [({}, up)]
    yield "healthy", "gauge", "Whether it runs and commits readings.", [({}, not node.unhealthy)]
    about = {"node": node.name, "version": version, "page_version": __version__}
    yield "info", "gauge", "The node; always 1.", [(about, 1)]
    yield (
        "broker_connected",
        "gauge",
        "Whether the node is connected to its broker.",
        [({}, up and broker)],
    )
    yield (
        "reading",
        "gauge",
        "The newest value, while it is current.",
        [
            ({"sensor": s.id, "channel": c.name, "unit": c.unit}, c.value)
            for s in sensors
            for c in s.channels
            if c.current
        ],
    )
    yield (
        "reading_age_seconds",
        "gauge",
        "Time since the newest reading was taken.",
        [({"sensor": s.id}, s.age_s) for s in sensors if s.age_s is not None],
    )
    yield (
        "reading_seq",
        "gauge",
        "The number of the newest reading in the stream.",
        [({"sensor": s.id}, s.newest.seq) for s in sensors if s.newest is not None],
    )
    yield (
        "sensor_online",
        "gauge",
        "Whether the sensor is online.",
        [({"sensor": s.id}, s.state == "online") for s in sensors],
    )
    healths = [(s.id, s.health) for s in sensors if s.health is not None]
    yield (
        "reads_total",
        "counter",
        "Reads that gave a value, since the node was started; as it noted them last.",
        [({"sensor": name}, health.ok) for name, health in healths],
    )
    yield (
        "read_failures_total",
        "counter",
        "Reads that gave none.",
        [({"sensor": name}, health.failed) for name, health in healths],
    )
    yield (
        "rejected_values_total",
        "counter",
        "Values that did not pass a filter.",
        [
            ({"sensor": name, "reason": reason}, number)
            for name, health in healths
            for reason, number in sorted(health.rejected_for.items())
        ],
    )
    yield (
        "alarm",
        "gauge",
        "Whether the alarm is on; left out while that is unknown.",
        [
            ({"sensor": sensor, "alarm": name}, alarm.state == "on")
            for sensor, health in healths
            for name, alarm in health.alarms.items()
            if alarm.state != "unknown" and node.health is not None
        ],
    )
    told = [] if node.health is None else [node.health]
    yield (
        "clock_synced",
        "gauge",
        "Whether the clock of the node is set.",
        [({}, health.clock == "synced") for health in told],
    )
    yield (
        "simulated",
        "gauge",
        "Whether the hardware is not real, so that no reading is.",
        [({}, health.simulated) for health in told],
    )
    yield from _of_the_health(node)
    if not known.problem:
        yield from _of_the_log(node)


def _of_the_health(node: NodeView) -> Iterable[tuple[str, str, str, list[Sample]]]:
    """Yield the metrics from `node.health`."""
    for field, shown in shown_fields().items():
        if shown.metric:
            value = getattr(node.health, field, None)
            kind = "counter" if shown.state_class == "total_increasing" else "gauge"
            yield shown.metric, kind, shown.help, [] if value is None else [({}, value)]


def _of_the_log(node: NodeView) -> Iterable[tuple[str, str, str, list[Sample]]]:
    known = node.known
    yield "last_seq", "gauge", "The number of the newest reading.", [({}, known.ledger.last_seq)]
    yield (
        "outbox_readings",
        "gauge",
        "Readings that the broker has not acknowledged.",
        [({}, node.unsent)],
    )
    oldest: list[Sample] = [] if known.oldest_s is None else [({}, known.oldest_s)]
    yield "outbox_oldest_seconds", "gauge", "The age of the oldest of them; 0 without any.", oldest
    yield (
        "dropped_readings_total",
        "counter",
        "Readings lost to the bound of the log.",
        [({}, known.ledger.dropped)],
    )
    yield (
        "dead_letters_total",
        "counter",
        "Messages that the broker would not take.",
        [({}, known.ledger.dead_letters)],
    )
    yield (
        "log_written_seconds",
        "gauge",
        "Time since the log was written to.",
        [({}, round(known.written_s, 1))],
    )


def _family(name: str, kind: str, text: str, samples: list[Sample]) -> str:
    full = f"sensor_node_{name}"
    lines = [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
    for labels, number in samples:
        shown = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
        braces = f"{{{shown}}}" if shown else ""
        lines.append(f"{full}{braces} {_number(number)}")
    return "\n".join(lines) + "\n"


def _number(number: float) -> str:
    """Return a number with all its digits: a `seq` has more than ten after some years."""
    return repr(float(number)).removesuffix(".0")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
