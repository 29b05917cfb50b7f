"""The catalogue: one row per Adafruit CircuitPython driver, read by `drivers.circuitpython`.

A row is data alone. Add a chip by adding a row and an extra of the same name in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from drivers.base import HUMIDITY, PRESSURE, Channel
from drivers.errors import ImplausibleValue
from drivers.owned_bus import I2CBus

__all__ = ["CATALOGUE", "ChipRow"]


class ChipRow(msgspec.Struct, frozen=True, kw_only=True):
    """How to construct a chip's driver, and which property is which channel."""

    name: str
    summary: str
    package: str
    """The distribution on PyPI; the extra of this project has the row's name."""
    module: str
    class_name: str
    addresses: tuple[int, ...]
    """I2C addresses the chip can have, the default first."""
    channels: tuple[tuple[Channel, str], ...]
    """Each channel, and the property of the class that reads it."""
    examine: Callable[[I2CBus, int], None] | None = None
    """Looks at the chip's registers after a measurement; raises SensorError if it took none."""


_BME280_DATA = 0xF7  # press, temp: 20 bits each; hum: 16 bits. Datasheet BST-BME280-DS002, §5.4.7


def _bme280_has_converted(bus: I2CBus, address: int) -> None:
    """Refuse the reset values of the data registers, which decode to a plausible room.

    0x80000 and 0x8000 also stand where a measurement is skipped (§5.4.3, §5.4.5), as after a
    brown-out that the library did not notice.
    """
    registers = bytearray(8)
    bus.writeto_then_readfrom(address, bytes([_BME280_DATA]), registers)
    pressure, temperature = registers[0:3], registers[3:6]
    humidity = registers[6:8]
    if b"\x80\x00\x00" in (pressure, temperature) or humidity == b"\x80\x00":
        raise ImplausibleValue(
            f"the BME280 at 0x{address:02x} still holds power-on values",
            "it lost its power for a moment; check the 3V3 supply",
        )


BME280 = ChipRow(
    name="bme280",
    summary="BME280 on I2C: temperature, humidity, pressure (±1 °C, ±3 %, ±1 hPa)",
    package="adafruit-circuitpython-bme280",
    module="adafruit_bme280.basic",
    class_name="Adafruit_BME280_I2C",
    addresses=(0x77, 0x76),
    channels=(
        (Channel("temperature", "°C", (-40.0, 85.0), 2), "temperature"),
        (HUMIDITY, "relative_humidity"),
        (PRESSURE, "pressure"),
    ),
    examine=_bme280_has_converted,
)

CATALOGUE: tuple[ChipRow, ...] = (BME280,)
