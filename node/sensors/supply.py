"""Switches a sensor's supply off and on through a GPIO, after repeated failures.

A DHT22 that has stopped answering often comes back only after a loss of power. Used on the
loop's thread. A pin that cannot be opened is reported once, and the sensor is read without it.
"""

from __future__ import annotations

import logging
from typing import Any

from drivers.bus import Board

__all__ = ["SensorPower"]

_log = logging.getLogger(__name__)

OFF_S = 5.0
SETTLE_S = 2.0
FAILURES_BEFORE_CYCLE = 5
_MAX_FAILURES = 320


class SensorPower:
    """The supply of one sensor, wired to `pin` (BCM), on when high."""

    def __init__(self, sensor: str, pin: int, board: Board) -> None:
        self._sensor = sensor
        self._patience = FAILURES_BEFORE_CYCLE
        self._device: Any = None
        try:
            from gpiozero import OutputDevice

            self._device = OutputDevice(pin, initial_value=True, pin_factory=board.pin_factory())
        except Exception as error:  # noqa: BLE001, gpiozero and what is under it
            _log.error("%s: power_pin %d cannot be switched: %s", sensor, pin, error)

    def wants_cycle(self, failures_in_a_row: int) -> bool:
        """Return whether to switch off now; each cycle in vain doubles the required failures."""
        return self._device is not None and failures_in_a_row >= self._patience

    def off(self) -> None:
        self._patience = min(self._patience * 2, _MAX_FAILURES)
        _log.warning("%s: switching its power off for %g s", self._sensor, OFF_S)
        self._device.off()

    def note_answer(self) -> None:
        """Note that the sensor has answered."""
        self._patience = FAILURES_BEFORE_CYCLE

    def on(self) -> None:
        self._device.on()

    def close(self) -> None:
        if self._device is not None:
            self._device.close()
