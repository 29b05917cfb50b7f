"""Simulated I2C chips, register by register; `SIMULATED_CHIPS` has one per catalogue row."""

from __future__ import annotations

import struct
from collections.abc import Callable

from drivers.sim.i2c import RegisterChip, SimulatedChip
from drivers.sim.room import Air

__all__ = ["SIMULATED_CHIPS", "SimulatedBme280"]


class SimulatedBme280(RegisterChip):
    """A BME280 (datasheet BST-BME280-DS002).

    Holds calibration words, converts on a write of forced mode to ctrl_meas, and finds the raw
    value for the air by bisection through Bosch's own compensation formulas (§8.1), so the
    driver's arithmetic is checked against a second writing of them.
    """

    _ID, _RESET, _STATUS, _CTRL_MEAS, _DATA = 0xD0, 0xE0, 0xF3, 0xF4, 0xF7
    _T = (27504, 26435, -1000)
    _P = (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
    _H = (75, 362, 0, 324, 50, 30)

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__()
        self._air = air
        self.busy = False
        """True: the status register says "measuring" for ever."""
        self.registers[self._ID] = 0x60
        self.registers[0x88:0xA0] = struct.pack("<HhhHhhhhhhhh", *self._T, *self._P)
        h1, h2, h3, h4, h5, h6 = self._H
        self.registers[0xA1] = h1
        self.registers[0xE1:0xE8] = struct.pack(
            "<hBbBbb", h2, h3, h4 >> 4, (h4 & 0xF) | (h5 & 0xF) << 4, h5 >> 4, h6
        )
        self._power_on_values()

    def _power_on_values(self) -> None:
        self.registers[self._DATA : self._DATA + 8] = bytes.fromhex("80000080000080 00")

    def register_written(self, register: int, byte: int) -> None:
        if register == self._RESET:
            self._power_on_values()
            return
        super().register_written(register, byte)
        if register == self._CTRL_MEAS and byte & 0b11:
            self.convert()

    def read(self, length: int) -> bytes:
        self.registers[self._STATUS] = 0x08 if self.busy else 0
        return super().read(length)

    def convert(self) -> None:
        """Measure the air into the data registers."""
        air = self._air()
        raw_temperature = _bisect(self._fine, air.temperature * 5120, 1 << 20)
        fine = int(self._fine(raw_temperature))
        raw_pressure = _bisect(lambda raw: self._pascal(raw, fine), air.pressure * 100, 1 << 20)
        raw_humidity = _bisect(lambda raw: self._percent(raw, fine), air.humidity, 1 << 16)
        data = (raw_pressure << 4).to_bytes(3, "big")
        data += (raw_temperature << 4).to_bytes(3, "big")
        data += raw_humidity.to_bytes(2, "big")
        self.registers[self._DATA : self._DATA + 8] = data

    def _fine(self, raw: int) -> float:
        t1, t2, t3 = self._T
        return (raw / 16384 - t1 / 1024) * t2 + (raw / 131072 - t1 / 8192) ** 2 * t3

    def _pascal(self, raw: int, fine: int) -> float:
        p1, p2, p3, p4, p5, p6, p7, p8, p9 = self._P
        v1: float = fine / 2 - 64000
        v2 = (v1 * v1 * p6 / 32768 + v1 * p5 * 2) / 4 + p4 * 65536
        v1 = (1 + (p3 * v1 * v1 / 524288 + p2 * v1) / 524288 / 32768) * p1
        p = (1048576 - raw - v2 / 4096) * 6250 / v1
        return p + (p9 * p * p / 2147483648 + p * p8 / 32768 + p7) / 16

    def _percent(self, raw: int, fine: int) -> float:
        h1, h2, h3, h4, h5, h6 = self._H
        v: float = fine - 76800
        v = (raw - (h4 * 64 + h5 / 16384 * v)) * (
            h2 / 65536 * (1 + h6 / 67108864 * v * (1 + h3 / 67108864 * v))
        )
        return v * (1 - h1 * v / 524288)


def _bisect(formula: Callable[[int], float], target: float, end: int) -> int:
    """The raw value below `end` whose result by the monotone `formula` is nearest `target`."""
    low, high = 0, end - 1
    rising = formula(high) > formula(low)
    while high - low > 1:
        middle = (low + high) // 2
        if (formula(middle) < target) == rising:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda raw: abs(formula(raw) - target))


SIMULATED_CHIPS: dict[str, Callable[[Callable[[], Air]], SimulatedChip]] = {
    "bme280": SimulatedBme280,
}
"""Driver name -> a chip for it, given a function that tells the air around it."""
