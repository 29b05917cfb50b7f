"""Replacement readings for chips whose library does not check the chip's CRC.

`ChipRow.prepare` puts one of these in place of the library's object, after it has set the chip
up. Called on the thread of the chip's bus, inside the deadline of a reading.
"""

from __future__ import annotations

from typing import Any

from drivers.errors import BadFrame
from drivers.owned_bus import I2CBus, OwnedBus

__all__ = [
    "AhtFrames",
    "Ms8607Twice",
    "SmbusThermometer",
    "aht_frames",
    "crc8",
    "ms8607_twice",
    "smbus_thermometer",
]

_NOISE = "noise, or a loose wire; check SDA, SCL and power"


def crc8(content: bytes, *, polynomial: int, start: int) -> int:
    """Return the 8-bit CRC, most significant bit first."""
    crc = start
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & 0x80 else crc << 1) & 0xFF
    return crc


_AHT_MEASURE = b"\xac\x33\x00"
_AHT_BUSY, _AHT_CALIBRATED = 0x80, 0x08  # "Status bit description"
_AHT_CONVERSION_S, _AHT_POLL_S = 0.08, 0.01
_AHT_FRAME, _AHT_CRC = 7, 6
_AHT_TELLING = 3


class AhtFrames:
    """An AHT10, or an AHT20 or DHT20 (ASAIR AHT20 product manual, §5.4).

    The AHT20 sends a seventh byte, the CRC of the six before it; an AHT10 does not, so its frames
    are read twice.
    """

    def __init__(self, bus: I2CBus, address: int) -> None:
        self._bus = bus
        self._address = address
        self._sends_crc: bool | None = None

    @property
    def measurement(self) -> tuple[float, float]:
        """Measure now, and return °C and %.

        Raises:
            BadFrame: the frame is damaged, or the chip was not set up.
        """
        frame = self._measured()
        if self._sends_crc is None:
            self._sends_crc = _is_sound(frame) or self._tell(frame)
            frame = frame if self._sends_crc else self._measured()
        if self._sends_crc:
            if not _is_sound(frame):
                raise BadFrame(f"the CRC is wrong in the frame {frame.hex(' ')}", _NOISE)
        elif self._read(_AHT_CRC) != frame[:_AHT_CRC]:
            raise BadFrame(f"another answer than {frame.hex(' ')} when it is read again", _NOISE)
        percent = int.from_bytes(frame[1:4], "big") >> 4
        celsius = int.from_bytes(frame[3:6], "big") & 0xFFFFF
        return celsius * 200 / 2**20 - 50, percent * 100 / 2**20

    def _tell(self, frame: bytes) -> bool:
        """Return whether the chip sends a CRC: otherwise the byte is the same in every frame."""
        frames = [frame, *(self._measured() for _ in range(_AHT_TELLING))]
        lasts = {each[_AHT_CRC] for each in frames}
        bodies = {each[:_AHT_CRC] for each in frames}
        return any(map(_is_sound, frames)) or len(lasts) > 1 or len(bodies) == 1

    def _measured(self) -> bytes:
        self._bus.writeto(self._address, _AHT_MEASURE)
        self._bus.pause(_AHT_CONVERSION_S)
        while (frame := self._read(_AHT_FRAME))[0] & _AHT_BUSY:
            self._bus.pause(_AHT_POLL_S)
        if not frame[0] & _AHT_CALIBRATED:
            raise BadFrame(
                f"the status is 0x{frame[0]:02x}, which no calibrated AHT10 or AHT20 has",
                "it lost its power for a moment, or the bus is dead; check SDA, SCL and power",
            )
        return frame

    def _read(self, length: int) -> bytes:
        answer = bytearray(length)
        self._bus.readfrom_into(self._address, answer)
        return bytes(answer)


def _is_sound(frame: bytes) -> bool:
    return crc8(frame[:_AHT_CRC], polynomial=0x31, start=0xFF) == frame[_AHT_CRC]


def aht_frames(device: Any, bus: OwnedBus, options: dict[str, Any]) -> AhtFrames:
    """Replace the library's object, which ignores the seventh byte."""
    assert isinstance(bus, I2CBus)
    return AhtFrames(bus, options["address"])


_AMBIENT, _OBJECT = 0x06, 0x07  # RAM, MLX90614 datasheet, table 6
_ERROR_FLAG = 0x8000


class SmbusThermometer:
    """An MLX90614: 1/50 K, least significant byte first, and the packet error code.

    The PEC is that of SMBus (x^8 + x^2 + x + 1), and also covers the addresses and the command.
    """

    def __init__(self, bus: I2CBus, address: int) -> None:
        self._bus = bus
        self._address = address

    @property
    def object_temperature(self) -> float:
        """Temperature of the object in °C."""
        return self._celsius(_OBJECT)

    @property
    def ambient_temperature(self) -> float:
        """Temperature of the sensor in °C."""
        return self._celsius(_AMBIENT)

    def _celsius(self, command: int) -> float:
        answer = bytearray(3)
        self._bus.writeto_then_readfrom(self._address, bytes([command]), answer)
        sent = bytes([self._address << 1, command, self._address << 1 | 1, *answer[:2]])
        if crc8(sent, polynomial=0x07, start=0) != answer[2]:
            raise BadFrame(f"the PEC is wrong in the answer {answer.hex(' ')}", _NOISE)
        word = answer[1] << 8 | answer[0]
        if word & _ERROR_FLAG:
            raise BadFrame(f"the chip flags its value 0x{word:04x} as wrong", _NOISE)
        return word / 50 - 273.15


def smbus_thermometer(device: Any, bus: OwnedBus, options: dict[str, Any]) -> SmbusThermometer:
    """Replace the library's object, which ignores the packet error code."""
    assert isinstance(bus, I2CBus)
    return SmbusThermometer(bus, options["address"])


_SAME_CELSIUS, _SAME_HPA = 0.5, 1.0
"""How far two measurements of still air may be apart: many times the noise (MS8607-02BA01)."""


class Ms8607Twice:
    """An MS8607 whose temperature and pressure, sent without a CRC, are measured twice."""

    def __init__(self, device: Any) -> None:
        self._device = device

    @property
    def measurement(self) -> tuple[float, float]:
        """Measure now, twice, and return °C and hPa.

        Raises:
            BadFrame: the two differ.
        """
        before = self._device.pressure_and_temperature
        celsius, hpa = self._device.pressure_and_temperature
        if abs(celsius - before[0]) > _SAME_CELSIUS or abs(hpa - before[1]) > _SAME_HPA:
            now = f"{celsius:.2f} °C and {hpa:.2f} hPa"
            raise BadFrame(f"{now} a moment after {before[0]:.2f} and {before[1]:.2f}", _NOISE)
        return celsius, hpa

    @property
    def relative_humidity(self) -> float:
        """Relative humidity in %, whose CRC the library checks."""
        humidity: float = self._device.relative_humidity
        return humidity


def ms8607_twice(device: Any, bus: OwnedBus, options: dict[str, Any]) -> Ms8607Twice:
    """Read the library's object twice."""
    return Ms8607Twice(device)
