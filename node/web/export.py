"""The log as CSV (RFC 4180), some readings at a time.

The log is opened again for each piece, so that a slow reader does not hold it open.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from node.outbox.reader import LOG_TROUBLE, open_log, readings_from
from node.reading import Reading
from node.system.clock import utc_text

__all__ = ["COLUMNS", "csv_pieces", "safe_cell"]

COLUMNS = ("seq", "sensor", "time", "clock", "channel", "value", "unit")
_AT_ONCE = 2000
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe_cell(text: str) -> str:
    """Return the text so that spreadsheets do not read it as a formula (OWASP, "CSV injection")."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_pieces(file: Path, *, since_ms: int | None, sensor: str | None) -> Iterator[bytes]:
    """Yield a line per value, oldest first, from `since_ms` on; the heading precedes any reading.

    In a chained log, the lines of the last reading of each row end with its hash.

    If the log becomes unreadable, the export ends early with a line that says so: not standard
    CSV, but the line cannot be mistaken for a reading.
    """
    seq: int | None = None
    last = 0
    chained = False
    while True:
        try:
            with open_log(file) as log:
                if seq is None:
                    chained = log.chained
                    yield _lines([(*COLUMNS, "hash") if chained else COLUMNS])
                    last = log.ledger.last_seq
                    seq = log.last_before(since_ms) if since_ms is not None else 0
                if seq >= last:
                    return
                piece = [
                    reading
                    for readings in readings_from(log, seq, most=_AT_ONCE, hashes=chained)
                    for reading in readings
                ]
        except LOG_TROUBLE as error:
            if seq is None:
                yield _lines([COLUMNS])
            yield _lines([[f"# the log cannot be read any further: {error}"]])
            return
        if not piece:
            return
        seq = piece[-1].seq
        rows = [
            row
            for reading in piece
            if reading.seq <= last
            for row in _rows(reading, since_ms, sensor, chained=chained)
        ]
        if rows:
            yield _lines(rows)


def _rows(
    reading: Reading, since_ms: int | None, sensor: str | None, *, chained: bool
) -> Iterator[tuple[str, ...]]:
    if sensor is not None and reading.sensor != sensor:
        return
    if since_ms is not None and reading.utc_ms < since_ms and reading.synced:
        return
    layout = reading.layout
    for channel, unit, number in zip(layout.channels, layout.units, reading.numbers, strict=True):
        yield (
            str(reading.seq),
            safe_cell(reading.sensor),
            utc_text(reading.utc_ms),
            "synced" if reading.synced else "unsynced",
            safe_cell(channel),
            repr(number),
            safe_cell(unit),
            *((reading.hash.hex(),) if chained else ()),
        )


def _lines(rows: Iterator[object] | list[object] | object) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()
