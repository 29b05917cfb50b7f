"""Simulated chips that take commands and answer in words: SHT3x, SHT4x, SCD4x, AHT20, HTU21D.

A chip does not answer before it has measured: a read that comes too early is not acknowledged, as
in the datasheets. Only the AHT20 reports that it is busy.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from drivers.bus import Clock
from drivers.chip_reads import crc8 as any_crc8
from drivers.sim.room import Air

__all__ = [
    "SensirionChip",
    "SimulatedAht20",
    "SimulatedHtu21d",
    "SimulatedScd4x",
    "SimulatedSht3x",
    "SimulatedSht4x",
    "SimulatedSi7021",
    "crc8",
]


def crc8(block: bytes, *, start: int) -> int:
    """Return the CRC, x^8 + x^5 + x^4 + 1; `start`: 0xFF (Sensirion SHT3x, §4.12), 0 (HTU21D)."""
    return any_crc8(block, polynomial=0x31, start=start)


def _nack() -> OSError:
    return OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))


def raw_of(value: float, low: float, span: float, full_scale: int) -> int:
    return min(full_scale, max(0, round((value - low) / span * full_scale)))


class SensirionChip:
    """Words of 16 bits, each with its CRC; `answer` is None while there is nothing to read.

    `damage` changes the sent bytes, for tests.
    """

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._answer: bytes | None = None
        self.busy = False
        """True: a measurement never ends, and reads are not acknowledged."""
        self.damage: Callable[[bytes], bytes] = lambda sent: sent

    def _words(self, *words: int) -> bytes:
        blocks = (word.to_bytes(2, "big") for word in words)
        return b"".join(block + bytes([crc8(block, start=0xFF)]) for block in blocks)

    def write(self, sent: bytes) -> None:
        if sent:
            self._answer = self.command(sent)

    def command(self, sent: bytes) -> bytes | None:
        """Return the answer to a command; None if the command does not have one."""
        raise NotImplementedError

    def read(self, length: int) -> bytes:
        if self._answer is None or self.busy:
            raise _nack()
        answer, self._answer = self._answer, None
        return self.damage(answer[:length])


class SimulatedSht3x(SensirionChip):
    """An SHT31 (Sensirion SHT3x-DIS, table 9 for commands, §4.13 for the conversion)."""

    _SINGLE_SHOT = (b"\x24\x00", b"\x24\x0b", b"\x24\x16")
    _STATUS = b"\xf3\x2d"

    def command(self, sent: bytes) -> bytes | None:
        if sent == self._STATUS:
            return self._words(0)
        if sent not in self._SINGLE_SHOT:
            return None
        air = self._air()
        return self._words(
            raw_of(air.temperature, -45, 175, 0xFFFF), raw_of(air.humidity, 0, 100, 0xFFFF)
        )


class SimulatedSht4x(SensirionChip):
    """An SHT40 (Sensirion SHT4x, table 8 for commands, §4.6 for the conversion)."""

    _MEASURE = (0xFD, 0xF6, 0xE0)
    _SERIAL = 0x89

    def command(self, sent: bytes) -> bytes | None:
        if sent[0] == self._SERIAL:
            return self._words(0x0EFA, 0x1234)
        if sent[0] not in self._MEASURE:
            return None
        air = self._air()
        return self._words(
            raw_of(air.temperature, -45, 175, 0xFFFF), raw_of(air.humidity, -6, 125, 0xFFFF)
        )


class SimulatedScd4x(SensirionChip):
    """An SCD40 (Sensirion SCD4x, §3.5): measures every 5 s once it is started."""

    _PERIOD_S = 5.0
    _START, _STOP, _READY, _READ = b"\x21\xb1", b"\x3f\x86", b"\xe4\xb8", b"\xec\x05"

    def __init__(self, air: Callable[[], Air], clock: Clock) -> None:
        super().__init__(air)
        self._clock = clock
        self._since_s: float | None = None
        """When the newest sample was taken, or measuring began; None while stopped."""
        self.ppm = 620

    def _is_ready(self) -> bool:
        return (
            self._since_s is not None and self._clock.monotonic() - self._since_s >= self._PERIOD_S
        )

    def command(self, sent: bytes) -> bytes | None:
        if sent == self._START:
            self._since_s = self._clock.monotonic()
        elif sent == self._STOP:
            self._since_s = None
        elif sent == self._READY:
            return self._words(0x8006 if self._is_ready() else 0x8000)
        elif sent == self._READ and self._is_ready():
            self._since_s = self._clock.monotonic()
            air = self._air()
            return self._words(
                self.ppm,
                raw_of(air.temperature, -45, 175, 0xFFFF),
                raw_of(air.humidity, 0, 100, 0xFFFF),
            )
        return None


class SimulatedAht20:
    """An AHT20 (ASAIR product manual, §5.3 for commands, §6 for the conversion).

    Set `sends_crc` to False for an AHT10; `damage` changes the sent bytes.
    """

    _BUSY, _CALIBRATED = 0x80, 0x08

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._frame = b""
        self.busy = False
        """True: a triggered measurement never ends."""
        self.sends_crc = True
        self.damage: Callable[[bytes], bytes] = lambda sent: sent
        self._triggered = False
        self._calibrated = False

    def write(self, sent: bytes) -> None:
        if not sent:
            return
        if sent[0] == 0xE1:  # the AHT10's command, unknown to an AHT20
            raise _nack()
        if sent[0] == 0xBE:
            self._calibrated = True
        self._triggered = sent[0] == 0xAC
        if self._triggered:
            air = self._air()
            raw_humidity = raw_of(air.humidity, 0, 100, 1 << 20)
            raw_temperature = raw_of(air.temperature, -50, 200, 1 << 20)
            self._frame = (raw_humidity << 20 | raw_temperature).to_bytes(5, "big")

    def read(self, length: int) -> bytes:
        status = self._CALIBRATED if self._calibrated else 0
        if self.busy and self._triggered:
            status |= self._BUSY
        body = bytes([status]) + self._frame
        crc = bytes([crc8(body, start=0xFF)]) if self.sends_crc else b""
        return self.damage((body + crc)[:length].ljust(length, b"\xff"))


class SimulatedHtu21d:
    """An HTU21D (TE datasheet, "Conversion of signal outputs"); measures without holding."""

    _TEMPERATURE, _HUMIDITY, _RESET, _READ_USER = 0xF3, 0xF5, 0xFE, 0xE7
    _user = 0x02

    def __init__(self, air: Callable[[], Air]) -> None:
        self._air = air
        self._answer: bytes | None = None
        self.busy = False
        """True: a measurement never ends, and reads are not acknowledged."""
        self.damage: Callable[[bytes], bytes] = lambda sent: sent

    def write(self, sent: bytes) -> None:
        if not sent:
            return
        self._answer = None
        if sent[0] == self._TEMPERATURE:
            self._answer = self._word(raw_of(self._air().temperature, -46.85, 175.72, 1 << 16))
        elif sent[0] == self._HUMIDITY:
            self._answer = self._word(raw_of(self._air().humidity, -6, 125, 1 << 16) | 0x2)
        elif sent[0] == self._READ_USER:
            self._answer = bytes([self._user])

    def _word(self, raw: int) -> bytes:
        block = (min(raw, 0xFFFC) & ~1).to_bytes(2, "big")
        return block + bytes([crc8(block, start=0)])

    def read(self, length: int) -> bytes:
        if self._answer is None or (self.busy and len(self._answer) > 1):
            raise _nack()
        return self.damage(self._answer[:length].ljust(length, b"\xff"))


class SimulatedSi7021(SimulatedHtu21d):
    """A Si7021 (Silicon Labs, §5.1): like the HTU21D, with other user registers (§6.1, §6.2)."""

    _HEATER = 0x11
    _user = 0x3A

    def write(self, sent: bytes) -> None:
        super().write(sent)
        if sent[:1] == bytes([self._HEATER]):
            self._answer = b"\x00"
