"""The errors of reading a sensor, each with a remedy that a person can try.

    SensorError
    ├── SensorNotFound      nothing answers: absent, unplugged, switched off
    ├── BadFrame            something answered, but the answer is damaged
    ├── ImplausibleValue    an undamaged answer that the sensor cannot mean
    ├── SensorTimeout       the sensor, or its bus, did not finish in time
    ├── SensorFault         the sensor itself reports a fault
    ├── WrongDriver         the sensor is there, but needs another driver
    ├── PinInUse            the kernel, or another program, has the GPIO
    └── MissingSupport      a Python package or a kernel feature is missing

Only these leave `Driver.read()`; `as_sensor_error` converts everything that a library may raise.
"""

from __future__ import annotations

import errno

__all__ = [
    "BadFrame",
    "BusDeadline",
    "ImplausibleValue",
    "MissingSupport",
    "PinInUse",
    "SensorError",
    "SensorFault",
    "SensorNotFound",
    "SensorTimeout",
    "WrongDriver",
    "as_sensor_error",
    "permission_hint",
]


class SensorError(Exception):
    """A reading failed; `hint` says what to try."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


class SensorNotFound(SensorError, LookupError):
    """Nothing answers at that pin, address or path."""


class BadFrame(SensorError, ValueError):
    """The answer is damaged: checksum, CRC, length or timing."""


class ImplausibleValue(SensorError, ValueError):
    """The answer is undamaged, but the sensor cannot mean it."""


class SensorTimeout(SensorError):
    """The sensor or its bus did not finish in time."""


class SensorFault(SensorError):
    """The sensor itself reports a fault."""


class WrongDriver(SensorError, ValueError):
    """The sensor does not fit this driver; `hint` names the right one."""


class PinInUse(SensorError):
    """The kernel, or another program, has the GPIO; the sensor was not asked."""


class MissingSupport(SensorError, ImportError):
    """A Python package or a kernel feature that the driver needs is missing."""


class BusDeadline(Exception):
    """The time for one reading is used up; raised from inside a bus transaction.

    Neither an OSError nor a RuntimeError: adafruit_htu21d swallows OSError in an endless loop.
    """


def permission_hint(group: str) -> str:
    """Return the remedy for a user who may not open the devices of `group`."""
    return (
        f"it is for the group {group}, which the service is in: "
        f"sudo usermod -aG {group} $USER, and log in again"
    )


_NACK = {errno.EREMOTEIO, errno.ENXIO}


def as_sensor_error(error: Exception, where: str, hint: str = "") -> SensorError:
    """Convert any exception of a library or the kernel to a `SensorError`.

    `where` names the wire ("I2C bus 1 address 0x76"); `hint` is the driver's own remedy, used
    unless the exception suggests a better one.
    """
    if isinstance(error, SensorError):
        return error
    if isinstance(error, BusDeadline):
        return SensorTimeout(
            f"{where}: {error}", hint or "the sensor is stuck; switch its power off and on"
        )
    if isinstance(error, ImportError):
        return MissingSupport(f"{where}: {error}", hint)
    if isinstance(error, OSError):
        return _from_os_error(error, where, hint)
    return BadFrame(f"{where}: {type(error).__name__}: {error}", hint)


def _from_os_error(error: OSError, where: str, hint: str) -> SensorError:
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in _NACK:
        return SensorNotFound(
            f"{where}: no acknowledgement (NACK)",
            hint or "check power, SDA, SCL and the address",
        )
    if error.errno == errno.EAGAIN:
        return SensorTimeout(f"{where}: {reason}", "another master keeps the bus; is there one?")
    if error.errno == errno.EBUSY:
        return SensorTimeout(
            f"{where}: {reason}",
            hint or "something else has it: a kernel driver (dtoverlay) or another program",
        )
    if error.errno == errno.ETIMEDOUT or isinstance(error, TimeoutError):
        return SensorTimeout(
            f"{where}: {reason}",
            "the bus is held; look for a short on SDA or SCL, then switch the power off and on",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return MissingSupport(
            f"{where}: {reason}",
            "run the node as a user of the groups gpio, i2c and spi, as the service does",
        )
    if error.errno in (errno.ENOENT, errno.ENODEV):
        return SensorNotFound(f"{where}: {reason}", hint)
    if error.errno in (errno.EIO, errno.EPROTO):
        hint = hint or "check the wiring: loose contacts, missing pull-ups, long wires"
    return BadFrame(f"{where}: {reason}", hint or "check the wiring")
