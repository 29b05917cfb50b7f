"""Analog temperature sensors behind an MCP3008, an eight-channel 10-bit ADC, through gpiozero."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec

from drivers.base import BcmPin, Channel, Claim, DriverInfo, Measurement, Options
from drivers.bus import Board
from drivers.errors import ImplausibleValue, MissingSupport, as_sensor_error

__all__ = ["MCP3008", "Mcp3008", "Mcp3008Options", "lm35_celsius", "thermistor_celsius"]

_FULL_SCALE = 1023  # 10 bits
_KELVIN = 273.15

_Positive = Annotated[float, msgspec.Meta(gt=0)]

# Each part's own limits: TMP35/36/37 and LM35 datasheets, "Specifications".
_CHANNELS = {
    "tmp36": Channel("temperature", "°C", (-40.0, 125.0), 1),
    "lm35": Channel("temperature", "°C", (2.0, 150.0), 1),
    "thermistor": Channel("temperature", "°C", (-55.0, 150.0), 1),
}


class Mcp3008Options(Options, frozen=True, kw_only=True):
    """The input of the chip, what is wired to it, and the four SPI pins (BCM numbers)."""

    channel_number: Annotated[int, msgspec.Meta(ge=0, le=7)] = 0
    sensor: Literal["tmp36", "lm35", "thermistor"] = "tmp36"
    reference_volts: _Positive = 3.3
    beta: _Positive = 3950.0
    nominal_ohms: _Positive = 10_000.0
    series_ohms: _Positive = 10_000.0
    clock_pin: BcmPin = 11
    mosi_pin: BcmPin = 10
    miso_pin: BcmPin = 9
    select_pin: BcmPin = 8

    def bus(self) -> str:
        return f"spi{self.clock_pin}"

    def where(self) -> str:
        return f"MCP3008 on GPIO {self.select_pin} input {self.channel_number}"

    def claims(self) -> tuple[Claim, ...]:
        bus = f"SPI on GPIO {self.clock_pin}"
        lines = (self.clock_pin, self.mosi_pin, self.miso_pin)
        return (
            *(Claim(f"GPIO {pin}", bus) for pin in lines),
            Claim(f"GPIO {self.select_pin}", f"{bus} chip MCP3008"),
            Claim(self.where()),
        )


def tmp36_celsius(volts: float) -> float:
    """10 mV/°C with 500 mV at 0 °C (TMP36 datasheet, table 1)."""
    return (volts - 0.5) * 100


def lm35_celsius(volts: float) -> float:
    """10 mV/°C from 0 V (LM35 datasheet, "Basic centigrade sensor")."""
    return volts * 100


def thermistor_celsius(
    fraction: float, *, beta: float, nominal_ohms: float, series_ohms: float
) -> float:
    """Beta equation for an NTC thermistor between the input and ground.

    `fraction` is the input voltage over the reference, 0 < fraction < 1; `series_ohms` stands
    between the input and the reference; `nominal_ohms` holds at 25 °C.
    """
    ohms = series_ohms * fraction / (1 - fraction)
    kelvin = 1 / (1 / (25 + _KELVIN) + math.log(ohms / nominal_ohms) / beta)
    return kelvin - _KELVIN


class Mcp3008:
    """One input of the chip."""

    def __init__(self, options: Mcp3008Options, board: Board) -> None:
        import gpiozero

        self.channels = (_CHANNELS[options.sensor],)
        self._options = options
        pin_factory = board.pin_factory()
        try:
            self._input: Any = gpiozero.MCP3008(
                channel=options.channel_number,
                clock_pin=options.clock_pin,
                mosi_pin=options.mosi_pin,
                miso_pin=options.miso_pin,
                select_pin=options.select_pin,
                pin_factory=pin_factory,
            )
        except OSError as error:
            raise as_sensor_error(
                error, options.where(), "switch SPI on: dtparam=spi=on"
            ) from error
        except Exception as error:  # gpiozero has some forty exceptions and no common remedy
            raise MissingSupport(
                f"{options.where()}: {type(error).__name__}: {error}",
                "switch SPI on with dtparam=spi=on in config.txt, and check that the pins are free",
            ) from error

    def read(self) -> Measurement:
        """Temperature in °C from one conversion.

        Raises:
            ImplausibleValue: the input is at 0 V or at the reference (a short, an open wire, or
                a chip without power), or outside the range of the part.
        """
        try:
            raw = int(self._input.raw_value)
        except Exception as error:
            raise as_sensor_error(error, self._options.where()) from error
        if raw in (0, _FULL_SCALE):
            rail = "0 V" if raw == 0 else f"{self._options.reference_volts:g} V"
            raise ImplausibleValue(
                f"{self._options.where()} is at {rail}",
                "look for a short or an open wire, and check the power of the chip",
            )
        celsius = self._celsius(raw / (_FULL_SCALE + 1))
        low, high = self.channels[0].plausible
        if not low <= celsius <= high:
            raise ImplausibleValue(
                f"{self._options.where()}: {celsius:.1f} °C is outside {low:g} to {high:g}",
                f"is a {self._options.sensor} wired to this input?",
            )
        return {"temperature": celsius}

    def _celsius(self, fraction: float) -> float:
        options = self._options
        if options.sensor == "tmp36":
            return tmp36_celsius(fraction * options.reference_volts)
        if options.sensor == "lm35":
            return lm35_celsius(fraction * options.reference_volts)
        return thermistor_celsius(
            fraction,
            beta=options.beta,
            nominal_ohms=options.nominal_ohms,
            series_ohms=options.series_ohms,
        )

    def close(self) -> None:
        self._input.close()


MCP3008 = DriverInfo(
    name="mcp3008",
    summary="TMP36, LM35 or thermistor at an input of an MCP3008",
    options=Mcp3008Options,
    channels=(Channel("temperature", "°C", (-55.0, 150.0), 1),),
    open=Mcp3008,
    example='driver = "mcp3008"\nchannel_number = 0\nsensor = "tmp36"',
)
