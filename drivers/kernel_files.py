"""Attribute files of the kernel, read as one sensor."""

from __future__ import annotations

from drivers.base import Channel, Measurement, plausible_value
from drivers.bus import Board
from drivers.errors import SensorError, SensorNotFound, as_sensor_error
from drivers.kernel_values import Quantity

__all__ = ["Sysfs"]

_CHECK = "look for the device's own messages with dmesg, and check its wiring"


class Sysfs:
    """A file, or a device folder with one channel per quantity."""

    def __init__(self, path: str, quantities: tuple[Quantity, ...], board: Board) -> None:
        self.channels: tuple[Channel, ...] = tuple(q.channel for q in quantities)
        self._path = path
        self._quantities = quantities
        self._board = board

    def read(self) -> Measurement:
        """Read every file; humidity in %, pressure in hPa, CO2 in ppm.

        A channel whose own probe is broken, or gives an impossible value, is left out, unless all
        of them are.
        """
        self._board.path(self._path)
        measurement: Measurement = {}
        failure: SensorError | None = None
        for quantity in self._quantities:
            channel = quantity.channel
            try:
                measurement[channel.name] = plausible_value(
                    quantity.value(), channel, where=quantity.file, hint=_CHECK
                )
            except FileNotFoundError:
                failure = SensorNotFound(
                    f"{quantity.file} does not exist",
                    "is the kernel's driver loaded, and the overlay in config.txt?",
                )
            except (OSError, SensorError) as error:
                failure = as_sensor_error(error, str(quantity.file), _CHECK)
        if not measurement and failure is not None:
            raise failure
        return measurement

    def close(self) -> None:
        """Do nothing: nothing stays open between readings."""
