"""A simulated MCP3008 on gpiozero's mock pins, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpiozero.pins.mock import MockSPIDevice

__all__ = ["SimulatedMcp3008"]

REFERENCE_VOLTS = 3.3


class SimulatedMcp3008(MockSPIDevice):
    """Answers on MISO while it is clocked (MCP3008 datasheet DS21295, figure 5-1).

    `volts` maps an input, 0 to 7, to a function that tells its voltage; a floating input is 0 V.
    """

    def __init__(self, **pins: Any) -> None:
        super().__init__(**pins)
        self.volts: dict[int, Callable[[], float]] = {}

    def on_bit(self) -> None:
        # A start bit, single-ended or differential, and three bits of the input's number; then
        # one clock to sample, a null bit, and ten bits, most significant first.
        bits = list(self.rx_buf)
        if 1 not in bits:
            return
        start = bits.index(1)
        if len(bits) != start + 5:
            return
        number = bits[start + 2] << 2 | bits[start + 3] << 1 | bits[start + 4]
        volts = self.volts.get(number, lambda: 0.0)()
        raw = min(1023, max(0, round(volts / REFERENCE_VOLTS * 1024)))
        self.tx_word(raw, 12)
