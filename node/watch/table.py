"""The live table as lines of a given width, never more than fit the terminal.

Pure, on rich's types; imported where rich is installed. Widths are in cells of the terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Literal

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from node.system.terminal import sparkline
from node.units import duration_text
from node.watch.gaps import HistoryLine
from node.watch.rows import HISTORY, NO_LINK, NODE_OFFLINE, OFFLINE, ONLINE, SIMULATED, TableRow

__all__ = ["Picture", "frame"]

_Column = Literal["what", "channel", "value", "trend", "age", "status", "every"]
_NARROW = 60
_TREND_CELLS = 8
_BANNER_LINES = 6
_REMARK_LINES = 3
_PATIENCE_S = 10.0
"""After this long without a message, the table suggests a reason."""

# How columns shrink in a narrow terminal, in this order: down to this many cells; 0: removed.
_SQUEEZE: tuple[tuple[_Column, int], ...] = (
    ("what", 16),
    ("trend", 0),
    ("every", 0),
    ("what", 12),
    ("channel", 7),
    ("status", 7),
    ("what", 8),
    ("channel", 5),
    ("status", 0),
    ("value", 8),
    ("channel", 0),
)


class Picture(msgspec.Struct, frozen=True):
    """The content of one frame."""

    title: str
    topics: str
    """The subscribed topics, for people."""
    connected: bool
    link: str
    """`connected, MQTT 5`, or why there is not a connection."""
    link_s: float
    """For how long the link has been up or down."""
    rows: Sequence[TableRow]
    messages: int
    others: bool = False
    """Some rows do not belong to nodes."""
    full: bool = False
    history: Sequence[HistoryLine] | None = None
    history_title: str = ""
    remark: str = ""
    """A sentence from the demo."""


def frame(picture: Picture, width: int, height: int) -> list[Text]:
    """Return at most `height` lines, each at most `width` cells wide."""
    top = [_title(picture, width), *_remark(picture, width), *_banner(picture, width)]
    notes = _notes(picture, width)
    room = max(1, height - len(top) - len(notes))
    past_room = 0 if picture.history is None else max(room // 3, room - len(picture.rows) - 2)
    table = _table(picture.rows, _headings(picture.others), width, room - past_room)
    past = _past(picture, width, past_room)
    return [*top, *table, *past, *notes][:height]


def _title(picture: Picture, width: int) -> Text:
    line = Text(_fit(picture.title, width).rstrip(), style="bold")
    state = f"  {picture.link}"
    if picture.connected and line.cell_len + cell_len(state) <= width:
        line.append(state, style="not bold dim")
    return line


def _remark(picture: Picture, width: int) -> list[Text]:
    lines = textwrap.wrap(picture.remark, max(10, width - 1))
    return [Text(_fit(line, width).rstrip(), style="cyan") for line in lines[:_REMARK_LINES]]


def _banner(picture: Picture, width: int) -> list[Text]:
    """Explain why the rows are not current, or why there are none."""
    style = "dim"
    if not picture.connected:
        said = f"{picture.link} (for {duration_text(round(picture.link_s))})"
        said += "; the rows below are older" if picture.rows else ""
        style = "bold red"
    elif picture.rows:
        return []
    elif picture.messages:
        said = f"{picture.messages} messages on {picture.topics}, none of them a reading"
    elif picture.link_s < _PATIENCE_S:
        said = f"{picture.link}; waiting for the first message on {picture.topics}"
    else:
        said = (
            f"{picture.link} for {duration_text(round(picture.link_s))}, and no message on "
            f"{picture.topics}: is it the right topic, and may this user read it? (A broker "
            "withholds what it does not allow, and may not say so.)"
        )
    lines = textwrap.wrap(said, max(10, width - 1))
    return [Text(_fit(line, width).rstrip(), style=style) for line in lines[:_BANNER_LINES]]


def _notes(picture: Picture, width: int) -> list[Text]:
    notes = []
    ahead_s = -min((row.age_s for row in picture.rows if row.age_s is not None), default=0.0)
    if ahead_s > 0:
        notes.append(
            f"Some readings are from the future, by up to {duration_text(round(ahead_s))}: the "
            "clock of their node or of this computer is wrong."
        )
    if picture.full:
        notes.append("There are more topics than are kept: name a NODE, or a narrower --topic.")
    lines = [line for note in notes for line in textwrap.wrap(note, max(10, width - 1))]
    return [Text(_fit(line, width).rstrip(), style="yellow") for line in lines]


def _past(picture: Picture, width: int, room: int) -> list[Text]:
    """Return the newest lines of history that fit."""
    if room < 2 or picture.history is None:
        return []
    lines = [Text(_fit(picture.history_title, width).rstrip(), style="bold")]
    lines += [
        Text(_fit(line.text, width).rstrip(), style="yellow" if line.odd else "")
        for line in list(picture.history)[-(room - 1) :]
    ]
    return lines


def _table(
    rows: Sequence[TableRow], headings: dict[_Column, str], width: int, room: int
) -> list[Text]:
    """Return a heading and the rows that fit, and how many rows are left out."""
    if not rows or room < 2:
        return []
    shown = rows
    if len(rows) >= room:  # what is in trouble is not to be among those left out
        shown = sorted(rows, key=lambda row: OFFLINE not in row.status)[: max(0, room - 2)]
    widths = _widths(shown, headings, width)
    gap = _gap(width)
    lines = [_heading(headings, widths, gap), *(_line(row, widths, gap) for row in shown)]
    for line in lines:
        line.truncate(width)
    if len(shown) < len(rows):
        left_out = f"... {len(rows) - len(shown)} more rows than this window has room for"
        lines.append(Text(_fit(left_out, width).rstrip(), style="dim"))
    return lines


def _gap(width: int) -> int:
    return 1 if width < _NARROW else 2


def _headings(others: bool) -> dict[_Column, str]:
    return {
        "what": "TOPIC" if others else "SENSOR",
        "channel": "CHANNEL",
        "value": "VALUE",
        "trend": "TREND",
        "age": "AGE",
        "status": "STATUS",
        "every": "EVERY",
    }


def _age(row: TableRow, narrow: bool) -> str:
    if row.silent:
        return ""
    if row.age_s is None:
        return "?"
    text = duration_text(round(abs(row.age_s)))
    text = text.split()[0] if narrow else text
    return text if row.age_s >= 0 else f"in {text}"


def _status(row: TableRow, narrow: bool) -> str:
    return OFFLINE if narrow and row.status == NODE_OFFLINE else row.status


def _every(row: TableRow) -> str:
    if row.every_s is None or OFFLINE in row.status or row.status == NO_LINK:
        return ""
    if row.every_s < 0.1:
        return f"{max(1, round(row.every_s * 1000))}ms"
    return duration_text(row.every_s if row.every_s < 3 else round(row.every_s))


def _widths(
    rows: Sequence[TableRow], headings: dict[_Column, str], width: int
) -> dict[_Column, int]:
    """Return the cells for each column; 0 for a column that is removed."""
    numbers = [row for row in rows if not row.is_text]
    longest: dict[_Column, list[str]] = {
        "what": [row.name for row in rows],
        "channel": [row.channel for row in numbers],
        "value": [row.text for row in numbers],
        "trend": [" " * _TREND_CELLS],
        "age": [_age(row, width < _NARROW) for row in rows],
        "status": [_status(row, width < _NARROW) for row in rows],
        "every": [_every(row) for row in rows],
    }
    widths: dict[_Column, int] = {
        column: max(map(cell_len, [heading, *longest[column]]))
        for column, heading in headings.items()
    }
    for column in ("status", "every"):
        if not any(longest[column]):
            widths[column] = 0
    for column, floor in _SQUEEZE:
        excess = _needed(widths, width) - width
        if excess > 0 and widths[column] > floor:
            widths[column] = max(floor, widths[column] - excess) if floor else 0
    if widths["trend"]:
        texts = [cell_len(row.text) for row in rows if row.is_text]
        left = width - _needed(widths, width)
        widths["trend"] += max(0, min(left, max([HISTORY, *texts]) - _TREND_CELLS))
    return widths


def _needed(widths: dict[_Column, int], width: int) -> int:
    there = [cells for cells in widths.values() if cells]
    return sum(there) + _gap(width) * (len(there) - 1)


def _heading(headings: dict[_Column, str], widths: dict[_Column, int], gap: int) -> Text:
    cells = [
        _fit(word, widths[column], right=column in ("value", "age"))
        for column, word in headings.items()
        if widths[column]
    ]
    return Text((" " * gap).join(cells).rstrip(), style="bold")


def _line(row: TableRow, widths: dict[_Column, int], gap: int) -> Text:
    current = row.status in (ONLINE, SIMULATED, "")
    style = "" if current else "dim"
    line = Text(_fit(row.name, widths["what"], middle=True), style=style)

    def add(columns: Sequence[_Column], text: str, style: str, *, right: bool = False) -> None:
        there = [widths[column] for column in columns if widths[column]]
        if there:
            cells = sum(there) + gap * (len(there) - 1)
            line.append(" " * gap + _fit(text, cells, right=right), style=style)

    if row.is_text:  # text takes the room of the columns that it does not use
        add(["channel", "value", "trend"], row.text, style)
    else:
        add(["channel"], row.channel, style)
        add(["value"], row.text, "bold" if current else style, right=True)
        add(["trend"], sparkline(row.history[-max(1, widths["trend"]) :]), f"cyan {style}")
    add(["age"], _age(row, gap == 1), "yellow" if (row.age_s or 0) < 0 else style, right=True)
    add(["status"], _status(row, gap == 1), _status_style(row.status))
    add(["every"], _every(row), style)
    line.rstrip()
    return line


def _status_style(status: str) -> str:
    if status == ONLINE:
        return "green"
    return "red" if OFFLINE in status or status == NO_LINK else "yellow"


def _fit(text: str, width: int, *, right: bool = False, middle: bool = False) -> str:
    """Return `text` in exactly `width` cells; longer text is visibly cut."""
    length = cell_len(text)
    if length <= width:
        padding = " " * (width - length)
        return padding + text if right else text + padding
    if not middle or width < 5:
        return set_cell_size(text, width - 1) + "…" if width > 1 else "…"[:width]
    before = (width - 1) // 2
    after = set_cell_size(text[::-1], width - 1 - before)[::-1]
    return f"{set_cell_size(text, before)}…{after}"
