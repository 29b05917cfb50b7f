"""Simulated chips whose raw words are found by inverting the compensation of the datasheet.

MLX90632 and the pressure part of an MS8607, whose humidity part is that of an HTU21D.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from drivers.sim.room import Air

__all__ = ["SimulatedMlx90632", "SimulatedMs8607Pressure"]


def _raw_for(value: float, compensate: Callable[[int], float], low: int, high: int) -> int:
    """Return the smallest raw word in the range that `compensate`, which rises, makes `value`."""
    while low < high:
        middle = (low + high) // 2
        if compensate(middle) < value:
            low = middle + 1
        else:
            high = middle
    return low


class SimulatedMlx90632:
    """An MLX90632 (Melexis 3901090632), measuring an object that is as warm as the air.

    Registers of 16 bits at addresses of 16 bits: calibration (EEPROM), `REG_CONTROL`, `REG_STATUS`,
    and the words of the two measurements of the medical mode. The flag of new data is set by each
    measurement, and only a write clears it; the next one is ready as soon as its flag is read.

    Set `measured` to False for the time before a measurement, `saturated` to True for radiation
    beyond the converter's scale.
    """

    _CONTROL, _STATUS = 0x3001, 0x3FFF
    _MODE, _CONTINUOUS, _NEW_DATA = 0x0006, 0x0006, 0x0001
    _REFERENCE = 23_030
    """RAM_9: what the converter gives for its reference."""
    _TWO_WORDS: ClassVar = {
        0x240C: 0x00587F5B,  # P_R
        0x240E: 0x04A10289,  # P_G
        0x2410: -0x00069908,  # P_T
        0x2412: 0x00001E0F,  # P_O
        0x2424: 4_859_535,  # Ea
        0x2426: 5_686_508,  # Eb
        0x2428: 53_855_361,  # Fa
        0x242A: 42_874_149,  # Fb
        0x242C: -14_556_410,  # Ga
    }
    # Gb, Ka, Kb, Ha, Hb
    _ONE_WORD: ClassVar = {0x242E: 9728, 0x242F: 10_752, 0x2430: 0, 0x2481: 16_384, 0x2482: 0}
    _RAM = range(0x4003, 0x4009)

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._register = 0
        self._cycle = 1
        self.measured = True
        self.saturated = False
        self.words = {0x2409: 0x0512, self._CONTROL: self._CONTINUOUS, self._STATUS: 0}
        self.words.update(self._ONE_WORD)
        for register, constant in self._TWO_WORDS.items():
            self.words[register] = constant & 0xFFFF
            self.words[register + 1] = constant >> 16 & 0xFFFF

    def write(self, sent: bytes) -> None:
        if len(sent) >= 2:
            self._register = int.from_bytes(sent[:2], "big")
        if len(sent) == 4:
            self.words[self._register] = int.from_bytes(sent[2:], "big")

    def read(self, length: int) -> bytes:
        measures = self.words[self._CONTROL] & self._MODE == self._CONTINUOUS and self.measured
        is_asked = self._register == self._STATUS and not self.words[self._STATUS] & self._NEW_DATA
        if measures and is_asked:
            self._measure()
        word = self.words.get(self._register, 0)
        return word.to_bytes(2, "big")[:length].ljust(length, b"\xff")

    def _measure(self) -> None:
        self._cycle = 3 - self._cycle  # 1, 2, 1 ...: the two measurements of the mode
        self.words[self._STATUS] = self._cycle << 2 | self._NEW_DATA
        air = self._air()
        ambient = _raw_for(air.temperature, self._ambient, 1, 0x7FFF)
        signal = self._signal(air.temperature, ambient)
        words = (signal, signal, ambient, signal, signal, self._REFERENCE)
        for register, word in zip(self._RAM, words, strict=True):
            self.words[register] = 0x7FFF if self.saturated else word & 0xFFFF

    def _scaled(self, raw: float, factor: float, ambient: int) -> float:
        """Return AMB or S_TO: a word over the reference, which drifts as the ambient does."""
        return raw / 12 / (self._REFERENCE + factor * ambient / 12) * 2**19

    def _ambient(self, raw: int) -> float:
        """Return the temperature of the chip, in °C, for RAM_6."""
        off = self._scaled(raw, 9728 / 2**10, raw) - 0x00587F5B / 2**8
        linear = 0x00001E0F / 2**8 + off / (0x04A10289 / 2**20)
        return linear - 0x00069908 / 2**44 * off**2

    def _signal(self, celsius: float, ambient: int) -> int:
        """Return the mean of RAM_4 and RAM_5 for an object of so many °C."""
        amb = self._scaled(ambient, 9728 / 2**10, ambient)
        die = (amb - 5_686_508 / 2**8) / (4_859_535 / 2**16)  # above 25 °C
        sensitivity = 1 + -14_556_410 / 2**36 * (celsius - 25) + 42_874_149 / 2**36 * die
        radiated = (celsius + 273.15) ** 4 - (die + 25 + 273.15) ** 4
        per_count = self._scaled(1, 10_752 / 2**10, ambient)
        return round(radiated * 53_855_361 / 2**46 * sensitivity / per_count)


class SimulatedMs8607Pressure:
    """The pressure part of an MS8607 (TE MS8607-02BA01, figures 7 and 8, with its example).

    A conversion is read once: the converter gives 0 when it is read without one.
    """

    _CONSTANTS = (46_372, 43_981, 29_059, 27_842, 31_553, 28_165)  # C1 to C6
    _RESET, _PROM, _READ = 0x1E, 0xA0, 0x00
    _PRESSURE, _TEMPERATURE = 0x40, 0x50
    _FULL_SCALE = (1 << 24) - 1

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._answer = b""
        self._converted = 0
        words = (0, *self._CONSTANTS)
        self.prom = (_crc4(words) << 12, *self._CONSTANTS)

    def write(self, sent: bytes) -> None:
        if not sent:
            return
        command = sent[0]
        if command & 0xF0 in (self._PRESSURE, self._TEMPERATURE):
            self._converted = self._convert(command & 0xF0)
        elif command == self._READ:
            self._answer, self._converted = self._converted.to_bytes(3, "big"), 0
        elif self._PROM <= command < self._PROM + 2 * len(self.prom):
            self._answer = self.prom[(command - self._PROM) // 2].to_bytes(2, "big")

    def read(self, length: int) -> bytes:
        return self._answer[:length].ljust(length, b"\xff")

    def _convert(self, command: int) -> int:
        air = self._air()
        temperature = _raw_for(
            air.temperature, lambda raw: self.compensated(raw, 0)[0], 0, self._FULL_SCALE
        )
        if command == self._TEMPERATURE:
            return temperature
        return _raw_for(
            air.pressure, lambda raw: self.compensated(temperature, raw)[1], 0, self._FULL_SCALE
        )

    def compensated(self, raw_temperature: int, raw_pressure: int) -> tuple[float, float]:
        """Return °C and hPa: first order, then the second over temperature."""
        c1, c2, c3, c4, c5, c6 = self._CONSTANTS
        off_reference = raw_temperature - c5 * 2**8
        celsius = 2000 + off_reference * c6 / 2**23
        offset = c2 * 2**17 + c4 * off_reference / 2**6
        sensitivity = c1 * 2**16 + c3 * off_reference / 2**7
        if celsius < 2000:
            below = (celsius - 2000) ** 2 / 2**4
            offset, sensitivity = offset - 61 * below, sensitivity - 29 * below
            if celsius < -1500:
                below = (celsius + 1500) ** 2
                offset, sensitivity = offset - 17 * below, sensitivity - 9 * below
            celsius -= 3 * off_reference**2 / 2**33
        else:
            celsius -= 5 * off_reference**2 / 2**38
        return celsius / 100, (raw_pressure * sensitivity / 2**21 - offset) / 2**15 / 100


def _crc4(words: tuple[int, ...]) -> int:
    """Return the CRC of seven words, the first without its top four bits (AN520)."""
    remainder = 0
    for byte in b"".join(word.to_bytes(2, "big") for word in (*words, 0)):
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x3000 if remainder & 0x8000 else 0)) & 0xFFFF
    return remainder >> 12
