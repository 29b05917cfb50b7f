"""Numbers as spans of consecutive ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Span", "new_numbers", "united"]

Span = tuple[int, int]
"""The first and the last number."""


def new_numbers(spans: Iterable[Span], numbers: Iterable[int]) -> set[int]:
    """Return the numbers that are in none of the spans."""
    known = list(spans)
    return {n for n in numbers if not any(first <= n <= last for first, last in known)}


def united(spans: Iterable[Span]) -> list[Span]:
    """Return the same numbers in as few spans as possible, in ascending order."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found
