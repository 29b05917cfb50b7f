"""Parses requests: their parameters, and the paths below `/api/v1/`. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from node.plot.buckets import SPANS, Span
from node.web import api
from node.web.page import sensors_of_page
from node.web.view import NodeView, SensorView

__all__ = [
    "Refused",
    "api_answer",
    "expect_own_page",
    "form_of",
    "number_of",
    "parameters_of",
    "sensor_of",
    "span_of",
]

_MAX_PARAMETERS = 10


class Refused(Exception):
    """The request is refused; `code` and the text say why."""

    def __init__(self, code: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.code = code
        self.headers = headers


def parameters_of(environ: dict[str, Any]) -> dict[str, str]:
    return _parsed(environ.get("QUERY_STRING", ""))


def form_of(environ: dict[str, Any]) -> dict[str, str]:
    """Return the fields of a form; the server bounds the size of the request."""
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if kind not in ("", "application/x-www-form-urlencoded"):
        raise Refused(400, "expected a form: application/x-www-form-urlencoded")
    return _parsed(environ["wsgi.input"].read().decode("utf-8", "replace"))


def _parsed(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS))
    except ValueError:
        raise Refused(400, "too many parameters") from None


def expect_own_page(environ: dict[str, Any]) -> None:
    """Refuse a request that a page of another site has a visitor's browser make.

    A browser adds the password that it knows to such a request, too. Since 2020 browsers name the
    origin of every POST, and to a page with TLS they also send its relation (Fetch Metadata, §2.1).
    A request with neither is a program's, which has no visitor.
    """
    relation = environ.get("HTTP_SEC_FETCH_SITE")
    origin = environ.get("HTTP_ORIGIN")
    if relation is not None:
        is_own = relation in ("same-origin", "none")
    else:
        is_own = origin is None or _host_of(origin) == environ.get("HTTP_HOST", "").lower()
    if not is_own:
        raise Refused(403, "another site has made this request: use the button on the page itself")


def _host_of(origin: str) -> str | None:
    """Return host and port of an origin; None for `null`, and for what is not an origin."""
    scheme, separator, host = origin.partition("://")
    return host.lower() if separator and scheme in ("http", "https") else None


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
