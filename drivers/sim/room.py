"""The weather that simulated sensors feel: slow, smooth, and a little noisy."""

from __future__ import annotations

import math
import random
import zlib

import msgspec

from drivers.bus import Clock

__all__ = ["Air", "Room"]


class Air(msgspec.Struct, frozen=True):
    """The air at one spot: °C, %RH, hPa."""

    temperature: float
    humidity: float
    pressure: float


class Room:
    """A function from time and place to air; two spots of one room drift apart a little.

    The values are sums of sines whose periods have no common multiple, so nothing repeats, and
    nothing is remembered: the same seed, spot and time give the same air.
    """

    def __init__(self, clock: Clock, *, seed: int = 1) -> None:
        self._clock = clock
        self._seed = seed
        self._start_s = clock.monotonic()

    def at(self, spot: str) -> Air:
        """The air at `spot` (any name) now."""
        elapsed_s = self._clock.monotonic() - self._start_s
        phases = random.Random(zlib.crc32(f"{self._seed} {spot}".encode()))
        noise = random.Random(f"{self._seed} {spot} {elapsed_s:.3f}")
        drift = sum(
            amplitude * math.sin(2 * math.pi * elapsed_s / period_s + phases.uniform(0, 6.28))
            for period_s, amplitude in ((47.0, 0.15), (173.0, 0.5), (1931.0, 1.5))
        )
        temperature = 21.0 + phases.uniform(-1.0, 1.0) + drift + noise.gauss(0, 0.03)
        return Air(
            temperature=temperature,
            # Warmer air holds the same water at a lower relative humidity.
            humidity=min(95.0, max(5.0, 46.0 - 2.2 * drift + noise.gauss(0, 0.1))),
            pressure=1013.0 + 1.5 * math.sin(2 * math.pi * elapsed_s / 3607) + noise.gauss(0, 0.02),
        )
