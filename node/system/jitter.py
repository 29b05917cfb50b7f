"""Times that differ from node to node, so that a whole fleet does not come in the same second."""

from __future__ import annotations

import os

__all__ = ["at_random"]


def at_random(low: float, high: float) -> float:
    """Return a number between the two, from the kernel: `random` takes 1 ms to import."""
    return low + (high - low) * int.from_bytes(os.urandom(4), "big") / 2**32
