"""Finds the chips on an I2C bus, and identifies those of the catalogue, without harm.

I2C cannot list its chips, so this module does the same as i2cdetect(8) of i2c-tools, which has been
let loose on most chips there are. An address is called with an empty write. The addresses of
memories and display chips (0x30 to 0x37, 0x50 to 0x5F) are called by reading one byte. The reason:
an empty write is known to corrupt the AT24RF08, and a read to lock up clock chips at 0x69. Reserved
addresses (0x00 to 0x07, 0x78 to 0x7F: NXP UM10204, table 4) are left alone, and so are chips that a
kernel driver uses.

A chip is identified by the witness register in its row: the register's number is written, and the
answer read after a repeated start, so that the number is not taken for the beginning of a longer
message. Only registers of catalogue chips with that address are read. Nothing is read at the
addresses of a PCF8574, for which a first byte sets the outputs (TI SCPS068, "Write mode"), and of a
chip that does not allow a repeated start (SCD30).
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
"""Limit for a whole bus: 112 addresses take about 50 ms, but one that holds the bus 1 s or more."""
_HELD_IN_A_ROW = 3

_ABSENT = (errno.EREMOTEIO, errno.ENXIO, errno.EIO, errno.EPROTO)  # the last two: USB adapters
_HELD = (errno.ETIMEDOUT, errno.EAGAIN)
_NO_EMPTY_WRITE = (errno.EOPNOTSUPP, errno.EINVAL)  # unsupported (I2C_AQ_NO_ZERO_LEN)


class Answer(msgspec.Struct, frozen=True):
    """An address that has answered."""

    address: int
    identified: str = ""
    """The driver for the chip, by its identification."""
    possible: tuple[str, ...] = ()
    """Possible drivers; those that match the chip's identification come first."""
    note: str = ""


class BusScan(msgspec.Struct, frozen=True):
    """The chips on a bus, and the error that kept the scan from seeing all of them."""

    answers: tuple[Answer, ...]
    failure: SensorError | None = None


class _Scan:
    """The scan of one bus; `within` its deadline."""

    def __init__(self, bus: I2CBus, where: str) -> None:
        self._bus = bus
        self._where = where
        self._held_in_a_row = 0
        self.notes: dict[int, str] = {}
        """Every address that has answered, and a note on it."""
        self.drivers: dict[int, tuple[list[str], list[str]]] = {}
        """Address -> drivers by identification, drivers by address alone."""
        self.reached = _ADDRESSES.start

    def run(self) -> None:
        """Call every address, and then identify those that answered.

        Raises:
            BusDeadline, OSError, SensorError: the scan cannot continue.
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
        except MissingSupport as error:  # a chip without a simulation on a simulated bus
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
            # Blinka reads from a raw file, which returns None for the kernel's EAGAIN.
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
                # A dead bus also reads as all zeros or ones, so these are not evidence.
                silence = value in (0, (1 << 8 * witness.length) - 1)
                (possible if silence else told).append(row.name)
        return told, possible

    def _stranger(self, address: int) -> str:
        """Return a note on a chip that our drivers do not support; "" for other chips."""
        rows = _rows_at(address, self.notes)
        if address in MULTIPLEXERS and not any(row.witness for row in rows):
            # An SHTC3 does not acknowledge a read before it has measured (datasheet, §5.4).
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
        """Return the content; None if the chip does not answer."""
        answer = bytearray(length)
        try:
            self._bus.writeto_then_readfrom(address, bytes([register]), answer)
        except OSError as error:
            if error.errno in (*_ABSENT, *_HELD):
                return None
            raise
        return int.from_bytes(answer, "big")


def drivers_told(bus: I2CBus, address: int) -> list[str]:
    """Return the drivers whose identification matches the chip; call inside `bus.within`."""
    scan = _Scan(bus, "")
    scan.notes[address] = ""
    return scan.candidates(address)[0]


def _rows_at(address: int, there: dict[int, str]) -> list[ChipRow]:
    """Return the rows that a chip at `address` may be, thermometers first."""
    rows = [
        row
        for row in CATALOGUE
        if address in row.addresses and all(also in there for also in row.also_uses)
    ]
    return sorted(rows, key=lambda row: row.is_die)


def _can_be_asked(address: int, witness: Witness | None) -> bool:
    return (
        witness is not None
        and witness.expected is not None
        and witness.identifies
        and witness.register <= 0xFF
        and address not in _NOT_ASKED
    )


def scan_bus(bus: I2CBus, where: str, *, allowed_s: float = ALLOWED_S) -> BusScan:
    """Return all answers on `bus` within `allowed_s`; `where` names the bus in messages."""
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
