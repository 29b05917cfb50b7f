"""Whether the Pi's supply or temperature slows it down, according to its firmware.

The kernel offers two sources. `get_throttled` of the Raspberry Pi kernel's firmware driver
(drivers/firmware/raspberrypi.c) gives the bits of `vcgencmd get_throttled`, in hexadecimal. The
hwmon device `rpi_volt` (drivers/hwmon/raspberrypi-hwmon.c), which other kernels also have, gives
only under-voltage. Its driver polls the firmware every two seconds and makes it clear the past
events, so while that driver is loaded, "since boot" may mean only the last two seconds.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from drivers.bus import Board

__all__ = ["Throttled", "decode_throttled", "read_throttled"]

_PLATFORM = "/sys/devices/platform"
_FIRMWARE = "soc*/soc*:firmware/get_throttled"
"""A Pi 5 has soc@107c000000 in place of soc."""
_HWMON = "/sys/class/hwmon"
_NAME = "rpi_volt"


class Throttled(msgspec.Struct, frozen=True, kw_only=True):
    """What slows the processor down now, and what has done so since boot."""

    under_voltage: bool = False
    """The supply is below 4.63 V."""
    frequency_capped: bool = False
    throttled: bool = False
    soft_temperature_limit: bool = False
    under_voltage_since_boot: bool = False
    frequency_capped_since_boot: bool = False
    throttled_since_boot: bool = False
    soft_temperature_limit_since_boot: bool = False


def decode_throttled(bits: int) -> Throttled:
    """Decode the bits of `vcgencmd get_throttled` (Raspberry Pi documentation, "get_throttled")."""
    return Throttled(
        under_voltage=bool(bits & 1 << 0),
        frequency_capped=bool(bits & 1 << 1),
        throttled=bool(bits & 1 << 2),
        soft_temperature_limit=bool(bits & 1 << 3),
        under_voltage_since_boot=bool(bits & 1 << 16),
        frequency_capped_since_boot=bool(bits & 1 << 17),
        throttled_since_boot=bool(bits & 1 << 18),
        soft_temperature_limit_since_boot=bool(bits & 1 << 19),
    )


def read_throttled(board: Board) -> Throttled | None:
    """Return the current state; None on a computer that does not report it."""
    bits = _firmware_bits(board)
    alarm = _alarm(board)
    if bits is None and alarm is None:
        return None
    found = decode_throttled(bits or 0)
    if alarm:
        found = msgspec.structs.replace(found, under_voltage=True, under_voltage_since_boot=True)
    return found


def _firmware_bits(board: Board) -> int | None:
    for file in board.path(_PLATFORM).glob(_FIRMWARE):
        with contextlib.suppress(OSError, ValueError):
            return int(file.read_text(encoding="utf-8"), 16)
    return None


def _alarm(board: Board) -> bool | None:
    """Return whether the hwmon device saw under-voltage in the last two seconds."""
    for folder in board.path(_HWMON).glob("hwmon*"):
        if _text(folder / "name") == _NAME:
            return _text(folder / "in0_lcrit_alarm") == "1"
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
