"""Finds the chips on an I2C bus, and tells those of the catalogue apart, without harm.

I2C has no way to ask who is there, so this does what i2cdetect(8) of i2c-tools does, which has
been let loose on most chips there are: an address is called with a write of no bytes, and where
memories and display chips stand (0x30 to 0x37, 0x50 to 0x5F) by reading one byte, because an
empty write is known to corrupt the AT24RF08, and reading to lock up clock chips at 0x69. Reserved
addresses (0x00 to 0x07, 0x78 to 0x7F: NXP UM10204, table 4) are left alone, and so is a chip that
a driver of the kernel's has.

A chip is told by the register that its row names as its witness: the register's number is
written, and the answer read after a repeated start, so that no chip takes the number for the
beginning of something longer. Only what a chip of the catalogue with that address could answer is
asked for; and nothing where a PCF8574 may stand, to which a first byte is its outputs (TI SCPS068,
"Write mode"), or a chip that takes no repeated start (SCD30).
"""

from __future__ import annotations

import errno

import msgspec

from drivers.catalogue import CATALOGUE
from drivers.chip_row import ChipRow, Witness
from drivers.errors import BusDeadline, MissingSupport, SensorError, SensorTimeout, as_sensor_error
from drivers.owned_bus import I2CBus
from drivers.scan_strangers import MULTIPLEXER, MULTIPLEXERS, STRANGERS

__all__ = ["Answer", "BusScan", "drivers_told", "scan_bus"]

_ADDRESSES = range(0x08, 0x78)
_CALLED_BY_READING = frozenset((*range(0x30, 0x38), *range(0x50, 0x60)))
_FIRST_BYTE_IS_OUTPUT = frozenset((*range(0x20, 0x28), *range(0x38, 0x40)))
_NOT_ASKED = _FIRST_BYTE_IS_OUTPUT.union(
    a for row in CATALOGUE if not row.repeated_start for a in row.addresses
)
_SLEEPERS = frozenset(a for row in CATALOGUE if row.sleeps for a in row.addresses)
_WAKES_WITHIN_S = 0.01

ALLOWED_S = 8.0
"""For a whole bus: 112 addresses take some 50 ms, one that holds the bus a second or more."""
_HELD_IN_A_ROW = 3

_ABSENT = (errno.EREMOTEIO, errno.ENXIO, errno.EIO, errno.EPROTO)  # the last two: USB adapters
_HELD = (errno.ETIMEDOUT, errno.EAGAIN)
_NO_EMPTY_WRITE = (errno.EOPNOTSUPP, errno.EINVAL)  # the adapter knows none (I2C_AQ_NO_ZERO_LEN)


class Answer(msgspec.Struct, frozen=True):
    """An address at which somebody is."""

    address: int
    identified: str = ""
    """The driver whose chip it is, by its identification."""
    possible: tuple[str, ...] = ()
    """Drivers whose chips it may be; those whose identification it has stand first."""
    note: str = ""


class BusScan(msgspec.Struct, frozen=True):
    """What is on a bus, and what kept the scan from seeing all of it."""

    answers: tuple[Answer, ...]
    failure: SensorError | None = None


