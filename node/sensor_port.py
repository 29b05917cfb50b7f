"""One sensor as its bus worker sees it: opens the driver, reads it, reopens it after a failure."""

from __future__ import annotations

import contextlib

from drivers.base import Driver, Measurement
from drivers.bus import Board
from drivers.errors import SensorError, as_sensor_error
from node.clock import Clock
from node.reading import ReadOutcome
from node.schema import SensorTable

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

    def read(self, due_s: float) -> ReadOutcome:
        """Take one reading. Never raises."""
        measurement: Measurement | None = None
        failure: SensorError | None = None
        channels = self._table.info.channels
        try:
            if self._driver is None:
                self._driver = self._table.info.open(self._table.options, self._board)
            measurement = self._driver.read()
            channels = self._driver.channels
        except Exception as error:
            failure = as_sensor_error(error, self._table.options.where())
            self.close()
        return ReadOutcome(
            sensor=self.sensor,
            due_s=due_s,
            ended_s=self._clock.monotonic(),
            utc_s=self._clock.utc_s(),
            synced=self._clock.synced(),
            measurement=measurement,
            channels=channels,
            error=failure,
        )

    def close(self) -> None:
        """Close the driver; the next read opens it again."""
        driver, self._driver = self._driver, None
        if driver is not None:
            with contextlib.suppress(Exception):  # what it still holds, the next opening reports
                driver.close()
