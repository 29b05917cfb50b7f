"""What the Pi's firmware says of its supply: under-voltage, and a processor held back.

The kernel's driver of the firmware (drivers/firmware/raspberrypi.c of the Raspberry Pi kernel) has
the number that `vcgencmd get_throttled` prints, in hexadecimal, in a file. A computer that is no
Pi has no such file.
"""

from __future__ import annotations

import msgspec

from drivers.bus import Board

__all__ = ["Throttled", "read_throttled"]

_GET_THROTTLED = "/sys/devices/platform/soc/soc:firmware/get_throttled"
_SINCE_BOOT = 16
"""How much higher the bits of what has happened since boot are (Raspberry Pi documentation,
"get_throttled")."""


class Throttled(msgspec.Struct, frozen=True):
    """What holds now, and what has happened since boot."""

    under_voltage: bool
    """The supply is below 4.63 V."""
    frequency_capped: bool
    throttled: bool
    soft_temperature_limit: bool
    under_voltage_since_boot: bool
    frequency_capped_since_boot: bool
    throttled_since_boot: bool
    soft_temperature_limit_since_boot: bool


def read_throttled(board: Board) -> Throttled | None:
    """None where the firmware does not tell."""
    try:
        text = board.path(_GET_THROTTLED).read_text(encoding="ascii")
        bits = int(text, 16)
    except (OSError, ValueError):
        return None
    return Throttled(
        *(bool(bits >> bit & 1) for first in (0, _SINCE_BOOT) for bit in range(first, first + 4))
    )
