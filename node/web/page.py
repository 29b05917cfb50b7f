"""The page as HTML: complete without the script, which only keeps it fresh. Pure.

All text from the log or the configuration goes through `esc`.
"""

from __future__ import annotations

from urllib.parse import urlencode

from node.plot.buckets import SPANS, Span
from node.plot.svg import Plot, render
from node.plot.text import age_text, esc, label_of, number_text, slug
from node.plot.times import LocalZone
from node.system.terminal import count
from node.web.document import Assets, document, page_links, problem_list
from node.web.page_facts import counts_of, events_section, footer_of, node_section
from node.web.page_reads import (
    Reads,
    address_of,
    read_all_button,
    read_button,
    read_form,
    result_section,
)
from node.web.view import ChannelView, NodeView, SensorView

__all__ = ["PER_PAGE", "index_page", "plot_of", "sensor_page", "sensors_of_page"]

PER_PAGE = 24
"""Sensors per page; this bounds the page's size."""
_STATE_WORDS = {
    "running": "running",
    "starting": "starting",
    "stopped": "not running",
    "unknown": "unknown",
}


def plot_of(
    sensor: SensorView, channel: ChannelView, span: Span, now_ms: int, *, large: bool = False
) -> Plot:
    """Return a plot of the span until now."""
    return Plot(
        key=f"{slug(sensor.id)}-{slug(channel.name)}-{span.name}",
        title=f"{sensor.id} {channel.name}, {channel.unit}, the last {span.label.lower()}",
        unit=channel.unit,
        buckets=channel.channel.buckets.of(span, now_ms),
        width_ms=span.width_ms,
        start_ms=now_ms - span.long_ms,
        end_ms=now_ms,
        # Successive buckets may be up to one width further apart than the readings in them.
        gap_ms=sensor.gap_ms + span.width_ms,
        decimals=channel.decimals,
        accuracy=channel.accuracy or 0.0,
        marks=sensor.sensor.marks if sensor.sensor else (),
        # Midnight is where it is for the node; the script writes the times of the reader.
        zone=LocalZone(),
        width=560 if large else 360,
        height=180 if large else 120,
    )


