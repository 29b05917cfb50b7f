"""Stands in for a driver of another package that is faulty, so that only its own sensor fails.

The configuration stays valid: the sensor is offline, and each reading says what is wrong with its
driver. Imported only for such a driver.
"""

from __future__ import annotations

from typing import Any, NoReturn

from drivers.base import Channel, DriverInfo, Options
from drivers.bus import Board
from drivers.errors import MissingSupport

__all__ = ["stand_in"]

_REMEDY = "its author must correct it; the other sensors go on"


class _FaultyOptions(Options, frozen=True, kw_only=True):
    driver: str

    def bus(self) -> str:
        return f"driver {self.driver}"

    def where(self) -> str:
        return f"driver {self.driver}"


def stand_in(name: str, what: str, faulty: DriverInfo | None = None) -> tuple[DriverInfo, Options]:
    """Return a driver called `name` that always fails with `what`, and its options.

    `faulty`: the driver itself, if it could be loaded; its channels are kept.
    """

    def fail(_options: Any, _board: Board) -> NoReturn:
        raise MissingSupport(what, _REMEDY)

    channels: tuple[Channel, ...] = ()
    if faulty is not None and isinstance(faulty.channels, tuple):
        channels = tuple(c for c in faulty.channels if isinstance(c, Channel))
    info = DriverInfo(
        name=name,
        summary=what,
        options=_FaultyOptions,
        channels=channels,
        open=fail,
        example=f'driver = "{name}"',
        more_channels=True,
    )
    return info, _FaultyOptions(driver=name)
