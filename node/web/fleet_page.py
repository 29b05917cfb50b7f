"""The page of all nodes as HTML: complete without the script, which only keeps it fresh. Pure.

All text from the broker goes through `esc`.
"""

from __future__ import annotations

import re

from node import __version__
from node.plot.text import age_text, esc, label_of
from node.system.clock import utc_text
from node.system.terminal import count
from node.web.document import Assets, document, page_links, problem_list
from node.web.fleet import FleetAlarm, FleetChannel, FleetNode, FleetSensor, FleetView

__all__ = ["NODES_PER_PAGE", "fleet_page"]

NODES_PER_PAGE = 60
_SENSORS_OF_A_NODE = 40
_CHANNELS_OF_A_SENSOR = 16
_LONGEST_VALUE = 80
_DOTS = {"online": "running", "offline": "stopped", "alarm": "stopped"}
"""Condition -> the colour of its dot; all others are amber."""


def fleet_page(view: FleetView, broker: str, page: int, assets: Assets) -> str:
    """Return the page with the nodes in most trouble first; `broker`: "" if it must not be named.

    Beyond the last page, this is the last one.
    """
    pages = max(1, -(-len(view.nodes) // NODES_PER_PAGE))
    page = min(page, pages)
    shown = view.nodes[(page - 1) * NODES_PER_PAGE : page * NODES_PER_PAGE]
    body = [
        _header(view, broker),
        '<main id="main">',
        problem_list(_problems(view)),
        '<section aria-label="Nodes"><div class="cards fleet">',
        *(_card(node) for node in shown),
        "</div>",
        "" if shown else f'<p class="empty">{_why_empty(view)}</p>',
        page_links(page, pages),
        "</section></main>",
    ]
    return document("All nodes · sensor-node", body, _footer(view), assets, whole=True)


def _header(view: FleetView, broker: str) -> str:
    dot = "running" if view.well else "unknown" if view.connected else "stopped"
    of = f" {esc(broker)}" if broker else ""
    state = view.link if view.connected else "not connected"
    known = ""
    if view.nodes and view.connected:
        known = f" · {view.online} of {count(view.nodes, 'node')} online"
    return (
        '<header><h1><a href="/">All nodes</a></h1>'
        f'<p class="state" id="state"><span class="dot-{dot}"></span>broker{of}: '
        f"{esc(state)}{known}</p></header>"
    )


def _problems(view: FleetView) -> list[str]:
    problems = []
    if not view.connected:
        problems.append(view.link)
        if view.nodes:
            problems.append("what stands below was heard before the connection was lost")
    if view.full:
        problems.append("there is more at the broker than this page keeps; some is left out")
    return problems


def _why_empty(view: FleetView) -> str:
    if not view.connected:
        return "Nodes appear here when the broker is connected."
    return (
        "No node has been heard of yet. Is base_topic the right one, and may this user read it? "
        "A broker withholds what it does not allow, and may not say so."
    )


def _card(node: FleetNode) -> str:
    title = esc(node.name)
    if node.page:
        title = f'<a href="{esc(node.page, 2048)}" rel="noreferrer noopener">{title}</a>'
    sensors = node.sensors[:_SENSORS_OF_A_NODE]
    parts = [
        '<article class="card"><div class="head">',
        f"<h2>{title}</h2>",
        f'<p><span class="dot-{_DOTS.get(node.condition, "unknown")}"></span>',
        f"<b>{node.words}</b></p></div>",
        '<p class="problem">Simulated hardware: no reading here is real.</p>'
        if node.simulated
        else "",
        problem_list(node.problems),
        *(_sensor(sensor) for sensor in sensors),
    ]
    left_out = len(node.sensors) - len(sensors)
    if left_out:
        parts.append(f'<p class="empty">and {count(range(left_out), "more sensor")}</p>')
    if not sensors:
        parts.append('<p class="empty">no sensor has been heard of</p>')
    parts.append(f'<p class="foot">{_foot(node)}</p></article>')
    return "".join(parts)


def _foot(node: FleetNode) -> str:
    facts = []
    if node.page:
        facts.append(f"page at {esc(re.sub('^https?://', '', node.page).split('/')[0])}")
    if node.version:
        facts.append(f"version {esc(node.version)}")
    if node.health_age_s is None:
        facts.append("no health")
    else:
        facts.append(f"health {_age(node.health_age_s)}")
    return " · ".join(facts)


def _sensor(sensor: FleetSensor) -> str:
    channels = sensor.channels[:_CHANNELS_OF_A_SENSOR]
    why = f' <span class="note">{sensor.why}</span>' if sensor.why else ""
    age = _age(sensor.age_s) if sensor.channels else ""
    parts = [
        '<div class="sensor"><div class="head">',
        f"<h3>{esc(sensor.id)}</h3>",
        f'<p><span class="pill {sensor.state}">{sensor.state}</span> {age}{why}</p></div>',
        *(f'<p class="error">{_alarm(alarm)}</p>' for alarm in sensor.alarms),
        f'<p class="error">{esc(sensor.last_error)}</p>' if sensor.last_error else "",
        *(_channel(channel, sensor) for channel in channels),
    ]
    left_out = len(sensor.channels) - len(channels)
    if left_out:
        parts.append(f'<p class="empty">and {count(range(left_out), "more channel")}</p>')
    parts.append("</div>")
    return "".join(parts)


def _alarm(alarm: FleetAlarm) -> str:
    return f"Alarm {esc(alarm.name)}: {esc(alarm.text)}"


def _channel(channel: FleetChannel, sensor: FleetSensor) -> str:
    old = " old" if channel.why else ""
    note = ""
    if channel.why:
        own = "" if channel.why == sensor.why else f", {channel.why}"
        note = f'<span class="note">last value{own}</span>'
    if isinstance(channel.value, str):
        value = f'<span class="text">{esc(channel.text, _LONGEST_VALUE)}</span>'
    else:
        value = f"<b>{esc(channel.text.replace('-', '−'))}</b> {esc(channel.unit)}"
    return (
        f'<div class="reading{old}"><span class="label">{esc(label_of(channel.name))}</span>{note}'
        f'<span class="value">{value}</span></div>'
    )


def _age(age_s: float | None) -> str:
    known = "" if age_s is None else f' data-age="{age_s}"'
    return f'<span class="age"{known}>{age_text(age_s)}</span>'


def _footer(view: FleetView) -> str:
    now = utc_text(round(view.utc_s * 1000))
    return (
        f'<footer><p><span id="zone">Times are UTC</span>, as of <time datetime="{now}">'
        f"{now[:10]} {now[11:19]}</time>.</p>"
        f'<p><a href="/api/v1/fleet">JSON</a> · sensor-node {__version__}</p></footer>'
    )
