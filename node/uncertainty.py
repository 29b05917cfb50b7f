"""How far a value may be off: the figure of the datasheet, carried through what is made of it.

To first order, as the GUM does (JCGM 100:2008, 5.1.2): the parts of a derived channel are taken as
independent, and each contributes its own figure times the slope of the formula. A figure is the
half-width of what is possible, and so is the result: for rectangular distributions (4.3.7) both are
√3 of the standard uncertainty. An offset changes nothing, a calibration scales by its slope: how
good the reference was is not known here. None, where the datasheet is silent. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from drivers.accuracy import accuracy_at
from drivers.base import Channel
from node.config.schema import SensorTable
from node.derive.parts import Derived, Missing, OverWindow
from node.filters import ChannelFilters
from node.units import convert

__all__ = ["of_derived", "of_measured", "of_middle", "published"]

_STEP = 1e-3
"""Of a part, in its unit, to find the slope of a formula."""


def of_measured(
    table: SensorTable, filters: ChannelFilters, channels: tuple[Channel, ...], raw: float
) -> float | None:
    """Return how far a calibrated value may be off, in the unit of the driver.

    `channels`: all of the sensor. `raw`: the value as the sensor gave it.
    """
    text = table.options.accuracy() or table.info.accuracy
    limit = accuracy_at(text, filters.channel, channels, raw)
    if limit is None:
        return None
    return limit * filters.slope_at(raw) / _factor(filters)


def of_derived(
    derived: Derived, parts: Mapping[str, float], limits: Mapping[str, float | None]
) -> float | None:
    """Return how far a derived value may be off; parts, limits and result as in `Derived.value`."""
    if isinstance(derived.function, OverWindow):
        return limits["of"]
    squares = 0.0
    for key, limit in limits.items():
        if limit is None:
            return None
        try:
            above, below = (
                derived.function.value(**{**parts, key: parts[key] + step})
                for step in (_STEP, -_STEP)
            )
        except Missing:
            return None
        squares += (limit * (above - below) / (2 * _STEP)) ** 2
    return math.sqrt(squares)


def of_middle(limits: list[float | None]) -> float | None:
    """Return how far the mean of these may be off; None if that is not known of one."""
    known = [limit for limit in limits if limit is not None]
    if not known or len(known) < len(limits):
        return None
    return math.hypot(*known) / len(known)


def published(limit: float, filters: ChannelFilters) -> float:
    """Return a limit in the unit that the channel is published in, with two digits."""
    return float(f"{limit * _factor(filters):.2g}")


def _factor(filters: ChannelFilters) -> float:
    native = filters.channel.unit
    return convert(1.0, native, filters.unit) - convert(0.0, native, filters.unit)
