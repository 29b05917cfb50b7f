"""Opens the board for the drivers: the real one, or a simulated one with the same sensors."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import sys
from typing import TYPE_CHECKING

import msgspec

from drivers.base import Options
from drivers.bus import Board
from drivers.registry import find_driver
from node.config.schema import Config

if TYPE_CHECKING:
    from drivers.sim.faults import Fault

__all__ = ["bare_board", "open_board", "preload_drivers", "typical_board"]

_log = logging.getLogger(__name__)

# Something on each kind of bus, with an identification or without.
_TYPICAL: tuple[tuple[str, dict[str, str | int]], ...] = (
    ("bme280", {"address": 0x76}),
    ("mcp9808", {"address": 0x18}),
    ("sht31d", {"address": 0x44}),
    ("ds18b20", {"address": "28-0316a2795bff"}),
    ("ds18b20", {"address": "10-000802b4ccf1"}),
    ("sysfs", {"name": "scd4x", "device": "1-0062"}),
    ("modbus", {"port": "/dev/ttyUSB0", "unit": 1, "model": "xy-md02"}),
    ("modbus", {"port": "/dev/ttyUSB0", "unit": 2, "model": "r4dcb08"}),
    ("cpu", {}),
)


def open_board(config: Config, *, simulate: bool) -> Board:
    """Return the board for the sensors of `config`; no device is opened yet."""
    if not simulate:
        return bare_board(simulate=False)
    from drivers.sim.board import SimulatedBoard
    from drivers.sim.room import Climate

    climate = None
    if (room := config.simulation) is not None:
        climate = Climate(
            base=room.base,
            daily_swing=room.daily_swing,
            noise=room.noise,
            humidity=room.humidity,
        )
    board = SimulatedBoard(climate=climate)
    faults = _faults(config)
    for sensor in config.sensors:
        board.attach(
            sensor.driver,
            sensor.options,
            faults.get(sensor.id, ()),
            simulate=sensor.info.simulate,
        )
    return board


def bare_board(*, simulate: bool) -> Board:
    """Return the board without sensors."""
    if simulate:
        from drivers.sim.board import SimulatedBoard

        return SimulatedBoard()
    from drivers.hardware import HardwareBoard

    return HardwareBoard()


def typical_board() -> Board:
    """Return a simulated board with some sensors, for use without a configuration."""
    from drivers.sim.board import SimulatedBoard

    board = SimulatedBoard()
    for driver, options in _TYPICAL:
        schema: type[Options] = find_driver(driver).options
        board.attach(driver, msgspec.convert(options, schema))
    return board


def _faults(config: Config) -> dict[str, list[Fault]]:
    """Return the faults of `[simulation]`, by sensor."""
    if config.simulation is None or not config.simulation.fault:
        return {}
    from drivers.sim.faults import DEFAULT_AMOUNTS, Fault

    faults: dict[str, list[Fault]] = {}
    for table in config.simulation.fault:
        amount = DEFAULT_AMOUNTS.get(table.kind, 0.0) if table.amount is None else table.amount
        fault = Fault(
            kind=table.kind,
            after_s=table.after,
            for_s=math.inf if table.for_ is None else table.for_,
            every_s=math.inf if table.every is None else table.every,
            amount=amount,
        )
        faults.setdefault(table.sensor, []).append(fault)
    return faults


def preload_drivers(config: Config) -> None:
    """Import the modules that drivers need imported on the main thread, before signals are caught.

    Anything they print meanwhile goes to standard error: standard output is for results.
    """
    wanted = {module: None for sensor in config.sensors for module in sensor.info.preload}
    for module in wanted:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001, another package's may raise anything
            # The driver will fail the same way, and report what that means for its sensor.
            _log.debug("%s cannot be imported: %s", module, error)
