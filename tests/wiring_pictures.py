"""Draws the wiring pictures of deploy/GUIDE.md from drivers/wiring.py, into deploy/wiring/:

    tests/.venv/bin/python tests/wiring_pictures.py

Each is an SVG, legible on light and on dark paper: the 40-pin header, the parts, and a wire from
each pin to its pads. The same wiring makes the same bytes; a test compares.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from drivers.wiring import HEADER, WIRINGS, Bridge, Pad, Part, Wiring

__all__ = ["PICTURES", "picture"]

PICTURES = Path(__file__).parent.parent / "deploy" / "wiring"

_ROW, _TOP = 20, 78
"""Pixels from one row of the header to the next, and down to the first."""
_ODD, _EVEN, _EDGE = 104, 126, 208
"""Where the columns of the header are, and the edge of the board."""
_LANE, _LANES = 15, 224
_BOX, _BOX_END, _PAD = 350, 600, 26
_LINK, _WIDTH = 616, 656
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#57606a}.u{font-weight:600;fill:#1f2328}
.h{font:600 15px system-ui,sans-serif;fill:#1f2328}.i{text-anchor:end}.m{text-anchor:middle}
.n{font-size:9px;text-anchor:middle}.s{font-size:11px}
.p{fill:#fff}.o{fill:none;stroke:#8c959f}.f{fill:#f3f5f7;stroke:#8c959f}.c{fill:#fff;stroke:#57606a}
.x{fill:none;stroke:#fff;stroke-width:6}.w{fill:none;stroke-width:2.5}
.red{stroke:#cf222e}.black{stroke:#24292f}.blue{stroke:#0969da}.green{stroke:#1a7f37}
.orange{stroke:#bc4c00}.purple{stroke:#8250df}.pink{stroke:#bf3989}
.d{stroke:none}.d.red{fill:#cf222e}.d.black{fill:#24292f}.d.pink{fill:#bf3989}
@media(prefers-color-scheme:dark){
text{fill:#9da7b1}.u,.h{fill:#e6edf3}.p{fill:#0d1117}.o{stroke:#6e7681}
.f{fill:#161b22;stroke:#6e7681}.c{fill:#0d1117;stroke:#9da7b1}.x{stroke:#0d1117}
.red{stroke:#ff7b72}.black{stroke:#c9d1d9}.blue{stroke:#58a6ff}.green{stroke:#3fb950}
.orange{stroke:#f0883e}.purple{stroke:#bc8cff}.pink{stroke:#f778ba}
.d.red{fill:#ff7b72}.d.black{fill:#c9d1d9}.d.pink{fill:#f778ba}}
"""
_DATA_COLOURS = ("blue", "green", "orange", "purple")
_LINK_COLOURS = ("pink", "purple")


class _Net(NamedTuple):
    """All that is wired to one pin of the header."""

    pin: int
    colour: str
    start_y: int
    pads_y: tuple[int, ...]

    @property
    def span(self) -> tuple[int, int]:
        return min(self.start_y, *self.pads_y), max(self.start_y, *self.pads_y)


