"""Which board stands under the drivers: the real one, or a simulated one with the same sensors."""

from __future__ import annotations

from drivers.bus import Board
from node.schema import Config

__all__ = ["open_board"]


def open_board(config: Config, *, simulate: bool) -> Board:
    """The board for the sensors of `config`; no device is opened yet."""
    if not simulate:
        from drivers.hardware import HardwareBoard

        return HardwareBoard()
    from drivers.sim.board import SimulatedBoard

    board = SimulatedBoard()
    for sensor in config.sensors:
        board.attach(sensor.driver, sensor.options)
    return board
