"""The answers of `/api/v1/` as JSON; README.md documents each. Pure."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec

from node import __version__
from node.plot.buckets import Span, merged
from node.plot.text import clean
from node.system.clock import utc_text
from node.web.fleet import FleetView
from node.web.view import NodeView, SensorView

__all__ = [
    "encoded",
    "fleet_answer",
    "history_answer",
    "node_answer",
    "now_answer",
    "sensor_answer",
]


def now_answer(node: NodeView, sensors: tuple[SensorView, ...]) -> dict[str, Any]:
    """Return the node's whole state, and that of the given sensors."""
    return {
        "time": utc_text(node.known.now.utc_ms),
        "signature": _signature(node),
        "node": node_answer(node),
        "sensors": [sensor_answer(sensor) for sensor in sensors],
        "errors": [
            {
                "time": utc_text(event.utc_ms),
                "level": event.level,
                "message": clean(event.message),
            }
            for event in node.known.events
        ],
    }


def _signature(node: NodeView) -> str:
    """Return a digest that changes when more than values has: then the page is fetched again."""
    parts = (
        node.state,
        node.problems,
        node.health.broker if node.health else "",
        [
            (
                s.id,
                s.state,
                s.synced,
                s.health.alarms if s.health else {},
                [(c.name, c.unit, c.current) for c in s.channels],
            )
            for s in node.sensors
        ],
        node.known.events[-1:],
        node.known.stream,
    )
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def node_answer(node: NodeView) -> dict[str, Any]:
    known, health = node.known, node.known.health
    return {
        "name": node.name,
        "state": node.state,
        "healthy": not node.unhealthy,
        "problems": list(node.problems),
        "process": known.process,
        "version": health.version if health else None,
        "page_version": __version__,
        "broker": node.health.broker if node.health else None,
        "stream": known.stream,
        "last_seq": known.ledger.last_seq,
        "outbox_readings": node.unsent,
        "outbox_oldest_s": known.oldest_s,
        "dropped_readings": known.ledger.dropped,
        "dead_letters": known.ledger.dead_letters,
        "log_written_s": None if known.problem else round(known.written_s, 1),
        "sensors_online": node.online,
        "sensors": len(node.sensors),
    }


def sensor_answer(sensor: SensorView) -> dict[str, Any]:
    health = sensor.health
    return {
        "id": sensor.id,
        "state": sensor.state,
        "age_s": sensor.age_s,
        "time": sensor.time or None,
        "clock": None if sensor.newest is None else "synced" if sensor.synced else "unsynced",
        "seq": None if sensor.newest is None else sensor.newest.seq,
        "channels": [
            {
                "channel": channel.name,
                "value": channel.value,
                "text": channel.text,
                "unit": channel.unit,
                "current": channel.current,
                "accuracy": channel.accuracy,
            }
            for channel in sensor.channels
        ],
        "ok": health.ok if health else None,
        "failed": health.failed if health else None,
        "rejected": health.rejected if health else None,
        "rejected_for": health.rejected_for if health else None,
        "last_error": clean(health.last_error) if health and health.last_error else None,
        "alarms": health.alarms if health else {},
    }


def history_answer(
    sensor: SensorView, span: Span, now_ms: int, *, channel: str | None, resolution_ms: int
) -> dict[str, Any]:
    """Return the buckets of a span, in `resolution_ms`, a multiple of the span's width."""
    start_ms = now_ms - span.long_ms
    return {
        "sensor": sensor.id,
        "span": span.name,
        "start": utc_text(start_ms),
        "end": utc_text(now_ms),
        "resolution_s": resolution_ms // 1000,
        "gap_s": sensor.gap_ms / 1000,
        "channels": [
            {
                "channel": shown.name,
                "unit": shown.unit,
                "buckets": [
                    {
                        "time": utc_text(bucket.start_ms),
                        "min": bucket.low,
                        "max": bucket.high,
                        "mean": bucket.mean,
                        "count": bucket.count,
                        "clock": "unsynced" if bucket.unsynced else "synced",
                    }
                    for bucket in merged(shown.channel.buckets.of(span, now_ms), resolution_ms)
                ],
            }
            for shown in sensor.channels
            if channel in (None, shown.name)
        ],
        "rejected": [
            {"time": utc_text(mark.at_ms), "count": mark.count}
            for mark in (sensor.sensor.marks if sensor.sensor else ())
            if mark.at_ms >= start_ms
        ],
    }


def fleet_answer(view: FleetView, broker: str) -> dict[str, Any]:
    """Return all nodes, in the order of the page; `broker`: "" if it must not be named."""
    return {
        "time": utc_text(round(view.utc_s * 1000)),
        "broker": broker or None,
        "connected": view.connected,
        "link": view.link,
        "nodes_online": view.online,
        "complete": not view.full,
        "nodes": [
            {
                "name": node.name,
                "condition": node.condition,
                "words": node.words,
                "simulated": node.simulated,
                "page": node.page or None,
                "version": node.version or None,
                "health_age_s": node.health_age_s,
                "problems": list(node.problems),
                "sensors_online": node.online,
                "sensors": [
                    {
                        "id": sensor.id,
                        "state": sensor.state,
                        "why": sensor.why or None,
                        "age_s": sensor.age_s,
                        "last_error": sensor.last_error or None,
                        "alarms": {
                            alarm.name: {"text": alarm.text, "acknowledged": alarm.acknowledged}
                            for alarm in sensor.alarms
                        },
                        "channels": [
                            {
                                "channel": channel.name,
                                "value": channel.value,
                                "text": channel.text,
                                "unit": channel.unit,
                                "current": not channel.why,
                                "why": channel.why or None,
                            }
                            for channel in sensor.channels
                        ],
                    }
                    for sensor in node.sensors
                ],
            }
            for node in view.nodes
        ],
    }


def encoded(answer: dict[str, Any]) -> bytes:
    return msgspec.json.encode(answer) + b"\n"
