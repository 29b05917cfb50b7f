"""A plot of one channel as SVG: the band from lowest to highest, and the mean as a line. Pure.

The SVG contains neither scripts nor styles, only classes. The page's style sheet defines them, and
`standalone` includes that style. Times are also in `data-ms`, so that the page's script can write
them in the reader's time zone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import tzinfo

import msgspec

from node.plot.buckets import Bucket
from node.plot.scales import Scale, time_text, time_ticks, value_scale
from node.plot.series import Mark
from node.plot.text import esc, number_text

__all__ = ["Plot", "render", "segments", "standalone"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 8, 20
_DIGIT = 6.5
"""Width of a digit in a label; long labels need more than `_LEFT`."""
_FLAT = 0.4
"""A band less than this many pixels high is hidden by its line."""


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a plot."""

    key: str
    """Unique among the plots of a page; letters, digits, - and _."""
    title: str
    unit: str
    buckets: Sequence[Bucket]
    width_ms: int
    start_ms: int
    end_ms: int
    gap_ms: int
    """A longer time between two buckets is a gap."""
    decimals: int
    accuracy: float = 0.0
    """How far values may be off, in `unit`; 0: not known."""
    marks: Iterable[Mark] = ()
    width: int = 640
    height: int = 150
    zone: tzinfo | None = None
    """Time zone of the labels; None: UTC."""


def segments(buckets: Sequence[Bucket], gap_ms: int) -> list[list[Bucket]]:
    """Return the buckets in runs without a gap, each either synced or unsynced as a whole.

    Where buckets change from one to the other, the runs share a bucket, so that they touch.
    """
    runs: list[list[Bucket]] = []
    for bucket in buckets:
        last = runs[-1][-1] if runs else None
        if last is None or bucket.start_ms - last.start_ms > gap_ms:
            runs.append([bucket])
        elif last.unsynced != bucket.unsynced:
            runs.append([last, bucket])
        else:
            runs[-1].append(bucket)
    return runs


def render(plot: Plot) -> str:
    """Return the plot as an `<svg>` element."""
    area = _Area(plot)
    parts = [
        f'<svg class="plot" viewBox="0 0 {plot.width} {plot.height}" role="img" '
        f'aria-labelledby="{plot.key}-t {plot.key}-d"{_scales(plot, area)}>'
        f'<title id="{plot.key}-t">{esc(plot.title)}</title>'
        f'<desc id="{plot.key}-d">{esc(described(plot))}</desc>'
    ]
    parts += _grid(plot, area)
    for run in segments(plot.buckets, plot.gap_ms):
        if plot.accuracy:
            parts.append(_accuracy(run, area, plot.accuracy))
        parts += _run(run, area)
    parts += _marks(plot, area)
    if not plot.buckets:
        middle = (area.left + plot.width - _RIGHT) / 2
        parts.append(
            f'<text class="none" x="{middle:.0f}" y="{plot.height / 2:.0f}">no readings</text>'
        )
    parts.append("</svg>")
    return "".join(parts)


def _scales(plot: Plot, area: _Area) -> str:
    """What a script needs to say the value under the pointer."""
    scales = {
        "left": area.left,
        "right": plot.width - _RIGHT,
        "top": _TOP,
        "floor": area.floor,
        "low": f"{area.values.low:.7g}",
        "high": f"{area.values.high:.7g}",
        "start": plot.start_ms,
        "end": plot.end_ms,
        "decimals": plot.decimals,
        "unit": esc(plot.unit),
    }
    return "".join(f' data-{name}="{value}"' for name, value in scales.items())


