"""One sensor as its bus worker sees it: opens the driver, reads it, reopens it after a failure."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable

from drivers.base import Channel, Driver, Measurement
from drivers.bus import Board
from drivers.errors import BadFrame, SensorError, as_sensor_error
from node.config.schema import SensorTable
from node.reading import TAKEN_NAMES, ReadOutcome
from node.system.clock import Clock

__all__ = ["SensorPort"]


class SensorPort:
    """Owns the open driver. Every method runs on the worker of the sensor's bus."""

    def __init__(self, table: SensorTable, board: Board, clock: Clock) -> None:
        self.sensor = table.id
        self.bus = table.options.bus()
        self._table = table
        self._board = board
        self._clock = clock
        self._driver: Driver | None = None
        self._prime: Callable[[], float] | None = None
        """The driver's, if it is a `drivers.base.Primed` too."""
        self._channels: tuple[Channel, ...] = ()
        self._declared: frozenset[str] = frozenset()
        """The names of `_channels`."""
        self.reading_since_s: float | None = None
        """When the read under way began; None between reads. Other threads may look at it."""

    def read(self) -> ReadOutcome:
        """Take one reading, or the first half of it. Never raises."""
        measurement: Measurement | None = None
        failure: SensorError | None = None
        again_s = age_s = 0.0
        channels: tuple[Channel, ...] = ()
        started_s = self.reading_since_s = self._clock.monotonic()
        try:
            if self._driver is None:
                self._driver = self._table.info.open(self._table.options, self._board)
                _check_names(self._driver.channels)
                self._prime = getattr(self._driver, "prime", None)
            channels = self._driver.channels
            # So that the others on its bus need not wait for it to measure.
            again_s = self._prime() if self._prime is not None else 0.0
            if not again_s:
                given = self._driver.read()
                channels = self._driver.channels  # of what sends by itself, only now
                measurement = self._checked(given, channels)
                age_s = getattr(self._driver, "age_s", 0.0)
        except Exception as error:  # noqa: BLE001, another package's may raise anything
            failure = as_sensor_error(error, self._table.options.where())
            channels = channels or self._table.info.channels_with(self._table.options)
            if self._table.info.reopen_after_failure:
                self.close()
        self.reading_since_s = None
        synced = self._clock.synced()  # before the time: it may be set between the two
        return ReadOutcome(
            sensor=self.sensor,
            started_s=started_s,
            ended_s=self._clock.monotonic(),
            boot_s=self._clock.boot_s(),
            utc_s=self._clock.utc_s(),
            synced=synced,
            measurement=measurement,
            channels=channels,
            error=failure,
            again_s=0.0 if failure else again_s,
            age_s=age_s,
        )

    def _checked(self, measurement: Measurement, channels: tuple[Channel, ...]) -> Measurement:
        """Check a measurement: a finite number for each of some declared channels.

        Raises:
            BadFrame: the driver gave something else.
        """
        if not isinstance(measurement, dict):
            raise BadFrame(f"the driver returned {measurement!r}, which is not a measurement")
        if tuple(channels) != self._channels:  # those of most drivers are always the same
            self._channels = tuple(channels)
            self._declared = frozenset(channel.name for channel in channels)
        for name, value in measurement.items():
            if name not in self._declared:
                raise BadFrame(f"the driver returned a channel {name!r} that it does not declare")
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise BadFrame(f"the driver returned {name} = {value!r}, which is not a number")
        if not measurement:
            raise BadFrame("the driver returned no value")
        return measurement

    def close(self) -> None:
        """Close the driver; the next read opens it again."""
        driver, self._driver = self._driver, None
        if driver is not None:
            with contextlib.suppress(Exception):  # the next opening reports what it still holds
                driver.close()


def _check_names(channels: tuple[Channel, ...]) -> None:
    """Check the names of channels: each is a key of the state and a part of a topic.

    Raises:
        BadFrame: a name is not valid, or is reserved there.
    """
    for channel in channels:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", channel.name) or channel.name in TAKEN_NAMES:
            raise BadFrame(f"the driver has a channel {channel.name!r}, which is not a valid name")
