"""Parses requests: their parameters, and the paths below `/api/v1/`. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from node.plot.buckets import SPANS, Span
from node.web import api
from node.web.page import sensors_of_page
from node.web.view import NodeView, SensorView

__all__ = ["Refused", "api_answer", "number_of", "parameters_of", "sensor_of", "span_of"]

_MAX_PARAMETERS = 10


class Refused(Exception):
    """The request is refused; `code` and the text say why."""

    def __init__(self, code: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.code = code
        self.headers = headers


def parameters_of(environ: dict[str, Any]) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS
        )
    except ValueError:
        raise Refused(400, "too many parameters") from None
    return dict(pairs)


def span_of(query: dict[str, str], default: str = "hour") -> Span:
    span = SPANS.get(query.get("span", default))
    if span is None:
        raise Refused(400, f"span: there are {', '.join(SPANS)}")
    return span


def number_of(query: dict[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) < 1:
        raise Refused(400, f"{name}: expected a whole number from 1")
    return int(text)


def sensor_of(node: NodeView, name: str) -> SensorView:
    for sensor in node.sensors:
        if sensor.id == name:
            return sensor
    raise Refused(404, "there is no such sensor, or it has given no reading for two days")


def api_answer(node: NodeView, path: list[str], query: dict[str, str]) -> dict[str, Any]:
    match path:
        case ["now"]:
            sensors = node.sensors
            if "sensor" in query:
                sensors = (sensor_of(node, query["sensor"]),)
            elif "page" in query:
                sensors = sensors_of_page(node, number_of(query, "page", 1))
            return api.now_answer(node, sensors)
        case ["node"]:
            return api.node_answer(node)
        case ["health"]:
            health = node.known.health
            return {
                "healthy": not node.unhealthy,
                "reason": node.unhealthy or None,
                "current": node.health is not None,
                "health": health,
            }
        case ["sensors"]:
            return {"sensors": [api.sensor_answer(sensor) for sensor in node.sensors]}
        case ["sensors", name]:
            return api.sensor_answer(sensor_of(node, name))
        case ["sensors", name, "history"]:
            return _history(node, sensor_of(node, name), query)
    raise Refused(404, "there is nothing here")


def _history(node: NodeView, sensor: SensorView, query: dict[str, str]) -> dict[str, Any]:
    span = span_of(query, "day")
    width_s = span.width_ms // 1000
    resolution_s = number_of(query, "resolution", width_s)
    if resolution_s % width_s:
        raise Refused(400, f"resolution: expected a multiple of {width_s} seconds")
    channel = query.get("channel")
    if channel is not None and channel not in {c.name for c in sensor.channels}:
        raise Refused(404, "the sensor has no such channel")
    return api.history_answer(
        sensor, span, node.known.now.utc_ms, channel=channel, resolution_ms=resolution_s * 1000
    )
