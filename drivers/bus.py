"""The protocols between drivers and whatever stands behind the wires.

For authors of drivers: a `Board` hands out buses, pins and paths; take nothing from anywhere
else, sleep only through its clock. For authors of boards: `drivers.hardware` is the real one,
`drivers.sim.board` the simulated one.

`drivers.owned_bus` has the bus objects that CircuitPython drivers see, on either board.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from drivers.ports import Clock, DhtSensor, I2CPort, SPIPort, SystemTime

if TYPE_CHECKING:  # what reads files alone needs none of it
    from drivers.owned_bus import I2CBus, SPIBus

__all__ = ["Board", "Clock", "DhtSensor", "I2CPort", "SPIPort", "SystemTime"]


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
