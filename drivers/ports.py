"""The protocols below a driver's bus: a clock, the ports of buses, a DHT's line, a stream of bytes.

`drivers.hardware` and `drivers.sim` implement them; a driver uses them through `drivers.bus`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import msgspec

__all__ = [
    "Advertisement",
    "ByteStream",
    "Clock",
    "DhtSensor",
    "I2CPort",
    "Radio",
    "SPIPort",
    "SerialSettings",
    "SystemTime",
]


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


class Advertisement(msgspec.Struct, frozen=True):
    """One advertisement over Bluetooth LE, with its scan response if that was heard along with it.

    Only data that came with it: what the system remembers from earlier ones is not in it.
    """

    address: str
    """In capitals: "A4:C1:38:8D:18:B2"."""
    service_data: Mapping[int, bytes] = {}
    """16-bit UUID -> its service data, without the UUID."""
    manufacturer_data: Mapping[int, bytes] = {}
    """Company identifier -> its data, without the identifier."""
    name: str = ""
    """The local name, perhaps of an earlier advertisement."""
    rssi: int | None = None
    """dBm."""
    heard_s: float = 0.0
    """Monotonic time."""

    @property
    def mac(self) -> bytes:
        """Return the six bytes of the address, in the order in which it is written."""
        return bytes.fromhex(self.address.replace(":", ""))


class Radio(Protocol):
    """One Bluetooth adapter. It listens while any address is wanted."""

    def listen(self, address: str, hear: Callable[[Advertisement], None], *, passive: bool) -> None:
        """Call `hear`, on a thread of the radio's, with each advertisement of `address`.

        `passive`: it sends everything without being asked for more.
        """
        ...

    def leave(self, address: str) -> None:
        """Stop listening to `address`; nothing happens if it is not listened to."""
        ...

    def check(self) -> None:
        """Raise the SensorError that explains why nothing can be heard at present, if any."""
        ...

    def describe(self) -> str:
        """Return in words what it is and how it can listen.

        Raises:
            SensorError: nothing can be heard.
        """
        ...

    def survey(self, seconds: float) -> list[Advertisement]:
        """Return what is heard within so many seconds: the newest advertisement of each address.

        Raises:
            SensorError: nothing can be heard.
        """
        ...


class SerialSettings(msgspec.Struct, frozen=True):
    """The settings of a serial line, which all its ends share: bits per second and framing."""

    baud: int = 9600
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1

    def __str__(self) -> str:
        """Return "9600 baud 8N1"."""
        return f"{self.baud} baud 8{self.parity[0].upper()}{self.stop_bits}"


class ByteStream(Protocol):
    """An open serial port or TCP connection, with the methods that pyserial's `Serial` has."""

    timeout: float
    """The most seconds that `read` waits."""

    def read(self, size: int) -> bytes:
        """Return `size` bytes, or those that have come within `timeout`.

        Raises:
            OSError: the port or the connection is gone.
        """
        ...

    def write(self, sent: bytes) -> object:
        """Send all of `sent`; raise OSError if the port or the connection is gone."""
        ...

    def reset_input_buffer(self) -> None:
        """Forget what has come and was not read."""
        ...

    def close(self) -> None: ...
