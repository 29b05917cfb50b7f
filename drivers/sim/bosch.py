"""Simulated Bosch chips: BME280, BMP280, BME680.

Each chip holds calibration words and finds the raw value for the air by bisection through Bosch's
own compensation formulas, so that the driver's arithmetic is checked against a second
implementation of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from drivers.sim.i2c import RegisterChip
from drivers.sim.room import Air

__all__ = ["SimulatedBme280", "SimulatedBme680", "SimulatedBmp280"]


class SimulatedBmp280(RegisterChip):
    """A BMP280 (datasheet BST-BMP280-DS001); converts on a write of forced mode to ctrl_meas.

    The pressure and temperature words are those of the example in §3.12.
    """

    chip_id = 0x58
    _ID, _RESET, _STATUS, _CTRL_MEAS, _DATA = 0xD0, 0xE0, 0xF3, 0xF4, 0xF7
    _T = (27504, 26435, -1000)
    _P = (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__()
        self._air = air
        self.busy = False
        """True: the status register always says "measuring"."""
        self.registers[self._ID] = self.chip_id
        self.registers[0x88:0xA0] = struct.pack("<HhhHhhhhhhhh", *self._T, *self._P)
        self.power_on()

    def power_on(self) -> None:
        """Restore the reset values of the data registers (§4.3.6, §4.3.7)."""
        self.registers[self._DATA : self._DATA + 6] = bytes.fromhex("800000800000")

    def register_written(self, register: int, byte: int) -> None:
        if register == self._RESET:
            self.power_on()
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
        raw_temperature = bisect_raw(self._fine, air.temperature * 5120, 1 << 20)
        fine = int(self._fine(raw_temperature))
        raw_pressure = bisect_raw(lambda raw: self._pascal(raw, fine), air.pressure * 100, 1 << 20)
        data = (raw_pressure << 4).to_bytes(3, "big") + (raw_temperature << 4).to_bytes(3, "big")
        self.registers[self._DATA : self._DATA + 6] = data
        self._convert_humidity(air.humidity, fine)

    def _convert_humidity(self, percent: float, fine: int) -> None:
        """Do nothing: a BMP280 does not measure humidity."""

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


class SimulatedBme280(SimulatedBmp280):
    """A BME280 (datasheet BST-BME280-DS002; formulas in §8.1)."""

    chip_id = 0x60
    _H = (75, 362, 0, 324, 50, 30)

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__(air)
        h1, h2, h3, h4, h5, h6 = self._H
        self.registers[0xA1] = h1
        self.registers[0xE1:0xE8] = struct.pack(
            "<hBbBbb", h2, h3, h4 >> 4, (h4 & 0xF) | (h5 & 0xF) << 4, h5 >> 4, h6
        )

    def power_on(self) -> None:
        super().power_on()
        self.registers[self._DATA + 6 : self._DATA + 8] = b"\x80\x00"

    def _convert_humidity(self, percent: float, fine: int) -> None:
        raw = bisect_raw(lambda raw: self._percent(raw, fine), percent, 1 << 16)
        self.registers[self._DATA + 6 : self._DATA + 8] = raw.to_bytes(2, "big")

    def _percent(self, raw: int, fine: int) -> float:
        h1, h2, h3, h4, h5, h6 = self._H
        v: float = fine - 76800
        v = (raw - (h4 * 64 + h5 / 16384 * v)) * (
            h2 / 65536 * (1 + h6 / 67108864 * v * (1 + h3 / 67108864 * v))
        )
        return v * (1 - h1 * v / 524288)


class SimulatedBme680(RegisterChip):
    """A BME680 (datasheet BST-BME680-DS001; floating point formulas in §3.3)."""

    _CTRL_MEAS, _FIELD, _ID = 0x74, 0x1D, 0xD0
    _PAR_T = (26435, 26203, 3)  # par_t1 to par_t3, table 11
    _PAR_P = (36477, -10306, 88, 6877, -150, 30, 44, -1460, -2980, 30)  # table 12
    # Table 13. The first two share a register for their low four bits, which are equal here because
    # adafruit_bme680 3.7 mixes them up.
    _PAR_H = (768, 1024, 0, 45, 20, 120, -100)
    _PAR_G = (-30, -5969, 18)  # table 14
    _GAS_RANGE, _GAS_OHMS = 6, 125_000  # table 16

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__()
        self._air = air
        self.busy = False
        """True: new_data is never set."""
        self.ohms = 120_000.0
        self.gas_flags = 0x30
        """Gas valid, heater stable."""
        self.registers[self._ID] = 0x61
        self._store_calibration()

    def _store_calibration(self) -> None:
        """Store the words (§5.3.1); the library reads 25 bytes from 0x89 and 16 from 0xE1."""
        t1, t2, t3 = self._PAR_T
        p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 = self._PAR_P
        h1, h2, h3, h4, h5, h6, h7 = self._PAR_H
        g1, g2, g3 = self._PAR_G

        def put(register: int, form: str, value: int) -> None:
            self.registers[register : register + struct.calcsize(form)] = struct.pack(form, value)

        for register, form, value in (
            (0xE9, "<H", t1), (0x8A, "<h", t2), (0x8C, "b", t3),
            (0x8E, "<H", p1), (0x90, "<h", p2), (0x92, "b", p3), (0x94, "<h", p4),
            (0x96, "<h", p5), (0x99, "b", p6), (0x98, "b", p7), (0x9C, "<h", p8),
            (0x9E, "<h", p9), (0xA0, "B", p10),
            (0xE3, "B", h1 >> 4), (0xE2, "B", (h1 & 0xF) | (h2 & 0xF) << 4), (0xE1, "B", h2 >> 4),
            (0xE4, "b", h3), (0xE5, "b", h4), (0xE6, "b", h5), (0xE7, "B", h6), (0xE8, "b", h7),
            (0xED, "b", g1), (0xEB, "<h", g2), (0xEE, "b", g3),
        ):  # fmt: skip
            put(register, form, value)

    def register_written(self, register: int, byte: int) -> None:
        super().register_written(register, byte)
        if register == self._CTRL_MEAS and byte & 0b11:
            self.convert()

    def convert(self) -> None:
        """Measure the air into field 0: status, raw pressure, temperature, humidity, gas."""
        air = self._air()
        raw_temperature = bisect_raw(self._fine, air.temperature * 5120, 1 << 20)
        fine = self._fine(raw_temperature)
        raw_pressure = bisect_raw(lambda raw: self._pascal(raw, fine), air.pressure * 100, 1 << 20)
        raw_humidity = bisect_raw(lambda raw: self._percent(raw, fine), air.humidity, 1 << 16)
        raw_gas = bisect_raw(self._gas_ohms, self.ohms, 1 << 10)
        field = bytearray(15)
        field[0] = 0x00 if self.busy else 0x80
        field[2:5] = (raw_pressure << 4).to_bytes(3, "big")
        field[5:8] = (raw_temperature << 4).to_bytes(3, "big")
        field[8:10] = raw_humidity.to_bytes(2, "big")
        field[13:15] = (raw_gas << 6 | self.gas_flags | self._GAS_RANGE).to_bytes(2, "big")
        self.registers[self._FIELD : self._FIELD + 15] = field

    def _fine(self, raw: int) -> float:
        t1, t2, t3 = self._PAR_T
        return (raw / 16384 - t1 / 1024) * t2 + (raw / 131072 - t1 / 8192) ** 2 * t3 * 16

    def _pascal(self, raw: int, fine: float) -> float:
        p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 = self._PAR_P
        v1: float = fine / 2 - 64000
        v2 = v1 * v1 * p6 / 131072 + v1 * p5 * 2
        v2 = v2 / 4 + p4 * 65536
        v1 = (1 + (p3 * v1 * v1 / 16384 + p2 * v1) / 524288 / 32768) * p1
        p = (1048576 - raw - v2 / 4096) * 6250 / v1
        high = (p / 256) ** 3 * p10 / 131072
        return p + (p9 * p * p / 2147483648 + p * p8 / 32768 + high + p7 * 128) / 16

    def _percent(self, raw: int, fine: float) -> float:
        h1, h2, h3, h4, h5, h6, h7 = self._PAR_H
        celsius = fine / 5120
        v = raw - (h1 * 16 + h3 / 2 * celsius)
        v *= h2 / 262144 * (1 + h4 / 16384 * celsius + h5 / 1048576 * celsius * celsius)
        return v + (h6 / 16384 + h7 / 2097152 * celsius) * v * v

    def _gas_ohms(self, raw: int) -> float:
        """Return the gas resistance (§3.4.1, with range_sw_err 0)."""
        return 1340.0 * self._GAS_OHMS / (raw - 512 + 1340.0)


def bisect_raw(formula: Callable[[int], float], target: float, end: int) -> int:
    """Return the raw value below `end` for which the monotone `formula` is nearest `target`."""
    low, high = 0, end - 1
    rising = formula(high) > formula(low)
    while high - low > 1:
        middle = (low + high) // 2
        if (formula(middle) < target) == rising:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda raw: abs(formula(raw) - target))
