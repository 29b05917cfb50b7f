"""Gives windows (`max_24h`) the readings of before this start, from the log.

Used on the loop's thread: at the start, and once the clock is set after it, because the readings of
an earlier boot are dated by the clock alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from node.health import age_of
from node.outbox.outbox import Outbox
from node.reading import Reading
from node.sensors.state import SensorState
from node.system.clock import Clock
from node.units import convert_back, convertible

if TYPE_CHECKING:
    from node.sensors.derived import Window

__all__ = ["refill_windows"]

_AT_ONCE = 500


def refill_windows(states: Iterable[SensorState], outbox: Outbox, clock: Clock) -> None:
    """Give each window its older readings, each of them once.

    Those of this boot at the first call, those of earlier ones as soon as the clock is set.
    """
    every = [
        (source, window, unit)
        for state in states
        for source, window, unit in state.windows
        if not window.is_complete
    ]
    if not every:
        return
    end_of_others = outbox.last_of_other_boots
    after_seq = 0
    if clock.synced():
        longest_s = max(window.seconds for _, window, _ in every)
        after_seq = outbox.last_before(round((clock.utc_s() - longest_s) * 1000))
        _fill(every, outbox, clock, after_seq, end_of_others)
    first_call = [each for each in every if not each[1].has_this_boot]
    _fill(first_call, outbox, clock, max(after_seq, end_of_others), outbox.first_of_life - 1)
    for _, window, _ in every:
        window.has_this_boot = True
        window.is_complete = clock.synced() or not end_of_others


def _fill(
    windows: list[tuple[tuple[str, str], Window, str]],
    outbox: Outbox,
    clock: Clock,
    after_seq: int,
    last_seq: int,
) -> None:
    """Add the readings after `after_seq` up to `last_seq`."""
    wanted: dict[tuple[str, str], list[tuple[Window, str]]] = {}
    for source, window, unit in windows:
        wanted.setdefault(source, []).append((window, unit))
    sensors = {sensor for sensor, _ in wanted}
    while wanted and after_seq < last_seq:
        found = outbox.read(after_seq, min(_AT_ONCE, last_seq - after_seq))
        if not found:
            return
        after_seq = found[-1].seq
        for reading in found:
            if reading.sensor in sensors and reading.layout.alarm is None:
                _add(reading, wanted, clock)


def _add(
    reading: Reading, wanted: Mapping[tuple[str, str], list[tuple[Window, str]]], clock: Clock
) -> None:
    """Add a reading to the windows of its channels, if its time is known."""
    age_s = age_of(reading, clock)
    if age_s is None:
        return
    layout = reading.layout
    for name, unit, number in zip(layout.channels, layout.units, reading.numbers, strict=True):
        for window, native in wanted.get((reading.sensor, name), ()):
            if unit in convertible(native):  # otherwise it was another quantity then
                window.add(clock.boot_s() - age_s, convert_back(number, native, unit))
