"""The live view in a terminal: redraws the table in place, and leaves the screen as it was.

The view uses the terminal's alternate screen, with echo off and lines never wrapped, so that
nothing scrolls at any size. On leaving, for a while (Ctrl-Z) or for good, the previous screen
comes back unchanged; at the end the last table is written below it.

Everything here runs on one thread, between two frames and never within one: signals arrive as
events.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import termios
from collections import deque
from typing import Any

from rich.console import Console
from rich.text import Text

from node.system.terminal import count, visible
from node.watch.gaps import HistoryLine, HistoryLog, batch_in
from node.watch.model import LiveModel
from node.watch.payloads import Message
from node.watch.rows import WatchTime
from node.watch.table import Picture, frame

__all__ = ["LiveTable"]

_DRAW_S = 0.5
_AGE_S = 1.0
"""Interval at which ages are redrawn when nothing else has changed."""
_HISTORY_LINES = 300
_LOG_LINES = 200

# xterm's control sequences: 1049 the alternate screen, 7 wrapping, 25 the cursor.
_ENTER = "\x1b[?1049h\x1b[?7l\x1b[?25l\x1b[H\x1b[2J"
_LEAVE = "\x1b[0m\x1b[?1049l\x1b[?7h\x1b[?25h"
_PLACE = "\x1b[{};1H"


class LiveTable:
    """A context manager; call `show` and `tick` only within it."""

    def __init__(
        self, model: LiveModel, history: HistoryLog | None, *, title: str, topics: str
    ) -> None:
        self._model = model
        self._history = history
        self._past: deque[HistoryLine] = deque(maxlen=_HISTORY_LINES)
        self._title = visible(title)
        self._topics = visible(topics)
        self._paper = io.StringIO()
        self._console = Console(file=self._paper, force_terminal=True, highlight=False)
        self._screen = _Screen()
        self._drawn_s = float("-inf")
        self._news = True
        self._messages = 0
        self._link = (False, "")
        """Whether the link is up, and its description."""
        self._remark = ""
        self._since_s: float | None = None
        """When the link last went up or down, in seconds since boot."""
        self._now: WatchTime | None = None

    def __enter__(self) -> LiveTable:
        self._screen.enter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._screen.leave()
        if kind is None and self._now is not None:
            width, height = _size()
            lines = frame(self._picture_at(self._now), width, height - 1)
            self._screen.write("\n".join(self._painted(lines)) + "\n")

    def show(self, message: Message, now: WatchTime) -> None:
        """Count a message. The model has recorded it already, except history."""
        self._messages += 1
        self._news = True
        match self._model.below_base(message.topic):
            case (node, "history") if self._history is not None:
                batch = batch_in(message.payload)
                if batch is not None:
                    unit = self._model.history_unit(message.topic)
                    for line in self._history.lines(node, batch, unit):
                        text = f"{visible(node, 64)}  {line.text}"
                        self._past.append(HistoryLine(text, line.odd))

    def tick(self, connected: bool, link: str, now: WatchTime, remark: str) -> None:
        """Draw if a frame is due."""
        if remark != self._remark:
            self._remark = remark
            self._news = True
        if self._since_s is None or self._link[0] != connected:
            self._since_s = now.boot_s
            self._news = True
        self._link = (connected, link)
        self._now = now
        if now.boot_s - self._drawn_s >= (_DRAW_S if self._news else _AGE_S):
            self._drawn_s = now.boot_s
            self._news = False
            self._draw(self._picture_at(now))

    def _picture_at(self, now: WatchTime) -> Picture:
        connected, link = self._link
        history, title = None, ""
        if self._history is not None:
            history = list(self._past)
            title = f"HISTORY  {count(range(self._history.readings), 'reading')}"
            if self._history.again:
                title += f", {count(range(self._history.again), 'duplicate')}"
            if self._history.missing:
                title += f", {self._history.missing} missing"
        return Picture(
            title=self._title,
            topics=self._topics,
            connected=connected,
            link=visible(link, 500),
            link_s=now.boot_s - (self._since_s or now.boot_s),
            rows=self._model.rows(now, linked=connected),
            others=self._model.others,
            messages=self._messages,
            full=self._model.full,
            history=history,
            history_title=title,
            remark=self._remark,
        )

    def _draw(self, picture: Picture) -> None:
        width, height = _size()
        lines = frame(picture, width, height)
        lines += [Text()] * (height - len(lines))
        painted = self._painted([_filled(line, width) for line in lines])
        # Each line is placed explicitly, so that a window that has just shrunk does not scroll.
        placed = [_PLACE.format(number) + line for number, line in enumerate(painted, 1)]
        self._screen.write("".join(placed))

    def _painted(self, lines: list[Text]) -> list[str]:
        """Return the lines with the colours that this terminal supports."""
        self._paper.seek(0)
        self._paper.truncate()
        self._console.print(Text("\n").join(lines), end="", soft_wrap=True)
        return self._paper.getvalue().split("\n")

    def resized(self) -> None:
        """Force a redraw at the next tick."""
        self._drawn_s = float("-inf")

    def suspend(self) -> None:
        """Give the terminal back, stop as Ctrl-Z asks, and continue from the same state."""
        self._screen.leave()
        numbers = (signal.SIGTSTP, signal.SIGCONT)
        handlers = [signal.signal(number, signal.SIG_DFL) for number in numbers]
        signal.raise_signal(signal.SIGTSTP)  # execution resumes here after SIGCONT
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        self._screen.enter()
        self.resized()

    def resume(self) -> None:
        """Take the terminal again after SIGSTOP, during which another program had it."""
        self._screen.leave()
        self._screen.enter()
        self.resized()


class _Screen:
    """The terminal state of standard output, and of standard error if it is a terminal, too."""

    def __init__(self) -> None:
        self._entered = False
        self._before: list[Any] | None = None
        self._stderr = sys.stderr
        self._held = _HeldBack()

    def write(self, text: str) -> None:
        """Write and flush. Raise BrokenPipeError if the terminal is gone."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as error:
            if error.errno != errno.EIO:  # EIO follows a hang-up
                raise
            raise BrokenPipeError from error

    def enter(self) -> None:
        # A background job is stopped here (SIGTTOU), before it has written anything.
        self._before = _without_echo(sys.stdout.fileno())
        self._entered = True
        if self._stderr.isatty():
            sys.stderr = self._held
        self.write(_ENTER)

    def leave(self) -> None:
        if not self._entered:
            return
        self._entered = False
        sys.stderr = self._stderr
        with contextlib.suppress(OSError):
            self.write(_LEAVE)
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdout.fileno(), termios.TCSADRAIN, self._before)
        with contextlib.suppress(OSError):
            self._stderr.write(self._held.taken())
            self._stderr.flush()


def _without_echo(terminal: int) -> list[Any] | None:
    """Switch echo off. Return the previous attributes; None if they are unavailable."""
    try:
        before: list[Any] = termios.tcgetattr(terminal)
        attributes = list(before)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(terminal, termios.TCSADRAIN, attributes)
    except termios.error:
        return None
    return before


class _HeldBack(io.TextIOBase):
    """Stands in for standard error while the table is shown, and keeps the text for later."""

    def __init__(self) -> None:
        self._parts: deque[str] = deque(maxlen=_LOG_LINES)

    def write(self, text: str) -> int:
        self._parts.append(text)
        return len(text)

    def taken(self) -> str:
        text = "".join(self._parts)
        self._parts.clear()
        return text


def _filled(line: Text, width: int) -> Text:
    """Return the line padded to the edge, to cover the previous frame."""
    return line.copy().append(" " * max(0, width - line.cell_len))


def _size() -> tuple[int, int]:
    """Return columns and lines; 80 by 24 if the terminal does not know its size."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return (size.columns or 80, size.lines or 24)
