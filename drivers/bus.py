"""The protocols between drivers and whatever stands behind the wires.

For authors of drivers: a `Board` hands out buses, pins and paths; take nothing from anywhere
else, sleep only through its clock. For authors of boards: `drivers.hardware` is the real one,
`drivers.sim.board` the simulated one.

`I2CBus` is the bus object that drivers see, on either board: it puts a deadline into every
transaction, because several Adafruit drivers poll a stuck chip for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from drivers.errors import BusDeadline

__all__ = ["Board", "Clock", "DhtSensor", "I2CBus", "I2CPort", "SystemTime"]


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

    An address that does not acknowledge is `OSError(EREMOTEIO)`, a bus that is held
    `OSError(ETIMEDOUT)`, as the Linux drivers report them (kernel i2c/fault-codes.rst).
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

    def dht(self, model: str, pin: int, backend: str) -> DhtSensor:
        """A new `model` ("DHT22", "DHT11") on BCM pin `pin`; backend pulseio, bitbang or edges."""
        ...

    def pin_factory(self) -> Any:
        """The gpiozero factory to build devices with."""
        ...

    def path(self, absolute: str) -> Path:
        """Where the kernel's file `absolute` ("/sys/...") is; up to date when this returns."""
        ...


class I2CBus:
    """A `busio.I2C` for CircuitPython drivers whose every transaction minds a deadline.

    Used by one thread at a time (the bus's worker), so the CircuitPython lock is a plain flag:
    it exists because `adafruit_bus_device` insists on it.
    """

    def __init__(self, port: I2CPort, clock: Clock) -> None:
        self._port = port
        self._clock = clock
        self._deadline_s = float("inf")
        self._allowed_s = 0.0
        self._locked = False

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let the transactions of the block take `seconds` in all.

        Also takes back a lock that a driver left behind when it failed.

        Raises:
            BusDeadline: from inside whichever transaction comes too late.
        """
        self._locked = False
        self._allowed_s = seconds
        self._deadline_s = self._clock.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline_s = float("inf")

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

    def scan(self) -> list[int]:
        self._mind_deadline()
        return self._port.scan()

    def writeto(self, address: int, buffer: Any, *, start: int = 0, end: int | None = None) -> None:
        self._mind_deadline()
        self._port.writeto(address, buffer, start=start, end=end)

    def readfrom_into(
        self, address: int, buffer: Any, *, start: int = 0, end: int | None = None
    ) -> None:
        self._mind_deadline()
        self._port.readfrom_into(address, buffer, start=start, end=end)

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
        self._mind_deadline()
        self._port.writeto_then_readfrom(
            address,
            buffer_out,
            buffer_in,
            out_start=out_start,
            out_end=out_end,
            in_start=in_start,
            in_end=in_end,
        )
