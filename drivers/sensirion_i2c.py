"""Sensirion's own libraries (`sensirion-i2c-...`) on our I2C bus.

They reach the bus through a "transceiver", of which sensirion-i2c-driver has one for each kind of
adapter. This one is the bus object of the sensor's thread, so that each transaction obeys the
deadline of its reading.
"""

from __future__ import annotations

import importlib
from typing import Any

from drivers.errors import MissingSupport, SensorFault, WrongDriver
from drivers.owned_bus import I2CBus, OwnedBus

__all__ = ["Sen5x", "device_on", "sen5x_values"]


class _Transceiver:
    """`I2cTransceiverV1` of sensirion_i2c_driver; errors of the bus are raised as they are."""

    API_VERSION = 1
    channel_count = None
    _STATUS_OK = 0

    def __init__(self, bus: I2CBus) -> None:
        self._bus = bus

    def transceive(
        self,
        slave_address: int,
        tx_data: bytes | None,
        rx_length: int | None,
        read_delay: float,
        timeout: float,
    ) -> tuple[int, None, bytes]:
        if tx_data is not None:
            self._bus.writeto(slave_address, tx_data)
        if read_delay:
            self._bus.pause(read_delay)
        answer = bytearray(rx_length or 0)
        if rx_length is not None:
            self._bus.readfrom_into(slave_address, answer)
        return self._STATUS_OK, None, bytes(answer)


def device_on(bus: OwnedBus, library_class: Any, address: int) -> Any:
    """Return the library's object for the chip at `address`."""
    assert isinstance(bus, I2CBus)
    try:
        driver: Any = importlib.import_module("sensirion_i2c_driver")
    except ImportError as error:
        raise MissingSupport(
            "the package sensirion-i2c-driver is missing", "install it with its sensor's package"
        ) from error
    return library_class(driver.I2cConnection(_Transceiver(bus)), address)


_SEN5X_FAULTS = {
    "sht_error": "the device reports a fault of its temperature and humidity sensor",
    "fan_error": "the device reports that its fan is blocked or broken",
    "fan_speed_out_of_specs": "the device reports a wrong speed of its fan",
}


class Sen5x:
    """A SEN54 or SEN55 that was started (Sensirion SEN5x 1.2, §6.1)."""

    def __init__(self, device: Any) -> None:
        self._device = device

    @property
    def data_ready(self) -> bool:
        return bool(self._device.read_data_ready())

    @property
    def values(self) -> dict[str, float | None]:
        """Return °C and %; None for a value that the device does not give.

        Raises:
            SensorFault: the device reports a fault; without its fan the values are not the air's.
        """
        status = self._device.read_device_status(clear=True)  # the flags stay until then
        for name, what in _SEN5X_FAULTS.items():
            if getattr(status, name):
                raise SensorFault(what, "switch its power off and on; else it is broken")
        measured = self._device.read_measured_values()
        celsius, humidity = measured.ambient_temperature, measured.ambient_humidity
        return {
            "temperature": celsius.degrees_celsius if celsius.available else None,
            "humidity": humidity.percent_rh if humidity.available else None,
        }


def sen5x_values(device: Any, bus: OwnedBus, options: dict[str, Any]) -> Sen5x:
    """Return what is read in place of the library's object.

    Raises:
        WrongDriver: it is a SEN50, which measures particles alone.
    """
    name = device.get_product_name()
    if name == "SEN50":
        raise WrongDriver("it is a SEN50", "it measures particles, and no temperature")
    return Sen5x(device)
