"""What is printed: the table, the goals, and what a reader needs to judge them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from goals import goal_lines
from results import Results, pooled
from table import table

__all__ = ["readme_block", "report"]

_WIDTH = 100
JUDGED_OVER = 3
"""Runs, at least: a goal on the edge is met in one run and missed in the next."""


def report(runs: Sequence[Results]) -> Iterator[str]:
    """The lines of the whole table, and all beneath it."""
    results = pooled(runs)
    yield from table(results)
    yield ""
    yield "Medians, ± half the distance between the quartiles; -: not measured."
    if results.quick:
        yield "A quick run: a part of the scenarios, and short ones. The figures are rough."
    yield ""
    yield "goals of the node"
    yield from goal_lines(runs)
    yield ""
    for what, reason in {**results.missing, **results.failed}.items():
        yield f"not measured: {what}: {reason}"
    yield from _notes(results, len(runs))


def readme_block(runs: Sequence[Results]) -> Iterator[str]:
    """What the README has between its sentences: the main rows and the goals."""
    results = pooled(runs)
    yield "```"
    yield from table(results, brief=True)
    yield ""
    yield from goal_lines(runs)
    yield ""
    yield from _notes(results, len(runs))
    yield "```"


def _notes(results: Results, runs: int) -> Iterator[str]:
    for remark in results.remarks:
        yield f"not measured: {remark}"
    yield from _paragraph("peers", results.peers)
    yield from _paragraph("machine", results.machine)
    total_s = sum(settings["took_s"] for settings in results.settings.values())
    yield f"measured on {results.began}, in {total_s / 60:.0f} min; runs: {runs}"
    if runs < JUDGED_OVER:
        yield f"too few runs for a verdict: a goal is judged over {JUDGED_OVER} (--runs)"


def _paragraph(name: str, fields: dict[str, str]) -> Iterator[str]:
    text = f"{name}: " + "; ".join(f"{key} {value}" for key, value in fields.items())
    yield from textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
