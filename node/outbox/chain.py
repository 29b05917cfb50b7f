"""The chain of hashes over the readings of a log: each covers the one before it, and a reading.

A hash is BLAKE2b (RFC 7693) of the hash before it and of the content of a reading, cut off after
`HASH_BYTES`; of the readings that were committed in one row, the last one's is kept. Who alters,
inserts or removes a reading would have to make all later hashes again; a hash that others have
already, such as the head in `health`, then differs.

The content of a reading is its `seq`, the sensor, the channels, their numbers, and the time, if the
clock was set when it was taken. So a consumer can compute it from `history`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from node.reading import Reading

__all__ = ["HASH_BYTES", "NONCE", "Content", "beginning_of", "content_of", "hash_after"]

HASH_BYTES = 7
"""With its length in SQLite's record, a hash is eight bytes on the card."""

NONCE = r"[A-Za-z0-9+/=_.:-]{1,128}"
"""What someone who asks for a signature of the chain's head chooses, new each time."""

Content = tuple[int, int | None, str, tuple[str, ...], tuple[float, ...]]
"""(seq, milliseconds since 1970 or None, sensor, channels, numbers)"""

_encode = msgspec.json.Encoder().encode


def beginning_of(stream: str, seq: int) -> bytes:
    """Return what a chain begins with that follows the reading `seq`."""
    return blake2b(f"{stream} {seq}".encode(), digest_size=HASH_BYTES).digest()


def content_of(readings: Iterable[Reading]) -> list[Content]:
    """Return the content of readings as they were taken."""
    return [
        (r.seq, r.utc_ms if r.synced else None, r.layout.sensor, r.layout.channels, r.numbers)
        for r in readings
    ]


def hash_after(before: bytes, readings: Iterable[Content]) -> bytes:
    """Return the hash after the last of some readings."""
    for content in readings:
        before = blake2b(before + _encode(content), digest_size=HASH_BYTES).digest()
    return before
