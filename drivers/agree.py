"""Several sensors of one quantity that must agree: their median, while they do.

There is no hardware. The node has the values of its sensors, and computes this one from them
(`node/sensors/agreement.py`); here are only the options.
"""

from __future__ import annotations

from typing import Annotated, NoReturn

import msgspec

from drivers.base import Channel, DriverInfo, Options
from drivers.bus import Board
from drivers.errors import MissingSupport

__all__ = ["AGREE", "AgreeOptions", "Agreed"]


class AgreeOptions(Options, frozen=True, kw_only=True):
    """Options of the driver `agree`."""

    of: Annotated[
        tuple[
            Annotated[
                str,
                msgspec.Meta(
                    pattern=r"^[A-Za-z0-9_-]+/[A-Za-z0-9_-]+\Z",
                    max_length=129,
                    description='the name of a channel: "SENSOR/CHANNEL"',
                ),
            ],
            ...,
        ],
        msgspec.Meta(min_length=2, max_length=9),
    ]
    """The channels that are compared, as SENSOR/CHANNEL; two or three, all in one unit."""
    within: Annotated[float, msgspec.Meta(gt=0)]
    """How far apart they may be, in the unit of their drivers."""

    def bus(self) -> str:
        return "agree"

    def where(self) -> str:
        return ", ".join(self.of)


class Agreed(AgreeOptions, frozen=True, kw_only=True):
    """The options once the channels are found."""

    channel: Channel

    def channels(self) -> tuple[Channel, ...]:
        return (self.channel,)


def _open(_options: AgreeOptions, _board: Board) -> NoReturn:
    raise MissingSupport("agree has no hardware", "only the node computes it")


AGREE = DriverInfo(
    name="agree",
    summary="What two or three sensors agree on: their median, or their mean",
    aliases=("agreement", "vote", "voting", "redundant"),
    options=AgreeOptions,
    channels=(),
    open=_open,
    example='driver = "agree"\nof = ["air/temperature", "attic/temperature"]\nwithin = 0.5',
    accuracy="that of its sensors",
    source="their datasheets",
    quirks="its channel has the name and the unit of the first that it compares; two sensors that "
    "differ give no value, because nothing says which one is right; of three, the one that "
    "deviates is named, and does not count",
    computed=True,
)
