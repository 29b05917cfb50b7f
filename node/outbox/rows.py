"""Readings as rows of the log, and back: pure functions.

A row holds the readings of a tick that share one state of the clock. It is small, because every
byte is written to an SD card twice: readings are a JSON list of `[layout, milliseconds after the
row's time, number, ...]`. A row has a checksum because SQLite does not have one for its pages, and
data that the card has corrupted must not be taken for a reading.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from node.outbox.chain import content_of, hash_after
from node.reading import Layout, Reading

__all__ = ["MAX_READINGS", "Damaged", "Row", "checksum_of", "readings_of", "rows_of"]

MAX_READINGS = 200
"""The most readings in one row, so that reading one of them does not mean decoding thousands."""
_MAX_STEP_MS = 50
"""How far two clocks may drift apart between two readings of a row; more than that is a step."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[list[int | float]]).decode


class Damaged(Exception):
    """The log differs from what was written."""


class Row(msgspec.Struct, frozen=True):
    """One row of the table `tick`, in the order of its columns."""

    last_seq: int
    count: int
    cursor: int
    dropped: int
    boot: int
    boot_ms: int
    utc_ms: int
    synced: int
    readings: bytes
    checksum: int
    hash: bytes | None = None
    """The hash after its last reading; None if the log is not chained (see `chain`)."""

    @property
    def expected_checksum(self) -> int:
        *values, _, after = msgspec.structs.astuple(self)
        return checksum_of(*values) if after is None else checksum_of(*values, after)


def checksum_of(*values: int | str | bytes | None) -> int:
    """Return the CRC-32 of the values of a row."""
    return zlib.crc32(repr(values).encode())


def rows_of(
    readings: Sequence[Reading],
    *,
    cursor: int,
    dropped: int,
    layout_number: Callable[[Layout], int],
    boot_number: Callable[[str], int],
    head: bytes | None = None,
) -> Iterator[Row]:
    """Pack readings, in seq order, into as few rows as possible.

    `head` is the hash that they are chained to; None if they are not.
    """
    start = 0
    for end in range(1, len(readings) + 1):
        if end == len(readings) or not _share_a_row(readings[end - 1], readings[end], end - start):
            group = readings[start:end]
            first = group[0]
            content = _encode(
                [(layout_number(r.layout), r.utc_ms - first.utc_ms, *r.numbers) for r in group]
            )
            head = None if head is None else hash_after(head, content_of(group))
            row = Row(
                last_seq=group[-1].seq,
                count=len(group),
                cursor=cursor,
                dropped=dropped,
                boot=boot_number(first.boot_id),
                boot_ms=first.boot_ms,
                utc_ms=first.utc_ms,
                synced=int(first.synced),
                readings=content,
                checksum=0,
                hash=head,
            )
            yield msgspec.structs.replace(row, checksum=row.expected_checksum)
            start = end


def _share_a_row(before: Reading, after: Reading, count: int) -> bool:
    step_ms = (after.utc_ms - after.boot_ms) - (before.utc_ms - before.boot_ms)
    return (
        count < MAX_READINGS
        and after.seq == before.seq + 1
        and after.boot_id == before.boot_id
        and after.synced == before.synced
        and abs(step_ms) <= _MAX_STEP_MS
    )


def readings_of(
    row: Row, layouts: Mapping[int, Layout], boot_ids: Mapping[int, str]
) -> list[Reading]:
    """Return the readings of a row, as they were appended.

    Raises:
        Damaged: the checksum differs, or the row refers to something that does not exist.
    """
    if row.checksum != row.expected_checksum:
        raise Damaged(f"the checksum of the readings up to {row.last_seq} differs")
    try:
        boot_id = boot_ids[row.boot]
        first_seq = row.last_seq - row.count + 1
        return [
            Reading(
                seq=first_seq + index,
                layout=layouts[int(layout)],
                numbers=tuple(numbers),
                boot_id=boot_id,
                boot_ms=row.boot_ms + int(after_ms),
                utc_ms=row.utc_ms + int(after_ms),
                synced=bool(row.synced),
            )
            for index, (layout, after_ms, *numbers) in enumerate(_decode(row.readings))
        ]
    except (KeyError, msgspec.DecodeError) as error:
        raise Damaged(f"the readings up to {row.last_seq} cannot be read: {error}") from error
