"""Which simulated chip stands in for a driver of the catalogue.

A chip is made with a function that tells the air around it, the options of its sensor, and the
clock; `drivers.sim.board` puts it on its bus.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivers.bus import Clock
from drivers.errors import MissingSupport
from drivers.sim.bosch import SimulatedBme280, SimulatedBme680, SimulatedBmp280
from drivers.sim.humidity import (
    SimulatedAht20,
    SimulatedHtu21d,
    SimulatedScd4x,
    SimulatedSht3x,
    SimulatedSht4x,
    SimulatedSi7021,
)
from drivers.sim.i2c import SimulatedChip
from drivers.sim.probes import SimulatedMax31855, SimulatedMax31856, SimulatedMax31865
from drivers.sim.room import Air
from drivers.sim.spi import SimulatedSpiChip
from drivers.sim.thermometers import (
    SimulatedAds1115,
    SimulatedAdt7410,
    SimulatedMcp9808,
    SimulatedPct2075,
    SimulatedTmp117,
)

__all__ = [
    "I2C_CHIPS",
    "SPI_CHIPS",
    "NotSimulated",
    "SimulatedBme280",
    "simulated_i2c_chip",
    "simulated_spi_chip",
]

_Air = Callable[[], Air]

I2C_CHIPS: dict[str, Callable[[_Air], SimulatedChip]] = {
    "ads1115": SimulatedAds1115,
    "adt7410": SimulatedAdt7410,
    "ahtx0": SimulatedAht20,
    "bme280": SimulatedBme280,
    "bme680": SimulatedBme680,
    "bmp280": SimulatedBmp280,
    "htu21d": SimulatedHtu21d,
    "mcp9808": SimulatedMcp9808,
    "pct2075": SimulatedPct2075,
    "sht31d": SimulatedSht3x,
    "sht4x": SimulatedSht4x,
    "si7021": SimulatedSi7021,
    "tmp117": SimulatedTmp117,
}
"""Driver -> a chip for it; `scd4x`, which needs a clock, is beside it."""

SPI_CHIPS = ("max31855", "max31856", "max31865")


class NotSimulated:
    """Stands at the address of a chip that no simulation knows, and says so."""

    def __init__(self, driver: str) -> None:
        self._driver = driver

    def _say_so(self) -> MissingSupport:
        known = ", ".join(sorted([*I2C_CHIPS, "scd4x", *SPI_CHIPS]))
        return MissingSupport(
            f"there is no simulated {self._driver}",
            f"leave out --simulate, or choose one of {known}",
        )

    def write(self, sent: bytes) -> None:
        raise self._say_so()

    def read(self, length: int) -> bytes:
        raise self._say_so()


def simulated_i2c_chip(driver: str, air: _Air, clock: Clock) -> SimulatedChip:
    """The chip for `driver`; a `NotSimulated` if there is none."""
    if driver == "scd4x":
        return SimulatedScd4x(air, clock)
    return I2C_CHIPS[driver](air) if driver in I2C_CHIPS else NotSimulated(driver)


def simulated_spi_chip(driver: str, air: _Air, options: dict[str, Any]) -> SimulatedSpiChip:
    """The chip for `driver`, one of `SPI_CHIPS`."""
    if driver == "max31855":
        return SimulatedMax31855(air)
    if driver == "max31856":
        return SimulatedMax31856(air)
    return SimulatedMax31865(
        air, nominal_ohms=options["nominal_ohms"], reference_ohms=options["reference_ohms"]
    )
