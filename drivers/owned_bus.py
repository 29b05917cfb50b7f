"""The bus objects for Adafruit's drivers, with a time limit for every driver.

`I2CBus` and `SPIBus` look like CircuitPython's `busio.I2C` and `busio.SPI` and use a port, real
or simulated (`drivers.bus.I2CPort`, `SPIPort`). They add what the drivers lack:

- every transaction obeys the deadline of its reading, because several drivers poll a stuck chip
  endlessly, with the bus locked;
- accidental failures are retried, calls to an absent chip are not, and a lost port is reopened;
- the bus remembers whether it has read anything but zeros, or anything but ones.

Only one thread at a time, the bus's worker, uses a bus. So CircuitPython's lock is a plain flag,
which exists because `adafruit_bus_device` insists on it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from drivers.errors import BusDeadline
from drivers.ports import Clock, I2CPort, SPIPort

__all__ = ["ChipSelect", "I2CBus", "OwnedBus", "SPIBus"]

_Result = TypeVar("_Result")

# kernel i2c/fault-codes.rst. An address that does not acknowledge (ENXIO; EREMOTEIO on a Pi, whose
# driver does not distinguish kinds of NACK) is not retried, because the chip is absent.
_RETRIES = {
    errno.EAGAIN: 3,  # another master won the arbitration
    errno.EBUSY: 3,  # the bus was not idle
    errno.EIO: 2,  # a byte was not acknowledged: the chip is busy, or there is noise
    errno.EPROTO: 2,
}
_FIRST_PAUSE_S = 0.002
# The bus is held, or the adapter has gone (USB, or a reloaded module): a new file may work.
_REOPEN_AFTER = {errno.ETIMEDOUT, errno.ENODEV, errno.EBADF, errno.ESHUTDOWN}


class OwnedBus:
    """The common part of both kinds of bus: a deadline, a lock, and an ear for silence."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._deadline_s = float("inf")
        self._allowed_s = 0.0
        self._locked = False
        self._heard: set[int] | None = set()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Limit the transactions of the block to `seconds` in total.

        A lock that a failed driver left behind is released.

        Raises:
            BusDeadline: from inside the transaction that comes too late.
        """
        self._locked = False
        self._heard = set()
        self._allowed_s = seconds
        self._deadline_s = self._clock.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline_s = float("inf")

    @property
    def dead_byte(self) -> int | None:
        """Return 0x00 or 0xFF if every byte since the start of `within` was that; else None."""
        if self._heard is not None and len(self._heard) == 1:
            return next(iter(self._heard))
        return None

    def _listen(self, answer: bytes) -> bytes:
        if self._heard is not None:
            self._heard.update(answer)
            if len(self._heard) > 1 or not self._heard <= {0x00, 0xFF}:
                self._heard = None  # the bus is alive
        return answer

    def pause(self, seconds: float) -> None:
        """Sleep between two queries of a chip; call this inside `within`."""
        self._mind_deadline()
        self._clock.sleep(seconds)

    def _mind_deadline(self) -> None:
        if self._clock.monotonic() > self._deadline_s:
            raise BusDeadline(f"no result within {self._allowed_s:g} s")

    def try_lock(self) -> bool:
        self._mind_deadline()
        if self._locked:
            return False
        self._locked = True
        return True

    def unlock(self) -> None:
        self._locked = False


class I2CBus(OwnedBus):
    """A `busio.I2C` on `port`; `reopen` returns a new port in place of a lost one."""

    def __init__(
        self, port: I2CPort, clock: Clock, reopen: Callable[[], I2CPort] | None = None
    ) -> None:
        super().__init__(clock)
        self._port = port
        self._reopen = reopen
        self._lost = False

    def _transact(self, transaction: Callable[[I2CPort], _Result]) -> _Result:
        """Carry out one transaction, with this module's rules for each kind of error."""
        failures = 0
        while True:
            self._mind_deadline()
            if self._lost and self._reopen is not None:
                self._port = self._reopen()
            self._lost = False
            try:
                return transaction(self._port)
            except OSError as error:
                self._lost = error.errno in _REOPEN_AFTER
                failures += 1
                if failures > _RETRIES.get(error.errno or 0, 0):
                    raise
                self.pause(_FIRST_PAUSE_S * 2 ** (failures - 1))

    def scan(self) -> list[int]:
        return self._transact(lambda port: port.scan())

    def writeto(self, address: int, buffer: Any, *, start: int = 0, end: int | None = None) -> None:
        self._transact(lambda port: port.writeto(address, buffer, start=start, end=end))

    def readfrom_into(
        self, address: int, buffer: Any, *, start: int = 0, end: int | None = None
    ) -> None:
        self._transact(lambda port: port.readfrom_into(address, buffer, start=start, end=end))
        self._listen(bytes(buffer[start:end]))

    def writeto_then_readfrom(
        self,
        address: int,
        buffer_out: Any,
        buffer_in: Any,
        *,
        out_start: int = 0,
        out_end: int | None = None,
        in_start: int = 0,
        in_end: int | None = None,
    ) -> None:
        self._transact(
            lambda port: port.writeto_then_readfrom(
                address,
                buffer_out,
                buffer_in,
                out_start=out_start,
                out_end=out_end,
                in_start=in_start,
                in_end=in_end,
            )
        )
        self._listen(bytes(buffer_in[in_start:in_end]))


