"""Which simulated chip stands in for a driver of the catalogue.

A chip is made with a function that returns the air around it, the options of its sensor, and the
clock; `drivers.sim.board` puts it on its bus.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivers.bus import Clock
from drivers.errors import MissingSupport
from drivers.sim.bosch import SimulatedBme280, SimulatedBme680, SimulatedBmp280
from drivers.sim.camera import SimulatedMlx90640
from drivers.sim.commands import (
    SimulatedAm2320,
    SimulatedHdc302x,
    SimulatedHtu31d,
    SimulatedScd30,
    SimulatedSeesaw,
    SimulatedSen5x,
    SimulatedSen63c,
    SimulatedSen66,
    SimulatedShtc3,
    SimulatedStcc4,
)
from drivers.sim.compensated import SimulatedMlx90632, SimulatedMs8607Pressure
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
from drivers.sim.registers import BYTE_LAYOUTS, WORD_LAYOUTS, AirRegisters, AirWords
from drivers.sim.room import Air
from drivers.sim.spi import SimulatedSpiChip
from drivers.sim.thermometers import (
    SimulatedAds1015,
    SimulatedAds1115,
    SimulatedAdt7410,
    SimulatedMcp9808,
    SimulatedMlx90614,
    SimulatedPct2075,
    SimulatedTmp117,
)

__all__ = [
    "CHIPS_BESIDE",
    "I2C_CHIPS",
    "SPI_CHIPS",
    "NotSimulated",
    "SimulatedBme280",
    "simulated_i2c_chip",
    "simulated_spi_chip",
]

_Air = Callable[[], Air]

_PLAIN: dict[str, Callable[[_Air], SimulatedChip]] = {
    "ads1015": SimulatedAds1015,
    "ads1115": SimulatedAds1115,
    "adt7410": SimulatedAdt7410,
    "ahtx0": SimulatedAht20,
    "am2320": SimulatedAm2320,
    "bme280": SimulatedBme280,
    "bme680": SimulatedBme680,
    "bmp280": SimulatedBmp280,
    "hdc302x": SimulatedHdc302x,
    "htu21d": SimulatedHtu21d,
    "htu31d": SimulatedHtu31d,
    "mcp9808": SimulatedMcp9808,
    "mlx90614": SimulatedMlx90614,
    "mlx90632": SimulatedMlx90632,
    "ms8607": SimulatedMs8607Pressure,
    "pct2075": SimulatedPct2075,
    "seesaw": SimulatedSeesaw,
    "sht31d": SimulatedSht3x,
    "sht4x": SimulatedSht4x,
    "shtc3": SimulatedShtc3,
    "si7021": SimulatedSi7021,
    "stcc4": SimulatedStcc4,
    "tmp117": SimulatedTmp117,
}
_PERIODIC: dict[str, Callable[[_Air, Clock], SimulatedChip]] = {
    "mlx90640": SimulatedMlx90640,
    "scd30": SimulatedScd30,
    "scd4x": SimulatedScd4x,
    "sen5x": SimulatedSen5x,
    "sen63c": SimulatedSen63c,
    "sen66": SimulatedSen66,
}

CHIPS_BESIDE: dict[str, dict[int, Callable[[_Air], SimulatedChip]]] = {
    "ms8607": {0x40: SimulatedHtu21d}
}
"""Driver -> the further chips of its sensor, by their addresses."""

I2C_CHIPS = tuple(sorted((*_PLAIN, *_PERIODIC, *BYTE_LAYOUTS, *WORD_LAYOUTS)))
"""Drivers with a simulated chip."""

SPI_CHIPS = ("max31855", "max31856", "max31865")


class NotSimulated:
    """A placeholder for a chip that cannot be simulated; raises an error that says so."""

    def __init__(self, driver: str) -> None:
        self._driver = driver

    def _say_so(self) -> MissingSupport:
        return MissingSupport(
            f"there is no simulated {self._driver}",
            "leave out --simulate; drivers/README.md has the chips that it knows",
        )

    def write(self, sent: bytes) -> None:
        raise self._say_so()

    def read(self, length: int) -> bytes:
        raise self._say_so()


def simulated_i2c_chip(driver: str, air: _Air, clock: Clock) -> SimulatedChip:
    """Return the chip for `driver`; a `NotSimulated` if it cannot be simulated."""
    if driver in _PERIODIC:
        return _PERIODIC[driver](air, clock)
    if driver in BYTE_LAYOUTS:
        return AirRegisters(BYTE_LAYOUTS[driver], air)
    if driver in WORD_LAYOUTS:
        return AirWords(*WORD_LAYOUTS[driver], air)
    return _PLAIN[driver](air) if driver in _PLAIN else NotSimulated(driver)


def simulated_spi_chip(driver: str, air: _Air, options: dict[str, Any]) -> SimulatedSpiChip:
    """Return the chip for `driver`, one of `SPI_CHIPS`."""
    if driver == "max31855":
        return SimulatedMax31855(air)
    if driver == "max31856":
        return SimulatedMax31856(air)
    return SimulatedMax31865(
        air, nominal_ohms=options["nominal_ohms"], reference_ohms=options["reference_ohms"]
    )
