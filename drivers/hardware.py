"""The real board: the only module that opens devices.

Blinka is used only where a driver needs it: `adafruit_dht` takes its pins from Blinka, and Blinka's
generic I2C speaks to `/dev/i2c-N` on any Linux computer.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from drivers.bus import ByteStream, Clock, DhtSensor, I2CPort, Radio, SerialSettings, SystemTime
from drivers.errors import MissingSupport, SensorNotFound, permission_hint

if TYPE_CHECKING:
    from drivers.owned_bus import I2CBus, SPIBus

__all__ = ["HardwareBoard"]

_MODEL = Path("/proc/device-tree/model")
_path_of = functools.lru_cache(maxsize=1024)(Path)
"""A driver asks at each reading, and to parse a path anew takes a tenth of the reading."""
_Shared = TypeVar("_Shared")


class HardwareBoard:
    """`drivers.bus.Board` for this computer."""

    def __init__(self) -> None:
        self.clock: Clock = SystemTime()
        self._i2c: dict[int, I2CBus] = {}
        self._spi: dict[tuple[int, int], SPIBus] = {}
        self._radios: dict[str, Radio] = {}
        self._shared: dict[str, Any] = {}
        if not _MODEL.exists():
            # Blinka does not know this kind of board: keep it from guessing, and from printing
            # its guess to standard output.
            os.environ.setdefault("BLINKA_OS_AGNOSTIC", "1")

    def i2c(self, bus: int) -> I2CBus:
        if bus not in self._i2c:
            from drivers.owned_bus import I2CBus

            self._i2c[bus] = I2CBus(_open_i2c(bus), self.clock, lambda: _open_i2c(bus))
        return self._i2c[bus]

    def spi(self, bus: int, select: int) -> SPIBus:
        if (bus, select) not in self._spi:
            from drivers.owned_bus import SPIBus

            self._spi[bus, select] = SPIBus(_SpiDevice(bus, select), self.clock)
        return self._spi[bus, select]

    def serial(self, port: str, settings: SerialSettings) -> ByteStream:
        from drivers.streams import open_serial

        return open_serial(port, settings)

    def tcp(self, host: str, port: int, *, within_s: float) -> ByteStream:
        from drivers.streams import open_tcp

        return open_tcp(host, port, within_s=within_s)

    def shared(self, key: str, make: Callable[[], _Shared]) -> _Shared:
        if key not in self._shared:
            self._shared[key] = make()
        shared: _Shared = self._shared[key]
        return shared

    def dht(self, model: str, pin: int, backend: str) -> DhtSensor:
        if backend == "edges":
            from drivers.dht_edges import EdgesDht, GpioEdges

            return EdgesDht(model, GpioEdges(pin))
        from drivers.dht_process import DhtProcess

        return DhtProcess(model, pin)

    def pin_factory(self) -> Any:
        from gpiozero import Device

        if Device.pin_factory is None:
            from drivers.pin_factory import open_pin_factory

            Device.pin_factory = open_pin_factory()
        return Device.pin_factory

    def pin_user(self, pin: int) -> str | None:
        from drivers.gpio_chip import line_user

        user = line_user(pin)
        return f'the kernel knows its user as "{user}"' if user else user

    def radio(self, adapter: str) -> Radio:
        if adapter not in self._radios:
            from drivers.ble.bluez import BlueZRadio

            self._radios[adapter] = BlueZRadio(adapter)
        return self._radios[adapter]

    def path(self, absolute: str) -> Path:
        return _path_of(absolute)


def _open_i2c(bus: int) -> I2CPort:
    """Return Blinka's I2C on `/dev/i2c-<bus>`.

    Raises:
        SensorNotFound: the bus does not exist.
        MissingSupport: this user may not use the bus.
    """
    from adafruit_blinka.microcontroller.generic_linux.i2c import I2C

    try:
        port: I2CPort = I2C(bus)
    except RuntimeError as error:
        raise SensorNotFound(
            f"/dev/i2c-{bus} does not exist",
            "switch I2C on: dtparam=i2c_arm=on in config.txt, and reboot",
        ) from error
    except PermissionError as error:
        raise MissingSupport(
            f"/dev/i2c-{bus}: permission denied",
            permission_hint("i2c"),
        ) from error
    return port


class _SpiDevice:
    """`drivers.bus.SPIPort` on `/dev/spidev<bus>.<select>`, through Blinka's PureIO.

    Raises:
        SensorNotFound: the device does not exist.
        MissingSupport: this user may not use the device.
    """

    def __init__(self, bus: int, select: int) -> None:
        from Adafruit_PureIO.spi import SPI

        name = f"/dev/spidev{bus}.{select}"
        try:
            self._device: Any = SPI(name)
        except PermissionError as error:
            raise MissingSupport(
                f"{name}: permission denied",
                permission_hint("spi"),
            ) from error
        except OSError as error:  # PureIO omits the number if the file is missing
            raise SensorNotFound(
                f"{name} cannot be opened ({error})",
                "switch SPI on: dtparam=spi=on in config.txt, and reboot",
            ) from error

    def transfer(self, sent: bytes, *, hertz: int, mode: int) -> bytes:
        self._device.max_speed_hz = hertz
        self._device.mode = mode
        return bytes(self._device.transfer(list(sent)))
