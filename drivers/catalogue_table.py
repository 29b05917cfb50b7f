"""The tables of the catalogue in drivers/README.md, made from its rows. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from drivers.chip_row import ChipRow

__all__ = ["catalogue_table", "lies_table", "proof_of"]

_HEADING = (
    "| driver | chip | channels | accuracy | what proves a value | remarks |\n"
    "|---|---|---|---|---|---|\n"
)


_DIES = """
Chips that are made for something else (motion, power, time), and measure their own temperature,
mostly some degrees above that of the air:

"""


def catalogue_table(rows: Iterable[ChipRow]) -> str:
    """Return Markdown with a line for each row, sorted by name; dies in a table of their own."""
    in_order = sorted(rows, key=lambda row: row.name)
    thermometers = "".join(_line(row) for row in in_order if not row.is_die)
    dies = "".join(_line(row) for row in in_order if row.is_die)
    table = _HEADING + thermometers if thermometers or not dies else ""
    return table + (_DIES + _HEADING + dies if dies else "")


def _line(row: ChipRow) -> str:
    chip = row.summary.partition(":")[0]
    channels = ", ".join(channel.name for channel in row.channels)
    remarks = f" {row.quirks} " if row.quirks else " "
    return f"| `{row.name}` | {chip} | {channels} | {row.accuracy} | {proof_of(row)} |{remarks}|\n"


def proof_of(row: ChipRow) -> str:
    """Return, in words, the checks on a chip's value in addition to its range."""
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


_LIES = (
    "| driver | a damaged answer | an old value, or none measured "
    "| a loss of power | another chip |\n|---|---|---|---|---|\n"
)
_ONLY_RANGE = "-"


def lies_table(rows: Iterable[ChipRow]) -> str:
    """Return Markdown: how each chip can lie, and what detects it besides the datasheet's range."""
    return _LIES + "".join(
        f"| `{row.name}` | {' | '.join(_stops(row))} |\n"
        for row in sorted(rows, key=lambda row: row.name)
    )


def _stops(row: ChipRow) -> tuple[str, str, str, str]:
    """Return what detects each of the lies in `_LIES`."""
    crc = {"here": "CRC, checked here", "library": "CRC"}.get(row.crc, "")
    identifies = row.witness is not None and row.witness.identifies and row.witness.expected
    measured = (
        (row.asked, "measures when it is read"),
        (row.memory_s, "is asked twice"),
        (row.ready or row.fresh, "data-ready flag"),
        (row.checked, row.checked),
        (row.noisy, "never 50 alike"),
    )
    powered = (
        (row.mark, "a mark"),
        (row.running, "its mode"),
        (row.fresh or row.ready, "no new measurement comes"),
        (row.asked or row.memory_s, "measures when it is read"),
    )
    return (
        crc or _ONLY_RANGE,
        "; ".join(words for there, words in measured if there) or _ONLY_RANGE,
        next((words for there, words in powered if there), _ONLY_RANGE),
        "identification" if identifies else _ONLY_RANGE,
    )
