"""The stream that each reading of the log belongs to.

Another stream begins where a `seq` may have been used that this log does not know of: for readings
that were only sent from memory, were lost with a damaged log, or are missing on a restored card.
Earlier readings keep their stream, because consumers recognise duplicates by (stream, seq).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

__all__ = ["Streams", "new_stream"]


class Streams:
    """The ids of the streams, each with the `seq` of its first reading."""

    def __init__(self, begins: Sequence[tuple[int, str]] = ()) -> None:
        self._begins = sorted(begins) or [(0, new_stream())]

    @property
    def begins(self) -> tuple[tuple[int, str], ...]:
        """Return (first seq, id) of each stream, oldest first."""
        return tuple(self._begins)

    @property
    def newest(self) -> str:
        """Return the stream of the next reading."""
        return self._begins[-1][1]

    def of(self, seq: int) -> str:
        """Return the stream of a reading."""
        first, newest = self._begins[-1]
        if first <= seq:
            return newest
        return next((name for first, name in reversed(self._begins) if first <= seq), self._oldest)

    def begin_of(self, stream: str) -> int | None:
        """Return the first `seq` of a stream; None if the log has no reading of it."""
        return next((max(1, first) for first, name in self._begins if name == stream), None)

    @property
    def _oldest(self) -> str:
        return self._begins[0][1]

    def begin(self, first_seq: int) -> None:
        """Begin another stream with the reading `first_seq`."""
        self._begins = [known for known in self._begins if known[0] < first_seq]
        self._begins.append((first_seq, new_stream()))

    def forget_before(self, seq: int) -> bool:
        """Forget the streams that ended before `seq`; return whether there were any."""
        current = max((first for first, _ in self._begins if first <= seq), default=0)
        kept = [known for known in self._begins if known[0] >= current]
        gone = len(kept) < len(self._begins)
        self._begins = kept
        return gone


def new_stream() -> str:
    """Return an id that no other stream has."""
    return os.urandom(8).hex()