class ChipSelect:
    """The `digitalio.DigitalInOut` that a driver moves to select its chip on an `SPIBus`."""

    def __init__(self, moved: Callable[[], None]) -> None:
        self._moved = moved
        self._value = True

    def switch_to_output(self, value: bool = False, drive_mode: Any = None) -> None:
        self.value = value

    @property
    def value(self) -> bool:
        return self._value

    @value.setter
    def value(self, value: bool) -> None:
        changed, self._value = value != self._value, value
        if changed:
            self._moved()


class SPIBus(OwnedBus):
    """A `busio.SPI` with one chip on it, on a port that selects the chip by itself.

    The kernel asserts chip select for one message at a time (spidev.rst), but drivers write a
    register's number and read its content in two calls. So written bytes are kept until the driver
    reads or deselects the chip, and are sent as one message. This way CE0 and CE1 work unchanged,
    and the driver does not need a GPIO.
    """

    def __init__(self, port: SPIPort, clock: Clock) -> None:
        super().__init__(clock)
        self._port = port
        self._hertz = 100_000
        self._mode = 0
        self._unsent = b""
        self.chip_select = ChipSelect(self._selection_moved)

    def configure(
        self, *, baudrate: int = 100_000, polarity: int = 0, phase: int = 0, bits: int = 8
    ) -> None:
        self._hertz = baudrate
        self._mode = polarity << 1 | phase

    def _selection_moved(self) -> None:
        if self.chip_select.value and self._unsent:
            self._send(b"")
        self._unsent = b""

    def _send(self, last: bytes) -> bytes:
        """Send the kept bytes, and then `last`. Return the answer to `last`."""
        sent, self._unsent = self._unsent + last, b""
        self._mind_deadline()
        answer = self._port.transfer(sent, hertz=self._hertz, mode=self._mode)
        return answer[len(sent) - len(last) :]

    def exchange(self, message: bytes) -> bytes:
        """Send a message in the driver's mode and speed. Return as many bytes as were sent.

        The answer to the first byte, a register's number, does not count as a sign of life.
        """
        answer = self._send(message)
        self._listen(answer[1:])
        return answer

    def write(self, buffer: Any, *, start: int = 0, end: int | None = None) -> None:
        self._mind_deadline()
        self._unsent += bytes(buffer[start:end])

    def readinto(
        self, buffer: Any, *, start: int = 0, end: int | None = None, write_value: int = 0
    ) -> None:
        length = len(buffer[start:end])
        buffer[start : start + length] = self._listen(self._send(bytes([write_value]) * length))

    def write_readinto(
        self,
        buffer_out: Any,
        buffer_in: Any,
        *,
        out_start: int = 0,
        out_end: int | None = None,
        in_start: int = 0,
        in_end: int | None = None,
    ) -> None:
        answer = self._listen(self._send(bytes(buffer_out[out_start:out_end])))
        buffer_in[in_start : in_start + len(answer)] = answer
