"""The protocols between drivers and whatever stands behind the wires.

For authors of drivers: a `Board` hands out buses, pins and paths; take nothing from anywhere
else, sleep only through its clock. For authors of boards: `drivers.hardware` is the real one,
`drivers.sim.board` the simulated one.

`drivers.owned_bus` has the bus objects that CircuitPython drivers see, on either board.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from drivers.owned_bus import I2CBus, SPIBus

__all__ = ["Board", "Clock", "DhtSensor", "I2CPort", "SPIPort", "SystemTime"]


class Clock(Protocol):
    """The time that drivers go by."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never stepped."""
        ...

    def sleep(self, seconds: float) -> None: ...


class SystemTime:
    """`Clock` by the operating system."""

    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)


class I2CPort(Protocol):
    """Plain I2C transactions, named as CircuitPython's `busio.I2C` names them.

    An address that does not acknowledge is `OSError(EREMOTEIO)` or `ENXIO`, a byte that is not
    acknowledged `EIO`, a bus that is held `ETIMEDOUT`, as the Linux drivers report them (kernel
    i2c/fault-codes.rst).
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
        """Exchange one message with the chip selected; returns as many bytes as were sent.

        `mode` is 0 to 3: clock polarity in bit 1, phase in bit 0.
        """
        ...


class DhtSensor(Protocol):
    """A DHT on one pin; `frame` holds the five bytes of the last measurement, if it was good."""

    frame: bytearray

    def measure(self) -> None:
        """Trigger the sensor anew; whatever goes wrong is raised."""
        ...

    def exit(self) -> None:
        """Let go of the pin; `measure` may take it again."""
        ...


class Board(Protocol):
    """A computer with buses: the Pi, or a simulation of one."""

    clock: Clock

    def i2c(self, bus: int) -> I2CBus:
        """Bus `bus` (`/dev/i2c-<bus>`), the same object at each call."""
        ...

    def spi(self, bus: int, select: int) -> SPIBus:
        """The chip at chip select `select` of bus `bus` (`/dev/spidev<bus>.<select>`)."""
        ...

    def dht(self, model: str, pin: int, backend: str) -> DhtSensor:
        """A new `model` ("DHT22", "DHT11") on BCM pin `pin`; backend pulseio, bitbang or edges."""
        ...

    def pin_factory(self) -> Any:
        """The gpiozero factory to build devices with."""
        ...

    def pin_user(self, pin: int) -> str | None:
        """Who has the BCM pin, in words; "" for nobody, None where it cannot be told.

        Only looks: the pin is neither taken nor moved.
        """
        ...

    def path(self, absolute: str) -> Path:
        """Where the kernel's file `absolute` ("/sys/...") is; up to date when this returns."""
        ...
