"""The weather that simulated sensors feel: slow, smooth, and a little noisy."""

from __future__ import annotations

import math
import random
import zlib

import msgspec

from drivers.bus import Clock

__all__ = ["Air", "Climate", "Room"]


class Air(msgspec.Struct, frozen=True):
    """The air at one spot: °C, %RH, hPa."""

    temperature: float
    humidity: float
    pressure: float


class Climate(msgspec.Struct, frozen=True, kw_only=True):
    """The climate of a room: mean °C and %RH, and how the temperature varies."""

    base: float = 21.0
    daily_swing: float = 0.0
    """°C from the coldest to the warmest time of a day; a day begins halfway, and rising."""
    noise: float = 0.03
    """°C, standard deviation of each sample."""
    humidity: float = 46.0


class Room:
    """A function from time and place to air; two spots of one room drift apart a little.

    The values are sums of sines whose periods do not have a common multiple, so nothing repeats.
    The room does not have any state: the same seed, spot and time give the same air.
    """

    def __init__(self, clock: Clock, climate: Climate | None = None, *, seed: int = 1) -> None:
        self._clock = clock
        self._climate = climate or Climate()
        self._seed = seed
        self._start_s = clock.monotonic()

    def elapsed_s(self) -> float:
        """Return the age of the room in seconds."""
        return self._clock.monotonic() - self._start_s

    def at(self, spot: str, elapsed_s: float | None = None) -> Air:
        """Return the air at `spot` (any name), now or at another age of the room."""
        if elapsed_s is None:
            elapsed_s = self.elapsed_s()
        phases = random.Random(zlib.crc32(f"{self._seed} {spot}".encode()))
        noise = random.Random(f"{self._seed} {spot} {elapsed_s:.3f}")
        drift = sum(
            amplitude * math.sin(2 * math.pi * elapsed_s / period_s + phases.uniform(0, 6.28))
            for period_s, amplitude in ((47.0, 0.15), (173.0, 0.5), (1931.0, 1.5))
        )
        climate = self._climate
        temperature = climate.base + phases.uniform(-1.0, 1.0) + noise.gauss(0, climate.noise)
        drift += climate.daily_swing / 2 * math.sin(2 * math.pi * elapsed_s / 86400)
        return Air(
            temperature=temperature + drift,
            # Warmer air holds the same water at a lower relative humidity.
            humidity=min(99.0, max(1.0, climate.humidity - 2.2 * drift + noise.gauss(0, 0.1))),
            pressure=1013.0 + 1.5 * math.sin(2 * math.pi * elapsed_s / 3607) + noise.gauss(0, 0.02),
        )
