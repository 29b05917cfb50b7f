"""Simulated chips whose registers follow the air, each described by a layout.

For chips without commands and with simple arithmetic; `drivers.sim.bosch` and
`drivers.sim.thermometers` have the others. Registers and scales come from the datasheet named in
the chip's catalogue row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from drivers.sim.i2c import RegisterChip
from drivers.sim.room import Air
from drivers.sim.thermometers import WordChip

__all__ = ["BYTE_LAYOUTS", "WORD_LAYOUTS", "AirRegisters", "AirWords", "Layout"]

_Encode = Callable[[Air], bytes]


class Layout(msgspec.Struct, frozen=True):
    """The content of a chip's one-byte registers."""

    fixed: dict[int, bytes]
    live: dict[int, _Encode]
    clears: dict[int, int] = {}
    """Bits that clear themselves when written: resets, one-shots."""
    always: dict[int, int] = {}
    """Bits that are always set, even after a write: readiness."""
    converts: dict[int, int] = {}
    """Bits that trigger a measurement when written."""
    measures: Callable[[bytearray], bool] = lambda registers: True
    """Returns whether the chip measures, by its registers."""
    ready: dict[int, int] = {}
    """Bits that are set while the chip measures: an unread measurement is ready."""
    mask: int = 0xFF
    """Mask of a register's number; ST's chips use the highest bit for another purpose."""


class AirRegisters(RegisterChip):
    """Registers with a `Layout`, measured at each read.

    Set `measured` to False for the time between power-on and the first conversion.
    """

    def __init__(self, layout: Layout, air: Callable[[], Air]) -> None:
        super().__init__()
        self._layout = layout
        self._air = air
        self.measured = True
        for register, content in layout.fixed.items():
            self.registers[register : register + len(content)] = content
        for register, bits in layout.always.items():
            self.registers[register] |= bits

    def write(self, sent: bytes) -> None:
        super().write(bytes([sent[0] & self._layout.mask]) + sent[1:] if sent else sent)

    def register_written(self, register: int, byte: int) -> None:
        if byte & self._layout.converts.get(register, 0):
            self.measured = True
        kept = byte & ~self._layout.clears.get(register, 0)
        super().register_written(register, kept | self._layout.always.get(register, 0))

    def read(self, length: int) -> bytes:
        measures = self.measured and self._layout.measures(self.registers)
        for register, bits in self._layout.ready.items():
            self.registers[register] &= ~bits & 0xFF
            self.registers[register] |= bits if measures else 0
        air = self._air()
        for register, encode in self._layout.live.items() if measures else ():
            content = encode(air)
            self.registers[register : register + len(content)] = content
        return super().read(length)


class AirWords(WordChip):
    """16-bit registers: some fixed, some that follow the air, some with bits always set."""

    def __init__(
        self,
        fixed: dict[int, int],
        live: dict[int, Callable[[Air], int]],
        always: dict[int, int],
        air: Callable[[], Air],
    ) -> None:
        super().__init__(air)
        self.words = dict(fixed)
        self._live = live
        self._always = always

    def word_read(self, register: int) -> int:
        if register in self._live and self.measured:
            return self._live[register](self._air()) & 0xFFFF
        return super().word_read(register) | self._always.get(register, 0)


def _packed(form: str, value: float) -> bytes:
    """Return `value` in the format `form` (of struct), limited to the ends of the scale."""
    bits = 8 * struct.calcsize(form)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if form.islower() else (0, (1 << bits) - 1)
    return struct.pack(form, min(high, max(low, round(value))))


def _celsius(form: str, per_degree: float, zero: float = 0.0) -> _Encode:
    """Encode the temperature as `form` (of struct), `per_degree` counts from `zero` °C on."""
    return lambda air: _packed(form, (air.temperature - zero) * per_degree)


def _hectopascal(per_hpa: float) -> _Encode:
    return lambda air: round(air.pressure * per_hpa).to_bytes(3, "little")


def _percent(form: str, per_percent: float, zero: float) -> _Encode:
    return lambda air: _packed(form, (air.humidity - zero) * per_percent)


def _mpl115a2(air: Air) -> bytes:
    """Return pressure and temperature words, by the inverted formula (MPL115A2, §3.5)."""
    raw_t = round(498 - (air.temperature - 25) * 5.35)
    compensated = (air.pressure / 10 - 50) * 1023 / 65
    a0, b1, b2, c12 = 0x3ECE / 8, -0x4C07 / 8192, -0x3AE9 / 16384, (0x33C8 >> 2) / 4194304
    raw_p = round((compensated - a0 - b2 * raw_t) / (b1 + c12 * raw_t))
    return b"".join(_packed(">H", min(1023, raw) << 6) for raw in (raw_p, raw_t))


