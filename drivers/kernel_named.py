"""A device of the kernel's, found by its name: what `drivers.sysfs` opens where no path is given.

The number of a device may be given to another one while the node runs (a driver is loaded anew,
an I2C bus is bound again), so each reading looks at the name first. The DHT has rules of its own.
"""

from __future__ import annotations

import errno
import math

from drivers.base import HUMIDITY, Channel, Driver, Measurement, refuse_implausible
from drivers.bus import Board
from drivers.errors import BadFrame, ImplausibleValue, SensorNotFound, as_sensor_error
from drivers.kernel_devices import KernelDevice, find_device, kernel_devices
from drivers.kernel_files import Sysfs
from drivers.kernel_values import quantities_of, read_number

__all__ = ["KernelDht", "Named", "find_dht", "named_devices", "open_named"]

_DHT = "dht11"
# The kernel shows these a second time: the `cpu` driver and `ds18b20` read them.
_READ_BY_OTHERS = ("cpu_thermal", "w1_slave_temp")
_WIRING = "check 3V3, the data wire, the pull-up, and gpiopin of the overlay"


def open_named(name: str, device: str | None, board: Board) -> Driver:
    """Open the IIO or hwmon device of that name.

    Raises:
        SensorNotFound: there is none, or more than one and `device` does not say which.
    """
    found = find_device(board, name, device)
    return KernelDht(found, board) if found.kind == _DHT else Named(found, board)


def named_devices(board: Board) -> list[dict[str, str | int]]:
    """The options `name`, and `device` where several have that name, of each device there is."""
    there = [d for d in kernel_devices(board) if d.name not in _READ_BY_OTHERS]
    options: list[dict[str, str | int]] = []
    for device in there:
        alone = sum(device.name in (other.name, other.kind) for other in there) == 1
        options.append({"name": device.name})
        if not alone:
            options[-1]["device"] = device.device
    return options


def find_dht(board: Board, pin: int) -> KernelDevice:
    """The kernel's DHT on a GPIO: another one's value must not be taken for this one's.

    Raises:
        SensorNotFound: there is none.
    """
    there = [device for device in kernel_devices(board) if device.kind == _DHT]
    for device in there:
        if _gpio_of(device) == pin:
            return device
    others = "".join(f"; there is {device} on GPIO {_gpio_of(device)}" for device in there)
    raise SensorNotFound(f"the kernel has no {_DHT} on GPIO {pin}{others}")


def _gpio_of(device: KernelDevice) -> int | None:
    """The pin in a device's node: three cells, the second its number (gpio.txt, brcm,bcm2835)."""
    node = device.folder.resolve().parent / "of_node"
    try:
        cells = (node / "gpios").read_bytes()
    except OSError:
        return None
    return int.from_bytes(cells[4:8], "big") if len(cells) >= 8 else None


class Named(Sysfs):
    """A device folder whose identity is checked at each reading."""

    def __init__(self, device: KernelDevice, board: Board) -> None:
        super().__init__(device.path, quantities_of(device.folder), board)
        self._device = device

    def read(self) -> Measurement:
        """Read every file of the device, if it is the same one still."""
        self._board.path(self._device.path)
        self._device.check()
        return super().read()


class KernelDht:
    """A DHT11 or DHT22 by `dtoverlay=dht11` (kernel drivers/iio/humidity/dht11.c).

    The kernel asks the sensor when a file is read, keeps a good answer for 2 s, and fails with
    ETIMEDOUT for missing edges or EIO for a wrong frame. Hence 2.1 s from one reading to the
    next: earlier, a good answer would be an old one, and after a failure the sensor would be
    asked more often than it can measure. One reading is one attempt.
    """

    channels = (Channel("temperature", "°C", (-40.0, 80.0), 1), HUMIDITY)
    SPACING_S = 2.1

    def __init__(self, device: KernelDevice, board: Board) -> None:
        self._device = device
        self._board = board
        self._next_s = -math.inf

    def read(self) -> Measurement:
        """Temperature (°C) and humidity (%) of one transmission.

        Raises:
            SensorNotFound, BadFrame: no answer, or a damaged one.
            ImplausibleValue: a frame of zeros, which the kernel takes for 0 °C and 0 %, or a
                value outside the sensor's range.
        """
        clock = self._board.clock
        if (early_s := self._next_s - clock.monotonic()) > 0:
            clock.sleep(early_s)
        self._board.path(self._device.path)
        self._device.check()
        try:
            # The second one comes from the first one's transmission; if that has failed, it
            # must not be tried.
            millidegrees = read_number(self._device.folder / "in_temp_input")
            millipercent = read_number(self._device.folder / "in_humidityrelative_input")
        except OSError as error:
            if error.errno == errno.ETIMEDOUT:
                raise SensorNotFound(f"{self._device}: no answer", _WIRING) from error
            if error.errno == errno.EIO:
                hint = f"{_WIRING}; some kernels refuse a DHT11 that sends tenths of a degree"
                raise BadFrame(f"{self._device}: a damaged frame", hint) from error
            raise as_sensor_error(error, str(self._device), _WIRING) from error
        finally:
            # From the end: that is where the kernel's 2 s begin.
            self._next_s = clock.monotonic() + self.SPACING_S
        if millidegrees == 0 and millipercent == 0:
            raise ImplausibleValue(f"{self._device}: a frame of zeros", "the line is held low")
        measurement = {"temperature": millidegrees / 1000, "humidity": millipercent / 1000}
        hint = "noise on the line; shorten the wire or lower the pull-up"
        refuse_implausible(measurement, self.channels, where=str(self._device), hint=hint)
        return measurement

    def close(self) -> None:
        """Nothing stays open between readings."""