def picture(wiring: Wiring) -> str:
    """Return the SVG of a wiring."""
    places = _places(wiring)
    bottom = max(_pad_y(part, top, 99) for part, top in places)
    height = max(_TOP + 20 * _ROW + 12, bottom + 16)
    nets = _in_lanes(_nets(places))
    body = [*_header({net.pin for net in nets})]
    for lane, net in enumerate(nets):
        body += _wires(net, _LANES + lane * _LANE)
    body += _links(places)
    for part, top in places:
        body += _box(part, top, _joins(places))
    if wiring.bridge is not None:
        body += _bridge(wiring.bridge, *places[0])
    title = escape(wiring.title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-label="{title}">\n'
        f"<title>{title}</title><style>{_STYLE}</style>\n"
        f'<rect class="p" width="{_WIDTH}" height="{height}"/>\n'
        f'<text class="h" x="16" y="26">{title}</text>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _places(wiring: Wiring) -> list[tuple[Part, int]]:
    """Each part, and where its box begins."""
    places, top = [], 52
    for part in wiring.parts:
        places.append((part, top))
        top = _pad_y(part, top, 99) + 22
    return places


def _pad_y(part: Part, top: int, index: int) -> int:
    """Where a pad is; with an index that is too high, where the box ends."""
    rows = max(len(part.left), len(part.right))
    return top + 46 + min(index, rows) * _PAD + (_PAD // 2 if index < rows else 0)


def _nets(places: list[tuple[Part, int]]) -> list[_Net]:
    wired: dict[int, list[int]] = {}
    for part, top in places:
        for index, pad in enumerate(part.left):
            if pad.pin is not None:
                wired.setdefault(pad.pin, []).append(_pad_y(part, top, index))
    colours = iter(_DATA_COLOURS)
    fixed = {"3V3": "red", "GND": "black"}
    taken: set[int] = set()
    nets = []
    for pin, pads in sorted(wired.items()):
        row = (pin - 1) // 2
        gap = row if pin % 2 and row not in taken else row + 1  # between two rows of the header
        while gap in taken:
            gap = row
        taken.add(gap)
        colour = fixed.get(HEADER[pin - 1]) or next(colours)
        nets.append(_Net(pin, colour, _TOP + gap * _ROW - _ROW // 2, tuple(pads)))
    return nets


def _in_lanes(nets: list[_Net]) -> list[_Net]:
    """Return the nets in the order of their upright wires in which the fewest cross."""

    def crossings(order: Iterable[_Net]) -> int:
        count = 0
        for left, right in itertools.combinations(order, 2):
            low, high = left.span
            count += low < right.start_y < high
            low, high = right.span
            count += sum(low < y < high for y in left.pads_y)
        return count

    return min(map(list, itertools.permutations(nets)), key=crossings)


def _header(used: set[int]) -> list[str]:
    end = _TOP + 19 * _ROW + 14
    drawn = [
        f'<path class="o" d="M8,44H{_EDGE - 8}q8,0 8,8V{end + 14}H8"/>',
        '<text class="s" x="16" y="60">card slot at this end</text>',
        f'<rect class="f" x="{_ODD - 12}" y="{_TOP - 12}" width="{_EVEN - _ODD + 24}" '
        f'height="{19 * _ROW + 24}" rx="3"/>',
    ]
    for pin, name in enumerate(HEADER, 1):
        x, y = (_ODD if pin % 2 else _EVEN), _TOP + (pin - 1) // 2 * _ROW
        shape = (
            f'<rect class="c" x="{x - 8}" y="{y - 8}" width="16" height="16"/>'
            if pin == 1
            else f'<circle class="c" cx="{x}" cy="{y}" r="8"/>'
        )
        bold = " u" if pin in used else ""
        side = f'class="i{bold}" x="{_ODD - 18}"' if pin % 2 else f'class="{bold}" x="{_EVEN + 18}"'
        drawn.append(
            f'{shape}<text class="n{bold}" x="{x}" y="{y + 3}">{pin}</text>'
            f'<text {side} y="{y + 4}">{name}</text>'
        )
    return drawn


def _wires(net: _Net, lane: int) -> list[str]:
    x = _ODD if net.pin % 2 else _EVEN
    pin_y = _TOP + (net.pin - 1) // 2 * _ROW
    side = 1 if net.start_y > pin_y else -1
    first, *others = net.pads_y
    paths = [f"M{x + 6},{pin_y + side * 6}L{x + 10},{net.start_y}H{lane}V{first}H{_BOX}"]
    paths += [f"M{lane},{net.start_y}V{y}H{_BOX}" for y in others]
    drawn = [f'<path class="x" d="{path}"/>' for path in paths]
    drawn += [f'<path class="w {net.colour}" d="{path}"/>' for path in paths]
    low, high = net.span
    drawn += [_dot(lane, y, net.colour) for y in net.pads_y if low < y < high]
    return drawn


def _dot(x: int, y: int, colour: str) -> str:
    return f'<circle class="d {colour}" cx="{x}" cy="{y}" r="4"/>'


def _links(places: list[tuple[Part, int]]) -> list[str]:
    """Draw the wires from pads on the right of the first part to pads of the others."""
    first, top = places[0]
    joined = [name for name in (pad.name for pad in first.right) if name in _joins(places)]
    drawn = []
    for number, name in enumerate(joined):
        from_y = _pad_y(first, top, [pad.name for pad in first.right].index(name))
        lane, colour = _LINK + (len(joined) - 1 - number) * _LANE, _LINK_COLOURS[number]
        ends = [
            _pad_y(part, part_top, index)
            for part, part_top in places[1:]
            for index, pad in enumerate(part.right)
            if pad.joins == name
        ]
        for y in ends:
            path = f"M{_BOX_END},{from_y}H{lane}V{y}H{_BOX_END}"
            drawn += [f'<path class="x" d="{path}"/>', f'<path class="w {colour}" d="{path}"/>']
        drawn += [_dot(lane, y, colour) for y in ends[:-1]]
    return drawn


def _joins(places: list[tuple[Part, int]]) -> set[str]:
    return {pad.joins for part, _ in places for pad in part.right} - {""}


def _box(part: Part, top: int, joins: set[str]) -> list[str]:
    end = _pad_y(part, top, 99)
    middle = (_BOX + _BOX_END) // 2
    drawn = [
        f'<rect class="f" x="{_BOX}" y="{top}" width="{_BOX_END - _BOX}" height="{end - top}" '
        'rx="6"/>',
        f'<text class="u m" x="{middle}" y="{top + 20}">{escape(part.name)}</text>',
        f'<text class="s m" x="{middle}" y="{top + 36}">{escape(part.view)}</text>',
    ]
    for index, pad in enumerate(part.left):
        y = _pad_y(part, top, index) + 4
        drawn.append(f'<text x="{_BOX + 12}" y="{y}">{_label(pad)}</text>')
    for index, pad in enumerate(part.right):
        y = _pad_y(part, top, index) + 4
        bold = " u" if pad.joins or pad.name in joins else ""
        drawn.append(
            f'<text class="i{bold}" x="{_BOX_END - 12}" y="{y}">{escape(pad.label)}</text>'
        )
    return drawn


def _label(pad: Pad) -> str:
    return (
        f'<tspan class="u">{escape(pad.label)}</tspan> <tspan class="s">{pad.goes_to}</tspan>'
        if pad.goes_to
        else escape(pad.label)
    )


def _bridge(bridge: Bridge, part: Part, top: int) -> list[str]:
    """A resistor between the wires to two pads."""
    names = [pad.name for pad in part.left]
    upper, lower = (_pad_y(part, top, names.index(n)) for n in (bridge.first, bridge.second))
    x = _BOX - 18
    return [
        f'<path class="w black" d="M{x},{upper}V{lower}"/>',
        *(_dot(x, y, "black") for y in (upper, lower)),
        f'<rect class="c" x="{x - 5}" y="{upper + 6}" width="10" height="{lower - upper - 12}"/>',
        f'<text class="i u s" x="{x - 9}" y="{(upper + lower) // 2 + 4}">{bridge.value}</text>',
    ]


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    for wiring in WIRINGS:
        (PICTURES / f"{wiring.name}.svg").write_text(picture(wiring))
