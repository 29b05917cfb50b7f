"""Registers of Modbus devices: what they hold, and the models that are known by name. Data, pure.

Numbers of registers are those on the wire, from 0: a manual's "30002" is input register 1.
"""

from __future__ import annotations

import math
import struct
from typing import Annotated, Literal

import msgspec

from drivers.base import CO2, HUMIDITY, PRESSURE, TEMPERATURE, Channel

__all__ = ["MODELS", "Model", "Register", "register_channel"]

_SIZES = {"int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "float32": "f"}
_MISSING = {
    "int16": (0x7FFF, 0x8000),
    "uint16": (0x7FFF, 0x8000, 0xFFFF),
    "int32": (0x7FFF_FFFF, 0x8000_0000),
    "uint32": (0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF),
    "float32": (),
}
"""Type -> the contents by which devices say that a probe is missing, unless told otherwise."""
_BY_NAME = {channel.name: channel for channel in (TEMPERATURE, HUMIDITY, PRESSURE, CO2)}
_CELSIUS = (-200.0, 850.0)
"""What a Pt100 can measure (IEC 60751)."""
_TO_CELSIUS = {"°F": (5 / 9, -160 / 9), "K": (1.0, -273.15)}
"""Unit -> factor and summand that make °C of it."""
_SPELLED = {"c": "°C", "f": "°F", "k": "K", "celsius": "°C", "fahrenheit": "°F", "kelvin": "K"}


class Register(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity in one or two registers: content times `scale` plus `offset`."""

    register: Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
    function: Literal[3, 4] = 3
    type: Annotated[
        Literal["int16", "uint16", "int32", "uint32", "float32"],
        msgspec.Meta(description="int16, uint16, int32, uint32, float32"),
    ] = "int16"
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    word_order: Annotated[
        Literal["ABCD", "CDAB", "BADC", "DCBA"],
        msgspec.Meta(description="ABCD, CDAB, BADC, DCBA"),
    ] = "ABCD"
    range: Annotated[
        tuple[float, float] | None, msgspec.Meta(description="[lowest, highest], in unit")
    ] = None
    missing: Annotated[
        tuple[int, ...] | None,
        msgspec.Meta(description="contents without a probe: [0x8000]"),
    ] = None

    @property
    def count(self) -> int:
        """Return how many registers it takes."""
        return struct.calcsize(_SIZES[self.type]) // 2

    def value(self, words: list[int]) -> float | None:
        """Return the value, in the unit of its `register_channel`; None for a missing probe."""
        raw = b"".join(word.to_bytes(2, "big") for word in words)
        raw = self._ordered(raw)
        missing = _MISSING[self.type] if self.missing is None else self.missing
        content = int.from_bytes(raw, "big")
        if any(content == number & (1 << 8 * len(raw)) - 1 for number in missing):
            return None
        (number,) = struct.unpack(f">{_SIZES[self.type]}", raw)
        if not math.isfinite(number):
            return None
        factor, summand = _TO_CELSIUS.get(_unit_called(self.unit), (1.0, 0.0))
        return float((number * self.scale + self.offset) * factor + summand)

    def words(self, value: float) -> list[int]:
        """Return what the registers hold for a value: the opposite of `value`."""
        factor, summand = _TO_CELSIUS.get(_unit_called(self.unit), (1.0, 0.0))
        number = ((value - summand) / factor - self.offset) / self.scale
        kind = _SIZES[self.type]
        raw = self._ordered(struct.pack(f">{kind}", number if kind == "f" else round(number)))
        return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]

    def _ordered(self, raw: bytes) -> bytes:
        """Return four bytes in the order ABCD, or in this register's; the two are symmetric."""
        if len(raw) == 2:
            return raw
        return bytes(raw["ABCD".index(letter)] for letter in self.word_order)


def _unit_called(written: str | None) -> str:
    word = (written or "").lstrip("°º˚ ")
    return _SPELLED.get(word.lower().removeprefix("deg"), written or "")


def register_channel(name: str, register: Register) -> Channel:
    """Return the channel of a register; a temperature is always measured in °C.

    Raises:
        ValueError: the unit is missing, or the range is empty.
    """
    known = _BY_NAME.get(name.rstrip("0123456789_-"))
    unit = _unit_called(register.unit) or (known.unit if known else "")
    if not unit:
        raise ValueError(f'{name} needs a unit, such as "°C"')
    factor, summand = _TO_CELSIUS.get(unit, (1.0, 0.0))
    unit = "°C" if unit in _TO_CELSIUS else unit
    if register.range is not None:
        low, high = (bound * factor + summand for bound in register.range)
        if not low < high:
            raise ValueError(f"the range of {name} is empty: write [lowest, highest]")
        plausible, overshoot = (low, high), 0.0
    elif known is not None and unit == known.unit and unit != "°C":
        plausible, overshoot = known.plausible, known.overshoot
    elif unit == "°C":
        plausible, overshoot = _CELSIUS, 0.0
    else:
        plausible, overshoot = _ends(register), 0.0
    step = abs(register.scale) if register.type != "float32" else 0.01
    decimals = min(4, max(0, math.ceil(-math.log10(step) - 1e-9)))
    return Channel(name, unit, plausible, decimals, overshoot)


def _ends(register: Register) -> tuple[float, float]:
    """Return the lowest and the highest value that the register can hold."""
    if register.type == "float32":
        return (-1e9, 1e9)
    bits = 16 * register.count
    least = 0 if register.type.startswith("u") else -(1 << bits - 1)
    ends = [
        number * register.scale + register.offset for number in (least, least + (1 << bits) - 1)
    ]
    return (min(ends), max(ends))


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A device that is known by name."""

    summary: str
    registers: dict[str, Register]
    """Channel -> its register; of a device with `inputs`, that of the first input."""
    inputs: int = 0
    """How many probes it takes, one register each; 0 for a device with sensors of its own."""
    baud: int = 9600
    """As it is delivered; all have 8 data bits, no parity and one stop bit then."""
    own_id: int | None
    """The holding register that has the unit id, if it is known."""
    accuracy: str
    source: str


def _tenths(register: int, function: Literal[3, 4], low: float, high: float) -> Register:
    return Register(register=register, function=function, scale=0.1, range=(low, high))


def _humidity(register: int, function: Literal[3, 4]) -> Register:
    return Register(register=register, function=function, type="uint16", scale=0.1, unit="%")


def _pt100(inputs: int, summary: str, *, first: int = 0, own_id: int | None = 0xFD) -> Model:
    return Model(
        summary=summary,
        registers={"temperature": _tenths(first, 3, -200.0, 850.0)},
        inputs=inputs,
        own_id=own_id,
        accuracy="±0.5 °C, and that of the Pt100",
        source="eletechsup and ComWinTop, register maps of the modules",
    )


_XY_MD = Model(
    summary="XY-MD02, XY-MD03, XY-MD04: temperature and humidity on a DIN rail",
    registers={"temperature": _tenths(1, 4, -40.0, 85.0), "humidity": _humidity(2, 4)},
    own_id=0x0101,
    accuracy="±0.5 °C, ±3 %",
    source="XY-MD02 manual, register list",
)
_CWT = Model(
    summary="ComWinTop CWT-TH01S to CWT-TH05S: a temperature and humidity probe",
    registers={"humidity": _humidity(0, 3), "temperature": _tenths(1, 3, -40.0, 85.0)},
    baud=4800,
    own_id=0x07D0,
    accuracy="±0.5 °C, ±5 %",
    source="ComWinTop CWT-THxxS manual, register list",
)

MODELS: dict[str, Model] = {
    "xy-md02": _XY_MD,
    "xy-md03": _XY_MD,
    "xy-md04": _XY_MD,
    "sht20": msgspec.structs.replace(
        _XY_MD, summary="SHT20 on RS485, the round or flat probes sold by that name"
    ),
    "cwt-th": _CWT,
    "rs-ws": msgspec.structs.replace(
        _CWT, summary="Renke RS-WS-N01 and its like: temperature and humidity in a box"
    ),
    "r4dcb08": Model(
        summary="R4DCB08: up to 8 DS18B20",
        registers={"temperature": _tenths(0, 3, -55.0, 125.0)},
        inputs=8,
        own_id=0x00FE,
        accuracy="±0.5 °C (-10 to 85 °C), by its DS18B20",
        source="eletechsup R4DCB08 register map: 0x8000 without a probe",
    ),
    "pt21a01": _pt100(1, "PT21A01: one Pt100"),
    "pta8c04": _pt100(4, "PTA8C04: up to 4 Pt100"),
    "pta8d08": _pt100(8, "PTA8D08: up to 8 Pt100"),
    "cwt-tm-8pt": _pt100(
        8, "ComWinTop CWT-TM-8PT: up to 8 Pt100 or Pt1000", first=0x68, own_id=None
    ),
}
"""Model -> its registers."""
