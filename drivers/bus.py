"""The protocols between drivers and the hardware, real or simulated.

For authors of drivers: a `Board` hands out buses, pins and paths; take hardware only from it, and
sleep only through its clock. For authors of boards: `drivers.hardware` is the real one,
`drivers.sim.board` the simulated one.

`drivers.owned_bus` has the bus objects that CircuitPython drivers see, on either board.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from drivers.ports import (
    Advertisement,
    ByteStream,
    Clock,
    DhtSensor,
    I2CPort,
    Radio,
    SerialSettings,
    SPIPort,
    SystemTime,
)

if TYPE_CHECKING:  # drivers that only read files do not need them
    from drivers.owned_bus import I2CBus, SPIBus

__all__ = [
    "Advertisement",
    "Board",
    "ByteStream",
    "Clock",
    "DhtSensor",
    "I2CPort",
    "Radio",
    "SPIPort",
    "SerialSettings",
    "SystemTime",
]

_Shared = TypeVar("_Shared")


class Board(Protocol):
    """A computer with buses: the Pi, or a simulation of one."""

    clock: Clock

    def i2c(self, bus: int) -> I2CBus:
        """Return bus `bus` (`/dev/i2c-<bus>`), the same object at each call."""
        ...

    def spi(self, bus: int, select: int) -> SPIBus:
        """Return the chip at chip select `select` of bus `bus` (`/dev/spidev<bus>.<select>`)."""
        ...

    def serial(self, port: str, settings: SerialSettings) -> ByteStream:
        """Open the serial port `port` ("/dev/ttyUSB0"), for this caller alone.

        Raises:
            SensorError: the port is missing, busy or not permitted.
        """
        ...

    def tcp(self, host: str, port: int, *, within_s: float) -> ByteStream:
        """Connect to `host`, waiting at most `within_s` for it.

        Raises:
            SensorError: the name is unknown, or the connection is refused or not answered.
        """
        ...

    def shared(self, key: str, make: Callable[[], _Shared]) -> _Shared:
        """Return the object that all sensors with `key` share; `make` makes it for the first."""
        ...

    def dht(self, model: str, pin: int, backend: str) -> DhtSensor:
        """Return a new `model` ("DHT22", "DHT11") on a BCM pin; backend pulseio or edges."""
        ...

    def pin_factory(self) -> Any:
        """Return the gpiozero factory to build devices with."""
        ...

    def pin_user(self, pin: int) -> str | None:
        """Return who uses the BCM pin, in words; "" for a free pin, None if unknown.

        The check neither takes nor moves the pin.
        """
        ...

    def radio(self, adapter: str) -> Radio:
        """Return the Bluetooth adapter `adapter` ("hci0"), the same object at each call."""
        ...

    def path(self, absolute: str) -> Path:
        """Return where the kernel's file `absolute` ("/sys/...") is; up to date on return."""
        ...
