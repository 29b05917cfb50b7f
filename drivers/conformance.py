"""The rules for every driver, as checks that any driver package can run on itself.

A check raises `NotConformant`, an AssertionError, and needs no test framework:

    from drivers.conformance import Conformance
    from my_package.pond import POND

    def test_my_driver_conforms():
        Conformance(POND).check_all()

Hardware that the simulation does not know is added to the healthy board by `attach`: the package's
own chip at its address, or a file. The dead boards of `drivers.sim.dead` do not need it.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable

import msgspec

from drivers.base import Channel, Driver, DriverInfo, Measurement, Options, fault_of
from drivers.bus import Board, Clock
from drivers.errors import SensorError
from drivers.sim.board import SimulatedBoard
from drivers.sim.dead import DEATHS, DeadBoard, Death

__all__ = ["Conformance", "NotConformant", "example_options"]

_NAME = r"[A-Za-z0-9_-]+"
# Keys of a state and parts of a topic that are not channels.
_TAKEN = {"time", "clock", "seq", "stream", "sensor", "state", "availability"}


class NotConformant(AssertionError):
    """A driver breaks the contract of `drivers.base`."""


def _expect(condition: object, what: str) -> None:
    if not condition:
        raise NotConformant(what)


def example_options(info: DriverInfo) -> Options:
    """Return the options in a driver's example.

    Raises:
        NotConformant: the example is not the table of a sensor of that driver.
    """
    try:
        table = tomllib.loads(info.example)
        _expect(table.pop("driver", None) == info.name, f"the example is not of {info.name}")
        return msgspec.convert(table, info.options)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise NotConformant(
            f"the example of {info.name} is not a configuration: {error}"
        ) from error


class Conformance:
    """The checks for one driver, with the options of its example unless others are given."""

    def __init__(
        self,
        info: DriverInfo,
        options: Options | None = None,
        *,
        attach: Callable[[SimulatedBoard], object] = lambda board: None,
        clock: Clock | None = None,
    ) -> None:
        self._info = info
        self._options = example_options(info) if options is None else options
        self._attach = attach
        self._clock = clock

    def check_all(self) -> None:
        """Run every check, one after another."""
        self.check_declaration()
        self.check_readings()
        for death in DEATHS:
            self.check_dead(death)

    def check_declaration(self) -> None:
        """Check that the driver's declaration is complete and makes sense, without hardware."""
        info = self._info
        _expect(re.fullmatch(_NAME, info.name), f"{info.name!r} cannot be the name of a driver")
        _expect(info.summary.strip(), "there is no summary")
        _expect(info.min_interval_s >= 0, "min_interval_s is below 0")
        _expect(info.read_budget_s > 0, "a read may take no time")
        self._check_channels(info.channels)
        example_options(info)
        fault = fault_of(self._options)
        _expect(not fault, f"the options are wrong: {fault}")
        _expect(self._options.bus(), "the options name no bus")
        _expect(self._options.where(), "the options do not say where the sensor is")
        resources = [claim.resource for claim in self._options.claims()]
        _expect(len(set(resources)) == len(resources), f"it claims twice: {resources}")

    def _check_channels(self, channels: tuple[Channel, ...]) -> None:
        _expect(channels, "there is no channel")
        names = [channel.name for channel in channels]
        _expect(len(set(names)) == len(names), f"two channels have one name: {names}")
        for channel in channels:
            is_name = re.fullmatch(_NAME, channel.name) and channel.name not in _TAKEN
            _expect(is_name, f"{channel.name!r} cannot be the name of a channel")
            _expect(channel.unit, f"{channel.name} has no unit")
            low, high = channel.plausible
            _expect(low < high, f"{channel.name} can mean nothing: {low:g} to {high:g}")
            _expect(math.isfinite(low) and math.isfinite(high), f"{channel.name} can be anything")
            _expect(0 <= channel.decimals <= 6, f"{channel.name} has {channel.decimals} decimals")

    def check_readings(self) -> None:
        """Check that a healthy sensor gives each channel, can be closed twice, and reopened."""
        board = SimulatedBoard(self._clock)
        board.attach(self._info.name, self._options, simulate=self._info.simulate)
        self._attach(board)
        for _ in range(2):
            sensor = self._opened(board)
            try:
                self._check_against_declared(sensor.channels)
                for _ in range(2):
                    self._check_measurement(sensor.read(), sensor.channels)
            except SensorError as error:
                raise NotConformant(f"a healthy sensor does not give a reading: {error}") from error
            finally:
                self._close_twice(sensor)

    def _check_against_declared(self, channels: tuple[Channel, ...]) -> None:
        """Check that an open sensor has its driver's channels, perhaps in narrower ranges."""
        self._check_channels(channels)
        channels_declared = self._info.channels_with(self._options)
        declared = {channel.name: channel for channel in channels_declared}
        opened = {channel.name: channel for channel in channels}
        if not self._info.more_channels:
            _expect(
                opened.keys() == declared.keys(),
                f"{sorted(opened)} are measured, and {sorted(declared)} are declared",
            )
        for name in opened.keys() & declared.keys():
            unit = declared[name].unit
            _expect(opened[name].unit == unit, f"{name} is declared in {unit}")

    def _check_measurement(self, measurement: Measurement, channels: tuple[Channel, ...]) -> None:
        _expect(isinstance(measurement, dict), f"{measurement!r} is not a measurement")
        names = [channel.name for channel in channels]
        _expect(set(measurement) == set(names), f"{sorted(measurement)} for the channels {names}")
        for channel in channels:
            value, (low, high) = measurement[channel.name], channel.plausible
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            _expect(is_number and math.isfinite(value), f"{channel.name} is {value!r}")
            _expect(low <= value <= high, f"{channel.name} {value:g} is not plausible")

    def check_dead(self, death: Death) -> SensorError | None:
        """Check that reading on a dead board fails, at opening or later. Return the error.

        Return None if the driver did not use the board at all.
        """
        board = DeadBoard(death, self._clock)
        board.attach(self._info.name, self._options, simulate=self._info.simulate)
        failure: SensorError | None = None
        for _ in range(2):
            failure = self._failure(board, death)
        return failure

    def _failure(self, board: DeadBoard, death: Death) -> SensorError | None:
        sensor: Driver | None = None
        try:
            sensor = self._opened(board)
            measurement = sensor.read()
        except SensorError as error:
            _expect(error.what.strip(), f"{type(error).__name__} does not say what is wrong")
            _expect(error.hint.strip(), f"{error.what!r} has no hint: what to check")
            return error
        except Exception as error:
            raise NotConformant(
                f"{death}: {type(error).__name__} escapes ({error}); only a SensorError may"
            ) from error
        finally:
            if sensor is not None:
                self._close_twice(sensor)
        _expect(not board.used, f"{death}: reads {measurement} from a dead board")
        return None

    def _opened(self, board: Board) -> Driver:
        try:
            return self._info.open(self._options, board)
        except SensorError:
            raise
        except Exception as error:
            raise NotConformant(
                f"{type(error).__name__} escapes from open ({error}); only a SensorError may"
            ) from error

    def _close_twice(self, sensor: Driver) -> None:
        for _ in range(2):
            try:
                sensor.close()
            except Exception as error:
                raise NotConformant(f"close raises {type(error).__name__}: {error}") from error
