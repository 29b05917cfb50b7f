"""The doctor's findings, and how they are shown: a line for each step, or one JSON object."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from node.mqtt.errors import Failure

__all__ = [
    "Status",
    "Step",
    "TextReport",
    "TopicStep",
    "as_json",
    "failed",
    "from_sentence",
    "timed",
]

Status = Literal["ok", "warning", "failed", "skipped"]

_WIDTH = 80
_WORDS: dict[Status, str] = {"ok": "ok", "warning": "warn", "failed": "FAIL", "skipped": "skip"}
_COLOURS: dict[Status, int] = {"ok": 32, "warning": 33, "failed": 31, "skipped": 2}
_WORD_WIDTH, _NAME_WIDTH = 6, 15
_SLOW_MS = 1000
"""A step that took longer shows its time."""


class Step(msgspec.Struct, frozen=True):
    """One thing that was checked, and the result."""

    name: str
    status: Status
    message: str
    remedy: str = ""
    took_ms: int = 0


class TopicStep(Step, frozen=True, kw_only=True):
    """A step that exists once for each topic."""

    topic: str


def failed(name: str, failure: Failure) -> Step:
    """Return the step for a failure of the connection."""
    return Step(name, "failed", failure.what, failure.remedy)


def from_sentence(name: str, status: Status, sentence: str) -> Step:
    """Return the step for a message stored as text: the problem, a semicolon, the remedy."""
    message, _, remedy = sentence.partition("; ")
    return Step(name, status, message, remedy)


def timed(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield the steps, each with the time since the previous one."""
    began_s = time.monotonic()
    for step in steps:
        ended_s = time.monotonic()
        yield msgspec.structs.replace(step, took_ms=round((ended_s - began_s) * 1000))
        began_s = time.monotonic()


def as_json(steps: list[Step]) -> str:
    """Return one object: `ok`, and every step."""
    shown = [Step(s.name, s.status, s.message, s.remedy, s.took_ms) for s in steps]
    report = {"ok": all(step.status != "failed" for step in steps), "steps": shown}
    return msgspec.json.encode(report).decode()


class TextReport:
    """Turns steps into lines as they arrive.

    Consecutive topics without problems become one line: among the topics of fifty sensors, only the
    others are of interest.
    """

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        self._alike: list[TopicStep] = []

    def show(self, step: Step) -> str:
        """Return the text to print now: empty, or whole lines."""
        if step.status == "ok" and isinstance(step, TopicStep):
            text = self.finish() if self._alike and self._alike[0].name != step.name else ""
            self._alike.append(step)
            return text
        return self.finish() + self._lines(step)

    def finish(self) -> str:
        """Return the lines that were held back."""
        steps, self._alike = self._alike, []
        if not steps:
            return ""
        if len(steps) == 1:
            return self._lines(steps[0])
        took_ms = sum(step.took_ms for step in steps)
        topics = f"{len(steps)} topics, {steps[0].topic} to {steps[-1].topic}"
        return self._lines(Step(steps[0].name, "ok", topics, took_ms=took_ms))

    def _lines(self, step: Step) -> str:
        word = _WORDS[step.status].ljust(_WORD_WIDTH)
        margin = _WORD_WIDTH + _NAME_WIDTH
        message = step.message
        if step.took_ms >= _SLOW_MS:
            message += f" ({step.took_ms / 1000:.1f} s)"
        lines = _wrapped(message, _WIDTH - margin)
        if step.remedy:
            lines += _wrapped("-> " + step.remedy, _WIDTH - margin, "   ")
        name = step.name.ljust(_NAME_WIDTH)
        if self._colour:
            word = f"\x1b[{_COLOURS[step.status]}m{word}\x1b[0m"
        first, *others = lines
        return "".join(
            line.rstrip() + "\n"
            for line in (f"{word}{name}{first}", *(" " * margin + line for line in others))
        )


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    lines = textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return lines or [""]
