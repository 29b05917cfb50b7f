"""When a value has come to rest, and on what. Pure; the time is always passed in."""

from __future__ import annotations

from collections import deque

import msgspec

__all__ = ["Plateau", "Rest"]

_DRIFT = {"°C": 0.03, "°F": 0.054, "K": 0.03, "%": 0.3, "hPa": 0.1}
"""Unit -> how far the two halves of the window may lie apart."""
_SPREAD = 8
"""How far single values may lie apart, in drifts: noise averages out."""
_LEAST = 6
"""Readings in a window."""


class Rest(msgspec.Struct, frozen=True):
    """A value that has come to rest."""

    mean: float
    """Of the younger half of the window: what is left of the way there is least in it."""
    spread: float
    """From the lowest to the highest value of the window."""


class Plateau:
    """Watches a value until it has been at rest for a window.

    A thermometer approaches its surroundings ever more slowly. With a time constant of a minute,
    the last 0.03 °C of a step of 20 °C are left when two successive minutes differ by as much.
    """

    def __init__(self, unit: str, decimals: int, *, window_s: float) -> None:
        self._window_s = window_s
        self._drift = max(_DRIFT.get(unit, 0.0), 0.5 * 10.0**-decimals)
        self._recent: deque[tuple[float, float]] = deque()

    def add(self, at_s: float, value: float) -> Rest | None:
        """Add a value; return the rest that it completes."""
        self._recent.append((at_s, value))
        covered = at_s - self._recent[0][0] >= self._window_s
        while len(self._recent) > 1 and at_s - self._recent[1][0] >= self._window_s:
            self._recent.popleft()
        if not covered or len(self._recent) < _LEAST or self.moves > self._drift:
            return None
        values = [value for _, value in self._recent]
        spread = max(values) - min(values)
        if spread > _SPREAD * self._drift:
            return None
        return Rest(_mean(self._halves()[1]), spread)

    @property
    def moves(self) -> float:
        """Return how far the means of the two halves of the window lie apart."""
        older, younger = self._halves()
        return abs(_mean(younger) - _mean(older)) if older and younger else float("inf")

    def _halves(self) -> tuple[list[float], list[float]]:
        middle_s = (self._recent[0][0] + self._recent[-1][0]) / 2
        older = [value for at_s, value in self._recent if at_s < middle_s]
        younger = [value for at_s, value in self._recent if at_s >= middle_s]
        return older, younger


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
