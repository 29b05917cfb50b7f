"""Simulated MCP3004, MCP3008, MCP3204 and MCP3208 on gpiozero's mock pins, bit by bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpiozero.pins.mock import MockSPIDevice

__all__ = ["SimulatedMcp", "analog_volts", "steinhart_hart_ohms"]

REFERENCE_VOLTS = 3.3


class SimulatedMcp(MockSPIDevice):
    """Answers on MISO while it is clocked (DS21295, figure 5-1; DS21298, figure 5-1).

    `volts` maps an input to a function that returns its voltage; a floating input is 0 V.
    """

    def __init__(self, *, inputs: int, bits: int, **pins: Any) -> None:
        super().__init__(**pins)
        self.volts: dict[int, Callable[[], float]] = {}
        self._inputs = inputs
        self._bits = bits

    def on_bit(self) -> None:
        # A start bit, single-ended or differential, and three bits of the input's number (the
        # first is ignored by a chip with four inputs); then one clock to sample, a null bit, and
        # the result, most significant bit first.
        bits = list(self.rx_buf)
        if 1 not in bits:
            return
        start = bits.index(1)
        if len(bits) != start + 5:
            return
        number = (bits[start + 2] << 2 | bits[start + 3] << 1 | bits[start + 4]) % self._inputs
        volts = self.volts.get(number, lambda: 0.0)()
        codes = 1 << self._bits
        raw = min(codes - 1, max(0, round(volts / REFERENCE_VOLTS * codes)))
        self.tx_word(raw, self._bits + 2)


def analog_volts(wired: dict[str, Any], celsius: float) -> float:
    """Return the output voltage of the analog sensor described by the options `wired`."""
    if wired["sensor"] == "thermistor":
        if wired["steinhart_hart"] is None:
            exponent = wired["beta"] * (1 / (celsius + 273.15) - 1 / 298.15)
            ohms = wired["nominal_ohms"] * math.exp(exponent)
        else:
            ohms = steinhart_hart_ohms(celsius, *wired["steinhart_hart"])
        volts: float = wired["reference_volts"] * ohms / (ohms + wired["series_ohms"])
        return volts
    millivolts_per_degree = 20 if wired["sensor"] == "tmp37" else 10
    at_zero = 500 if wired["sensor"] == "tmp36" else 0
    return (at_zero + millivolts_per_degree * celsius) / 1000


def steinhart_hart_ohms(celsius: float, a: float, b: float, c: float) -> float:
    """Solve the equation for the resistance, as a cubic in its logarithm (Cardano)."""
    difference = a - 1 / (celsius + 273.15)
    if c == 0:
        return math.exp(-difference / b)
    x = difference / c
    y = math.sqrt((b / (3 * c)) ** 3 + x * x / 4)
    return math.exp(math.cbrt(y - x / 2) - math.cbrt(y + x / 2))
