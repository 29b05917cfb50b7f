"""What an alarm does on the node itself: a pin that is high, and a program that is run.

A pin is high while an alarm that names it is on and not acknowledged. A program is run once for
each change, after the change is committed, by `programs`. So neither needs a broker, and neither
can hold up the loop.

Used on the loop's thread. Imported only if there are alarms.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from drivers.bus import Board
from node.alarms.programs import AlarmPrograms
from node.alarms.table import AlarmTable

__all__ = ["AlarmOutputs"]

_log = logging.getLogger(__name__)


class AlarmOutputs:
    """The pins and programs of the node's alarms."""

    def __init__(self, alarms: Iterable[AlarmTable], board: Board, programs: AlarmPrograms) -> None:
        """Open the pins, low. One that cannot be opened is logged, and left out."""
        self.programs = programs
        self._pins: dict[int, Any] = {}
        self._high: set[int] = set()
        for pin in sorted({alarm.gpio for alarm in alarms if alarm.gpio is not None}):
            try:
                self._pins[pin] = _output(pin, board)
            except Exception as error:  # noqa: BLE001, gpiozero and what is under it
                _log.error(
                    "the alarm output GPIO %d cannot be used: %s; see sensor-node doctor",
                    pin,
                    error,
                )

    def show(self, sounding: Iterable[AlarmTable]) -> None:
        """Set the pins: high for the alarms that are on and not acknowledged."""
        if not self._pins:
            return
        high = {alarm.gpio for alarm in sounding if alarm.gpio in self._pins}
        for pin in high ^ self._high:
            try:
                self._pins[pin].value = pin in high
            except Exception as error:  # noqa: BLE001, gpiozero and what is under it
                _log.error("the alarm output GPIO %d cannot be switched: %s", pin, error)
        self._high = {pin for pin in high if pin is not None}

    def close(self) -> None:
        """Set the pins low and release them; end the program that runs."""
        self.programs.close()
        for device in self._pins.values():
            with contextlib.suppress(Exception):
                device.off()
                device.close()
        self._pins.clear()


def _output(pin: int, board: Board) -> Any:
    from gpiozero import OutputDevice

    return OutputDevice(pin, initial_value=False, pin_factory=board.pin_factory())
