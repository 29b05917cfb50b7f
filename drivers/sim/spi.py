"""A simulated SPI bus: one chip for each chip select."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["RegisterSpiChip", "SimulatedSPI", "SimulatedSpiChip"]


class SimulatedSpiChip(Protocol):
    """A chip at a chip select."""

    def exchange(self, sent: bytes) -> bytes:
        """Exchange one message, from select to deselect. Return as many bytes as were sent."""
        ...


class SimulatedSPI:
    """`drivers.bus.SPIPort`; MISO floats high without a chip.

    `before_answer` is called before each message, and may sleep or raise OSError.
    """

    def __init__(self) -> None:
        self.chip: SimulatedSpiChip | None = None
        self.before_answer: Callable[[], object] = lambda: None
        self.modes: set[int] = set()
        """The SPI modes of the messages so far."""

    def transfer(self, sent: bytes, *, hertz: int, mode: int) -> bytes:
        self.before_answer()
        self.modes.add(mode)
        return b"\xff" * len(sent) if self.chip is None else self.chip.exchange(sent)


class RegisterSpiChip:
    """Registers at 0x00 to 0x7F, written at their number with the highest bit set.

    The number comes first, and advances by itself (MAX31856, "Serial interface"; also MAX31865).
    """

    def __init__(self) -> None:
        self.registers = bytearray(128)

    def exchange(self, sent: bytes) -> bytes:
        first, answer = sent[0] & 0x7F, bytearray(len(sent))
        for offset, byte in enumerate(sent[1:]):
            register = (first + offset) & 0x7F
            if sent[0] & 0x80:
                self.register_written(register, byte)
            else:
                answer[offset + 1] = self.register_read(register)
        return bytes(answer)

    def register_written(self, register: int, byte: int) -> None:
        self.registers[register] = byte

    def register_read(self, register: int) -> int:
        return self.registers[register]
