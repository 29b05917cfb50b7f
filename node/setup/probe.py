"""One channel of a sensor that is to be calibrated, or is the reference for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from drivers.base import Channel
from drivers.bus import Board
from node.config.schema import ChannelTable, SensorTable
from node.config.values import did_you_mean
from node.filters import ChannelFilters
from node.sensors import supply
from node.sensors.port import SensorPort
from node.setup.calibration import CannotCalibrate
from node.system.clock import Clock
from node.units import convert, convert_back

__all__ = ["BusProbe", "Probe"]


class Probe:
    """One channel of a sensor; how its value is got is for a subclass to say."""

    rest_s = 0.0
    """How long to wait from one reading to the next, at least."""
    least_window_s = 0.0
    """How long a rest must be for enough readings in it."""

    def __init__(
        self, table: SensorTable, channels: Iterable[Channel], channel: str | None
    ) -> None:
        """`channel`: None for its temperature, or its first.

        Raises:
            CannotCalibrate: it does not have the channel.
        """
        self._table = table
        known = {each.name: each for each in channels}
        usual = next((c for c in known.values() if c.unit == "°C"), next(iter(known.values())))
        if channel and channel not in known:
            raise CannotCalibrate(
                f"{table.id} does not measure {channel}; {did_you_mean(channel, known)}"
            )
        self.channel: Channel = known[channel] if channel else usual
        self._filters = ChannelFilters(
            self.channel, table.channel.get(self.channel.name, ChannelTable())
        )
        self.unit = self._filters.unit

    def close(self) -> None:
        """Release what it has opened."""

    def measured(self) -> float:
        """Return a new value as `offset` and `calibrate` see it: in the unit, and not corrected.

        Raises:
            LookupError: there is none.
        """
        raise NotImplementedError

    def calibrated(self) -> float:
        """Return a value as corrected so far, in the unit of the driver.

        Raises:
            LookupError: there is none.
        """
        raise NotImplementedError

    def in_unit(self, value: float) -> float:
        return convert(value, self.channel.unit, self.unit)

    def of_celsius(self, value: float) -> float:
        """Return a temperature in the unit of the channel.

        Raises:
            CannotCalibrate: the channel is not a temperature.
        """
        if self.channel.unit != "°C":
            raise CannotCalibrate(
                f"{self.channel.name} is in {self.channel.unit}: use --true or --against"
            )
        return self.in_unit(value)

    def refuse_other_unit(self, other: Probe) -> None:
        if other.channel.unit != self.channel.unit:
            raise CannotCalibrate(
                f"{other.channel.name} of the other sensor is in {other.channel.unit}, "
                f"and {self.channel.name} in {self.channel.unit}"
            )

    def refuse_out_of_range(self, value: float | None) -> None:
        low, high = (self.in_unit(end) for end in self.channel.plausible)
        if value is not None and not low <= value <= high:
            raise CannotCalibrate(
                f"{value:.1f} {self.unit} is beyond the sensor's {low:g} to {high:g}"
            )


class BusProbe(Probe):
    """A sensor that is read here, because no node has it; its `power_pin` is switched on."""

    def __init__(
        self,
        table: SensorTable,
        board: Board,
        clock: Clock,
        channel: str | None,
        *,
        sleep: Callable[[float], None],
    ) -> None:
        """Read it once, to know its channels.

        Raises:
            CannotCalibrate: it does not answer, or does not have the channel.
        """
        self._supply: supply.SensorPower | None = None
        if table.power_pin is not None:
            self._supply = supply.SensorPower(table.id, table.power_pin, board)
            sleep(supply.SETTLE_S)
        self._table = table
        self._port = SensorPort(table, board, clock)
        self._sleep = sleep
        self.rest_s = table.info.min_interval_s
        try:
            channels, _ = self._read()
            super().__init__(table, channels, channel)
        except LookupError as error:
            self.close()
            raise CannotCalibrate(str(error)) from error
        except CannotCalibrate:
            self.close()
            raise

    def close(self) -> None:
        self._port.close()
        if self._supply is not None:
            self._supply.close()

    def _read(self) -> tuple[tuple[Channel, ...], dict[str, float]]:
        outcome = self._port.read()
        while outcome.again_s:
            self._sleep(outcome.again_s)
            outcome = self._port.read()
        if outcome.measurement is None:
            raise LookupError(f"{self._table.id} ({self._table.driver}): {outcome.error}")
        return outcome.channels, outcome.measurement

    def _raw(self) -> float:
        _, measurement = self._read()
        if self.channel.name not in measurement:
            raise LookupError(f"{self._table.id} gave no {self.channel.name}")
        return measurement[self.channel.name]

    def measured(self) -> float:
        return self.in_unit(self._raw())

    def calibrated(self) -> float:
        return convert_back(self._filters.through(self._raw()), self.channel.unit, self.unit)
