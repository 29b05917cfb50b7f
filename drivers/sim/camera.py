"""A simulated MLX90640: calibration, two halves of a picture in turn, and a warm side."""

from __future__ import annotations

from collections.abc import Callable

from drivers.bus import Clock
from drivers.sim.room import Air

__all__ = ["SimulatedMlx90640"]

_EEPROM, _RAM, _STATUS, _CONTROL = 0x2400, 0x0400, 0x8000, 0x800D
_NEW_DATA = 0x0008
_ROWS, _COLUMNS = 24, 32
_KELVIN = 273.15
_EMISSIVITY, _REFLECTED_BELOW = 0.95, 8.0  # as the library has them
_ALPHA_REF, _ALPHA_BITS = 1074, 30
_PTAT, _ALPHA_PTAT, _V_PTAT_25, _KT_PTAT = 1711, 9, 12273, 42.25
_VDD_25 = -9856
_GAIN = 6383


class SimulatedMlx90640:
    """An MLX90640 (Melexis MLX90640 rev. 12, §10 and §11) with a plain calibration: no offsets.

    The left edge is 1 °C colder than the air, and the right one 1 °C warmer. `words` is its EEPROM.
    """

    def __init__(self, air: Callable[[], Air], clock: Clock) -> None:
        self._air = air
        self._clock = clock
        self._started_s = clock.monotonic()
        self._taken = -1
        self._address = 0
        self.half: Callable[[int], int] = lambda halves: halves % 2
        """Which half was measured last, after so many."""
        self.control = 0x1901  # after a reset: chess pattern, 18 bits, 2 Hz
        self.words = dict.fromkeys(range(_EEPROM, _EEPROM + 832), 0)
        self.words |= dict.fromkeys(range(_EEPROM + 64, _EEPROM + 832), 0x0002)
        self.words |= {
            0x2407: 0x1A2B,
            0x2410: 0x4000,  # alpha of PTAT
            0x2421: _ALPHA_REF,
            0x2430: _GAIN,
            0x2431: _V_PTAT_25,
            0x2432: round(_KT_PTAT * 8),
            0x2433: 0x9ECC,  # kVdd, and Vdd at 25 °C
            0x2434: 0x1111,
            0x2438: 0x2000,  # 18 bits
        }

    def write(self, sent: bytes) -> None:
        self._address = int.from_bytes(sent[:2], "big")
        if len(sent) == 4:
            word = int.from_bytes(sent[2:], "big")
            if self._address == _CONTROL:
                self.control = word
            elif self._address == _STATUS and not word & _NEW_DATA:
                self._taken = self._halves()

    def read(self, length: int) -> bytes:
        first, count = self._address, length // 2
        ram = self._ram() if _RAM <= first < _RAM + 832 else {}
        words = [ram.get(first + i, 0) or self._word(first + i) for i in range(count)]
        return b"".join((word & 0xFFFF).to_bytes(2, "big") for word in words)

    def _halves(self) -> int:
        """Return how many halves have been measured."""
        hertz = 0.5 * 2 ** (self.control >> 7 & 0b111)
        return int((self._clock.monotonic() - self._started_s) * hertz)

    def _word(self, address: int) -> int:
        if address == _STATUS:
            halves = self._halves()
            return self.half(halves) | (_NEW_DATA if halves > self._taken else 0)
        return self.control if address == _CONTROL else self.words.get(address, 0)

    def _ram(self) -> dict[int, int]:
        celsius = self._air().temperature
        own = celsius + 10  # it warms itself
        art = _V_PTAT_25 + _KT_PTAT * (own - 25)
        ram = {
            _RAM + 768: round(_PTAT * 2**18 / art - _PTAT * _ALPHA_PTAT),
            _RAM + 778: _GAIN,
            _RAM + 800: _PTAT,
            _RAM + 810: _VDD_25,
        }
        own4 = (own + _KELVIN) ** 4
        around4 = (own - _REFLECTED_BELOW + _KELVIN) ** 4
        received = around4 - (around4 - own4) / _EMISSIVITY
        alpha = _ALPHA_REF / 2**_ALPHA_BITS
        for column in range(_COLUMNS):
            seen = celsius - 1 + 2 * column / (_COLUMNS - 1)
            raw = round(_EMISSIVITY * alpha * ((seen + _KELVIN) ** 4 - received))
            for row in range(_ROWS):
                ram[_RAM + row * _COLUMNS + column] = raw
        return ram