def _pages(node: NodeView) -> int:
    return max(1, -(-len(node.sensors) // PER_PAGE))


def sensors_of_page(node: NodeView, page: int) -> tuple[SensorView, ...]:
    """Return the sensors of a page, counted from 1; beyond the last page, those of the last."""
    page = min(page, _pages(node))
    return node.sensors[(page - 1) * PER_PAGE : page * PER_PAGE]


def index_page(node: NodeView, span: Span, page: int, assets: Assets, reads: Reads) -> str:
    """Return the page with all sensors, each with a plot of one span; then the node itself."""
    pages = _pages(node)
    page = min(page, pages)
    shown = sensors_of_page(node, page)
    body = [
        _header(node),
        '<main id="main">',
        problem_list(node.problems),
        result_section(node, reads),
        read_form(reads),
        '<section aria-label="Sensors"><div class="bar"><h2>Sensors</h2>',
        read_all_button(reads),
        _span_links(span, page),
        "</div>",
        f'<div class="cards{" few" if len(shown) < 3 else ""}">',
        *(_card(sensor, span, node.known.now.utc_ms, reads) for sensor in shown),
        "</div>",
        "" if shown else '<p class="empty">No sensor has given a reading yet.</p>',
        page_links(page, pages, f"span={span.name}&amp;"),
        "</section>",
        node_section(node),
        events_section(node),
        "</main>",
    ]
    return document(f"{node.name} · sensor-node", body, footer_of(node), assets)


def sensor_page(node: NodeView, sensor: SensorView, assets: Assets, reads: Reads) -> str:
    """Return the page of one sensor, with a large plot of each span."""
    now_ms = node.known.now.utc_ms
    body = [
        _header(node),
        '<main id="main"><p class="back"><a href="/">← all sensors</a></p>',
        problem_list(node.problems),
        result_section(node, reads),
        read_form(reads),
        f'<article class="card wide" data-sensor="{esc(sensor.id)}">',
        _card_head(sensor, reads, linked=False),
        _card_alarms(sensor),
        _card_error(sensor),
        "".join(_reading(channel, now_ms) for channel in sensor.channels),
    ]
    for channel in sensor.channels:
        body.append(f"<h3>{esc(label_of(channel.name))}, {esc(channel.unit)}</h3>")
        body.append('<div class="figures">')
        for span in SPANS.values():
            plot = plot_of(sensor, channel, span, now_ms, large=True)
            body.append(f"<figure><figcaption>{span.label}</figcaption>{render(plot)}</figure>")
        body.append("</div>")
    body += [counts_of(sensor), "</article></main>"]
    return document(f"{sensor.id} · {node.name}", body, footer_of(node), assets)


def _header(node: NodeView) -> str:
    broker = ""
    if node.health is not None:
        named = "" if node.health.broker.startswith("no broker") else "broker "
        broker = f" · {named}{esc(node.health.broker)}"
    known = node.known.health
    simulated = known is not None and known.simulated
    banner = '<p class="problem">Simulated hardware: no reading here is real.</p>'
    return (
        f'<header><h1><a href="/">{esc(node.name)}</a></h1>'
        f'<p class="state" id="state"><span class="dot-{_condition(node)}"></span>'
        f"{_STATE_WORDS[node.state]}{broker} · {node.online} of "
        f"{count(node.sensors, 'sensor')} online</p>{banner if simulated else ''}</header>"
    )


def _condition(node: NodeView) -> str:
    """What the dot shows: no better than the worst of node, broker and sensors."""
    if node.state != "running" or node.health is None:
        return node.state
    if not node.health.connected:
        return "no-broker"
    return "running" if node.online == len(node.sensors) else "sensor-offline"


def _span_links(span: Span, page: int) -> str:
    def link(other: Span) -> str:
        query = urlencode({"span": other.name, **({"page": page} if page > 1 else {})})
        here = ' aria-current="true"' if other is span else ""
        return f'<a href="/?{query}"{here}>{other.label}</a>'

    links = "".join(map(link, SPANS.values()))
    return f'<nav class="spans" aria-label="Time shown in the plots">{links}</nav>'


def _card(sensor: SensorView, span: Span, now_ms: int, reads: Reads) -> str:
    parts = [
        f'<article class="card" data-sensor="{esc(sensor.id)}">',
        _card_head(sensor, reads, linked=True),
        _card_alarms(sensor),
        _card_error(sensor),
    ]
    for channel in sensor.channels:
        parts.append(_reading(channel, now_ms))
        parts.append(render(plot_of(sensor, channel, span, now_ms)))
    if not sensor.channels:
        parts.append('<p class="empty">no readings lately</p>')
    parts.append("</article>")
    return "".join(parts)


def _card_head(sensor: SensorView, reads: Reads, *, linked: bool) -> str:
    title = f"<h2>{esc(sensor.id)}</h2>"
    if linked:
        title = f'<h3><a href="{address_of(sensor.id)}">{esc(sensor.id)}</a></h3>'
    age = "" if sensor.newest is None else age_text(sensor.age_s)
    unsynced = ""
    if sensor.newest is not None and not sensor.synced:
        unsynced = ' <span class="note">clock not set</span>'
    known = "" if sensor.age_s is None else f' data-age="{sensor.age_s}"'
    return (
        f'<div class="head">{title}'
        f'<p><span class="pill {sensor.state}">{sensor.state}</span> '
        f'<span class="age"{known}>{age}</span>{unsynced} {read_button(reads, sensor.id)}</p></div>'
    )


def _card_alarms(sensor: SensorView) -> str:
    """Return the alarms that were on when the node noted its health last."""
    alarms = sensor.health.alarms if sensor.health is not None else {}
    return "".join(
        f'<p class="error">Alarm {esc(name)}: {esc(str(alarm))}</p>'
        for name, alarm in alarms.items()
        if alarm.state == "on"
    )


def _card_error(sensor: SensorView) -> str:
    if sensor.state == "online" or sensor.health is None or not sensor.health.last_error:
        return ""
    return f'<p class="error">{esc(sensor.health.last_error)}</p>'


def _reading(channel: ChannelView, now_ms: int) -> str:
    old = "" if channel.current else " old"
    last = "" if channel.current else '<span class="note">last value</span>'
    return (
        f'<div class="reading{old}" data-channel="{esc(channel.name)}">'
        f'<span class="label">{esc(label_of(channel.name))}</span>{last}'
        f'<span class="value"><b>{esc(channel.text)}</b> {esc(channel.unit)}</span>'
        f"{_range_of(channel, now_ms)}</div>"
    )


def _range_of(channel: ChannelView, now_ms: int) -> str:
    """How far off it may be; the lowest and the highest value of the last 24 hours."""
    texts = [] if channel.accuracy is None else [f"±{channel.accuracy:g}"]
    buckets = channel.channel.buckets.of(SPANS["day"], now_ms)
    if buckets:
        low = number_text(min(bucket.low for bucket in buckets), channel.decimals)
        high = number_text(max(bucket.high for bucket in buckets), channel.decimals)
        texts.append(f"24 h: {low} to {high}")
    return f'<span class="range">{" · ".join(texts)}</span>' if texts else ""
