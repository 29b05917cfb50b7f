"""A multiplexer on I2C (TCA9548A, PCA9548A) that the node switches itself.

Each of its channels is a bus for chips that would otherwise have the same address. The kernel can
do that too (`dtoverlay=i2c-mux`), and then each channel has a number of its own; both ways at once
do not work, because the kernel keeps the multiplexer's address for itself.

All sensors of one I2C bus are read on one thread, so a channel stays selected while it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec

from drivers.bus import Board
from drivers.errors import SensorNotFound
from drivers.owned_bus import I2CBus
from drivers.ports import Clock

__all__ = ["Mux", "muxed"]


class Mux(msgspec.Struct, frozen=True, kw_only=True):
    """Which multiplexer, and which of its channels."""

    address: Annotated[int, msgspec.Meta(ge=0x70, le=0x77, description="0x70 to 0x77")] = 0x70
    channel: Annotated[int, msgspec.Meta(ge=0, le=7)]

    def __str__(self) -> str:
        return f"mux 0x{self.address:02x} channel {self.channel}"


class _MuxedBus(I2CBus):
    """The bus behind one channel; each reading selects it first (TI SCPS207, §8.5.1)."""

    def __init__(self, trunk: I2CBus, mux: Mux, others: set[int], clock: Clock) -> None:
        """`others` has the addresses of all multiplexers in use on `trunk`."""
        super().__init__(trunk, clock)
        self._trunk = trunk
        self._mux = mux
        self._others = others
        others.add(mux.address)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        with super().within(seconds):
            self._select()
            yield

    def _select(self) -> None:
        """Connect this channel alone: also no channel of another multiplexer.

        Raises:
            SensorNotFound: the multiplexer does not answer.
        """
        for address in sorted(self._others - {self._mux.address}):
            self._switch(address, 0)
        self._switch(self._mux.address, 1 << self._mux.channel)

    def _switch(self, address: int, channels: int) -> None:
        try:
            self._trunk.writeto(address, bytes([channels]))
        except OSError as error:
            raise SensorNotFound(
                f"no multiplexer answers at address 0x{address:02x} ({error.strerror})",
                "check its power and its address pins; a multiplexer that the kernel drives is "
                "used by bus = N, without mux",
            ) from error


def muxed(board: Board, bus_number: int, mux: Mux) -> I2CBus:
    """Return the bus behind a channel, the same object at each call."""
    trunk = board.i2c(bus_number)
    key = f"i2c{bus_number} muxes"
    others: set[int] = board.shared(key, set)
    return board.shared(f"{key} {mux}", lambda: _MuxedBus(trunk, mux, others, board.clock))
