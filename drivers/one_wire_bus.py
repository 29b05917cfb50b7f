"""1-Wire through the kernel's files: fresh conversions, made together where several are wanted.

A conversion takes 750 ms at 12 bits, and reading it out some 15 ms. `therm_bulk_read` of the bus
master converts all sensors at once (kernel Documentation/w1/slaves/w1_therm.rst); a sensor that
has not been read since then gives that temperature at its next reading, however old it is. So
the time a reading took is looked at: one that was too short for a conversion is done again.

All of it runs on the one thread that has the bus "w1".
"""

from __future__ import annotations

import os
from pathlib import Path

from drivers.bus import Board
from drivers.errors import BadFrame, as_sensor_error
from drivers.one_wire import FAMILIES, PULL_UP, family_of

__all__ = ["DEVICES", "OneWireBus", "one_wire_trouble"]

DEVICES = "/sys/bus/w1/devices"

# The kernel compares the length with that of "trigger" and its NUL: the line's end is needed.
_TRIGGER = b"trigger\n"
_SHORTEST_CONVERSION_S = 0.085  # 93.75 ms at 9 bits (DS18B20 datasheet, table 2), less a tenth
_MAX_CONVERSION_S = 3.0
_POLL_S = 0.05
# Sensors that are due together are read one after another, 15 ms each; later than this after the
# conversion, a sensor is no longer one of them, and gets a conversion of its own.
_SHARED_FOR_S = 1.0
_LISTED = 3


class OneWireBus:
    """Every 1-Wire bus of a board, as the sensors that are open on it use it."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._open: set[str] = set()
        self._converted_at_s: dict[str, float] = {}
        """Address -> when the shared conversion ended that it has not been read of since."""
        self.converted_in_vain: set[str] = set()
        """Those for which another conversion has shown nothing; a sensor is opened anew often."""

    def join(self, address: str) -> None:
        """Take note that a sensor is read regularly."""
        self._open.add(address)

    def leave(self, address: str) -> None:
        """Take note that a sensor is closed."""
        self._open.discard(address)

    def addresses(self) -> list[str]:
        """Every thermometer that the kernel has found."""
        names = (device.name for device in self._board.path(DEVICES).glob("??-*"))
        return sorted(name for name in names if name[:2] in FAMILIES)

    def strangers(self) -> list[str]:
        """Thermometers there that no open sensor reads."""
        return [address for address in self.addresses() if address not in self._open]

    def read(self, address: str) -> str:
        """The text of `w1_slave` after a conversion of this sensor that has just been made.

        Raises:
            FileNotFoundError: it is not there.
            SensorError: it cannot be read.
        """
        if self._is_converted(address):
            return self._read(address)[0]
        text, took_s = self._read(address)
        if took_s < _SHORTEST_CONVERSION_S:
            # Nothing answered, or it is the result of somebody's bulk read, of whatever age.
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
        """Whether a shared conversion is there for it, made now if need be."""
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
        # Alone, it is read the plain way: a bulk read would change what other programs get.
        if address not in together or self._open.intersection(together) == {address}:
            return False
        if not self._convert_all(master):
            return False
        # Those too that are not open yet: at the start each is opened when it is first read.
        self._converted_at_s.update(dict.fromkeys(together, self._board.clock.monotonic()))
        return True

    def _convert_all(self, master: str) -> bool:
        """Convert on every sensor of the bus; False if that cannot be done, or was not.

        The kernel has the file for the first bus alone, for root alone to write unless a rule of
        udev's says otherwise; a trigger that no sensor answers, it reports to nobody.
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
    """The bus master that a sensor is on, "w1_bus_master1": its folder is inside that one's."""
    return os.path.basename(os.path.dirname(os.path.realpath(folder)))


def one_wire_trouble(board: Board) -> BadFrame | None:
    """What is wrong with a bus that the kernel finds devices on which no chip can be.

    There is no family 00: a search of a wire that floats, or is held low, finds such
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
