"""What became of the readings that were made: lost, repeated, out of order. All pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from contest import Arrival

__all__ = ["Account", "account"]


class Account(NamedTuple):
    """`lost` were made and never came. `repeated` came again on the same topic. `went_back` came
    for the first time, and after a later one of their sensor on that topic: what is retained there
    is then older than what was."""

    made: int
    lost: int
    repeated: int
    went_back: int


def account(arrivals: Iterable[Arrival], begin: Sequence[int], end: Sequence[int]) -> Account:
    """Of the numbers from `begin` to before `end`, by sensor; later ones do not count."""
    came: dict[int, set[int]] = {}
    on_topic: dict[tuple[str, int], set[int]] = {}
    highest: dict[tuple[str, int], int] = {}
    repeated = went_back = 0
    for _, topic, sensor, number in arrivals:
        if not begin[sensor] <= number < end[sensor]:
            continue
        place = (topic, sensor)
        known = on_topic.setdefault(place, set())
        if number in known:
            repeated += 1
        elif number < highest.get(place, 0):
            went_back += 1
        known.add(number)
        highest[place] = max(number, highest.get(place, 0))
        came.setdefault(sensor, set()).add(number)
    made = sum(later - earlier for earlier, later in zip(begin, end, strict=True))
    return Account(made, made - sum(map(len, came.values())), repeated, went_back)
