"""MCP3004, MCP3008 (10 bits), MCP3204 and MCP3208 (12 bits): SPI converters, through gpiozero.

`drivers.analog` converts the voltage at an input.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec

from drivers.analog import AnalogOptions, celsius_of, channel_of
from drivers.base import BcmPin, Channel, Claim, DriverInfo, Measurement
from drivers.bus import Board
from drivers.errors import MissingSupport, SensorError, as_sensor_error

__all__ = [
    "MCP3004",
    "MCP3008",
    "MCP3204",
    "MCP3208",
    "Mcp",
    "Mcp3004Options",
    "Mcp3008Options",
    "Mcp3204Options",
    "Mcp3208Options",
]

_OfFour = Annotated[int, msgspec.Meta(ge=0, le=3)]
_OfEight = Annotated[int, msgspec.Meta(ge=0, le=7)]


class Mcp3008Options(AnalogOptions, frozen=True, kw_only=True):
    """The chip's input, the sensor wired to it, and the four SPI pins (BCM numbers)."""

    chip: ClassVar[str] = "MCP3008"
    """The name of gpiozero's class."""

    channel_number: _OfEight = 0
    clock_pin: BcmPin = 11
    mosi_pin: BcmPin = 10
    miso_pin: BcmPin = 9
    select_pin: BcmPin = 8

    def bus(self) -> str:
        return f"spi{self.clock_pin}"

    def where(self) -> str:
        return f"{self.chip} on GPIO {self.select_pin} input {self.channel_number}"

    def claims(self) -> tuple[Claim, ...]:
        bus = f"SPI on GPIO {self.clock_pin}"
        lines = (self.clock_pin, self.mosi_pin, self.miso_pin)
        return (
            *(Claim(f"GPIO {pin}", bus) for pin in lines),
            Claim(f"GPIO {self.select_pin}", f"{bus} chip {self.chip}"),
            Claim(self.where()),
        )


class Mcp3208Options(Mcp3008Options, frozen=True, kw_only=True):
    """Options as for the MCP3008."""

    chip: ClassVar[str] = "MCP3208"


class Mcp3004Options(Mcp3008Options, frozen=True, kw_only=True):
    """Four inputs."""

    chip: ClassVar[str] = "MCP3004"
    channel_number: _OfFour = 0


class Mcp3204Options(Mcp3008Options, frozen=True, kw_only=True):
    """Four inputs."""

    chip: ClassVar[str] = "MCP3204"
    channel_number: _OfFour = 0


class Mcp:
    """One input of a chip."""

    def __init__(self, options: Mcp3008Options, board: Board) -> None:
        import gpiozero

        self.channels = (channel_of(options),)
        self._options = options
        pin_factory = board.pin_factory()
        try:
            self._input: Any = getattr(gpiozero, options.chip)(
                channel=options.channel_number,
                clock_pin=options.clock_pin,
                mosi_pin=options.mosi_pin,
                miso_pin=options.miso_pin,
                select_pin=options.select_pin,
                pin_factory=pin_factory,
            )
        except SensorError as error:  # our own pins', when one is in use
            raise type(error)(f"{options.where()}: {error.what}", error.hint) from error
        except OSError as error:
            raise as_sensor_error(
                error, options.where(), "switch SPI on: dtparam=spi=on"
            ) from error
        except Exception as error:  # gpiozero has about forty exceptions, without a common remedy
            raise MissingSupport(
                f"{options.where()}: {type(error).__name__}: {error}",
                "switch SPI on with dtparam=spi=on in config.txt, and check that the pins are free",
            ) from error

    def read(self) -> Measurement:
        """Return the temperature in °C from one conversion.

        Raises:
            ImplausibleValue: see `drivers.analog.celsius_of`.
        """
        try:
            raw, bits = int(self._input.raw_value), int(self._input.bits)
        except Exception as error:
            raise as_sensor_error(error, self._options.where()) from error
        # The highest code means anything above one step below the reference (DS21295, eq. 4-2).
        volts = self._options.reference_volts * raw / 2**bits
        return {"temperature": celsius_of(self._options, volts)}

    def close(self) -> None:
        self._input.close()


def _info(options: type[Mcp3008Options], inputs: int, bits: int) -> DriverInfo:
    name = options.chip.lower()
    return DriverInfo(
        name=name,
        summary=f"TMP35/36/37, LM35, thermistor at an {options.chip}: {inputs} inputs, {bits} bits",
        options=options,
        channels=(Channel("temperature", "°C", (-55.0, 150.0), 1),),
        open=Mcp,
        accuracy="TMP35/36/37 ±1 °C, LM35 ±0.5 °C, at 25 °C; and that of reference_volts",
        source="Analog Devices TMP35/36/37, table 1; TI LM35 (SNIS159), Features",
        quirks=f"one step at {bits} bits and 3.3 V is {330 / 2**bits:.2g} °C of a TMP36; "
        "an error of reference_volts goes into the value",
        example=f'driver = "{name}"\nchannel_number = 0\nsensor = "tmp36"',
    )


MCP3004 = _info(Mcp3004Options, 4, 10)
MCP3008 = _info(Mcp3008Options, 8, 10)
MCP3204 = _info(Mcp3204Options, 4, 12)
MCP3208 = _info(Mcp3208Options, 8, 12)
