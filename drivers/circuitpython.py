"""Every chip of the catalogue, by way of its Adafruit CircuitPython driver.

The drivers run unmodified on our own bus object (`drivers.owned_bus.I2CBus`), which gives each
reading a deadline; neither Blinka's `board` nor its platform detection is needed. A chip is
constructed at the first reading and again after a failure, so one that was unplugged or lost its
power is set up afresh when it is back.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any, Literal, cast

import msgspec

from drivers.base import Claim, DriverInfo, Measurement, Options, refuse_implausible
from drivers.bus import Board
from drivers.catalogue import ChipRow
from drivers.errors import (
    BadFrame,
    MissingSupport,
    SensorNotFound,
    as_sensor_error,
)

__all__ = ["Chip", "chip_driver"]

READ_BUDGET_S = 3.0


class _ChipOptions(Options, frozen=True, kw_only=True):
    """`bus` is the number in /dev/i2c-<bus>; `address` the chip's, 7 bits."""

    bus_number: Annotated[int, msgspec.Meta(ge=0)] = msgspec.field(default=1, name="bus")
    address: int

    def bus(self) -> str:
        return f"i2c{self.bus_number}"

    def where(self) -> str:
        return f"I2C bus {self.bus_number} address 0x{self.address:02x}"

    def claims(self) -> tuple[Claim, ...]:
        pins = (2, 3) if self.bus_number == 1 else ()  # SDA and SCL of the 40-pin header
        shared = (Claim(f"GPIO {pin}", "I2C bus 1") for pin in pins)
        return (Claim(self.where()), *shared)


class Chip:
    """One chip of the catalogue on an I2C bus."""

    def __init__(self, row: ChipRow, options: _ChipOptions, board: Board) -> None:
        self.channels = tuple(channel for channel, _ in row.channels)
        self._row = row
        self._options = options
        self._bus = board.i2c(options.bus_number)
        try:
            library_class = getattr(importlib.import_module(row.module), row.class_name)
        except (ImportError, AttributeError) as error:
            raise MissingSupport(
                f"{row.name}: the package {row.package} is not usable here ({error})",
                f"pip install 'pi-sensor-node[{row.name}]'",
            ) from error
        try:
            with self._bus.within(READ_BUDGET_S):
                self._device: Any = library_class(self._bus, address=options.address)
        except ValueError as error:
            # adafruit_bus_device probes the address, and turns a NACK into a ValueError.
            raise SensorNotFound(f"{options.where()}: {error}", self._absent_hint()) from error
        except RuntimeError as error:
            raise BadFrame(
                f"{options.where()}: {error}",
                f"another chip, or a bad wire; the driver is {row.name}",
            ) from error
        except Exception as error:
            raise as_sensor_error(error, options.where()) from error

    def read(self) -> Measurement:
        """Read each channel, and refuse what the chip cannot mean."""
        try:
            with self._bus.within(READ_BUDGET_S):
                measurement = {
                    channel.name: self._value(attribute)
                    for channel, attribute in self._row.channels
                }
                if self._row.examine is not None:
                    self._row.examine(self._bus, self._options.address)
        except Exception as error:
            raise as_sensor_error(error, self._options.where()) from error
        refuse_implausible(
            measurement,
            self.channels,
            where=self._options.where(),
            hint="the bus is dead or the chip damaged; check SDA, SCL and power",
        )
        return measurement

    def _value(self, attribute: str) -> float:
        value = getattr(self._device, attribute)
        if value is None:
            raise BadFrame(f"{self._row.name}: no {attribute} yet")
        return float(value)

    def _absent_hint(self) -> str:
        others = [a for a in self._row.addresses if a != self._options.address]
        hint = "check power, SDA and SCL"
        if others:
            hint += ", or try address = " + " or ".join(f"0x{a:02x}" for a in others)
        return hint

    def close(self) -> None:
        """The bus stays open for its other chips."""


def chip_driver(row: ChipRow) -> DriverInfo:
    """The driver of one row of the catalogue."""
    default = row.addresses[0]
    address = ("address", Literal[row.addresses], default)
    options = msgspec.defstruct(
        "ChipOptions", [address], bases=(_ChipOptions,), frozen=True, kw_only=True
    )
    return DriverInfo(
        name=row.name,
        summary=row.summary,
        options=cast("type[Options]", options),
        channels=tuple(channel for channel, _ in row.channels),
        open=lambda options, board: Chip(row, options, board),
        example=f'driver = "{row.name}"\naddress = 0x{default:02x}',
        read_budget_s=READ_BUDGET_S + 1.0,
        extra=row.name,
    )
