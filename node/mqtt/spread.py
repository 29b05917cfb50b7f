"""When a node connects again: spread over a time, so that a fleet does not come in one instant.

A node has to notice within `[mqtt] reconnect_spread` that the broker is back. A connection attempt
sends its SYN at 0, 1 and 3 s (tcp(7), `tcp_syn_retries`), so the longest gap is 1 s and the longest
delay. The delay of the first attempt after a loss is drawn from nearly all of the spread where more
than the default allows it: a broker that is restarted at once loses its whole fleet in one instant.
"""

from __future__ import annotations

from random import uniform

__all__ = ["reconnect_delays", "reconnect_ranges"]

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
