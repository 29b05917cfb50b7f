"""Simulated thermocouple and RTD chips on SPI: MAX31855, MAX31856, MAX31865."""

from __future__ import annotations

import math
from collections.abc import Callable

from drivers.sim.room import Air
from drivers.sim.spi import RegisterSpiChip

__all__ = ["SimulatedMax31855", "SimulatedMax31856", "SimulatedMax31865"]


class SimulatedMax31855:
    """A MAX31855 (Maxim 19-5793, table 2): 32 bits, read-only.

    `fault` is OC 1, SCG 2 or SCV 4. `cold_junction` is the chip's own temperature.
    """

    def __init__(self, air: Callable[[], Air]) -> None:
        self.hot: Callable[[], float] = lambda: air().temperature
        self.cold_junction: Callable[[], float] = lambda: air().temperature
        self.fault = 0

    def exchange(self, sent: bytes) -> bytes:
        hot, cold = math.floor(self.hot() * 4), math.floor(self.cold_junction() * 16)
        word = (hot & 0x3FFF) << 18 | (cold & 0xFFF) << 4
        if self.fault:
            word |= 1 << 16 | self.fault
        return word.to_bytes(4, "big")[: len(sent)].ljust(len(sent), b"\x00")


class SimulatedMax31856(RegisterSpiChip):
    """A MAX31856 (Maxim 19-7534): registers of table 6, one-shot conversions."""

    _CR0, _CR1, _COLD, _HOT, _STATUS = 0x00, 0x01, 0x0A, 0x0C, 0x0F
    _ONE_SHOT = 0x40

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__()
        self.hot: Callable[[], float] = lambda: air().temperature
        self.cold_junction: Callable[[], float] = lambda: air().temperature
        self.fault = 0
        """Bits of the fault status register (0Fh)."""
        self.busy = False
        """True: a conversion never ends."""
        self.registers[0:10] = bytes.fromhex("0003ff7fc07fff800000")  # table 6, factory defaults

    def register_written(self, register: int, byte: int) -> None:
        super().register_written(register, byte)
        if register == self._CR0 and byte & self._ONE_SHOT and not self.busy:
            self.registers[self._CR0] &= ~self._ONE_SHOT
            hot = math.floor(self.hot() * 128) << 5  # 19 bits in 1/128 °C, at the top of 24
            cold = math.floor(self.cold_junction() * 64) << 2  # 14 bits in 1/64 °C
            self.registers[self._HOT : self._HOT + 3] = (hot & 0xFFFFFF).to_bytes(3, "big")
            self.registers[self._COLD : self._COLD + 2] = (cold & 0xFFFF).to_bytes(2, "big")
            self.registers[self._STATUS] = self.fault


class SimulatedMax31865(RegisterSpiChip):
    """A MAX31865 (Maxim 19-6478): registers of table 1, with a sensor of `ohms`.

    `wiring_fault` has the bits of the fault status register (07h) that a fault-detection cycle
    finds; each conversion compares the thresholds and latches faults.
    """

    _CONFIG, _RTD, _HIGH, _LOW, _STATUS = 0x00, 0x01, 0x03, 0x05, 0x07
    _ONE_SHOT, _CYCLE, _CLEAR = 0x20, 0x0C, 0x02
    _A, _B, _C = 3.9083e-3, -5.775e-7, -4.183e-12  # IEC 60751

    def __init__(
        self,
        air: Callable[[], Air],
        *,
        nominal_ohms: float = 100.0,
        reference_ohms: float = 430.0,
    ) -> None:
        super().__init__()
        self._nominal_ohms = nominal_ohms
        self._reference_ohms = reference_ohms
        self.ohms: Callable[[], float] = lambda: self.resistance(air().temperature)
        self.wiring_fault = 0
        self.busy = False
        """True: a fault-detection cycle never ends."""
        self.registers[self._HIGH : self._HIGH + 2] = b"\xff\xff"

    def resistance(self, celsius: float) -> float:
        """Return the resistance by the Callendar-Van Dusen equation."""
        below = self._C * (celsius - 100) * celsius**3 if celsius < 0 else 0.0
        return self._nominal_ohms * (1 + self._A * celsius + self._B * celsius**2 + below)

    def register_written(self, register: int, byte: int) -> None:
        super().register_written(register, byte)
        if register != self._CONFIG:
            return
        if byte & self._CLEAR:
            self.registers[self._STATUS] = 0
        if byte & self._CYCLE:
            self.registers[self._STATUS] |= self.wiring_fault
        if byte & self._ONE_SHOT:
            self._convert()
        kept = byte & ~(self._ONE_SHOT | self._CLEAR)
        self.registers[self._CONFIG] = kept if self.busy else kept & ~self._CYCLE

    def _convert(self) -> None:
        raw = min(0x7FFF, max(0, round(self.ohms() / self._reference_ohms * 32768)))
        high = int.from_bytes(self.registers[self._HIGH : self._HIGH + 2], "big") >> 1
        low = int.from_bytes(self.registers[self._LOW : self._LOW + 2], "big") >> 1
        if raw >= high:
            self.registers[self._STATUS] |= 0x80
        if raw <= low:
            self.registers[self._STATUS] |= 0x40
        fault = 1 if self.registers[self._STATUS] else 0
        self.registers[self._RTD : self._RTD + 2] = (raw << 1 | fault).to_bytes(2, "big")
