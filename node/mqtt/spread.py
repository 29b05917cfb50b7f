"""When a node connects again: spread over a time, so that a fleet does not come in one instant.

A node has to notice within `[mqtt] reconnect_spread` that the broker is back. A connection attempt
sends its SYN at 0, 1 and 3 s (tcp(7), `tcp_syn_retries`), so the longest gap is 1 s and the longest
delay. The delay of the first attempt after a loss is drawn from nearly all of the spread where more
than the default allows it: a broker that is restarted at once loses its whole fleet in one instant.

Where connections do not last, or the broker is busy, the node waits longer: `Pauses`, used on the
thread of the link's owner.
"""

from __future__ import annotations

from random import uniform

from node.mqtt.reasons import (
    BUSY,
    PACKET_TOO_LARGE,
    REFERRALS,
    SESSION_TAKEN_OVER,
    SHUTTING_DOWN,
    Reason,
)
from node.system.clock import Clock

__all__ = ["SHORT_LIFE_S", "SHORT_LIVES", "Pauses", "reconnect_delays", "reconnect_ranges"]

SHORT_LIFE_S = 10.0
SHORT_LIVES = 3
"""Consecutive connections lost within `SHORT_LIFE_S` that indicate a problem."""
MAX_PAUSE_S = 60.0
_JITTER = 0.5
"""The least part of a pause that a busy broker gets; the rest of it is at random."""

_SHORTEST_S = 0.7
_AFTER_FIRST_S = 3.7
"""How much of the spread the first delay leaves to an attempt that fails, and to the next one."""
_ALLOWANCE_S = 1.8
"""How much of the spread the longest delay leaves to the attempt itself."""


def reconnect_ranges(spread_s: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of the first delay and of the longest one, in seconds.

    Each delay is twice the one before it, up to the longest.
    """
    longest_s = spread_s - _ALLOWANCE_S
    return (_SHORTEST_S, spread_s - _AFTER_FIRST_S), (0.75 * longest_s, longest_s)


def reconnect_delays(spread_s: float) -> tuple[float, float]:
    """Draw the first delay and the longest one, in seconds."""
    first, longest = reconnect_ranges(spread_s)
    return uniform(*first), uniform(*longest)


class Pauses:
    """How long to wait before the next connection, by how the last ones have ended."""

    def __init__(self, clock: Clock, spread_s: float) -> None:
        self._clock = clock
        self._longest_busy_s = max(MAX_PAUSE_S, spread_s)
        self._refusals = 0
        """How often in a row the broker was busy, or could not be followed to another server."""
        self._up_since_s = 0.0
        self._was_away = False
        """Whether a connection attempt has failed since the last connection was lost."""
        self.short_lives = 0
        """How many connections in a row were lost within `SHORT_LIFE_S`."""
        self.was_short_lived = False
        """Whether the last connection was one of them."""

    def connected(self) -> None:
        """Note a new connection."""
        self._up_since_s = self._clock.monotonic()

    def failed(self) -> None:
        """Note a failed attempt to connect."""
        self._was_away = True

    @property
    def lasts(self) -> bool:
        """Return whether the newest connection was made longer than `SHORT_LIFE_S` ago."""
        return self._clock.monotonic() - self._up_since_s > SHORT_LIFE_S

    def busy_s(self) -> float:
        """Return the pause for a busy broker, longer each time until a connection lasts."""
        self._refusals += 1
        pause_s = min(2.0 ** min(self._refusals, 10), self._longest_busy_s)
        return uniform(_JITTER * pause_s, pause_s)

    def lost_s(self, reason: Reason) -> float:
        """Note a lost connection; return the pause before each attempt, in seconds.

        There is one when consecutive connections are lost soon after they were made. Two clients
        with one id cause this: each connection ends the other's (MQTT 5, §3.1.4), endlessly, and as
        fast as they reconnect. A broker also does it over a message that is too large. A broker
        that was away in between does not count: it may be restarted repeatedly, and the node must
        notice its return soon each time. Nor does one that is busy, or refers to another.
        """
        if self.lasts:
            self._refusals = 0
        if reason.code in BUSY or reason.code in REFERRALS:
            self.was_short_lived = False
            return 0.0
        is_ours = reason.code in (SESSION_TAKEN_OVER, PACKET_TOO_LARGE)
        was_away, self._was_away = self._was_away or reason.code == SHUTTING_DOWN, False
        self.was_short_lived = not self.lasts and (is_ours or not was_away)
        self.short_lives = self.short_lives + 1 if self.was_short_lived else 0
        pauses = self.short_lives - SHORT_LIVES + 1
        return min(2.0**pauses, MAX_PAUSE_S) if pauses > 0 else 0.0
