"""The protocols below a driver's bus: a clock, the ports of buses, and a DHT's line.

`drivers.hardware` and `drivers.sim` implement them; a driver uses them through `drivers.bus`.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

__all__ = ["Clock", "DhtSensor", "I2CPort", "SPIPort", "SystemTime"]


class Clock(Protocol):
    """The time that drivers use."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never stepped."""
        ...

    def sleep(self, seconds: float) -> None: ...


class SystemTime:
    """`Clock` of the operating system."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


class I2CPort(Protocol):
    """Plain I2C transactions, named as CircuitPython's `busio.I2C` names them.

    Errors are those of the Linux drivers (kernel i2c/fault-codes.rst): `OSError(EREMOTEIO)` or
    `ENXIO` for an address that does not acknowledge, `EIO` for a byte that is not acknowledged,
    `ETIMEDOUT` for a bus that is held.
    """

    def scan(self) -> list[int]: ...

    def writeto(
        self, address: int, buffer: Any, *, start: int = 0, end: int | None = None
    ) -> None: ...

    def readfrom_into(
        self, address: int, buffer: Any, *, start: int = 0, end: int | None = None
    ) -> None: ...

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
    ) -> None: ...


class SPIPort(Protocol):
    """One chip on an SPI bus."""

    def transfer(self, sent: bytes, *, hertz: int, mode: int) -> bytes:
        """Exchange one message with the chip selected. Return as many bytes as were sent.

        `mode` is 0 to 3: clock polarity in bit 1, phase in bit 0.
        """
        ...


class DhtSensor(Protocol):
    """A DHT on one pin; `frame` holds the five bytes of the last measurement, if it was good."""

    frame: bytearray

    def measure(self) -> float:
        """Trigger the sensor again, and keep its frame; raise any error.

        Return how long the trigger had to wait, for other sensors or for a program, in seconds.
        """
        ...

    def exit(self) -> None:
        """Release the pin; `measure` may take it again."""
        ...
