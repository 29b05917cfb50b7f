"""A DHT11 or DHT22 through the kernel's driver (`dtoverlay=dht11`), at the sensor's pace."""

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
"""The kernel's name for both models."""
MEMORY_S = 4.5
"""A DHT that was last asked longer ago than this answers with an outdated measurement.

Between two usual intervals: with a sensor that is read as often as this, some reads would be double
and 2 s late, and others not.
"""

_WIRING = "check 3V3, the data wire, the pull-up, and gpiopin of the overlay"


def find_dht(board: Board, pin: int) -> KernelDevice:
    """Return the kernel's DHT on a GPIO: the value of another DHT must not be used.

    Raises:
        SensorNotFound: the kernel does not have a DHT on the GPIO.
    """
    there = [device for device in kernel_devices(board) if device.kind == DHT_KIND]
    for device in there:
        if _gpio_of(device) == pin:
            return device
    others = "".join(f"; there is {device} on GPIO {_gpio_of(device)}" for device in there)
    raise SensorNotFound(f"the kernel has no {DHT_KIND} on GPIO {pin}{others}")


def _gpio_of(device: KernelDevice) -> int | None:
    """Return the pin in a device's node: the second of three cells (gpio.txt, brcm,bcm2835)."""
    node = device.folder.resolve().parent / "of_node"
    try:
        cells = (node / "gpios").read_bytes()
    except OSError:
        return None
    return int.from_bytes(cells[4:8], "big") if len(cells) >= 8 else None


class KernelDht:
    """A DHT11 or DHT22 with `dtoverlay=dht11` (kernel drivers/iio/humidity/dht11.c).

    The kernel asks the sensor when a file is read, keeps a good answer for 2 s, and fails with
    ETIMEDOUT for missing edges or EIO for a wrong frame. Hence readings are 2.1 s apart: earlier, a
    good answer would be an old one, and after a failure the sensor would be asked more often than
    it can measure.
    """

    channels = (Channel("temperature", "°C", (-40.0, 80.0), 1), HUMIDITY)
    SPACING_S = 2.1

    def __init__(self, device: KernelDevice, board: Board) -> None:
        self._device = device
        self._board = board
        self._next_s = -math.inf
        self._answered_s = -math.inf
        """When the sensor last answered."""

    def read(self) -> Measurement:
        """Return temperature (°C) and humidity (%), measured at most `MEMORY_S` ago.

        The sensor answers with its previous measurement (AM2302 datasheet, "Single-bus"), so a
        sensor that was not asked for a while is asked twice.

        Raises:
            SensorError: as by `ask`.
        """
        if self._board.clock.monotonic() - self._answered_s > MEMORY_S:
            self.ask()
        return self.ask()

    def ask(self) -> Measurement:
        """Return temperature (°C) and humidity (%) from one transmission.

        Raises:
            SensorNotFound, BadFrame: the answer is missing or damaged.
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
            # The second value comes from the first one's transmission, so it must not be read
            # if the first has failed.
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
            # Counted from the end, where the kernel's 2 s begin.
            self._next_s = clock.monotonic() + self.SPACING_S
        if millidegrees == 0 and millipercent == 0:
            raise ImplausibleValue(f"{self._device}: a frame of zeros", "the line is held low")
        self._answered_s = began_s
        # The kernel always reads a DHT22's temperature as sign and magnitude.
        millidegrees = 100 * signed_tenths(millidegrees / 100)
        measurement = {"temperature": millidegrees / 1000, "humidity": millipercent / 1000}
        hint = "noise on the line; shorten the wire or lower the pull-up"
        return refuse_implausible(measurement, self.channels, where=str(self._device), hint=hint)

    def close(self) -> None:
        """Do nothing: nothing stays open between readings."""
