"""ADS1115 and ADS1015: the voltage at an input, by its row, or an analog sensor's temperature.

An ADS1015 has 12 bits, and is otherwise the same. The chip has an internal reference, so the
voltage does not depend on the supply. A thermistor's divider does, and `reference_volts` gives its
supply. Sensors at the four inputs share the chip: each reading sets the chip up for one input and
converts once.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from drivers.analog import AnalogOptions, celsius_of, channel_of
from drivers.base import Channel, Claim, DriverInfo, Measurement
from drivers.bus import Board
from drivers.catalogue import CATALOGUE
from drivers.chip_options import I2CChipOptions
from drivers.chip_row import ChipRow
from drivers.circuitpython import Chip, chip_driver

__all__ = ["ADS1015", "ADS1115", "Ads1015Options", "Ads1115", "Ads1115Options"]

# A Pi's 3V3 is accurate to 5 %; a thermistor's open wire is at 3V3, not at reference_volts.
_SUPPLY_TOLERANCE = 0.05

_Sensor = Annotated[
    Literal["voltage", "tmp35", "tmp36", "tmp37", "lm35", "thermistor"],
    msgspec.Meta(description="voltage, tmp35, tmp36, tmp37, lm35, thermistor"),
]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Coefficients = Annotated[
    tuple[float, float, float], msgspec.Meta(description="three numbers, [a, b, c]")
]


class Ads1115Options(I2CChipOptions, frozen=True, kw_only=True):
    """The input and its range, and the sensor wired to it: the keys of `AnalogOptions`."""

    address: Literal[0x48, 0x49, 0x4A, 0x4B] = 0x48
    input: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0
    full_scale: Literal["6.144 V", "4.096 V", "2.048 V", "1.024 V"] = "4.096 V"
    sensor: _Sensor = "voltage"
    reference_volts: _Positive = 3.3
    beta: _Positive = 3950.0
    nominal_ohms: _Positive = 10_000.0
    series_ohms: _Positive = 10_000.0
    steinhart_hart: _Coefficients | None = None

    def __post_init__(self) -> None:
        if self.sensor != "voltage":
            self.wired()
        elif self.steinhart_hart is not None:
            raise ValueError('steinhart_hart is for sensor = "thermistor"')

    def chip(self) -> str:
        """Return the name of the chip, which sensors at its other inputs must have too."""
        return "ADS1115"

    def wired(self) -> AnalogOptions:
        """Return the analog sensor at the input, which exists unless `sensor` is "voltage"."""
        assert self.sensor != "voltage"
        return _Wired(
            sensor=self.sensor,
            reference_volts=self.reference_volts,
            beta=self.beta,
            nominal_ohms=self.nominal_ohms,
            series_ohms=self.series_ohms,
            steinhart_hart=self.steinhart_hart,
            place=f"{self.where()} input {self.input}",
        )

    def channels(self) -> tuple[Channel, ...]:
        return () if self.sensor == "voltage" else (channel_of(self.wired()),)

    def accuracy(self) -> str:
        return "" if self.sensor == "voltage" else self.wired().accuracy()

    def claims(self) -> tuple[Claim, ...]:
        chip, *others = super().claims()
        return (
            Claim(chip.resource, self.chip()),
            Claim(f"{chip.resource} input {self.input}"),
            *others,
        )


class Ads1015Options(Ads1115Options, frozen=True, kw_only=True):
    """The same for an ADS1015."""

    def chip(self) -> str:
        return "ADS1015"


class _Wired(AnalogOptions, frozen=True, kw_only=True):
    place: str

    def where(self) -> str:
        return self.place


class Ads1115:
    """An analog sensor at one input."""

    def __init__(self, row: ChipRow, options: Ads1115Options, board: Board) -> None:
        self._wired = options.wired()
        self.channels = (channel_of(self._wired),)
        self._chip = Chip(row, options, board)

    def read(self) -> Measurement:
        """Return the temperature in °C from one conversion.

        Raises:
            ImplausibleValue: see `drivers.analog.celsius_of`; or a voltage beyond full_scale.
        """
        volts = self._chip.read()["voltage"]
        return {"temperature": celsius_of(self._wired, volts, supply_tolerance=_SUPPLY_TOLERANCE)}

    def close(self) -> None:
        self._chip.close()


def _driver(name: str, options: type[Ads1115Options]) -> DriverInfo:
    row = next(row for row in CATALOGUE if row.name == name)

    def open_(options: Ads1115Options, board: Board) -> Chip | Ads1115:
        if options.sensor == "voltage":
            return Chip(row, options, board)
        return Ads1115(row, options, board)

    return msgspec.structs.replace(
        chip_driver(row),
        options=options,
        open=open_,
        example=f'driver = "{name}"\naddress = 0x48\ninput = 0\nsensor = "voltage"',
    )


ADS1115 = _driver("ads1115", Ads1115Options)
ADS1015 = _driver("ads1015", Ads1015Options)
