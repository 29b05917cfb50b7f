"""The charts of this folder: small bar charts as SVG, legible on light and on dark paper.

The same figures make the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from results import Results
from table import number_text

__all__ = ["Panel", "chart", "draw"]

_COLUMNS = 3
_PANEL = 300
_LABEL = 62
_BAR = 150
_ROW = 17
_HEAD = 38
_GAP = 14
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#4a4f57}
.t{font-weight:600;fill:#1f2328}.b{fill:#a9b1bc}.n{fill:#0b7a75}.w{fill:#0b7a75;font-weight:600}
@media(prefers-color-scheme:dark){
text{fill:#a3abb5}.t{fill:#e6edf3}.b{fill:#59626d}.n,.w{fill:#39c5bb}}
"""


class Panel(NamedTuple):
    """A chart of a bar for each of `values`; None has no bar. `marked` are in another colour."""

    title: str
    unit: str
    values: Mapping[str, float | None]
    marked: Sequence[str]


class _Figure(NamedTuple):
    title: str
    unit: str
    scenario: str
    metric: str


_FIGURES = (
    _Figure("CPU per reading, 10 at 10 s", "ms", "steady-10s", "cpu_ms_per_reading"),
    _Figure("CPU to the first reading", "ms", "cold", "cpu_ms"),
    _Figure("memory (RSS)", "MB", "steady-10s", "rss_mb"),
    _Figure("wake-ups a second", "", "steady-10s", "wakeups_per_s"),
    _Figure("missed of 1,000 at 1 s", "%", "sizes", "missed_percent@1000"),
    _Figure("readings a second, at most", "", "throughput", "per_s"),
    _Figure("lost while the broker is frozen", "", "outage-frozen", "lost"),
    _Figure("lost by kill -9 in an outage", "", "kill", "lost"),
    _Figure("period while a sensor blocks", "s", "blocking", "period_s"),
)


def chart(results: Results) -> str:
    """Return a panel for each figure that was measured, with a bar for each peer."""
    panels = [
        Panel(
            figure.title,
            figure.unit,
            {p: results.median(figure.scenario, p, figure.metric) for p in results.peers},
            ("node",),
        )
        for figure in _FIGURES
        if results.median(figure.scenario, "node", figure.metric) is not None
    ]
    return draw(panels, "sensor-node beside others")


def draw(panels: Sequence[Panel], label: str) -> str:
    """Return the panels, three in a row; `label` is read aloud in place of the picture."""
    bars = max((len(panel.values) for panel in panels), default=0)
    height_of_panel = _HEAD + _ROW * bars + _GAP
    rows = -(-len(panels) // _COLUMNS)
    width, height = _PANEL * _COLUMNS, height_of_panel * rows
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(label)}">',
        f"<style>{_STYLE.strip()}</style>",
    ]
    for place, panel in enumerate(panels):
        x, y = place % _COLUMNS * _PANEL, place // _COLUMNS * height_of_panel
        lines.append(f'<g transform="translate({x},{y})">')
        lines += _bars(panel)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _bars(panel: Panel) -> Iterator[str]:
    unit = f", {panel.unit}" if panel.unit else ""
    yield f'<text class="t" x="4" y="20">{escape(panel.title + unit)}</text>'
    largest = max((value for value in panel.values.values() if value is not None), default=0) or 1
    for row, (name, value) in enumerate(panel.values.items()):
        top = _HEAD - 8 + row * _ROW
        own = name in panel.marked
        text = "w" if own else "l"
        yield f'<text class="{text}" x="{_LABEL}" y="{top + 11}" text-anchor="end">{name}</text>'
        length = max(1.5, _BAR * value / largest) if value else 0
        if value:
            bar = f'x="{_LABEL + 6}" y="{top + 1}" width="{length:.1f}" height="12" rx="2"'
            yield f'<rect class="{"n" if own else "b"}" {bar}/>'
        x = _LABEL + 11 + length
        yield f'<text class="{text}" x="{x:.1f}" y="{top + 11}">{number_text(value)}</text>'
