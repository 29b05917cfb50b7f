"""The table of the catalogue in drivers/README.md, made of its rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from drivers.chip_row import ChipRow

__all__ = ["catalogue_table"]

_HEADING = "| driver | chip | channels | accuracy | remarks |\n|---|---|---|---|---|\n"


def catalogue_table(rows: Iterable[ChipRow]) -> str:
    """Markdown, a line for each row, sorted by name."""
    return _HEADING + "".join(_line(row) for row in sorted(rows, key=lambda row: row.name))


def _line(row: ChipRow) -> str:
    chip = row.summary.partition(":")[0]
    channels = ", ".join(channel.name for channel in row.channels)
    remarks = f" {row.quirks} " if row.quirks else " "
    return f"| `{row.name}` | {chip} | {channels} | {row.accuracy} |{remarks}|\n"