def _signed_magnitude(air: Air) -> bytes:
    raw = round(abs(air.temperature) * 16)
    return (raw | (0x800 if air.temperature < 0 else 0)).to_bytes(2, "little")


def _external(air: Air) -> int:
    return round(air.temperature * 8) << 5 & 0xFFFF


def _little(value: float) -> bytes:
    return (round(value) & 0xFFFFFF).to_bytes(3, "little")


# DPS310 and SPA06-003: T = c0 / 2 + c1 t, P = c00 + c10 p (DPS310 v1.2, §4.9.1 and §4.9.2), with
# the mixed coefficients and those of higher powers at zero. 20 bits, then 12.
_C0, _C1, _C00, _C10 = 209, -260, 81_000, -52_000


def _coefficients() -> bytes:
    twelve = (_C0 & 0xFFF) << 12 | _C1 & 0xFFF
    twenty = (_C00 & 0xFFFFF) << 20 | _C10 & 0xFFFFF
    return twelve.to_bytes(3, "big") + twenty.to_bytes(5, "big")


def _compensated(scale: int) -> dict[int, _Encode]:
    """Return raw values for an oversampling with the scale factor `scale`."""

    def raw(fraction: float) -> bytes:
        return (round(fraction * scale) & 0xFFFFFF).to_bytes(3, "big")

    return {
        0x00: lambda air: raw((air.pressure * 100 - _C00) / _C10),
        0x03: lambda air: raw((air.temperature - _C0 / 2) / _C1),
    }


# BMP388: T = (t - 256 T1) T2 / 2^30, P = p (P1 - 2^14) / 2^20 (BST-BMP388-DS001, §9.2, §9.3), with
# the other coefficients set so that they do not have an effect.
_T1, _T2, _P1 = 27_000, 19_000, 26_870
_BMP388_WORDS = struct.pack("<HHbhhbbHHbbhbb", _T1, _T2, 0, _P1, 1 << 14, 0, 0, 0, 0, 0, 0, 0, 0, 0)

_ST_ADDRESS = 0x7F


def _by(register: int, mask: int) -> Callable[[bytearray], bool]:
    """Return a test: the chip measures when one of these bits is set."""
    return lambda registers: bool(registers[register] & mask)


