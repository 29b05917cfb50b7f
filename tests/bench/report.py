"""What is printed: the table, the goals, and what a reader needs to judge them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from goals import goal_lines
from results import Results
from table import table

__all__ = ["report"]

_WIDTH = 100


def report(results: Results) -> Iterator[str]:
    """The lines; those of the README as well."""
    yield from table(results)
    yield ""
    yield "Medians, ± half the distance between the quartiles; -: not measured."
    if results.quick:
        yield "A quick run: a part of the scenarios, and short ones. The figures are rough."
    yield ""
    yield "goals of the node"
    yield from goal_lines(results)
    yield ""
    for what, reason in {**results.missing, **results.failed}.items():
        yield f"not measured: {what}: {reason}"
    for remark in results.remarks:
        yield f"not measured: {remark}"
    yield from _paragraph("peers", results.peers)
    yield from _paragraph("machine", results.machine)
    total_s = sum(settings["took_s"] for settings in results.settings.values())
    yield f"measured on {results.began}, in {total_s / 60:.0f} min"


def _paragraph(name: str, fields: dict[str, str]) -> Iterator[str]:
    text = f"{name}: " + "; ".join(f"{key} {value}" for key, value in fields.items())
    yield from textwrap.wrap(text, _WIDTH, subsequent_indent="  ")
