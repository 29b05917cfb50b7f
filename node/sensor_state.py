"""What the loop knows of one sensor: filters, newest values, whether it is online, and why not."""

from __future__ import annotations

import logging
import math

from drivers.base import Channel
from node.pipeline import ChannelPipeline, Rejected
from node.reading import ReadOutcome
from node.schema import ChannelTable, SensorTable
from node.units import duration_text

__all__ = ["SensorState"]

_log = logging.getLogger(__name__)

STALE_INTERVALS = 3
_GRACE_S = 0.5
"""What the third reading may take to arrive before the sensor counts as stale."""


class SensorState:
    """One sensor, on the loop's thread.

    It is online from its first good reading until it had none for three intervals. Every change
    is logged once; while it is offline, each further kind of problem is, once.
    """

    def __init__(self, table: SensorTable) -> None:
        self.table = table
        self.online = False
        self.busy_since_s: float | None = None
        """When the read that is under way was due."""
        self.values: dict[str, float] = {}
        self.failures_in_a_row = 0
        self._stale_at_s = math.inf
        self._pipelines: dict[str, ChannelPipeline] = {}
        self._good_at_s: dict[str, float] = {}
        self._last_problem = ("", "no reading yet")
        self._kinds_said: set[str] = set()

    @property
    def patience_s(self) -> float:
        """Without a good reading for this long the sensor is offline."""
        interval_s = self.table.interval
        return STALE_INTERVALS * interval_s + min(_GRACE_S, interval_s / 2)

    @property
    def next_check_s(self) -> float:
        """When `check` may have something to say, if nothing is heard until then."""
        if self.online:
            return self._stale_at_s
        if self.busy_since_s is not None and "stuck" not in self._kinds_said:
            return self.busy_since_s + self.table.info.read_budget_s
        return math.inf

    def check(self, now_s: float) -> None:
        """Go offline after too long a silence; complain of a read that does not end."""
        if now_s < self.next_check_s:
            return
        if self.busy_since_s is not None:
            stuck_for = duration_text(now_s - self.busy_since_s)
            problem = f"no answer for {stuck_for}; the other sensors go on without it"
            self._last_problem = ("stuck", problem)
        self.online = False
        self._say(*self._last_problem)

    def accept(self, outcome: ReadOutcome) -> dict[str, float]:
        """The values of the outcome that passed the pipeline; empty for a failed read.

        A read that took longer than the sensor may be silent is a failure too: what it brings
        may have been measured when it began.
        """
        if outcome.measurement is None:
            assert outcome.error is not None
            values: dict[str, float] = {}
            self._last_problem = (type(outcome.error).__name__, str(outcome.error))
        elif outcome.ended_s - outcome.due_s > self.patience_s:
            values = {}
            took = duration_text(outcome.ended_s - outcome.due_s)
            self._last_problem = ("late", f"the reading took {took}, and was not used")
        else:
            values = self._filtered(outcome)
        if values:
            self._good(values, outcome.ended_s)
        else:
            self.failures_in_a_row += 1
            if not self.online:
                self._say(*self._last_problem)
        return values

    def _filtered(self, outcome: ReadOutcome) -> dict[str, float]:
        channels = {channel.name: channel for channel in outcome.channels}
        values: dict[str, float] = {}
        assert outcome.measurement is not None
        for name, raw in outcome.measurement.items():
            try:
                values[name] = self._pipeline(channels[name]).accept(raw, outcome.ended_s)
            except Rejected as rejection:
                self._last_problem = (rejection.reason, str(rejection))
        return values

    def _pipeline(self, channel: Channel) -> ChannelPipeline:
        if channel.name not in self._pipelines:
            table = self.table.channel.get(channel.name, ChannelTable())
            self._pipelines[channel.name] = ChannelPipeline(channel, table)
        return self._pipelines[channel.name]

    def _good(self, values: dict[str, float], at_s: float) -> None:
        self.values = values
        self.failures_in_a_row = 0
        self._stale_at_s = at_s + self.patience_s
        for name in values:
            self._good_at_s[name] = at_s
        if not self.online:
            self.online = True
            self._kinds_said.clear()
            _log.info("%s (%s): online, %s", self.table.id, self.table.driver, self.described())

    def take_stale_channels(self, now_s: float) -> list[str]:
        """Channels silent for too long while the sensor is not; each is told once."""
        stale = [n for n, at_s in self._good_at_s.items() if now_s - at_s > self.patience_s]
        for name in stale:
            del self._good_at_s[name]
        return stale

    def worth_publishing(self, values: dict[str, float], at_s: float) -> list[str]:
        """The channels whose value is worth a message, by delta and heartbeat."""
        return [
            name for name, v in values.items() if self._pipelines[name].worth_publishing(v, at_s)
        ]

    def published(self, values: dict[str, float], at_s: float) -> None:
        """Remember what subscribers have now."""
        for name, value in values.items():
            self._pipelines[name].published(value, at_s)

    def described(self) -> str:
        """The newest values with their units."""
        return ", ".join(
            f"{name} {value:g} {self._pipelines[name].unit}" for name, value in self.values.items()
        )

    def _say(self, kind: str, problem: str) -> None:
        if kind not in self._kinds_said:
            self._kinds_said.add(kind)
            _log.warning("%s (%s): offline: %s", self.table.id, self.table.driver, problem)
