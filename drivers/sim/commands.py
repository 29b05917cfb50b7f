"""More simulated chips that take commands.

SHTC3, HTU31D, HDC302x, SCD30, SEN6x, STCC4, AM2320, and Adafruit's seesaw.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable

from drivers.bus import Clock
from drivers.sim.humidity import SensirionChip, crc8, raw_of
from drivers.sim.room import Air

__all__ = [
    "SimulatedAm2320",
    "SimulatedHdc302x",
    "SimulatedHtu31d",
    "SimulatedScd30",
    "SimulatedSeesaw",
    "SimulatedSen5x",
    "SimulatedSen63c",
    "SimulatedSen66",
    "SimulatedShtc3",
    "SimulatedStcc4",
    "crc16",
]


class SimulatedShtc3(SensirionChip):
    """An SHTC3 (Sensirion SHTC3, §5): asleep until it is woken up."""

    _WAKE, _SLEEP, _ID, _MEASURE = b"\x35\x17", b"\xb0\x98", b"\xef\xc8", b"\x78\x66"

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__(air)
        self._awake = False

    def command(self, sent: bytes) -> bytes | None:
        if sent in (self._WAKE, self._SLEEP):
            self._awake = sent == self._WAKE
        if not self._awake:
            return None
        if sent == self._ID:
            return self._words(0x0887)
        if sent != self._MEASURE:
            return None
        air = self._air()
        return self._words(
            raw_of(air.temperature, -45, 175, 0xFFFF), raw_of(air.humidity, 0, 100, 0xFFFF)
        )

    def read(self, length: int) -> bytes:
        return super().read(length).ljust(length, b"\xff")


class SimulatedHdc302x(SensirionChip):
    """An HDC3020 (TI SNAS778, §7.5): measures on a trigger."""

    def command(self, sent: bytes) -> bytes | None:
        if sent != b"\x24\x00":
            return None
        air = self._air()
        return self._words(
            raw_of(air.temperature, -45, 175, 0xFFFF), raw_of(air.humidity, 0, 100, 0xFFFF)
        )


class SimulatedHtu31d(SensirionChip):
    """An HTU31D (TE HTU31, "Commands"): CRC from 0; reading needs a separate command."""

    _CONVERT, _READ = 0x40, 0x00

    def command(self, sent: bytes) -> bytes | None:
        if sent[0] != self._READ:
            self._converted = bool(sent[0] & self._CONVERT)
            return None
        if not self._converted:
            return None
        air, answer = self._air(), b""
        for raw in (
            raw_of(air.temperature, -40, 165, 0xFFFF),
            raw_of(air.humidity, 0, 100, 0xFFFF),
        ):
            block = raw.to_bytes(2, "big")
            answer += block + bytes([crc8(block, start=0)])
        return answer


class _Periodic(SensirionChip):
    """Measures by itself every `period_s` after it is started."""

    period_s = 2.0
    _START, _READY = b"\x00\x10", b"\x02\x02"
    _READ = b"\x03\x00"

    def __init__(self, air: Callable[[], Air], clock: Clock) -> None:
        super().__init__(air)
        self._clock = clock
        self._since_s: float | None = None
        self.ppm = 620

    def command(self, sent: bytes) -> bytes | None:
        elapsed_s = 0.0 if self._since_s is None else self._clock.monotonic() - self._since_s
        if sent[:2] == self._START:
            self._since_s = self._clock.monotonic()
        elif sent == self._READY:
            return self._words(1 if elapsed_s >= self.period_s else 0)
        elif sent == self._READ and elapsed_s >= self.period_s:
            self._since_s = self._clock.monotonic()
            return self.measurement(self._air())
        return None

    def measurement(self, air: Air) -> bytes:
        raise NotImplementedError


class SimulatedScd30(_Periodic):
    """An SCD30 (Sensirion SCD30 interface description, §1.4): floats, in words with CRC."""

    def measurement(self, air: Air) -> bytes:
        block = struct.pack(">fff", self.ppm, air.temperature, air.humidity)
        return self._words(*struct.unpack(">6H", block))


class SimulatedSen66(_Periodic):
    """A SEN66 (Sensirion SEN6x, §4.8): particles, humidity, temperature, VOC, NOx, CO2."""

    period_s = 1.0
    _START = b"\x00\x21"
    _STATUS, _CLEAR_STATUS = b"\xd2\x06", b"\xd2\x10"

    def __init__(self, air: Callable[[], Air], clock: Clock) -> None:
        super().__init__(air, clock)
        self.status = 0
        """The device status: fault bits, which stay until they are cleared."""

    def command(self, sent: bytes) -> bytes | None:
        if sent == self._STATUS:
            return self._words(*divmod(self.status, 1 << 16))
        if sent == self._CLEAR_STATUS:
            self.status = 0
        return super().command(sent)

    def measurement(self, air: Air) -> bytes:
        humidity, celsius = round(air.humidity * 100), round(air.temperature * 200) & 0xFFFF
        return self._words(10, 12, 13, 14, humidity, celsius, 1000, 10, self.ppm)


class SimulatedSen63c(SimulatedSen66):
    """A SEN63C: without VOC and NOx, and with a different read command."""

    _READ = b"\x04\x71"

    def measurement(self, air: Air) -> bytes:
        humidity, celsius = round(air.humidity * 100), round(air.temperature * 200) & 0xFFFF
        return self._words(10, 12, 13, 14, humidity, celsius, self.ppm)


class SimulatedSen5x(SimulatedSen66):
    """A SEN55 (Sensirion SEN5x 1.2, §6.1): particles, humidity, temperature, VOC, NOx."""

    _READ, _NAME = b"\x03\xc4", b"\xd0\x14"
    _NOT_THERE = 0x7FFF

    def __init__(self, air: Callable[[], Air], clock: Clock) -> None:
        super().__init__(air, clock)
        self.model = "SEN55"

    def command(self, sent: bytes) -> bytes | None:
        if sent == self._NAME:
            name = self.model.encode().ljust(32, b"\x00")
            return self._words(*struct.unpack(">16H", name))
        if sent == self._CLEAR_STATUS:  # reads it, too
            status, self.status = self.status, 0
            return self._words(*divmod(status, 1 << 16))
        return super().command(sent)

    def measurement(self, air: Air) -> bytes:
        humidity, celsius = round(air.humidity * 100), round(air.temperature * 200) & 0xFFFF
        if self.model == "SEN50":
            humidity = celsius = self._NOT_THERE
        return self._words(10, 12, 13, 14, humidity, celsius, 1000, 10)


class SimulatedStcc4(SensirionChip):
    """An STCC4 (Sensirion STCC4, §4): measures on a command, with an SHT4x attached."""

    _ID, _MEASURE, _READ = b"\x36\x5b", b"\x21\x9d", b"\xec\x05"

    def __init__(self, air: Callable[[], Air]) -> None:
        super().__init__(air)
        self._measured: bytes | None = None
        self.status = 0

    def command(self, sent: bytes) -> bytes | None:
        if sent == self._ID:
            return self._words(0x0901, 0x018A)
        if sent == self._MEASURE:
            air = self._air()
            self._measured = self._words(
                620,
                raw_of(air.temperature, -45, 175, 0xFFFF),
                raw_of(air.humidity, -6, 125, 0xFFFF),
                self.status,
            )
        return self._measured if sent == self._READ else None


class SimulatedAm2320:
    """An AM2320 (Aosong AM2320, §8.2.4): Modbus frames; asleep, it ignores the first call.

    The chip sends its previous measurement, and then measures. `damage` changes the sent bytes.
    """

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._measured = air()
        self.damage: Callable[[bytes], bytes] = lambda sent: sent
        self._awake = False
        self._frame = b""

    def write(self, sent: bytes) -> None:
        if not self._awake:
            self._awake = True
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        if sent[:1] != b"\x03":
            return
        air = self._measured
        celsius = round(abs(air.temperature) * 10) | (0x8000 if air.temperature < 0 else 0)
        registers = struct.pack(">HH", round(air.humidity * 10), celsius)
        body = sent[:1] + sent[2:3] + registers[sent[1] : sent[1] + sent[2]]
        self._frame = body + struct.pack("<H", crc16(body))

    def read(self, length: int) -> bytes:
        if not self._awake:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))
        frame, self._frame = self.damage(self._frame), b""
        self._awake = not frame  # asleep again after a read
        if frame:
            self._measured = self._air()
        return frame[:length].ljust(length, b"\xff")


def crc16(block: bytes) -> int:
    """Return the Modbus CRC: x^16 + x^15 + x^2 + 1, bits reversed."""
    crc = 0xFFFF
    for byte in block:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


class SimulatedSeesaw:
    """A soil sensor's SAMD09 (Adafruit seesaw, "Status"): registers of two bytes."""

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._register = b""

    def write(self, sent: bytes) -> None:
        self._register = sent[:2]

    def read(self, length: int) -> bytes:
        celsius = round(self._air().temperature * 65536)
        answer = {
            b"\x00\x01": b"\x55",
            b"\x00\x02": struct.pack(">HH", 4026, 0),
            b"\x00\x04": (celsius & 0x3FFFFFFF).to_bytes(4, "big"),
        }.get(self._register, b"")
        return answer[:length].ljust(length, b"\x00")
