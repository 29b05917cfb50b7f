"""Every chip of the catalogue, read through its Adafruit CircuitPython driver.

The drivers run unmodified on our own bus objects (`drivers.owned_bus`), which give each reading
a deadline; neither Blinka's `board` nor its platform detection is needed. A chip is constructed
at the first reading and again after a failure, so a chip that was unplugged or lost its power is
set up again when it is back. `drivers.chip_options` makes the schema of its options.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from drivers.base import DriverInfo, Measurement, refuse_implausible
from drivers.bus import Board
from drivers.chip_options import ChipOptions, example_of, options_type
from drivers.chip_row import ChipRow, Witness
from drivers.errors import (
    BadFrame,
    BusDeadline,
    MissingSupport,
    SensorError,
    SensorFault,
    SensorNotFound,
    SensorTimeout,
    WrongDriver,
    as_sensor_error,
)
from drivers.owned_bus import I2CBus

__all__ = ["Chip", "chip_driver"]

_READY_POLL_S = 0.05
_FROZEN_AFTER = 50
_FRESH_WITHIN_S = 1.0
"""Longer than several measuring periods of every chip with a `fresh` witness."""
_SPARE_S = 0.1


class Chip:
    """One chip of the catalogue on its bus."""

    def __init__(self, row: ChipRow, options: ChipOptions, board: Board) -> None:
        self.channels = row.channels
        self._row = row
        self._options = options
        module = _library(row)
        self._bus = options.open_bus(board)
        self._clock = board.clock
        self._answered_s = -math.inf
        """When the chip last gave values."""
        with self._sorted_errors(), self._bus.within(row.budget_s):
            self._device = self._set_up(module)

    def _set_up(self, module: ModuleType) -> Any:
        """Return the library's object, measuring.

        Raises:
            SensorNotFound: the address does not acknowledge.
            WrongDriver: the chip has the identification of another chip of the catalogue.
            BadFrame: something acknowledges, but is not what the library expects.
        """
        row, given = self._row, self._options.given()
        try:
            device = _construct(row, module, self._bus, self._options)
            if row.start:
                getattr(device, row.start)()
        except (OSError, BusDeadline, SensorError):
            raise
        except Exception as error:
            # Libraries do not have a distinct error for an absent chip or a different one.
            self._expect_an_answer()
            self._expect_this_chip()
            raise BadFrame(
                f"{self._options.where()}: {error}",
                f"another chip, or a bad wire; the driver is {row.name}",
            ) from error
        if row.prepare is not None:
            device = row.prepare(device, self._bus, given)
        if row.mark is not None:
            mark = row.mark
            assert isinstance(self._bus, I2CBus)
            content = mark.value.to_bytes(mark.length, "big")
            self._bus.writeto(self._options.i2c_address(), bytes([mark.register]) + content)
        if row.settle_s:
            self._bus.pause(row.settle_s)
        return device

    def _expect_an_answer(self) -> None:
        if not isinstance(self._bus, I2CBus):
            return
        from adafruit_bus_device.i2c_device import I2CDevice

        self._bus.unlock()
        address = self._options.i2c_address()
        try:
            I2CDevice(self._bus, address)
        except ValueError as error:  # I2CDevice reports a NACK this way
            others = [a for a in self._row.addresses if a != address]
            hint = "check power, SDA and SCL"
            if others:
                hint += ", or try address = " + " or ".join(f"0x{a:02x}" for a in others)
            raise SensorNotFound(f"{self._options.where()}: {error}", hint) from error

    def _expect_this_chip(self) -> None:
        """Check that the chip does not belong to another driver of the catalogue.

        Raises:
            WrongDriver: the chip belongs to another driver.
        """
        if not isinstance(self._bus, I2CBus):
            return
        from drivers.scan_i2c import drivers_told  # loads the whole catalogue

        told = drivers_told(self._bus, self._options.i2c_address())
        if told and self._row.name not in told:
            raise WrongDriver(
                f"{self._options.where()}: the chip there is no {self._row.name}: it has the "
                f"identification of {' and '.join(told)}",
                "set " + " or ".join(f'driver = "{name}"' for name in told),
            )

    def read(self) -> Measurement:
        """Read each channel, ask the chip for faults, and refuse implausible values."""
        if again_s := self.prime():
            self._clock.sleep(again_s)
        with self._sorted_errors(), self._bus.within(self._row.budget_s):
            measurement = self._proven()
        self._answered_s = self._clock.monotonic()
        return refuse_implausible(
            measurement,
            self.channels,
            where=self._options.where(),
            hint=f"the bus is dead or the chip damaged; check {self._options.wiring()}",
        )

    def prime(self) -> float:
        """Ask a chip whose next answer would be too old; see `drivers.base.Primed`."""
        row = self._row
        if not row.memory_s or self._clock.monotonic() - self._answered_s <= row.memory_s:
            return 0.0
        with self._sorted_errors(), self._bus.within(row.budget_s):
            self._values()
        self._answered_s = self._clock.monotonic()
        return row.min_interval_s + _SPARE_S

    def _proven(self) -> Measurement:
        """Return each value that is proven to be new and valid.

        Raises:
            SensorError: the proof is missing, or this is another chip or a dead bus.
        """
        row = self._row
        if row.ready:
            while not getattr(self._device, row.ready):
                self._bus.pause(_READY_POLL_S)
        if row.fresh is not None:
            self._wait_for(row.fresh)
        measurement = self._values()
        if row.check is not None:
            row.check(self._device, self._bus, self._options.i2c_address())
        if row.invalid is not None:
            for name in row.invalid(self._device, self._bus, self._options.i2c_address()):
                del measurement[name]
        for witness in (row.witness, row.running, row.mark.witness if row.mark else None):
            if witness is not None:
                self._hear(witness)
        if self._bus.dead_byte is not None:
            raise BadFrame("no sign of life")
        return measurement

    def _values(self) -> Measurement:
        answers: dict[str, Any] = {}
        measurement: Measurement = {}
        for reads in self._row.reads:
            if reads.attribute not in answers:
                answer = getattr(self._device, reads.attribute)
                answers[reads.attribute] = answer() if callable(answer) else answer
            answer = answers[reads.attribute]
            value = answer if reads.index is None else answer[reads.index]
            if value is None:
                raise BadFrame(f"{self._options.where()}: no {reads.channel.name}", self._noise())
            measured = float(value)
            measurement[reads.channel.name] = reads.mended(measured) if reads.mended else measured
        return measurement

    def _content(self, witness: Witness) -> int:
        assert isinstance(self._bus, I2CBus)
        answer = bytearray(witness.length)
        number = witness.register.to_bytes(2 if witness.register > 0xFF else 1, "big")
        self._bus.writeto_then_readfrom(self._options.i2c_address(), number, answer)
        return int.from_bytes(answer, "big")

    def _wait_for(self, fresh: Witness) -> None:
        """Wait for a measurement that was not read before.

        Raises:
            BadFrame: no new measurement appears.
        """
        until_s = self._clock.monotonic() + _FRESH_WITHIN_S
        while not fresh.accepts(self._content(fresh)):
            if self._clock.monotonic() > until_s:
                raise BadFrame(
                    f"{self._options.where()}: no new measurement for {_FRESH_WITHIN_S:g} s",
                    f"the chip lost its power, or hangs; check {self._options.wiring()}",
                )
            self._bus.pause(_READY_POLL_S)

    def _hear(self, witness: Witness) -> None:
        """Check a register.

        Raises:
            BadFrame, WrongDriver: its content is not that of a chip of this kind that was set up
                and measures.
        """
        content = self._content(witness)
        if not witness.accepts(content):
            if witness.identifies:
                self._expect_this_chip()
            raise BadFrame(
                f"{self._options.where()}: register 0x{witness.register:02x} has 0x{content:x}, "
                f"which no {self._row.name} has there",
                f"the chip lost its power, or the bus is dead; check {self._options.wiring()}",
            )

    @contextmanager
    def _sorted_errors(self) -> Iterator[None]:
        """Turn any exception of the library into a `SensorError`."""
        where = self._options.where()
        try:
            yield
        except (MissingSupport, SensorNotFound, WrongDriver):
            raise
        except OSError as error:
            # Without a number it is a library's own: Sensirion's raise it for a wrong checksum.
            if error.errno is None and self._bus.dead_byte is not None:
                raise self._silence(in_vain=False) from error
            raise as_sensor_error(error, where) from error
        except Exception as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(error, SensorError):
                raise as_sensor_error(cause, where) from error  # adafruit_scd4x wraps it
            if self._bus.dead_byte is not None:
                raise self._silence(isinstance(error, BusDeadline)) from error
            for what, remedy in self._row.faults:
                if str(error) == what:
                    raise SensorFault(f"{where}: {what}", remedy) from error
            if isinstance(error, SensorFault) and not error.what.startswith(where):
                raise SensorFault(f"{where}: {error.what}", error.hint) from error
            if isinstance(error, SensorError):
                raise
            hint = "" if isinstance(error, BusDeadline) else self._noise()
            raise as_sensor_error(error, where, hint) from error

    def _noise(self) -> str:
        return f"noise, or a loose wire; check {self._options.wiring()}"

    def _silence(self, in_vain: bool) -> SensorError:
        """Return the error for equal bytes; `in_vain`: the library waited for other ones."""
        dead = self._bus.dead_byte
        level = "low" if dead == 0 else "high"
        stuck = f"{'SDA' if isinstance(self._bus, I2CBus) else 'MISO'} is stuck {level}"
        if not in_vain:
            return BadFrame(
                f"{self._options.where()}: every byte read was 0x{dead:02x}",
                f"{stuck}; check {self._options.wiring()}",
            )
        return SensorTimeout(
            f"{self._options.where()}: every byte read was 0x{dead:02x}, "
            f"for {self._row.budget_s:g} s",
            f"{stuck}, or the chip hangs; check {self._options.wiring()}, "
            "and switch its power off and on",
        )

    def close(self) -> None:
        """The bus stays open for its other chips."""


def _library(row: ChipRow) -> ModuleType:
    """Return the library's module.

    Raises:
        MissingSupport: the package is not installed, or cannot be used on this computer.
    """
    try:
        module = importlib.import_module(row.module)
        getattr(module, row.class_name)
    except Exception as error:  # Blinka raises RuntimeError and NotImplementedError on import
        from drivers.packages import install_command

        raise MissingSupport(
            f"{row.name}: the package {row.package} is not usable here ({error})",
            install_command(row.name),
        ) from error
    return module


def _construct(row: ChipRow, module: ModuleType, bus: Any, options: ChipOptions) -> Any:
    library_class = getattr(module, row.class_name)
    given = options.given()
    keywords: dict[str, Any] = {}
    for option in row.options:
        value = given[option.name]
        if option.meaning:
            value = option.meaning[value]
        if option.enumeration:
            value = getattr(getattr(module, option.enumeration), value)
        if option.argument:
            keywords[option.argument] = value
    if row.construct == "spi":
        return library_class(bus, bus.chip_select, **keywords)
    if row.construct == "fixed":
        return library_class(bus, **keywords)
    address = options.i2c_address()
    if row.made_by is not None:
        return row.made_by(bus, library_class, address)
    if row.construct == "device":
        from adafruit_bus_device.i2c_device import I2CDevice

        return library_class(I2CDevice(bus, address), **keywords)
    return library_class(bus, **{row.construct: address}, **keywords)


def chip_driver(row: ChipRow) -> DriverInfo:
    """Return the driver of one row of the catalogue."""
    return DriverInfo(
        name=row.name,
        summary=row.summary,
        aliases=row.aliases,
        is_die=row.is_die,
        options=options_type(row),
        channels=row.channels,
        open=lambda options, board: Chip(row, options, board),
        example=example_of(row),
        accuracy=row.accuracy,
        source=row.source,
        quirks=row.quirks,
        min_interval_s=row.min_interval_s,
        frozen_after=_FROZEN_AFTER if row.noisy else 0,
        read_budget_s=2 * row.budget_s + 1.0,  # the chip may have to be set up first
        extra=row.name,
    )
