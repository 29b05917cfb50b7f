"""The table: a column for each peer, a row for each figure; 100 columns wide with all peers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from results import Results

__all__ = ["number_text", "table"]

_LABEL = 30
_COLUMN = 10


class _Row(NamedTuple):
    label: str
    scenario: str
    metric: str
    with_spread: bool = False


_ROWS: tuple[_Row | str, ...] = (
    "cold start to the first retained reading",
    _Row("CPU, ms", "cold", "cpu_ms", True),
    _Row("time, ms", "cold", "wall_ms", True),
    "10 sensors every 10 s",
    _Row("CPU per reading, ms", "steady-10s", "cpu_ms_per_reading", True),
    _Row("wake-ups a second", "steady-10s", "wakeups_per_s", True),
    _Row("memory (RSS), MB", "steady-10s", "rss_mb"),
    _Row("memory (PSS), MB", "steady-10s", "pss_mb"),
    _Row("system calls a reading", "steady-10s", "system_calls_per_reading"),
    _Row("drift per period, ms", "steady-10s", "drift_ms"),
    "10 sensors every 10 s, on a file system of its own",
    _Row("written a reading, bytes", "card", "written_bytes_per_reading", True),
    _Row("written an hour, MB", "card", "written_mb_per_hour", True),
    "10 sensors every second",
    _Row("CPU per reading, ms", "steady-1s", "cpu_ms_per_reading", True),
    _Row("wake-ups a second", "steady-1s", "wakeups_per_s", True),
    _Row("system calls a reading", "steady-1s", "system_calls_per_reading"),
    _Row("interval, error p50, ms", "steady-1s", "error_p50_ms"),
    _Row("interval, error p99, ms", "steady-1s", "error_p99_ms"),
    _Row("lateness, p99, ms", "steady-1s", "late_p99_ms"),
    _Row("drift per period, ms", "steady-1s", "drift_ms"),
    "1 to 1,000 sensors every second",
    *(
        _Row(f"CPU, % of a core, {size:,}", "sizes", f"cpu_percent@{size}")
        for size in (1, 10, 100, 1000)
    ),
    _Row("CPU per reading, ms, 1,000", "sizes", "cpu_ms_per_reading@1000"),
    *(_Row(f"missed, %, {size:,}", "sizes", f"missed_percent@{size}") for size in (100, 1000)),
    "as fast as it goes (the node: its log)",
    _Row("readings a second", "throughput", "per_s", True),
    *(
        row
        for kind in ("down", "killed", "frozen")
        for row in (
            f"broker {kind} for a while, 10 sensors every second",
            _Row("made then", f"outage-{kind}", "made"),
            _Row("lost", f"outage-{kind}", "lost"),
            _Row("out of order", f"outage-{kind}", "went_back"),
            _Row("repeated", f"outage-{kind}", "repeated"),
            _Row("back after, s", f"outage-{kind}", "recovered_s"),
            _Row("caught up after, s", f"outage-{kind}", "caught_up_s"),
            _Row("memory grown by, MB", f"outage-{kind}", "grown_mb"),
        )
    ),
    "kill -9 of the peer while the broker is down",
    _Row("made then", "kill", "made"),
    _Row("lost", "kill", "lost"),
    _Row("out of order", "kill", "went_back"),
    "no broker at the start, 10 sensors every second",
    _Row("ends at once (1: yes)", "absent", "ended"),
    _Row("lost", "absent", "lost"),
    _Row("out of order", "absent", "went_back"),
    "one sensor blocks for 5 s, of 10 every second",
    _Row("period of the others, s", "blocking", "period_s"),
    _Row("the longest, s", "blocking", "longest_s"),
    "a day's backlog: 86,400 readings",
    _Row("made", "backlog", "made"),
    _Row("lost", "backlog", "lost"),
    _Row("out of order", "backlog", "went_back"),
    _Row("drained after, s", "backlog", "caught_up_s"),
    _Row("memory grown by, MB", "backlog", "grown_mb"),
)


def number_text(value: float | None) -> str:
    """Three digits or so; a dash for what was not measured."""
    if value is None:
        return "-"
    size = abs(value)
    if value == int(value) and size < 1e6:
        return f"{int(value):,}"
    for bound, decimals in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if size >= bound:
            return f"{value:,.{decimals}f}"
    return f"{value:.3f}"


_BRIEF = {
    ("cold", "cpu_ms"),
    ("steady-10s", "cpu_ms_per_reading"),
    ("steady-10s", "wakeups_per_s"),
    ("steady-10s", "rss_mb"),
    ("steady-1s", "late_p99_ms"),
    ("steady-1s", "drift_ms"),
    ("sizes", "cpu_percent@1000"),
    ("sizes", "missed_percent@1000"),
    ("throughput", "per_s"),
    *(
        (f"outage-{kind}", metric)
        for kind in ("down", "frozen")
        for metric in ("lost", "went_back")
    ),
    ("kill", "lost"),
    ("absent", "lost"),
    ("blocking", "period_s"),
    ("backlog", "made"),
    ("backlog", "lost"),
    ("backlog", "caught_up_s"),
}


def table(results: Results, *, brief: bool = False) -> Iterator[str]:
    """The lines; rows of scenarios that were not run are left out. `brief`: for the README."""
    peers = list(results.peers)
    yield " " * _LABEL + "".join(f"{name:>{_COLUMN}}" for name in peers)
    heading = ""
    for row in _ROWS:
        if isinstance(row, str):
            heading = row
            continue
        if brief and (row.scenario, row.metric) not in _BRIEF:
            continue
        if not any(results.samples(row.scenario, peer, row.metric) for peer in peers):
            continue
        if heading:
            yield heading
            heading = ""
        cells = "".join(f"{_cell(results, peer, row):>{_COLUMN}}" for peer in peers)
        yield f"  {row.label:<{_LABEL - 2}}{cells}"


def _cell(results: Results, peer: str, row: _Row) -> str:
    text = number_text(results.median(row.scenario, peer, row.metric))
    spread = results.spread(row.scenario, peer, row.metric) if row.with_spread else None
    if spread is None:
        return text
    most = max(1, len(text.partition(".")[2])) if spread < 1 else 1 if spread < 9.95 else 0
    for decimals in range(most, -1, -1):
        cell = f"{text}±{spread:.{decimals}f}".replace("±0.", "±.")
        if len(cell) < _COLUMN and (round(spread, decimals) or not spread):
            return cell
    return text  # there is no room for it
