"""A DHT11 or DHT22 by the kernel's driver (`dtoverlay=dht11`), asked as the sensor needs it."""

from __future__ import annotations

import errno
import math

from drivers.base import HUMIDITY, Channel, Measurement, refuse_implausible
from drivers.bus import Board
from drivers.dht_frame import signed_tenths
from drivers.errors import BadFrame, ImplausibleValue, SensorNotFound, as_sensor_error
from drivers.kernel_devices import KernelDevice, kernel_devices
from drivers.kernel_values import read_number

__all__ = ["DHT_KIND", "MEMORY_S", "KernelDht", "find_dht"]

DHT_KIND = "dht11"
"""The kernel's name for either of them."""
MEMORY_S = 4.0
"""A DHT that was asked longer ago than this would answer with too old a measurement."""

_WIRING = "check 3V3, the data wire, the pull-up, and gpiopin of the overlay"


def find_dht(board: Board, pin: int) -> KernelDevice:
    """The kernel's DHT on a GPIO: another one's value must not be taken for this one's.

    Raises:
        SensorNotFound: there is none.
    """
    there = [device for device in kernel_devices(board) if device.kind == DHT_KIND]
    for device in there:
        if _gpio_of(device) == pin:
            return device
    others = "".join(f"; there is {device} on GPIO {_gpio_of(device)}" for device in there)
    raise SensorNotFound(f"the kernel has no {DHT_KIND} on GPIO {pin}{others}")


def _gpio_of(device: KernelDevice) -> int | None:
    """The pin in a device's node: three cells, the second its number (gpio.txt, brcm,bcm2835)."""
    node = device.folder.resolve().parent / "of_node"
    try:
        cells = (node / "gpios").read_bytes()
    except OSError:
        return None
    return int.from_bytes(cells[4:8], "big") if len(cells) >= 8 else None


class KernelDht:
    """A DHT11 or DHT22 by `dtoverlay=dht11` (kernel drivers/iio/humidity/dht11.c).

    The kernel asks the sensor when a file is read, keeps a good answer for 2 s, and fails with
    ETIMEDOUT for missing edges or EIO for a wrong frame. Hence 2.1 s from one reading to the
    next: earlier, a good answer would be an old one, and after a failure the sensor would be
    asked more often than it can measure.
    """

    channels = (Channel("temperature", "°C", (-40.0, 80.0), 1), HUMIDITY)
    SPACING_S = 2.1

    def __init__(self, device: KernelDevice, board: Board) -> None:
        self._device = device
        self._board = board
        self._next_s = -math.inf
        self._answered_s = -math.inf
        """When it was asked last and answered."""

    def read(self) -> Measurement:
        """Temperature (°C) and humidity (%), measured not longer ago than `MEMORY_S`.

        The sensor answers with what it measured when it was asked before (AM2302 datasheet,
        "Single-bus"), so one that was not asked for a while is asked twice.

        Raises:
            SensorError: as by `ask`.
        """
        if self._board.clock.monotonic() - self._answered_s > MEMORY_S:
            self.ask()
        return self.ask()

    def ask(self) -> Measurement:
        """Temperature (°C) and humidity (%) of one transmission.

        Raises:
            SensorNotFound, BadFrame: no answer, or a damaged one.
            ImplausibleValue: a frame of zeros, which the kernel takes for 0 °C and 0 %, or a
                value outside the sensor's range.
        """
        clock = self._board.clock
        if (early_s := self._next_s - clock.monotonic()) > 0:
            clock.sleep(early_s)
        began_s = clock.monotonic()
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
        self._answered_s = began_s
        # The kernel takes the magnitude of a DHT22's temperature for what it says.
        millidegrees = 100 * signed_tenths(millidegrees / 100)
        measurement = {"temperature": millidegrees / 1000, "humidity": millipercent / 1000}
        hint = "noise on the line; shorten the wire or lower the pull-up"
        return refuse_implausible(measurement, self.channels, where=str(self._device), hint=hint)

    def close(self) -> None:
        """Nothing stays open between readings."""
