"""The table of the catalogue in drivers/README.md, made of its rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from drivers.chip_row import ChipRow

__all__ = ["catalogue_table", "proof_of"]

_HEADING = (
    "| driver | chip | channels | accuracy | what proves a value | remarks |\n"
    "|---|---|---|---|---|---|\n"
)


def catalogue_table(rows: Iterable[ChipRow]) -> str:
    """Markdown, a line for each row, sorted by name."""
    return _HEADING + "".join(_line(row) for row in sorted(rows, key=lambda row: row.name))


def _line(row: ChipRow) -> str:
    chip = row.summary.partition(":")[0]
    channels = ", ".join(channel.name for channel in row.channels)
    remarks = f" {row.quirks} " if row.quirks else " "
    return f"| `{row.name}` | {chip} | {channels} | {row.accuracy} | {proof_of(row)} |{remarks}|\n"


def proof_of(row: ChipRow) -> str:
    """What a value of the chip must pass, beside its range, in words."""
    identifies = row.witness is not None and row.witness.identifies and row.witness.expected
    proofs = {
        "CRC": row.crc,
        "data-ready flag": row.ready or row.fresh,
        row.checked: row.checked,
        "identification": identifies,
        "a register that a dead bus has not": row.witness and not identifies,
        "mode": row.running,
        "a mark that a loss of power erases": row.mark,
        "asked twice": row.memory_s,
        "never 50 alike": row.noisy,
    }
    return "; ".join(words for words, there in proofs.items() if there) or "its range alone"
