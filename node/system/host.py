"""The computer's vital signs: temperature, radio, supply; each None if unavailable."""

from __future__ import annotations

import msgspec

from drivers.bus import Board
from node.system.throttling import read_throttled

__all__ = ["Vitals", "read_vitals"]

_THERMAL_ZONE = "/sys/class/thermal/thermal_zone0/temp"
_WIRELESS = "/proc/net/wireless"


class Vitals(msgspec.Struct, frozen=True):
    """The vital signs at one moment."""

    cpu_temperature: float | None
    """°C."""
    wifi_dbm: int | None
    """Signal level of the Wi-Fi, in dBm."""
    under_voltage: bool | None
    throttled: bool | None
    """The processor is slowed down because of the supply or of heat."""


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
    """Return °C from the kernel's thermal zone (thermal/sysfs-api.rst); None without one."""
    try:
        return round(int(board.path(_THERMAL_ZONE).read_text(encoding="utf-8")) / 1000, 1)
    except (OSError, ValueError):
        return None


def _wifi_dbm(board: Board) -> int | None:
    """Return the level of the first associated radio (proc(5), /proc/net/wireless).

    The lines look like ` wlan0: 0000   58.  -52.  -256 ...` and follow two lines of headings.
    Drivers that do not report dBm give unsigned 8 bits, which are converted.
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
