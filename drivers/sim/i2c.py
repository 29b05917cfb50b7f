"""A simulated I2C bus: chips at addresses, and the errors that the Linux drivers report."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Protocol

__all__ = ["RegisterChip", "SimulatedChip", "SimulatedI2C", "SimulatedMux"]


class SimulatedChip(Protocol):
    """A chip at an address."""

    def write(self, sent: bytes) -> None: ...

    def read(self, length: int) -> bytes: ...


class SimulatedMux:
    """A TCA9548A (TI SCPS207, §8.5): one control register, a bit for each of 8 channels."""

    def __init__(self) -> None:
        self.control = 0
        self.channels: dict[int, dict[int, SimulatedChip]] = {}
        """Channel -> the chips behind it, by address."""

    def write(self, sent: bytes) -> None:
        if sent:
            self.control = sent[-1]

    def read(self, length: int) -> bytes:
        return bytes([self.control]) * length

    def connected(self) -> dict[int, SimulatedChip]:
        """Return the chips behind the channels that are selected."""
        chips: dict[int, SimulatedChip] = {}
        for channel, there in self.channels.items():
            if self.control >> channel & 1:
                chips |= there
        return chips


class SimulatedI2C:
    """`drivers.bus.I2CPort` over a dictionary of chips.

    An address without a chip does not acknowledge. `before_answer` is called with the address at
    each transaction, and may sleep or raise OSError.
    """

    def __init__(self) -> None:
        self.chips: dict[int, SimulatedChip] = {}
        self.before_answer: Callable[[int], object] = lambda address: None

    def scan(self) -> list[int]:
        return sorted(self._connected())

    def _connected(self) -> dict[int, SimulatedChip]:
        """Return the chips on the bus, and those behind channels that are selected."""
        chips: dict[int, SimulatedChip] = {}
        for mux in [chip for chip in self.chips.values() if isinstance(chip, SimulatedMux)]:
            chips |= mux.connected()
        return chips | self.chips

    def _chip(self, address: int) -> SimulatedChip:
        self.before_answer(address)
        chip = self.chips.get(address) or self._connected().get(address)
        if chip is None:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        return chip

    def writeto(self, address: int, buffer: Any, *, start: int = 0, end: int | None = None) -> None:
        self._chip(address).write(bytes(buffer[start:end]))

    def readfrom_into(
        self, address: int, buffer: Any, *, start: int = 0, end: int | None = None
    ) -> None:
        end = len(buffer) if end is None else end
        buffer[start:end] = self._chip(address).read(end - start)

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
        self.writeto(address, buffer_out, start=out_start, end=out_end)
        self.readfrom_into(address, buffer_in, start=in_start, end=in_end)


class RegisterChip:
    """A file of 256 one-byte registers with a pointer that advances by itself."""

    def __init__(self) -> None:
        self.registers = bytearray(256)
        self._pointer = 0

    def write(self, sent: bytes) -> None:
        if sent:
            self._pointer = sent[0]
        for offset, byte in enumerate(sent[1:]):
            self.register_written((self._pointer + offset) & 0xFF, byte)

    def register_written(self, register: int, byte: int) -> None:
        self.registers[register] = byte

    def read(self, length: int) -> bytes:
        return bytes(self.registers[(self._pointer + i) & 0xFF] for i in range(length))
