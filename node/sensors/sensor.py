"""One sensor as the loop keeps it: its state, its driver's port, and its supply."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from drivers.bus import Board
from node.config.schema import SensorTable
from node.sensors import supply as power
from node.sensors.port import SensorPort
from node.sensors.state import SensorState
from node.sensors.supply import SensorPower
from node.sensors.timetable import Timetable
from node.system.clock import Clock

if TYPE_CHECKING:
    from node.sensors.agreement import Agreement

__all__ = ["Sensor"]


class Sensor:
    """Used on the loop's thread, except for the port's driver."""

    def __init__(self, table: SensorTable, board: Board, clock: Clock) -> None:
        self.table = table
        self.state = SensorState(table)
        self.port = SensorPort(table, board, clock)
        self.agreement: Agreement | None = None
        """What computes it, if it has no hardware."""
        if table.info.computed:
            from node.sensors.agreement import Agreement

            self.agreement = Agreement(table, clock)
        self.supply: SensorPower | None = None
        if table.power_pin is not None:
            self.supply = SensorPower(table.id, table.power_pin, board)
        self.begun_s = -math.inf
        """When it was last asked."""
        self.took_s = table.info.read_budget_s
        """How long the last read took; before the first one, the longest that it may take."""
        self.without_power = False
        self._drop_next = False

    @property
    def settle_s(self) -> float:
        """Return how long after the start the sensor may first be read."""
        return 0.0 if self.supply is None else power.SETTLE_S

    @property
    def ready(self) -> bool:
        """Return whether the sensor has power, and is not being read."""
        return self.state.busy_since_s is None and not self.without_power

    def drops_first_after_power(self) -> bool:
        """Return whether this reading is the first after the power came back; it is dropped."""
        first, self._drop_next = self._drop_next, False
        return first

    def mind_supply(
        self, supply: SensorPower, *, works: bool, timetable: Timetable, now_s: float
    ) -> None:
        """Power-cycle the sensor by its supply when it keeps failing."""
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
        if self.state.busy_since_s is None:  # otherwise its worker still uses the driver
            self.port.close()
        if self.supply is not None:
            self.supply.close()
