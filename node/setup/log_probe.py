"""A sensor that a running node reads: its values are taken from the node's log, as they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from drivers.base import Channel
from node.config.schema import SensorTable
from node.outbox.log_file import LogFile
from node.outbox.reader import LOG_TROUBLE, health_in, look_into, why_not
from node.reading import Reading
from node.setup.calibration import CannotCalibrate
from node.setup.probe import Probe
from node.system.clock import Clock
from node.units import convert_back, convertible, decimals_in, duration_text

__all__ = ["LogProbe"]

_READINGS = 6
"""How many readings a rest should have."""
_LOOK_EVERY_S = 0.5
_AT_ONCE = 1000


class LogProbe(Probe):
    """One channel of such a sensor.

    The log has values as they are published: corrected, in the configured unit, and rounded. So the
    present correction is taken back; the mean of a rest is not hurt by rounding to as many decimals
    as the sensor deserves, nor by a median.
    """

    def __init__(
        self,
        table: SensorTable,
        file: Path,
        clock: Clock,
        channel: str | None,
        *,
        sleep: Callable[[float], None],
    ) -> None:
        """Wait for its next reading, to know its channels.

        Raises:
            CannotCalibrate: none comes, or it does not have the channel.
        """
        self._file = file
        self._clock = clock
        self._sleep = sleep
        self._id = table.id
        self._patience_s = table.stale_after_s + table.info.read_budget_s
        self._derived = {derived.channel.name for derived in table.derive}
        self._newest: Reading | None = None
        self._newest_s = 0.0
        self.least_window_s = _READINGS * table.interval
        try:
            self._after_seq = look_into(file, lambda log: log.ledger.last_seq)
            reading = self._next()
        except LOG_TROUBLE as error:
            raise CannotCalibrate(why_not(file, error)) from error
        except LookupError as error:
            raise CannotCalibrate(f"the node has {error}") from error
        super().__init__(table, self._channels_of(table, reading), channel)
        usual = decimals_in(self.unit, self.channel.unit, self.channel.decimals)
        if self._filters.decimals < usual:
            raise CannotCalibrate(
                f"[sensor.channel.{self.channel.name}] decimals = {self._filters.decimals} rounds "
                "what the node reads too much: stop the node first"
            )

    def _channels_of(self, table: SensorTable, reading: Reading) -> list[Channel]:
        """Return the channels that it measures, and that are not derived."""
        known = {channel.name: channel for channel in table.channels}
        layout = reading.layout
        return [
            known.get(name) or _unknown(name, unit)
            for name, unit in zip(layout.channels, layout.units, strict=True)
            if name not in self._derived
        ]

    def _next(self) -> Reading:
        """Wait for a reading that was not seen yet.

        Raises:
            LookupError: none comes in time.
            One of LOG_TROUBLE.
        """
        give_up_s = self._clock.monotonic() + self._patience_s
        while (reading := self._look()) is None:
            if self._clock.monotonic() >= give_up_s:
                patience, why = duration_text(round(self._patience_s)), self._last_error()
                raise LookupError(f"no new reading of {self._id} for {patience}{why}")
            self._sleep(_LOOK_EVERY_S)
        return reading

    def _look(self) -> Reading | None:
        """Return the newest reading since the last look, if there is one."""

        def newer(log: LogFile) -> list[Reading]:
            return log.readings_after(self._after_seq, _AT_ONCE)

        found = look_into(self._file, newer)
        if found:
            self._after_seq = found[-1].seq
        mine = [r for r in found if r.sensor == self._id and r.layout.alarm is None]
        if not mine:
            return None
        self._newest, self._newest_s = mine[-1], self._clock.monotonic()
        return mine[-1]

    def _last_error(self) -> str:
        health = look_into(self._file, lambda log: health_in(log.ledger))
        sensor = None if health is None else health.sensors.get(self._id)
        return f": {sensor.last_error}" if sensor is not None and sensor.last_error else ""

    def _value_in(self, reading: Reading) -> float:
        values = dict(zip(reading.layout.channels, reading.numbers, strict=True))
        if self.channel.name not in values:
            raise LookupError(f"{self._id} gave no {self.channel.name}")
        return values[self.channel.name]

    def measured(self) -> float:
        try:
            return self._filters.uncorrected(self._value_in(self._next()))
        except LOG_TROUBLE as error:
            raise LookupError(why_not(self._file, error)) from error

    def calibrated(self) -> float:
        """Return the newest value, which may have been seen before."""
        try:
            reading = self._look() or self._newest
        except LOG_TROUBLE as error:
            raise LookupError(why_not(self._file, error)) from error
        if reading is None or self._clock.monotonic() > self._newest_s + self._patience_s:
            raise LookupError(f"no new reading of {self._id}")
        return convert_back(self._value_in(reading), self.channel.unit, self.unit)


def _unknown(name: str, unit: str) -> Channel:
    """Return a channel that only its sensor knows."""
    native = "°C" if unit in convertible("°C") else unit
    return Channel(name, native, (float("-inf"), float("inf")), 2)
