"""A chip of the kernel's i2c-stub as a bus that our drivers can be given.

i2c-stub knows SMBus commands and no plain I2C (i2c/busses/i2c-stub in the kernel's documents), so
each transaction of a driver becomes the command that looks the same on the wire: a register's
number, then its bytes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from typing import Any

__all__ = ["StubBus"]

# linux/i2c-dev.h and linux/i2c.h
_I2C_SLAVE_FORCE = 0x0706  # also where a driver of the kernel's has the chip
_I2C_SMBUS = 0x0720
_WRITE, _READ = 0, 1
_BYTE_DATA, _WORD_DATA, _I2C_BLOCK_DATA = 2, 3, 8


class _Message(ctypes.Structure):
    _fields_ = (
        ("read_write", ctypes.c_uint8),
        ("command", ctypes.c_uint8),
        ("size", ctypes.c_uint32),
        ("content", ctypes.c_void_p),
    )


class StubBus:
    """`drivers.bus.I2CPort`; `words` are the addresses of chips whose registers have 16 bits."""

    def __init__(self, number: int, words: set[int]) -> None:
        self._file = os.open(f"/dev/i2c-{number}", os.O_RDWR)
        self._words = words
        self._pointer = 0

    def scan(self) -> list[int]:
        raise NotImplementedError("i2c-stub answers at every address it was given")

    def read_register(self, address: int, register: int, size: int) -> bytes:
        if address in self._words and size == 2:
            # The byte that comes first on the wire is the low one of an SMBus word.
            return self._command(address, _READ, register, _WORD_DATA, b"\0\0")
        if size == 1:
            return self._command(address, _READ, register, _BYTE_DATA, b"\0")
        return b"".join(
            self._block(address, register + start, min(32, size - start))
            for start in range(0, size, 32)
        )

    def _block(self, address: int, register: int, size: int) -> bytes:
        content = bytes([size]) + bytes(size)
        return self._command(address, _READ, register, _I2C_BLOCK_DATA, content)[1:]

    def write_register(self, address: int, register: int, content: bytes) -> None:
        if address in self._words and len(content) == 2:
            self._command(address, _WRITE, register, _WORD_DATA, content)
            return
        for offset, byte in enumerate(content):
            self._command(address, _WRITE, register + offset, _BYTE_DATA, bytes([byte]))

    def _command(self, address: int, way: int, register: int, size: int, content: bytes) -> bytes:
        buffer = ctypes.create_string_buffer(content, 34)
        message = _Message(way, register, size, ctypes.addressof(buffer))
        fcntl.ioctl(self._file, _I2C_SLAVE_FORCE, address)
        fcntl.ioctl(self._file, _I2C_SMBUS, message)
        return buffer.raw[: len(content)]

    # -- I2CPort

    def writeto(self, address: int, buffer: Any, *, start: int = 0, end: int | None = None) -> None:
        sent = bytes(buffer[start:end])
        if sent:
            self._pointer = sent[0]
            if len(sent) > 1:
                self.write_register(address, sent[0], sent[1:])

    def readfrom_into(
        self, address: int, buffer: Any, *, start: int = 0, end: int | None = None
    ) -> None:
        end = len(buffer) if end is None else end
        buffer[start:end] = self.read_register(address, self._pointer, end - start)

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
