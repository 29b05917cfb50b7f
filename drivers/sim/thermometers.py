"""Simulated chips with 16-bit registers: MCP9808, TMP117, ADT7410, PCT2075, ADS1115."""

from __future__ import annotations

import math
from collections.abc import Callable

from drivers.chip_reads import crc8
from drivers.sim.room import Air

__all__ = [
    "SimulatedAds1015",
    "SimulatedAds1115",
    "SimulatedAdt7410",
    "SimulatedMcp9808",
    "SimulatedMlx90614",
    "SimulatedPct2075",
    "SimulatedTmp117",
    "WordChip",
]


class WordChip:
    """Registers of one or two bytes behind a pointer; `words` has the two-byte ones.

    Set `measured` to False for the time between power-on and the first conversion.
    """

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._pointer = 0
        self.measured = True
        self.words: dict[int, int] = {}

    def write(self, sent: bytes) -> None:
        if not sent:
            return
        self._pointer = sent[0]
        if len(sent) == 3:
            self.word_written(sent[0], sent[1] << 8 | sent[2])

    def word_written(self, register: int, word: int) -> None:
        self.words[register] = word

    def word_read(self, register: int) -> int:
        return self.words.get(register, 0)

    def read(self, length: int) -> bytes:
        return self.word_read(self._pointer).to_bytes(2, "big")[:length].ljust(length, b"\xff")


class SimulatedMcp9808(WordChip):
    """An MCP9808 (Microchip DS25095, §5.1): 13 bits in 1/16 °C, and three alert flags."""

    _AMBIENT = 0x05

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__(air)
        self.words = {0x06: 0x0054, 0x07: 0x0400}
        self.raw: Callable[[], int] = lambda: math.floor(self._air().temperature * 16)

    def word_read(self, register: int) -> int:
        if register != self._AMBIENT:
            return super().word_read(register)
        raw = self.raw() if self.measured else 0
        # The limits are 0 °C at power-on, so the flags compare the temperature with 0 °C.
        return raw & 0x1FFF | (0xC000 if raw > 0 else 0x8000 if raw == 0 else 0x2000)


class SimulatedTmp117(WordChip):
    """A TMP117 (TI SNOSD82, §7.6): 1/128 °C; converts all the time."""

    _RESULT, _CONFIG, _DATA_READY = 0x00, 0x01, 0x2000

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__(air)
        self.words = {0x01: 0x0220, 0x0F: 0x0117}
        self.busy = False
        """True: a conversion is never ready."""

    def word_read(self, register: int) -> int:
        if register == self._RESULT:
            if self.busy:
                return 0x8000  # -256 °C, until the first conversion (§7.6.1)
            return math.floor(self._air().temperature * 128) & 0xFFFF
        word = super().word_read(register)
        return word | self._DATA_READY if register == self._CONFIG and not self.busy else word


class SimulatedAdt7410(WordChip):
    """An ADT7410 (Analog Devices, "Temperature value registers"): 13 bits in 1/16 °C."""

    _ID = 0x0B

    def word_read(self, register: int) -> int:
        if register == self._ID:
            return 0xCB00
        if register == 0x02:
            return 0 if self.measured else 0x8000  # RDY, table 8
        if register == 0x00 and self.measured:
            return math.floor(self._air().temperature * 16) << 3 & 0xFFFF
        return super().word_read(register)


class SimulatedPct2075(WordChip):
    """A PCT2075 (NXP, §7.4.3): 11 bits in 1/8 °C, at the top of the register."""

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__(air)
        self.words = {0x02: 0x4B00, 0x03: 0x5000}  # 75 °C and 80 °C at power-on

    def word_read(self, register: int) -> int:
        if register == 0x00 and self.measured:
            return math.floor(self._air().temperature * 8) << 5 & 0xFFFF
        return super().word_read(register)


class SimulatedAds1115(WordChip):
    """An ADS1115 (TI SBAS444, §8.6): one conversion for each write that sets OS.

    `volts` maps an input to a function that returns its voltage; other inputs are at 0 V.
    """

    _CONVERSION, _CONFIG, _OS = 0x00, 0x01, 0x8000
    _BITS = 0xFFFF
    _FULL_SCALE_VOLTS = (6.144, 4.096, 2.048, 1.024, 0.512, 0.256, 0.256, 0.256)

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__(air)
        self.words = {self._CONFIG: 0x8583, self._CONVERSION: 0}
        self.busy = False
        """True: a conversion never ends."""
        # A TMP36 at every input: 10 mV/°C, 500 mV at 0 °C.
        self.volts: dict[int, Callable[[], float]] = dict.fromkeys(
            range(4), lambda: air().temperature / 100 + 0.5
        )

    def word_written(self, register: int, word: int) -> None:
        super().word_written(register, word)
        if register != self._CONFIG or not word & self._OS:
            return
        if self.busy:
            self.words[self._CONFIG] &= ~self._OS
            return
        single_ended = (word >> 12 & 0b111) - 4
        volts = self.volts[single_ended]() if single_ended in self.volts else 0.0
        raw = round(volts / self._FULL_SCALE_VOLTS[word >> 9 & 0b111] * 32768)
        self.words[self._CONVERSION] = max(-32768, min(32767, raw)) & self._BITS


class SimulatedAds1015(SimulatedAds1115):
    """An ADS1015 (TI SBAS473, §8.6): the high 12 bits alone."""

    _BITS = 0xFFF0


class SimulatedMlx90614:
    """An MLX90614 (Melexis 3901090614, §8.4): words of 1/50 K, each with its PEC.

    `damage` changes the sent bytes.
    """

    _ADDRESS, _AMBIENT, _OBJECT = 0x5A, 0x06, 0x07

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._command = 0
        self.damage: Callable[[bytes], bytes] = lambda sent: sent

    def write(self, sent: bytes) -> None:
        if sent:
            self._command = sent[0]

    def read(self, length: int) -> bytes:
        word = round((self._air().temperature + 273.15) * 50)
        if self._command not in (self._AMBIENT, self._OBJECT):
            word = 0
        answer = word.to_bytes(2, "little")
        sent = bytes([self._ADDRESS << 1, self._command, self._ADDRESS << 1 | 1]) + answer
        pec = bytes([crc8(sent, polynomial=0x07, start=0)])
        return self.damage((answer + pec)[:length].ljust(length, b"\xff"))
