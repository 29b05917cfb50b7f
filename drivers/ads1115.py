"""ADS1115: the voltage at an input, by its catalogue row, or the temperature of an analog sensor.

The chip has an internal reference, so the voltage does not depend on the supply. A thermistor's
divider does, and `reference_volts` gives its supply. Sensors at the four inputs share the chip:
each reading sets the chip up for one input and converts once.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from drivers.analog import AnalogOptions, celsius_of, channel_of
from drivers.base import Channel, Claim, DriverInfo, Measurement
from drivers.bus import Board
from drivers.catalogue import CATALOGUE
from drivers.chip_options import I2CChipOptions
from drivers.circuitpython import Chip, chip_driver

__all__ = ["ADS1115", "Ads1115", "Ads1115Options"]

_ROW = next(row for row in CATALOGUE if row.name == "ads1115")
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
        chip, *wires = super().claims()
        return (
            Claim(chip.resource, "ADS1115"),
            Claim(f"{chip.resource} input {self.input}"),
            *wires,
        )


class _Wired(AnalogOptions, frozen=True, kw_only=True):
    place: str

    def where(self) -> str:
        return self.place


class Ads1115:
    """An analog sensor at one input."""

    def __init__(self, options: Ads1115Options, board: Board) -> None:
        self._wired = options.wired()
        self.channels = (channel_of(self._wired),)
        self._chip = Chip(_ROW, options, board)

    def read(self) -> Measurement:
        """Return the temperature in °C from one conversion.

        Raises:
            ImplausibleValue: see `drivers.analog.celsius_of`; or a voltage beyond full_scale.
        """
        volts = self._chip.read()["voltage"]
        return {"temperature": celsius_of(self._wired, volts, supply_tolerance=_SUPPLY_TOLERANCE)}

    def close(self) -> None:
        self._chip.close()


def _open(options: Ads1115Options, board: Board) -> Chip | Ads1115:
    return Chip(_ROW, options, board) if options.sensor == "voltage" else Ads1115(options, board)


ADS1115: DriverInfo = msgspec.structs.replace(
    chip_driver(_ROW),
    options=Ads1115Options,
    open=_open,
    example='driver = "ads1115"\naddress = 0x48\ninput = 0\nsensor = "voltage"',
)
