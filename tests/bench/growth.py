"""How the node grows: with its sensors, with its backlog, and with its log; see growth.md.

sudo tests/.venv/bin/python tests/bench/growth.py [--quick] [--only PART ...]
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import growth_parts as parts
import results as kept
from chart import Panel, draw
from contest import Workshop
from counters import Feeder
from machine import note
from peers import Node
from results import Results
from table import number_text
from window import Figures

SENSORS = {"1": 1, "10": 10, "100": 100, "1,000": 1000}
HOURS = {"1 h": 1, "6 h": 6, "24 h": 24, "48 h": 48}
LOGS = {
    "2,000": (10, 2_000),
    "20,000": (10, 20_000),
    "200,000": (10, 200_000),
    "of 1": (1, 200_000),
    "of 1,000": (1000, 200_000),
}
"""Name -> sensors, readings."""
_RATES = {"default": 100, "free": 1_000_000}
"""Name -> `drain_rate`."""
_LABEL, _COLUMN = 42, 11


class _Row(NamedTuple):
    label: str
    metric: str
    drawn: str = ""
    """The title of its chart; "" for none."""
    unit: str = ""


ROWS: dict[str, tuple[str, tuple[_Row, ...]]] = {
    "sensors": (
        "sensors, each every 10 s",
        (
            _Row("CPU per reading, ms", "cpu_ms_per_reading", "CPU per reading, by sensors", "ms"),
            _Row("CPU, % of a core", "cpu_percent"),
            _Row("wake-ups a second", "wakeups_per_s", "wake-ups a second, by sensors"),
            _Row("memory (RSS), MB", "rss_mb", "memory (RSS), by sensors", "MB"),
            _Row("memory (PSS), MB", "pss_mb"),
            _Row("written a reading, bytes", "written_bytes_per_reading"),
            _Row("written a second, bytes", "written_bytes_per_s"),
            _Row("missed readings", "missed"),
            _Row("CPU until all have arrived, s", "start_cpu_s"),
        ),
    ),
    "backlog": (
        "backlog of 10 sensors, every 10 s",
        (
            _Row("readings", "readings"),
            _Row("time to drain, s", "drain_s@default", "time to drain, by backlog", "s"),
            _Row("messages a second", "messages_per_s@default"),
            _Row("CPU per reading, µs", "cpu_us_per_reading@default"),
            _Row("memory (RSS) before, MB", "waiting_mb@default"),
            _Row(
                "memory while draining, at most, MB",
                "draining_mb@default",
                "memory while draining, by backlog",
                "MB",
            ),
            _Row("written, kB", "written_kb@default"),
            _Row("time without drain_rate, s", "drain_s@free"),
            _Row(
                "readings a second without it",
                "readings_per_s@free",
                "readings a second, without drain_rate",
            ),
            _Row("CPU per reading without it, µs", "cpu_us_per_reading@free"),
            _Row("memory without it, at most, MB", "draining_mb@free"),
        ),
    ),
    "log": (
        "readings in the log (of 10 sensors)",
        (
            _Row("log, MB", "log_mb"),
            _Row("`status`, CPU, s", "status_cpu_s", "CPU of `status`, by log", "s"),
            _Row("`status`, memory (RSS), MB", "status_rss_mb"),
            _Row(
                "first page, CPU with the start, s", "first_page_cpu_s", "first page, by log", "s"
            ),
            _Row("first page, time, s", "first_page_s"),
            _Row("page, CPU, ms", "page_cpu_ms"),
            _Row("page of two days, CPU, ms", "two_days_cpu_ms"),
            _Row("/api/v1/now, CPU, ms", "now_cpu_ms"),
            _Row("/metrics, CPU, ms", "metrics_cpu_ms"),
            _Row("page, memory (RSS), MB", "web_mb", "memory of the page, by log", "MB"),
        ),
    ),
}
"""Part -> its heading and its rows."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a part of it: two minutes")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=ROWS, default=list(ROWS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the chart of growth.md")
    parser.add_argument(
        "--render", type=Path, nargs="+", metavar="FILE", help="measure nothing: of such files"
    )
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if chosen.render:
        results = kept.pooled([run for file in chosen.render for run in kept.load(file)])
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: sys.exit(128 + number))
        results = measure(chosen.only, quick=chosen.quick)
    if chosen.json:
        kept.save([results], chosen.json)
    if chosen.svg:
        chosen.svg.write_text(draw(panels(results), "how sensor-node grows"))
    print("\n".join(report(results)))


def measure(names: Sequence[str], *, quick: bool) -> Results:
    disk = Path(tempfile.mkdtemp(prefix="growth-", dir="/var/tmp"))
    memory = Path(tempfile.mkdtemp(prefix="growth-", dir="/dev/shm"))
    now = datetime.datetime.now(datetime.UTC)
    began = f"{now:%Y-%m-%d %H:%M} UTC"
    results = Results(began, quick, note(disk), {}, {}, {}, {}, {}, [])
    try:
        node = Node()
        node.prepare(disk)
        workshop = Workshop(disk, memory, Feeder(), [node], results.remarks)
        for name in names:
            begun_s = time.monotonic()
            results.scenarios[name] = _part(name, workshop, quick)
            results.settings[name] = {"took_s": round(time.monotonic() - begun_s)}
    finally:
        shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)
    return results


def _part(name: str, workshop: Workshop, quick: bool) -> dict[str, Figures]:
    rounds, slice_s = (1, 20) if quick else (3, 60)
    folder = workshop.memory / "log"
    measures: dict[str, tuple[Iterable[str], Callable[[str], Figures]]] = {
        "sensors": (SENSORS, lambda case: parts.sensors(workshop, SENSORS[case], rounds, slice_s)),
        "backlog": (HOURS, lambda case: parts.backlog(workshop, HOURS[case], _RATES, rounds)),
        "log": (LOGS, lambda case: parts.page_and_status(folder, *LOGS[case], rounds)),
    }
    cases, measured = measures[name]
    found = {}
    for case in islice(cases, 2 if quick else None):
        print(f"{name}: {case} ...", file=sys.stderr)
        found[case] = measured(case)
    return found


def report(results: Results) -> Iterator[str]:
    """The tables, a column for each case, and what a reader needs to judge them."""
    for part, (heading, rows) in ROWS.items():
        if not (cases := results.scenarios.get(part, {})):
            continue
        yield f"{heading:<{_LABEL}}" + "".join(f"{case:>{_COLUMN}}" for case in cases)
        for row in rows:
            medians = [number_text(results.median(part, case, row.metric)) for case in cases]
            yield f"  {row.label:<{_LABEL - 2}}" + "".join(f"{text:>{_COLUMN}}" for text in medians)
        yield ""
    yield from (f"not measured: {remark}" for remark in results.remarks)
    machine = "; ".join(f"{key} {value}" for key, value in results.machine.items())
    yield from textwrap.wrap(f"machine: {machine}", 97, subsequent_indent="  ")
    total_s = sum(settings["took_s"] for settings in results.settings.values())
    yield f"measured on {results.began}, in {total_s / 60:.0f} min; medians of three"


def panels(results: Results) -> list[Panel]:
    return [
        Panel(
            row.drawn,
            row.unit,
            {case: results.median(part, case, row.metric) for case in cases},
            tuple(cases),
        )
        for part, (_, rows) in ROWS.items()
        if (cases := results.scenarios.get(part))
        for row in rows
        if row.drawn
    ]


if __name__ == "__main__":
    main()
