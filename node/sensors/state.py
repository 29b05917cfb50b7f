"""The loop's view of one sensor: filters, newest values, whether it is online, and why not."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from drivers.base import Channel, Measurement
from node.config.schema import ChannelTable, SensorTable
from node.derive.parts import Missing
from node.filters import ChannelFilters, Rejected
from node.reading import Layout, ReadOutcome
from node.uncertainty import of_derived, of_measured, of_middle, published
from node.units import duration_text

if TYPE_CHECKING:
    from node.sensors.derived import DerivedValues, Window

__all__ = ["SensorState"]

_log = logging.getLogger(__name__)

_GRACE = 0.1
_MAX_GRACE_S = 0.2
"""How late the third reading may be, in intervals and in seconds."""
_MAX_EXCUSED_S = 30.0
"""The most that many small excuses may add up to, so that a loop that is always late cannot keep a
dead sensor online. A single longer one, of a process that was stopped, counts in full."""


class SensorState:
    """One sensor, on the loop's thread.

    It is online from its first good reading until it has been without one for three intervals.
    Every change is logged once. While it is offline, each further kind of problem is logged once.
    """

    def __init__(self, table: SensorTable) -> None:
        self.table = table
        self.patience_s = table.stale_after_s + min(_GRACE * table.interval, _MAX_GRACE_S)
        """How long the sensor stays online without a good reading."""
        self.online = False
        self.busy_since_s: float | None = None
        """When the last requested read was due; None once it has ended."""
        self.values: dict[str, float] = {}
        self.failures_in_a_row = 0
        self.ok = 0
        """Reads that gave a value."""
        self.failed = 0
        """Reads that failed."""
        self.rejected_for: Counter[str] = Counter()
        """Reason -> how many values a filter rejected."""
        self.last_error: str | None = None
        self.complaints = 0
        """How many new problems were reported."""
        self.missing_channels: set[str] = set()
        """Channels that have been without a value for too long while others have one."""
        self.outcome: ReadOutcome | None = None
        """The last read that gave a value."""
        self.concern = ""
        """What is wrong with it although it gives values; "" for nothing."""
        self.middle: tuple[tuple[str, str], ...] = ()
        """The (sensor, channel) that the value of a sensor of `agree` is the mean of."""
        self.others: Mapping[str, SensorState] = {}
        """Sensor -> its state, for derived channels with parts of other sensors."""
        self._stale_at_s = math.inf
        self._excused_s = 0.0
        """How much extra time it was allowed since its last good reading."""
        self._filters: dict[str, ChannelFilters] = {}
        self._thinned: dict[str, ChannelFilters] = {}
        """Those of `_filters` that hold some values back."""
        self._diagnostic: set[str] = set()
        self._layouts: dict[tuple[str, ...], Layout] = {}
        self._good_at_s: dict[str, float] = {}
        self.complete = False
        """Whether the newest reading has every channel, so that none can be missing."""
        self._rejections: dict[str, str] = {}
        if not table.info.more_channels:
            for channel in table.info.channels_with(table.options):
                self._filters_of(channel)
        self._derived: DerivedValues | None = None
        if table.derive:
            from node.sensors.derived import DerivedValues  # most nodes derive nothing

            self._derived = DerivedValues(table.derive)
        for derived in table.derive:
            self._filters_of(derived.channel)
        self._known_channels = len(self._filters)
        """How many channels there were when `found_channels` was last called."""
        self._last_measurement: Measurement = {}
        self._repeats = 0
        self._last_problem = ("", "no reading yet")
        self._kinds_said: set[str] = set()

    @property
    def filters(self) -> list[ChannelFilters]:
        """Return the filters of each channel that is known, from the start or from a value."""
        return list(self._filters.values())

    @property
    def next_check_s(self) -> float:
        """Return when `check` may find something, if nothing happens until then."""
        if self.online:
            return self._stale_at_s
        if self.busy_since_s is not None and "stuck" not in self._kinds_said:
            return self.busy_since_s + self.table.info.read_budget_s
        return math.inf

    def excuse(self, seconds: float) -> None:
        """Allow the sensor more time, because it could not have been read meanwhile."""
        seconds = min(seconds, max(_MAX_EXCUSED_S, seconds) - self._excused_s)
        if seconds <= 0:
            return
        self._excused_s += seconds
        self._stale_at_s += seconds
        for name in self._good_at_s:
            self._good_at_s[name] += seconds
        if self.busy_since_s is not None:
            self.busy_since_s += seconds

    def check(
        self, now_s: float, reading_since_s: float | None, *, bus_is_busy: bool = True
    ) -> None:
        """Go offline after too long a silence; report a read that does not end.

        `reading_since_s`: when the worker began to read it; None while it waits for its bus.
        `bus_is_busy`: this or another sensor on its bus is being read.
        """
        if now_s < self.next_check_s:
            return
        if reading_since_s is not None:
            stuck_for = duration_text(now_s - reading_since_s)
            self._last_problem = (
                "stuck",
                f"no answer for {stuck_for}; check its wiring, or switch its power off and on "
                "(the other sensors go on)",
            )
        elif self.busy_since_s is not None and not bus_is_busy:
            self._last_problem = (
                "stuck",
                "this computer did not get to read it: it is overloaded or short of memory; "
                "raise the intervals, or stop other programs",
            )
        elif self.busy_since_s is not None:
            self._last_problem = (
                "stuck",
                f"its bus ({self.table.options.bus()}) is held up by other sensors; "
                "raise their interval, or look for one that is stuck",
            )
        self.last_error = self._last_problem[1]
        self.online = False
        for pipeline in self._filters.values():
            pipeline.forget()
        self._say(*self._last_problem)

    def accept(self, outcome: ReadOutcome, *, taken_s: float | None = None) -> dict[str, float]:
        """Return the values of the outcome that passed the filters; empty for a failed read.

        `taken_s`: when the loop took the outcome, if that may be later than the read's end. Silence
        is counted from then, because the sensor was not read again before.

        A read that took longer than the sensor may be silent is also a failure: its values may
        have been measured when it began.
        """
        took_s = outcome.ended_s - outcome.started_s
        if outcome.measurement is None:
            assert outcome.error is not None
            values: dict[str, float] = {}
            self._last_problem = (type(outcome.error).__name__, str(outcome.error))
        elif took_s > self.patience_s:
            values = {}
            took = duration_text(took_s)
            self._last_problem = ("late", f"the reading took {took}, and was discarded")
        else:
            values = self._filtered(outcome)
        if values:
            self.ok += 1
            self._good(values, outcome, outcome.ended_s if taken_s is None else taken_s)
        else:
            self.failed += 1
            self.failures_in_a_row += 1
            self.last_error = self._last_problem[1]
            _log.debug("%s (%s): %s", self.table.id, self.table.driver, self._last_problem[1])
            if not self.online:
                self._say(*self._last_problem)
        return values

    def _filtered(self, outcome: ReadOutcome) -> dict[str, float]:
        values: dict[str, float] = {}
        self._rejections.clear()
        assert outcome.measurement is not None
        if self.table.info.frozen_after and self._is_frozen(outcome.measurement):
            self._last_problem = (
                "frozen",
                f"the same values to the last bit {self._repeats} times: the sensor has stopped "
                "measuring; switch its power off and on again",
            )
            self.rejected_for["frozen"] += len(outcome.measurement)
            return {}
        for name, raw in outcome.measurement.items():
            filters = self._filters.get(name)
            if filters is None:
                filters = self._filters_of(next(c for c in outcome.channels if c.name == name))
            try:
                values[name] = filters.accept(raw, outcome.ended_s)
            except Rejected as rejection:
                self.rejected_for[rejection.reason] += 1
                self.last_error = self._rejections[name] = str(rejection)
                self._last_problem = (rejection.reason, str(rejection))
        if self._derived is not None and values:
            self._derive(self._derived, values, outcome)
        return values

    def _derive(
        self, derived: DerivedValues, values: dict[str, float], outcome: ReadOutcome
    ) -> None:
        """Add the derived channels that have a value; note why others do not."""

        def part(sensor: str, channel: str, unit: str) -> float:
            if sensor != self.table.id:
                return self.others[sensor].newest(channel, unit, outcome.ended_s)
            if channel not in values:
                raise Missing(f"there is no {channel}")
            return self._exact(channel, unit)

        for name, found in derived.values(part, outcome.boot_s - outcome.age_s):
            if isinstance(found, Missing):
                self._rejections[name] = str(found)
                continue
            try:
                values[name] = self._filters[name].accept(found, outcome.ended_s)
            except Rejected as rejection:
                self.rejected_for[rejection.reason] += 1
                self.last_error = self._rejections[name] = str(rejection)

    def newest(self, channel: str, unit: str, now_s: float) -> float:
        """Return the newest value of a channel, unrounded, in the unit of the driver.

        Raises:
            Missing: the channel has none that is current at `now_s`, or is in another unit.
        """
        if not self.online or now_s > self._stale_at_s:
            raise Missing(f"{self.table.id} is offline")
        if channel not in self.values:
            raise Missing(f"{self.table.id} has no {channel} at present")
        return self._exact(channel, unit)

    def _exact(self, channel: str, unit: str) -> float:
        """Return a value unrounded; a channel that only the hardware knows may be in any unit."""
        filters = self._filters[channel]
        if filters.channel.unit != unit:
            raise Missing(f"{channel} is in {filters.channel.unit}, and not in {unit}")
        return filters.exact

    def accuracy(self) -> dict[str, float]:
        """Return how far each newest value may be off, in its unit, where that is known."""
        limits = {name: self.limit_of(name) for name in self.values}
        return {
            name: published(limit, self._filters[name])
            for name, limit in limits.items()
            if limit is not None
        }

    def limit_of(self, channel: str) -> float | None:
        """Return how far the newest value of a channel may be off, in the unit of the driver."""
        outcome = self.outcome
        if outcome is None or outcome.measurement is None or channel not in self.values:
            return None
        raw = outcome.measurement.get(channel)
        if raw is not None and self.middle:
            return of_middle([self.others[s].limit_of(name) for s, name in self.middle])
        if raw is not None:
            return of_measured(self.table, self._filters[channel], outcome.channels, raw)
        derived = next(d for d in self.table.derive if d.channel.name == channel)
        values: dict[str, float] = {}
        limits: dict[str, float | None] = {}
        for key, (sensor, name) in derived.sources.items():
            state = self if sensor == self.table.id else self.others[sensor]
            limits[key] = state.limit_of(name)
            if limits[key] is None:
                return None
            values[key] = state._filters[name].exact
        return of_derived(derived, values, limits)

    @property
    def windows(self) -> list[tuple[tuple[str, str], Window, str]]:
        """Return the windows of the sensor, each with the (sensor, channel) that it is of, and the
        unit of its values."""
        if self._derived is None:
            return []
        return [
            (d.sources["of"], self._derived.windows[d.channel.name], d.channel.unit)
            for d in self.table.derive
            if d.channel.name in self._derived.windows
        ]

    def _is_frozen(self, measurement: Measurement) -> bool:
        """Return whether the sensor repeats itself more often than a working one ever would."""
        self._repeats = self._repeats + 1 if measurement == self._last_measurement else 1
        self._last_measurement = measurement
        return self._repeats >= self.table.info.frozen_after

    def _filters_of(self, channel: Channel) -> ChannelFilters:
        if channel.name not in self._filters:
            table = self.table.channel.get(channel.name, ChannelTable())
            filters = self._filters[channel.name] = ChannelFilters(channel, table)
            if filters.thins:
                self._thinned[channel.name] = filters
            if channel.diagnostic:
                self._diagnostic.add(channel.name)
        return self._filters[channel.name]

    def _good(self, values: dict[str, float], outcome: ReadOutcome, taken_s: float) -> None:
        self.values = values
        self.outcome = outcome
        self.failures_in_a_row = 0
        self._excused_s = 0.0
        self._stale_at_s = taken_s + self.patience_s
        if not self.online:
            self.online = True
            self._kinds_said.clear()
            expected = (*outcome.channels, *(derived.channel for derived in self.table.derive))
            self._good_at_s = {channel.name: taken_s for channel in expected}
            _log.info("%s (%s): online, %s", self.table.id, self.table.driver, self.described())
        for name in values:
            self._good_at_s[name] = taken_s
            if name in self.missing_channels:
                self.missing_channels.discard(name)
                _log.info("%s (%s): %s is back", self.table.id, self.table.driver, name)
        self.complete = len(values) == len(self._good_at_s)

    def found_channels(self) -> bool:
        """Return whether the sensor has a channel that was not known at the last call."""
        before, self._known_channels = self._known_channels, len(self._filters)
        return self._known_channels > before

    def note_missing(self, now_s: float) -> list[str]:
        """Log and return the channels that have newly been silent for too long, unlike others."""
        missing = [
            name
            for name, at_s in self._good_at_s.items()
            if now_s - at_s > self.patience_s and name not in self.missing_channels
        ]
        for name in missing:
            self.missing_channels.add(name)
            if name in self._filters:
                self._filters[name].forget()
            reason = self._rejections.get(
                name, "the sensor does not give a value; is its probe connected?"
            )
            _log.warning("%s (%s): no %s: %s", self.table.id, self.table.driver, name, reason)
        return missing

    def note_concern(self, concern: str, numbers: str) -> None:
        """Log what is wrong with the sensor although it gives values, if that has changed."""
        if concern == self.concern:
            return
        self.concern = concern
        self.complaints += 1
        if concern:
            _log.warning("%s (%s): %s: %s", self.table.id, self.table.driver, concern, numbers)
        elif self.online:
            _log.info("%s (%s): all agree again: %s", self.table.id, self.table.driver, numbers)

    def worth_publishing(self, values: dict[str, float], at_s: float) -> list[str]:
        """Return the channels whose value is worth a message, by delta and heartbeat.

        Diagnostic ones, such as the strength of a signal, go along with the others.
        """
        thinned = self._thinned
        if not thinned and not self._diagnostic:
            return list(values)
        worth = [
            n for n, v in values.items() if n not in thinned or thinned[n].worth_publishing(v, at_s)
        ]
        if self._diagnostic.issuperset(worth) and not self._diagnostic.issuperset(values):
            return []
        return worth

    def published(self, names: list[str], at_s: float) -> None:
        """Note that subscribers have the newest values of these channels."""
        if not self._thinned:
            return
        for name in names:
            if name in self._thinned:
                self._thinned[name].published(self.values[name], at_s)

    def layout(self, values: dict[str, float]) -> Layout:
        """Return the sensor, channels and units of these values."""
        channels = tuple(values)
        layout = self._layouts.get(channels)
        if layout is None:
            units = tuple(self._filters[name].unit for name in channels)
            layout = self._layouts[channels] = Layout(self.table.id, channels, units)
        return layout

    def described(self) -> str:
        """Return the newest values with their units."""
        return ", ".join(
            f"{name} {value:g} {self._filters[name].unit}" for name, value in self.values.items()
        )

    def _say(self, kind: str, problem: str) -> None:
        if kind not in self._kinds_said:
            self._kinds_said.add(kind)
            self.complaints += 1
            _log.warning("%s (%s): offline: %s", self.table.id, self.table.driver, problem)
