"""One sensor as the loop keeps it: what is known of it, its driver's port, and its supply."""

from __future__ import annotations

import math

from drivers.bus import Board
from node.config.schema import SensorTable
from node.sensors import supply as power
from node.sensors.port import SensorPort
from node.sensors.state import SensorState
from node.sensors.supply import SensorPower
from node.sensors.timetable import Timetable
from node.system.clock import Clock

__all__ = ["Sensor"]


class Sensor:
    """On the loop's thread, but for the port's driver."""

    def __init__(self, table: SensorTable, board: Board, clock: Clock) -> None:
        self.table = table
        self.state = SensorState(table)
        self.port = SensorPort(table, board, clock)
        self.supply: SensorPower | None = None
        if table.power_pin is not None:
            self.supply = SensorPower(table.id, table.power_pin, board)
        self.begun_s = -math.inf
        """When it was asked last."""
        self.took_s = table.info.read_budget_s
        """How long the last read took; before it, how long one may."""
        self.without_power = False
        self._drop_next = False

    @property
    def settle_s(self) -> float:
        """How long after the start it may be read first."""
        return 0.0 if self.supply is None else power.SETTLE_S

    @property
    def ready(self) -> bool:
        """It has power, and no read of it is under way."""
        return self.state.busy_since_s is None and not self.without_power

    def drops_first_after_power(self) -> bool:
        """Whether this reading is the first after the power came back, which is dropped."""
        first, self._drop_next = self._drop_next, False
        return first

    def mind_supply(self, *, works: bool, timetable: Timetable, now_s: float) -> None:
        """Power-cycle it when it keeps failing."""
        supply = self.supply
        if supply is None:
            return
        if works:
            supply.note_answer()
        if not supply.wants_cycle(self.state.failures_in_a_row):
            return
        self.without_power = True
        self.state.failures_in_a_row = 0
        supply.off()

        def settled(_at_s: float) -> None:
            self.without_power = False
            self._drop_next = True

        timetable.once(now_s + power.OFF_S, lambda _at_s: supply.on())
        timetable.once(now_s + power.OFF_S + power.SETTLE_S, settled)

    def close(self) -> None:
        if self.state.busy_since_s is None:  # else its worker still has the driver
            self.port.close()
        if self.supply is not None:
            self.supply.close()
