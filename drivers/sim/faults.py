"""Faults of simulated sensors: the possible kinds, and when each is on.

Nothing is scheduled: at each transaction, and on its thread, a part asks the `FaultPlan` for the
current faults. `drivers.sim.broken` shows them on the wire. `spike`, `drift` and `stuck` change the
air around the sensor, and so its registers, pulses or files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from drivers.base import Options
from drivers.bus import Clock
from drivers.catalogue import CATALOGUE
from drivers.chip_options import I2CChipOptions, SPIChipOptions
from drivers.sim.chips import I2C_CHIPS
from drivers.sim.room import Air, Room

__all__ = ["DEFAULT_AMOUNTS", "KINDS", "Fault", "FaultPlan", "fault_kinds"]

KINDS = {
    "unplug": "nothing answers",
    "hang": "an answer does not come to an end",
    "crc": "answers are damaged on their way",
    "spike": "the temperature is off by `amount` °C",
    "drift": "the temperature goes away by `amount` °C a minute",
    "stuck": "the values stay as they were",
    "slow": "each answer takes `amount` seconds longer",
    "power-on": "what the sensor says before it has measured: 85 °C on 1-Wire",
}
DEFAULT_AMOUNTS = {"spike": 20.0, "drift": 1.0, "slow": 0.2}

_IN_THE_AIR = {"spike", "drift", "stuck"}
_WITH_CHECKED_CRC = {row.name for row in CATALOGUE if row.crc}
_WITH_RESET_VALUES = {"bme280", "bmp280"}
_ANALOG = {"mcp3004", "mcp3008", "mcp3204", "mcp3208"}

_HANG_POLL_S = 3600.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One fault; times in seconds since the start, `amount` as documented in `KINDS`."""

    kind: str
    after_s: float = 0.0
    for_s: float = math.inf
    every_s: float = math.inf
    amount: float = 0.0

    def began_s(self, elapsed_s: float) -> float | None:
        """Return when the fault began, if it is on at `elapsed_s`."""
        if elapsed_s < self.after_s:
            return None
        began_s = self.after_s
        if self.every_s < math.inf:
            began_s += (elapsed_s - self.after_s) // self.every_s * self.every_s
        return began_s if elapsed_s - began_s < self.for_s else None


def fault_kinds(driver: str, options: Options, *, by_its_own: bool = False) -> tuple[str, ...]:
    """Return the kinds that a sensor can have, by its bus; () if it cannot be simulated.

    `by_its_own`: its driver brings a simulation (`DriverInfo.simulate`), which feels the air.
    """
    kinds = _IN_THE_AIR if by_its_own else _kinds(driver, options)
    return tuple(kind for kind in KINDS if kind in kinds)


def _kinds(driver: str, options: Options) -> set[str]:
    if driver == "ds18b20":
        return set(KINDS)
    if driver in ("dht11", "dht22", "sysfs"):
        return set(KINDS) - {"power-on"}
    if driver == "modbus":
        without = {"crc"} if getattr(options, "host", None) else set()  # TCP has its own
        return set(KINDS) - {"power-on"} - without
    if driver == "cpu":
        return _IN_THE_AIR | {"hang", "slow"}
    if driver == "mlx90640":  # a picture has too many transactions for each to be slow
        return _IN_THE_AIR | {"unplug", "hang"}
    if isinstance(options, I2CChipOptions) and driver in I2C_CHIPS:
        # Unless the chip is listed, its CRC is not checked, and it lacks a power-on state.
        own = {"crc"} if driver in _WITH_CHECKED_CRC else set()
        own |= {"power-on"} if driver in _WITH_RESET_VALUES else set()
        return _IN_THE_AIR | {"unplug", "hang", "slow"} | own
    if driver == "ble":
        return _IN_THE_AIR | {"unplug"}  # the radio's own CRC drops what is damaged
    if isinstance(options, SPIChipOptions) or driver in _ANALOG:
        return _IN_THE_AIR | {"unplug"}  # the computer drives SPI's clock: a chip cannot delay it
    return set()


class FaultPlan:
    """The faults of the sensor at `spot`."""

    def __init__(self, faults: Sequence[Fault], room: Room, clock: Clock, spot: str) -> None:
        self._faults = faults
        self._room = room
        self._clock = clock
        self._spot = spot

    def _on(self, kind: str, elapsed_s: float) -> list[tuple[Fault, float]]:
        """Return the active faults of a kind, each with the time at which it began."""
        found = ((f, f.began_s(elapsed_s)) for f in self._faults if f.kind == kind)
        return [(fault, began_s) for fault, began_s in found if began_s is not None]

    def has(self, kind: str) -> bool:
        """Return whether a fault of this kind is on now."""
        return bool(self._on(kind, self._room.elapsed_s()))

    def air(self) -> Air:
        """Return the air at the sensor, with its faults."""
        elapsed_s = self._room.elapsed_s()
        elapsed_s = min([began_s for _, began_s in self._on("stuck", elapsed_s)] or [elapsed_s])
        air = self._room.at(self._spot, elapsed_s)
        off = sum(fault.amount for fault, _ in self._on("spike", elapsed_s))
        for fault, began_s in self._on("drift", elapsed_s):
            off += fault.amount * (elapsed_s - began_s) / 60
        return msgspec.structs.replace(air, temperature=air.temperature + off)

    def pause(self, seconds: float) -> None:
        """Let time pass on the wire."""
        self._clock.sleep(seconds)

    def be_late(self) -> None:
        """Sleep for the delay of a slow answer."""
        if late_s := self.late_s():
            self.pause(late_s)

    def late_s(self) -> float:
        """Return by how much an answer is late, in seconds."""
        return sum(fault.amount for fault, _ in self._on("slow", self._room.elapsed_s()))

    def hang(self) -> None:
        """Sleep while the sensor hangs."""
        while hanging := self._on("hang", elapsed_s := self._room.elapsed_s()):
            left_s = max(began_s + fault.for_s - elapsed_s for fault, began_s in hanging)
            self.pause(min(left_s, _HANG_POLL_S))
