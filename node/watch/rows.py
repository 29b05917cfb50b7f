"""What the live model gives its views: rows, and the time that they refer to."""

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
"""Number of values in a trend."""

ONLINE = "online"
SIMULATED = "simulated"
"""Online, and its hardware is not real."""
OFFLINE = "offline"
NODE_OFFLINE = "node offline"
NO_LINK = "no link"

Value = float | bool | str


class WatchTime(msgspec.Struct, frozen=True):
    """The current time: seconds since boot (never stepped), and since 1970 (may be stepped)."""

    boot_s: float
    utc_s: float


class TableRow(msgspec.Struct, frozen=True):
    """One line of the view; its text is safe to show."""

    what: str
    """`node/sensor`, or any other topic."""
    channel: str
    value: Value
    unit: str
    age_s: float | None
    """None if unknown; negative if measured in the future of this computer's clock."""
    status: str
    every_s: float | None
    """The usual time between two messages; None before the second one."""
    history: tuple[float, ...]
    decimals: int = 0
    """The most decimals of any value so far, so that the point does not move."""
    silent: bool = False
    """The node or sensor does not have a value yet."""
    whose: tuple[str, ...] = ()
    """(node, sensor), as they are in the topic; () for a topic that does not belong to a node."""
    expires_s: float | None = None
    """How long after its reading the value is valid; None if the node does not say it."""

    @property
    def name(self) -> str:
        """The name of the row. With text as its value, this is the topic, channel included."""
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
