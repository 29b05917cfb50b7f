"""What the live model tells its views: rows, and the moment that they are of."""

from __future__ import annotations

import msgspec

from node.watch.payloads import value_text

__all__ = [
    "HISTORY",
    "NODE_OFFLINE",
    "NO_LINK",
    "OFFLINE",
    "ONLINE",
    "SIMULATED",
    "TableRow",
    "Value",
    "WatchTime",
]

HISTORY = 60
"""How many values a trend goes back."""

ONLINE = "online"
SIMULATED = "simulated"
"""Online, and its hardware is not real."""
OFFLINE = "offline"
NODE_OFFLINE = "node offline"
NO_LINK = "no link"

Value = float | bool | str


class WatchTime(msgspec.Struct, frozen=True):
    """Now: seconds since boot, by a clock that is never set, and since 1970, by one that is."""

    boot_s: float
    utc_s: float


class TableRow(msgspec.Struct, frozen=True):
    """One line of the view, of text that may be shown."""

    what: str
    """`node/sensor`, or the topic of something else."""
    channel: str
    value: Value
    unit: str
    age_s: float | None
    """None where nobody knows; below zero: measured in the future of this computer's clock."""
    status: str
    every_s: float | None
    """The time from one message to the next, once there were two."""
    history: tuple[float, ...]
    decimals: int = 0
    """As many as its values had until now, so that the point does not move."""
    silent: bool = False
    """There is no value of it at all."""

    @property
    def name(self) -> str:
        """What the row is of; a text in place of a value is that of a topic, not of a channel."""
        return f"{self.what}/{self.channel}" if self.channel and self.is_text else self.what

    @property
    def is_text(self) -> bool:
        return isinstance(self.value, str)

    @property
    def text(self) -> str:
        """The value with its unit."""
        if isinstance(self.value, str):
            return self.value
        return f"{value_text(self.value, self.decimals)} {self.unit}".rstrip()
