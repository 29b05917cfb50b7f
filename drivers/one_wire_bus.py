"""1-Wire through the kernel's files: fresh conversions, shared between sensors where possible.

A conversion takes 750 ms at 12 bits, and reading its result about 15 ms. `therm_bulk_read` of the
bus master converts all sensors at once (kernel Documentation/w1/slaves/w1_therm.rst). A sensor that
has not been read since then gives that temperature at its next reading, at any age. So the duration
of a reading is checked: a reading that was too short for a conversion is repeated.

Everything here runs on the one thread of the bus "w1".
"""

from __future__ import annotations

import os
from pathlib import Path

from drivers.bus import Board
from drivers.errors import BadFrame, as_sensor_error
from drivers.one_wire import FAMILIES, PULL_UP, family_of

__all__ = ["DEVICES", "OneWireBus", "one_wire_trouble"]

DEVICES = "/sys/bus/w1/devices"

# The newline is needed: the kernel compares the length with that of "trigger" and its NUL.
_TRIGGER = b"trigger\n"
_SHORTEST_CONVERSION_S = 0.085  # 93.75 ms at 9 bits (DS18B20 datasheet, table 2), less a tenth
_MAX_CONVERSION_S = 3.0
_POLL_S = 0.05
# Sensors that are due together are read one after another, 15 ms each. A sensor that is read later
# than this after the conversion gets a separate conversion.
_SHARED_FOR_S = 1.0
_LISTED = 3


class OneWireBus:
    """All 1-Wire buses of a board, shared by the open sensors."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._open: set[str] = set()
        self._converted_at_s: dict[str, float] = {}
        """Address -> end of a shared conversion whose result has not been read yet."""
        self.converted_in_vain: set[str] = set()
        """Addresses for which a second conversion was not a proof; outlives reopened sensors."""

    def join(self, address: str) -> None:
        """Register a sensor that is read regularly."""
        self._open.add(address)

    def leave(self, address: str) -> None:
        """Unregister a closed sensor."""
        self._open.discard(address)

    def addresses(self) -> list[str]:
        """Return every thermometer that the kernel has found."""
        names = (device.name for device in self._board.path(DEVICES).glob("??-*"))
        return sorted(name for name in names if name[:2] in FAMILIES)

    def strangers(self) -> list[str]:
        """Return the thermometers that are not read by an open sensor."""
        return [address for address in self.addresses() if address not in self._open]

    def read(self, address: str) -> str:
        """Return the text of `w1_slave` after a fresh conversion of this sensor.

        Raises:
            FileNotFoundError: the sensor is not there.
            SensorError: the file cannot be read.
        """
        if self._is_converted(address):
            return self._read(address)[0]
        text, took_s = self._read(address)
        if took_s < _SHORTEST_CONVERSION_S:
            # Nothing answered, or this is the result of another program's bulk read, of any age.
            text, _ = self._read(address)
        return text

    def _read(self, address: str) -> tuple[str, float]:
        self._converted_at_s.pop(address, None)
        began_s = self._board.clock.monotonic()
        file = self._board.path(f"{DEVICES}/{address}/w1_slave")
        try:
            text = file.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise as_sensor_error(error, str(file), PULL_UP) from error
        return text, self._board.clock.monotonic() - began_s

    def _is_converted(self, address: str) -> bool:
        """Return whether the sensor has a shared conversion; make one if possible."""
        now_s = self._board.clock.monotonic()
        if now_s - self._converted_at_s.get(address, -1e9) <= _SHARED_FOR_S:
            return True
        root = self._board.path(DEVICES)
        master = _master(root / address)
        together = [
            other
            for other in self.addresses()
            if family_of(other).converts_together and _master(root / other) == master
        ]
        # A single sensor is read the plain way: a bulk read would affect other programs.
        if address not in together or self._open.intersection(together) == {address}:
            return False
        if not self._convert_all(master):
            return False
        # This includes sensors that are not open yet: each is opened at its first reading.
        self._converted_at_s.update(dict.fromkeys(together, self._board.clock.monotonic()))
        return True

    def _convert_all(self, master: str) -> bool:
        """Convert on every sensor of the bus. Return False if that failed.

        The kernel has the file only for the first bus, and only root can write it without a udev
        rule. The kernel does not report a trigger without any answer.
        """
        path = f"{DEVICES}/{master}/therm_bulk_read"
        clock = self._board.clock
        began_s = clock.monotonic()
        try:
            descriptor = os.open(self._board.path(path), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, _TRIGGER)
            finally:
                os.close(descriptor)
            while (state := self._board.path(path).read_text().strip()) == "-1":
                if clock.monotonic() - began_s > _MAX_CONVERSION_S:
                    return False
                clock.sleep(_POLL_S)
        except OSError:
            return False
        return state == "1" and clock.monotonic() - began_s >= _SHORTEST_CONVERSION_S


def _master(folder: Path) -> str:
    """Return a sensor's bus master, "w1_bus_master1", whose folder contains the sensor's."""
    return os.path.basename(os.path.dirname(os.path.realpath(folder)))


def one_wire_trouble(board: Board) -> BadFrame | None:
    """Return the error of a bus on which the kernel finds impossible devices; else None.

    Family 00 does not exist: the search of a wire that floats, or is held low, finds such devices
    (00-200000000000, 00-a00000000000; raspberrypi/firmware issue 348).
    """
    phantoms = sorted(device.name for device in board.path(DEVICES).glob("00-*"))
    if not phantoms:
        return None
    listed = ", ".join(phantoms[:_LISTED]) + (", ..." if len(phantoms) > _LISTED else "")
    return BadFrame(
        f"the kernel finds on 1-Wire what cannot be there: {listed}",
        "the data wire has no pull-up, or a loose contact: put 4.7 kΩ between it and 3V3",
    )
