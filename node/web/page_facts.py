"""The parts of the page with facts in rows: on a sensor, the node, its last errors. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from node import __version__
from node.health import backlog_text, host_texts
from node.plot.text import age_text, esc
from node.system.clock import utc_text
from node.system.terminal import count
from node.web.view import NodeView, SensorView

__all__ = ["counts_of", "events_section", "footer_of", "node_section"]


def counts_of(sensor: SensorView) -> str:
    health = sensor.health
    rows: list[tuple[str, str]] = []
    if sensor.newest is not None:
        rows.append(("newest reading", f"seq {sensor.newest.seq}, {_time(sensor.time)}"))
    if health is not None:
        rows += [
            ("reads that gave a value", str(health.ok)),
            ("reads that gave none", str(health.failed)),
            ("values rejected", _rejected_text(health.rejected, health.rejected_for)),
        ]
        if health.last_error:
            rows.append(("last error", esc(health.last_error)))
    return _rows(rows)


def _rejected_text(rejected: int, reasons: dict[str, int]) -> str:
    if not reasons:
        return str(rejected)
    listed = ", ".join(f"{esc(reason)} {number}" for reason, number in sorted(reasons.items()))
    return f"{rejected} ({listed})"


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    """Return the rows of a table; the values are HTML."""
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    return f"<dl>{cells}</dl>"


def node_section(node: NodeView) -> str:
    known, health = node.known, node.known.health
    then = "" if node.health else " (before)"
    unsent = backlog_text(node.unsent, known.oldest_s, node.health)
    unsent = unsent.replace(" to be sent", "", 1)
    rows = [("waiting to be sent", f'<span id="unsent">{esc(unsent)}</span>')]
    if health is not None:
        rows.insert(0, (f"broker{then}", esc(health.broker)))
        rows.append(("clock", "synced" if health.clock == "synced" else "not set yet"))
        rows.append(("version", esc(health.version)))
        rejected = {name: s.rejected for name, s in health.sensors.items() if s.rejected}
        if rejected:
            rows.append(("values rejected", _rejected_text(sum(rejected.values()), rejected)))
        rows += [(esc(name), f"{esc(text)}{then}") for name, text in host_texts(health)]
    if not known.problem:
        rows.append(("last reading", f"seq {known.ledger.last_seq}, stream {esc(known.stream)}"))
        rows.append(("log written", age_text(known.written_s)))
    if known.ledger.dropped:
        rows.append(("lost to the bound", count(range(known.ledger.dropped), "reading")))
    if known.ledger.dead_letters:
        refused = count(range(known.ledger.dead_letters), "message")
        rows.append(("refused by the broker", refused))
    return f'<section aria-label="The node"><h2>Node</h2>{_rows(rows)}</section>'


def events_section(node: NodeView) -> str:
    if not node.known.events:
        return ""
    items = "".join(
        f'<li class="{"error" if event.level in ("ERROR", "CRITICAL") else "warning"}">'
        f"{_time(utc_text(event.utc_ms))} <span>{esc(event.message)}</span></li>"
        for event in reversed(node.known.events)
    )
    return (
        '<section aria-label="Last errors"><h2>Last errors, and what to do</h2>'
        f'<ol class="events" reversed>{items}</ol></section>'
    )


def _time(rfc3339: str) -> str:
    """Return a time in UTC, which the script converts to the reader's time zone."""
    if not rfc3339:
        return "at an unknown time"
    return f'<time datetime="{rfc3339}">{rfc3339[:10]} {rfc3339[11:19]}</time>'


def footer_of(node: NodeView) -> str:
    now = utc_text(node.known.now.utc_ms)
    return (
        f'<footer><p><span id="zone">Times are UTC</span>, as of {_time(now)}.</p>'
        '<p><a href="/export.csv">readings as CSV</a> · <a href="/api/v1/now">JSON</a> · '
        '<a href="/metrics">metrics</a> · sensor-node '
        f"{__version__}</p></footer>"
    )
