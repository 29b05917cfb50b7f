"""How the computer itself is: temperature, radio, supply; each None where nothing tells."""

from __future__ import annotations

import msgspec

from drivers.bus import Board
from node.system.throttling import read_throttled

__all__ = ["Vitals", "read_vitals"]

_THERMAL_ZONE = "/sys/class/thermal/thermal_zone0/temp"
_WIRELESS = "/proc/net/wireless"


class Vitals(msgspec.Struct, frozen=True):
    """At one moment."""

    cpu_temperature: float | None
    """°C."""
    wifi_dbm: int | None
    """Signal of the radio."""
    under_voltage: bool | None
    throttled: bool | None
    """The processor is slowed down, by the supply or by heat."""


def read_vitals(board: Board) -> Vitals:
    power = read_throttled(board)
    return Vitals(
        cpu_temperature=_cpu_temperature(board),
        wifi_dbm=_wifi_dbm(board),
        under_voltage=None if power is None else power.under_voltage,
        throttled=None
        if power is None
        else power.throttled or power.frequency_capped or power.soft_temperature_limit,
    )


def _cpu_temperature(board: Board) -> float | None:
    """Where the kernel has a thermal zone (thermal/sysfs-api.rst)."""
    try:
        return round(int(board.path(_THERMAL_ZONE).read_text(encoding="utf-8")) / 1000, 1)
    except (OSError, ValueError):
        return None


def _wifi_dbm(board: Board) -> int | None:
    """The level of the first radio that is associated (proc(5), /proc/net/wireless).

    ` wlan0: 0000   58.  -52.  -256 ...` after two lines of headings; 8 bits without a sign, by
    drivers that do not say dBm, are taken for what they mean.
    """
    try:
        lines = board.path(_WIRELESS).read_text(encoding="utf-8").splitlines()[2:]
        for line in lines:
            level = round(float(line.split()[3]))
            if level not in (0, -256):
                return level - 256 if level > 63 else level
    except (OSError, ValueError, IndexError):
        pass
    return None
