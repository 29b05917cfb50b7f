"""The parts of the page for reading sensors now: the buttons, and what came of it. Pure."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from node.plot.text import esc, label_of, number_text
from node.system.clock import utc_text
from node.system.terminal import count
from node.web.read_now import ReadResult
from node.web.view import NodeView

__all__ = ["Reads", "address_of", "read_all_button", "read_button", "read_form", "result_section"]

MAX_LINES = 40


class Reads(msgspec.Struct, frozen=True):
    """Which sensors can be read now, and the result of the last request."""

    sensors: frozenset[str] = frozenset()
    result: ReadResult | None = None


def address_of(sensor: str) -> str:
    """Return the path of a sensor's own page."""
    return f"/sensor/{quote(sensor, safe='')}"


def read_form(reads: Reads) -> str:
    """Return the form that all buttons of a page belong to."""
    return '<form id="read" method="post" action="/read"></form>' if reads.sensors else ""


def read_button(reads: Reads, sensor: str) -> str:
    if sensor not in reads.sensors:
        return ""
    name = esc(sensor)
    return (
        f'<button form="read" name="sensor" value="{name}" aria-label="Read now: {name}">'
        "Read now</button>"
    )


def read_all_button(reads: Reads) -> str:
    return '<button form="read">Read all now</button>' if reads.sensors else ""


def result_section(node: NodeView, reads: Reads) -> str:
    """Return what the last request has led to; nothing when that was long ago."""
    result = reads.result
    if result is None:
        return ""
    lines = [f"<li>{_line(node, sensor, result)}</li>" for sensor in result.values]
    if len(lines) > MAX_LINES:
        left_out = count(lines[MAX_LINES:], "sensor")
        lines[MAX_LINES:] = [f"<li>and {left_out} more</li>"]
    if result.problem:
        lines = [f'<li class="error">Not read: {esc(result.problem)}</li>']
    time = utc_text(result.utc_ms)
    return (
        '<section class="result" role="status" aria-label="Read now"><h2>Read now, '
        f'<time datetime="{time}">{time[:10]} {time[11:19]}</time></h2>'
        f"<ul>{''.join(lines)}</ul></section>"
    )


def _line(node: NodeView, sensor: str, result: ReadResult) -> str:
    if sensor in result.errors:
        return f'{esc(sensor)}: <span class="error">{esc(result.errors[sensor])}</span>'
    shown = {
        channel.name: channel
        for view in node.sensors
        if view.id == sensor
        for channel in view.channels
    }
    values = []
    for name, value in result.values[sensor].items():
        channel = shown.get(name)
        text = number_text(value, channel.decimals) if channel else f"{value:.6g}"
        unit = f" {channel.unit}" if channel else ""
        values.append(f"{label_of(name).lower()} {text}{unit}")
    return f"{esc(sensor)}: {esc(', '.join(values) or 'no value')}"