def described(plot: Plot) -> str:
    """Describe the plot in a sentence, for people who cannot see it."""
    if not plot.buckets:
        return "No readings in this time."
    low = min(bucket.low for bucket in plot.buckets)
    high = max(bucket.high for bucket in plot.buckets)
    newest = plot.buckets[-1].mean
    text = (
        f"From {number_text(low, plot.decimals)} to {number_text(high, plot.decimals)} "
        f"{plot.unit}, at last {number_text(newest, plot.decimals)} {plot.unit}."
    )
    unsynced = any(bucket.unsynced for bucket in plot.buckets)
    runs = segments([msgspec.structs.replace(b, unsynced=False) for b in plot.buckets], plot.gap_ms)
    if len(runs) > 1:
        text += f" {len(runs) - 1} gap{'s' if len(runs) > 2 else ''}."
    if unsynced:
        text += " Dashed: read while the clock was not set."
    if plot.accuracy:
        text += f" ±{plot.accuracy:g} {plot.unit} by its datasheet."
    rejected = sum(mark.count for mark in _in_time(plot))
    if rejected:
        text += f" {rejected} value{'s' if rejected > 1 else ''} rejected by a filter."
    return text


class _Area:
    """Maps values and times to the units of the drawing."""

    def __init__(self, plot: Plot) -> None:
        if plot.buckets:
            low = min(bucket.low for bucket in plot.buckets)
            high = max(bucket.high for bucket in plot.buckets)
        else:
            low, high = 0.0, 1.0
        lines = max(2, min(5, plot.height // 40))
        self.values: Scale = value_scale(
            low, high, most_ticks=lines, resolution=10.0**-plot.decimals
        )
        self.labels = [number_text(value, self.values.decimals) for value in self.values.ticks]
        self.left = max(_LEFT, round(10 + _DIGIT * max(map(len, self.labels))))
        self._plot = plot
        self._across = (plot.width - self.left - _RIGHT) / (plot.end_ms - plot.start_ms)
        self._up = (plot.height - _TOP - _BOTTOM) / (self.values.high - self.values.low)
        self.floor = plot.height - _BOTTOM

    def x(self, at_ms: float) -> float:
        return self.left + (at_ms - self._plot.start_ms) * self._across

    def y(self, value: float) -> float:
        return self.floor - (value - self.values.low) * self._up

    def middle(self, bucket: Bucket) -> float:
        """Return where a bucket is drawn; the newest one is not full yet."""
        end_ms = min(bucket.start_ms + self._plot.width_ms, self._plot.end_ms)
        return self.x((max(bucket.start_ms, self._plot.start_ms) + end_ms) / 2)


def _grid(plot: Plot, area: _Area) -> Iterable[str]:
    right = plot.width - _RIGHT
    for value, label in zip(area.values.ticks, area.labels, strict=True):
        y = f"{area.y(value):.1f}"
        yield f'<path class="grid" d="M{area.left} {y}H{right}"/>'
        yield f'<text class="y" x="{area.left - 6}" y="{y}" dy=".32em">{label}</text>'
    yield f'<path class="base" d="M{area.left} {area.floor}H{right}"/>'
    long_ms = plot.end_ms - plot.start_ms
    for at_ms in time_ticks(plot.start_ms, plot.end_ms, plot.zone, max(3, plot.width // 70)):
        x = area.x(at_ms)
        if area.left + 12 <= x <= right - 12:
            yield f'<path class="base" d="M{x:.1f} {area.floor}v3"/>'
            yield (
                f'<text class="x" x="{x:.1f}" y="{plot.height - 5}" data-ms="{at_ms}">'
                f"{time_text(at_ms, plot.zone, long_ms=long_ms)}</text>"
            )


def _run(run: list[Bucket], area: _Area) -> Iterable[str]:
    kind = " unsynced" if run[-1].unsynced else ""
    points = [(area.middle(b), area.y(b.low), area.y(b.high), area.y(b.mean)) for b in run]
    if len(points) == 1:
        x, low, high, mean = points[0]
        yield f'<path class="lone{kind}" d="M{x:.1f} {low:.1f}V{min(high, low - 0.01):.2f}"/>'
        yield f'<circle class="dot{kind}" cx="{x:.1f}" cy="{mean:.1f}" r="1.6"/>'
        return
    if any(low - high > _FLAT for _, low, high, _ in points):
        there = "L".join(f"{x:.1f} {high:.1f}" for x, _, high, _ in points)
        back = "L".join(f"{x:.1f} {low:.1f}" for x, low, _, _ in reversed(points))
        yield f'<path class="band{kind}" d="M{there}L{back}Z"/>'
    line = "L".join(f"{x:.1f} {mean:.1f}" for x, _, _, mean in points)
    yield f'<path class="line{kind}" d="M{line}"/>'


def _accuracy(run: list[Bucket], area: _Area, accuracy: float) -> str:
    """Draw where the true values may be, as far as the plot reaches; behind the others."""

    def y(value: float) -> float:
        return min(max(area.y(value), _TOP), area.floor)

    points = [(area.middle(b), y(b.mean + accuracy), y(b.mean - accuracy)) for b in run]
    if len(points) == 1:
        x, high, low = points[0]
        points = [(x - 1.6, high, low), (x + 1.6, high, low)]
    there = "L".join(f"{x:.1f} {high:.1f}" for x, high, _ in points)
    back = "L".join(f"{x:.1f} {low:.1f}" for x, _, low in reversed(points))
    return f'<path class="accuracy" d="M{there}L{back}Z"/>'


def _in_time(plot: Plot) -> list[Mark]:
    return [mark for mark in plot.marks if plot.start_ms <= mark.at_ms < plot.end_ms]


def _marks(plot: Plot, area: _Area) -> Iterable[str]:
    """Draw a triangle on the axis where values were rejected; one triangle per pixel."""
    counts: dict[int, int] = {}
    for mark in _in_time(plot):
        x = round(area.x(mark.at_ms))
        counts[x] = counts.get(x, 0) + mark.count
    for x, count in counts.items():
        values = "1 value" if count == 1 else f"{count} values"
        yield (
            f'<path class="rejected" d="M{x} {area.floor - 7}l4 7h-8z">'
            f"<title>{values} rejected</title></path>"
        )


_STYLE = """\
.plot{font:11px system-ui,sans-serif;font-variant-numeric:tabular-nums;background:#fff}
.grid{stroke:#e4e7e6}.base{stroke:#aeb8b5}.grid,.base,.line,.lone{fill:none}
.line{stroke:#0b6e5f;stroke-width:1.6;stroke-linejoin:round}
.band{fill:#0b6e5f;fill-opacity:.16}.lone{stroke:#0b6e5f;stroke-opacity:.3;stroke-width:2}
.accuracy{fill:#0b6e5f;fill-opacity:.06}
.dot{fill:#0b6e5f}.line.unsynced{stroke-dasharray:4 3}.rejected{fill:#b3261e}
.x,.y,.none,.caption{fill:#55605d}.x,.none{text-anchor:middle}.y{text-anchor:end}
.caption{font-size:13px}
@media(prefers-color-scheme:dark){.plot{background:#131817}.grid{stroke:#27302e}
.base{stroke:#4a5653}.line,.lone{stroke:#58c9b3}.band,.dot,.accuracy{fill:#58c9b3}
.rejected{fill:#ff8a80}.x,.y,.none,.caption{fill:#a3b0ac}}
"""


def standalone(plot: Plot) -> str:
    """Return the plot as a complete file, with its style and a caption."""
    caption = 22
    inner = render(plot)
    inner = inner[inner.index(">") + 1 :].removesuffix("</svg>")
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot" width="{plot.width}" '
        f'height="{plot.height + caption}" viewBox="0 {-caption} {plot.width} '
        f'{plot.height + caption}" role="img" aria-labelledby="{plot.key}-t {plot.key}-d">'
        f"<style>{_STYLE}</style>"
        f'<text class="caption" x="6" y="{-caption + 16}">{esc(plot.title)}</text>{inner}</svg>\n'
    )