class _Scan:
    """The scan of one bus; `within` its deadline."""

    def __init__(self, bus: I2CBus, where: str) -> None:
        self._bus = bus
        self._where = where
        self._held_in_a_row = 0
        self.notes: dict[int, str] = {}
        """Every address at which somebody is, and what is to be said of it."""
        self.drivers: dict[int, tuple[list[str], list[str]]] = {}
        """Address -> drivers by identification, drivers by address alone."""
        self.reached = _ADDRESSES.start

    def run(self) -> None:
        """Call every address, and then identify those that answered.

        Raises:
            BusDeadline, OSError, SensorError: it cannot go on.
        """
        for address in _ADDRESSES:
            self.reached = address
            self._call(address)
        if len(self.notes) == len(_ADDRESSES):
            self.notes.clear()
            raise SensorTimeout(
                f"{self._where}: every address answers",
                "SDA is stuck low; look for a short to ground, and switch the power off and on",
            )
        for address, note in self.notes.items():
            if not note:
                stranger = self._stranger(address)
                if stranger:
                    self.notes[address] = stranger
                else:
                    self.drivers[address] = self.candidates(address)

    def _call(self, address: int) -> None:
        try:
            self._acknowledge(address)
            self.notes[address] = ""
        except MissingSupport as error:  # on a simulated bus, a chip that has no simulation
            self.notes[address] = str(error)
        except OSError as error:
            if error.errno == errno.EBUSY:
                self.notes[address] = "a driver of the kernel's has it"
            elif error.errno in _HELD:
                self._note_held(address, error)
                return
            elif error.errno not in _ABSENT:
                raise
        self._held_in_a_row = 0

    def _acknowledge(self, address: int) -> None:
        if address in _SLEEPERS:
            try:
                self._read_a_byte(address)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                self._bus.pause(_WAKES_WITHIN_S)
                self._read_a_byte(address)
        elif address in _CALLED_BY_READING:
            self._read_a_byte(address)
        else:
            try:
                self._bus.writeto(address, b"")
            except OSError as error:
                if error.errno not in _NO_EMPTY_WRITE:
                    raise
                self._read_a_byte(address)

    def _read_a_byte(self, address: int) -> None:
        try:
            self._bus.readfrom_into(address, bytearray(1))
        except TypeError:
            # Blinka reads from a raw file, which gives None where the kernel says EAGAIN.
            raise OSError(errno.EAGAIN, "the bus is taken by another master") from None

    def _note_held(self, address: int, error: OSError) -> None:
        self._held_in_a_row += 1
        self.notes[address] = "holds the bus, and does not come to an end"
        if self._held_in_a_row == _HELD_IN_A_ROW:
            for held in range(address - _HELD_IN_A_ROW + 1, address + 1):
                del self.notes[held]
            raise as_sensor_error(error, self._where)

    def candidates(self, address: int) -> tuple[list[str], list[str]]:
        asked: dict[tuple[int, int], int | None] = {}
        told: list[str] = []
        possible: list[str] = []
        for row in _rows_at(address, self.notes):
            witness = row.witness
            if not _can_be_asked(address, witness):
                possible.append(row.name)
                continue
            assert witness is not None
            key = witness.register, witness.length
            if key not in asked:
                asked[key] = self._register(address, *key)
            value = asked[key]
            if value is None or witness.expected is None:
                continue
            if witness.accepts(value):
                # What nobody sends is no evidence.
                silence = value in (0, (1 << 8 * witness.length) - 1)
                (possible if silence else told).append(row.name)
        return told, possible

    def _stranger(self, address: int) -> str:
        """What is to be said of a chip that no driver here reads; "" of others."""
        rows = _rows_at(address, self.notes)
        if address in MULTIPLEXERS and not any(row.witness for row in rows):
            # An SHTC3 acknowledges no read that it has no measurement for (datasheet, §5.4).
            try:
                self._read_a_byte(address)
            except OSError as error:
                if error.errno not in (*_ABSENT, *_HELD):
                    raise
                return "" if rows else "somebody answers, and nothing here has this address"
            return MULTIPLEXER.format(address)
        for stranger in STRANGERS:
            if address in stranger.addresses and address not in _NOT_ASKED:
                value = self._register(address, stranger.register, stranger.length)
                if value == stranger.value:
                    return stranger.note
        return ""

    def _register(self, address: int, register: int, length: int) -> int | None:
        """The content; None if the chip does not answer to that."""
        answer = bytearray(length)
        try:
            self._bus.writeto_then_readfrom(address, bytes([register]), answer)
        except OSError as error:
            if error.errno in (*_ABSENT, *_HELD):
                return None
            raise
        return int.from_bytes(answer, "big")


def drivers_told(bus: I2CBus, address: int) -> list[str]:
    """The drivers whose identification the chip at `address` has; inside `bus.within`."""
    scan = _Scan(bus, "")
    scan.notes[address] = ""
    return scan.candidates(address)[0]


def _rows_at(address: int, there: dict[int, str]) -> list[ChipRow]:
    return [
        row
        for row in CATALOGUE
        if address in row.addresses and all(also in there for also in row.also_uses)
    ]


def _can_be_asked(address: int, witness: Witness | None) -> bool:
    return (
        witness is not None
        and witness.expected is not None
        and witness.identifies
        and witness.register <= 0xFF
        and address not in _NOT_ASKED
    )


def scan_bus(bus: I2CBus, where: str, *, allowed_s: float = ALLOWED_S) -> BusScan:
    """Everything that answers on `bus` within `allowed_s`; `where` names it, for messages."""
    scan = _Scan(bus, where)
    failure: SensorError | None = None
    try:
        with bus.within(allowed_s):
            scan.run()
    except BusDeadline as error:
        failure = SensorTimeout(
            f"{where}: {error}; it came as far as address 0x{scan.reached:02x}",
            "a chip holds the bus; unplug one after another to find it",
        )
    except (OSError, SensorError) as error:
        failure = as_sensor_error(error, where)
    return BusScan(tuple(_answer(scan, address) for address in sorted(scan.notes)), failure)


def _answer(scan: _Scan, address: int) -> Answer:
    told, possible = scan.drivers.get(address, ([], []))
    note = scan.notes[address]
    if address not in scan.drivers and not note:
        note = "somebody answers; the scan came to its end before it was asked who"
    if len(told) == 1:
        return Answer(address, told[0], note=note)
    return Answer(address, possible=(*told, *possible) if not told else tuple(told), note=note)
