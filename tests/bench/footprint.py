"""What the node takes on a Raspberry Pi Zero W, beside the tutorial loop: an estimate.

Counted: instructions of ARM code, the kernel's among them, and memory on 32 bit, in a QEMU that is
a Pi Zero (`pi_guest.py`). Estimated: how long the real one takes for them, because QEMU knows
neither caches nor memory. How many instructions a cycle the ARM1176 does on Python's code is a
range; footprint.md beside this file says where it is from.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from pi_guest import NS_PER_INSTRUCTION, Unavailable, run_in_guest
from pi_measure import INTERVAL_S, PEERS, SENSORS

CLOCK_HZ = 1e9
INSTRUCTIONS_PER_CYCLE = (0.1, 0.2)
CARD_READS_PER_S = 1500
"""The least that a card of application class A1 does (SD Specifications Part 1, 4.16.2)."""
CARD_BYTES_PER_S = 10e6
"""The least, in sequence, of the same class."""

Figures = dict[str, dict[str, float]]


def figures_of(lines: list[str]) -> Figures:
    """Peer -> name -> value; medians of the cold starts."""
    told = [json.loads(line.partition("FIGURES ")[2]) for line in lines if "FIGURES " in line]
    figures: Figures = {"interpreter": {}}
    for one in told:
        if "interpreter_cpu_s" in one:
            figures["interpreter"]["instructions"] = _instructions(one["interpreter_cpu_s"])
    for peer in PEERS:
        colds = [one for one in told if one.get("peer") == peer and "cold_cpu_s" in one]
        (steady,) = (one for one in told if one.get("peer") == peer and "readings" in one)
        figures[peer] = {
            "cold_instructions": _instructions(statistics.median(c["cold_cpu_s"] for c in colds)),
            "files": statistics.median(c["files"] for c in colds),
            "file_bytes": statistics.median(c["file_bytes"] for c in colds),
            "instructions_per_reading": _instructions(steady["cpu_s_per_reading"]),
            "wakeups_per_s": steady["wakeups_per_s"],
            "rss_mb": steady["rss_mb"],
            "pss_mb": steady["pss_mb"],
        }
    return figures


def _instructions(guest_s: float) -> float:
    return guest_s * 1e9 / NS_PER_INSTRUCTION


def _row(name: str, tutorial: float, node: float, digits: int = 0) -> str:
    return f"{name:<46}{tutorial:>14,.{digits}f}{node:>14,.{digits}f}{node / tutorial:>9.2f}x"


def _range(low: float, high: float, digits: int) -> str:
    return f"{low:.{digits}f} to {high:.{digits}f}"


def show(figures: Figures) -> None:
    """The table, counted and estimated."""
    tutorial, node = (figures[peer] for peer in PEERS)
    print(f"{'counted (QEMU, ARM1176)':<46}{'tutorial':>14}{'this node':>14}{'ratio':>10}")
    for name, key, per, digits in (
        ("million instructions to the first reading", "cold_instructions", 1e6, 0),
        ("thousand instructions a reading", "instructions_per_reading", 1e3, 0),
        ("memory on 32 bit (RSS), MB", "rss_mb", 1, 1),
        ("memory on 32 bit (PSS), MB", "pss_mb", 1, 1),
        ("wake-ups a second", "wakeups_per_s", 1, 2),
        ("files read to the first reading", "files", 1, 0),
        ("their size, MB", "file_bytes", 1e6, 1),
    ):
        print(_row(name, tutorial[key] / per, node[key] / per, digits))
    slow, fast = (CLOCK_HZ * share for share in INSTRUCTIONS_PER_CYCLE)
    readings_per_s = SENSORS / INTERVAL_S
    print(f"\n{'estimated for a Pi Zero W at 1 GHz':<46}{'tutorial':>14}{'this node':>14}")
    rows: dict[str, list[str]] = {
        "CPU to the first reading, s": [
            _range(one["cold_instructions"] / fast, one["cold_instructions"] / slow, 1)
            for one in (tutorial, node)
        ],
        "and reading the card, at most, s": [
            f"{one['file_bytes'] / CARD_BYTES_PER_S + one['files'] / CARD_READS_PER_S:.1f}"
            for one in (tutorial, node)
        ],
        f"CPU, {SENSORS} sensors every {INTERVAL_S} s, %": [
            _range(
                one["instructions_per_reading"] * readings_per_s / fast * 100,
                one["instructions_per_reading"] * readings_per_s / slow * 100,
                2,
            )
            for one in (tutorial, node)
        ],
    }
    for name, cells in rows.items():
        print(f"{name:<46}{cells[0]:>14}{cells[1]:>14}")
    low, high = INSTRUCTIONS_PER_CYCLE
    print(f"at {low} to {high} instructions a cycle")
    print(f"`python3 -c pass`: {figures['interpreter']['instructions'] / 1e6:.0f} million")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here")
    arguments = parser.parse_args()
    try:
        lines = run_in_guest(lambda text: print(text, flush=True))
    except Unavailable as error:
        print(f"NOT RUN: footprint: {error}")
        return
    figures = figures_of(lines)
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