BYTE_LAYOUTS: dict[str, Layout] = {
    "tc74": Layout({}, {0x00: _celsius("b", 1)}, ready={0x01: 0x40}),
    "ds3231": Layout(
        {0x03: b"\x03\x24\x11"},
        {0x11: lambda air: struct.pack(">h", round(air.temperature * 4) << 6)},
        {0x0E: 0x20},
        converts={0x0E: 0x20},
    ),
    "emc2101": Layout(
        {0xFD: b"\x16\x5d"},
        {
            0x00: _celsius("b", 1),
            0x01: lambda air: bytes([_external(air) >> 8]),
            0x10: lambda air: bytes([_external(air) & 0xFF]),
        },
    ),
    "lps22": Layout(
        {0x0F: b"\xb1"},
        {0x28: _hectopascal(4096), 0x2B: _celsius("<h", 100)},
        {0x11: 0x04},
        mask=_ST_ADDRESS,
        measures=_by(0x10, 0x70),
        ready={0x27: 0x03},
    ),
    "lps25": Layout(
        {0x0F: b"\xbd"},
        {0x28: _hectopascal(4096), 0x2B: _celsius("<h", 480, 42.5)},
        {0x21: 0x04},
        mask=_ST_ADDRESS,
        measures=_by(0x20, 0x80),
        ready={0x27: 0x03},
    ),
    "lps28": Layout(
        {0x0F: b"\xb4"},
        {0x28: _hectopascal(2048), 0x2B: _celsius("<h", 100)},
        {0x11: 0x84},
        measures=_by(0x10, 0x78),
        ready={0x27: 0x03},
    ),
    "lps35hw": Layout(
        {0x0F: b"\xb1"},
        {0x28: _hectopascal(4096), 0x2B: _celsius("<h", 100)},
        {0x11: 0x05},
        measures=_by(0x10, 0x70),
        ready={0x27: 0x03},
    ),
    "dps310": Layout(
        {0x0D: b"\x10", 0x10: _coefficients(), 0x28: b"\x80"},
        _compensated(1_040_384),
        always={0x08: 0xC0},
        measures=_by(0x08, 0x07),
        ready={0x08: 0x30},
    ),
    "spa06": Layout(
        {0x0D: b"\x11", 0x10: _coefficients()},
        _compensated(2_088_960),
        always={0x08: 0xC0},
        measures=_by(0x08, 0x07),
        ready={0x08: 0x30},
    ),
    "bmp3xx": Layout(
        {0x00: b"\x50", 0x31: _BMP388_WORDS},
        {
            0x04: lambda air: _little(air.pressure * 100 / (_P1 - (1 << 14)) * (1 << 20)),
            0x07: lambda air: _little(air.temperature * (1 << 30) / _T2 + 256 * _T1),
        },
        always={0x03: 0x70},
    ),
    "bmp5xx": Layout(
        {0x01: b"\x50", 0x27: b"\x11", 0x28: b"\x02"},
        {
            0x1D: lambda air: _little(air.temperature * 65536),
            0x20: lambda air: _little(air.pressure * 6400),
        },
    ),
    # Calibrated at 10 and 30 °C, 20 and 80 %.
    "hts221": Layout(
        {
            0x0F: b"\xbc",
            0x30: bytes([40, 160, 80, 240]),
            0x3A: struct.pack("<h", 6000),
            0x3E: struct.pack("<h", 4000),
        },
        {0x28: _percent("<h", 100, 20.0), 0x2A: _celsius("<h", 200, 10.0)},
        {0x21: 0x81},
        mask=_ST_ADDRESS,
        measures=_by(0x20, 0x80),
        ready={0x27: 0x03},
    ),
    "mpl3115a2": Layout(
        {0x0C: b"\xc4", 0x00: b"\x0e"},
        {
            0x01: lambda air: (round(air.pressure * 400) << 4).to_bytes(3, "big"),
            0x04: lambda air: struct.pack(">h", round(air.temperature * 16) << 4),
        },
        {0x26: 0x06},
    ),
    "mpl115a2": Layout({0x04: bytes.fromhex("3eceb3f9c51733c8")}, {0x00: _mpl115a2}),
    "amg88xx": Layout({}, {0x0E: _signed_magnitude}),
    "sths34pf80": Layout(
        {0x0F: b"\xd3", 0x23: b"\x04"},
        {0x28: _celsius("<h", 100)},
        {0x21: 0x80},
        measures=_by(0x20, 0x0F),
    ),
    "mpu6050": Layout(
        {0x75: b"\x68", 0x6B: b"\x40"},
        {0x41: _celsius(">h", 340, 36.53)},
        {0x6B: 0x80},
        measures=lambda registers: not registers[0x6B] & 0x60,
    ),
    "lsm6dsox": Layout(
        {0x0F: b"\x6c"},
        {0x20: _celsius("<h", 256, 25.0)},
        {0x12: 0x01},
        measures=_by(0x10, 0xF0),
        ready={0x1E: 0x04},
    ),
    "bno055": Layout(
        {0x00: b"\xa0"},
        {0x34: _celsius("b", 1)},
        {0x3F: 0x20},
        measures=_by(0x3D, 0x0F),
    ),
    "mmc5603": Layout(
        {0x39: b"\x10", 0x18: b"\xc0"}, {0x09: _celsius("B", 1.25, -75.0)}, {0x1C: 0x80}
    ),
    "tmag5273": Layout(
        {0x0D: b"\x01\x49\x54"},
        {0x10: lambda air: struct.pack(">h", round(17508 + (air.temperature - 25) * 60.1))},
    ),
}


def _tmp006_volts(air: Air) -> int:
    """Return the thermopile's offset: an object as warm as the die (SBOU107, §5.1)."""
    off = air.temperature - 25
    return round((-2.94e-5 - 5.7e-7 * off + 4.63e-9 * off**2) / 156.25e-9)


WORD_LAYOUTS: dict[str, tuple[dict[int, int], dict[int, Callable[[Air], int]], dict[int, int]]] = {
    "ina228": (
        {0x3E: 0x5449, 0x3F: 0x2281},
        {0x06: lambda air: round(air.temperature * 128)},
        {},
    ),
    "ina23x": (
        {0x3E: 0x5449, 0x3F: 0x2381},
        {0x06: lambda air: round(air.temperature * 8) << 4},
        {},
    ),
    "mcp9600": (
        {0x20: 0x4010},
        {
            0x00: lambda air: round(air.temperature * 16),
            0x02: lambda air: round(air.temperature * 16),
        },
        {0x04: 0x4000},
    ),
    "tmp006": (
        {0xFF: 0x0067},
        {0x00: _tmp006_volts, 0x01: lambda air: round(air.temperature * 32) << 2},
        {0x02: 0x0080},
    ),
    "tmp007": (
        {0x1F: 0x0078},
        {
            0x01: lambda air: round(air.temperature * 32) << 2,
            0x03: lambda air: round(air.temperature * 32) << 2,
        },
        {},
    ),
}
"""Driver -> fixed words, words that follow the air, bits that are always set."""
