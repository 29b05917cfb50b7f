"""The bench itself: what it counts, and what it makes of its figures. Nothing is timed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent / "bench"

FIGURES: dict[str, dict[str, dict[str, Any]]] = {
    "cold": {
        "tutorial": {"cpu_ms": [100.0, 101.0, 99.0], "wall_ms": [110.0]},
        "node": {"cpu_ms": [125.0, 126.0, 124.0], "wall_ms": [130.0]},
        "mqtt-io": {"cpu_ms": [1600.0, None, 1601.0], "wall_ms": [1700.0]},
    },
    "outage-down": {
        "tutorial": {"lost": [0], "went_back": [0]},
        "node": {"lost": [3], "went_back": [0]},
        "mqtt-io": {"lost": [1], "went_back": [580]},
    },
}


Figures = dict[str, dict[str, dict[str, list[float]]]]
Runs = Sequence[Figures]


def a_run(figures: Figures) -> dict[str, Any]:
    """What bench.py keeps of one run."""
    return {
        "began": "2026-01-02 03:04 UTC",
        "quick": False,
        "machine": {"processor": "a fast one"},
        "peers": {name: f"{name} 1.0" for name in figures["cold"]},
        "missing": {"c": "needs gcc"},
        "scenarios": figures,
        "settings": {name: {"took_s": 60} for name in figures},
        "failed": {},
        "remarks": [],
    }


def render(folder: Path, *arguments: str, figures: Figures = FIGURES, more: Runs = ()) -> str:
    """What bench.py prints of the figures, and of those of `more` runs."""
    files = [folder / "kept.json", folder / "more.json"]
    files[0].write_text(json.dumps([a_run(figures)]))
    files[1].write_text(json.dumps([a_run(each) for each in more]))
    command = [sys.executable, str(BENCH / "bench.py"), "--render", *map(str, files), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def inside(script: str) -> str:
    """What a script prints that is run among the bench's modules."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=BENCH, capture_output=True, text=True, check=True).stdout


def test_the_table_fits_and_each_goal_is_judged(tmp_path: Path) -> None:
    """Medians with their spread, ratios against the limits, and why a peer is not there."""
    printed = render(tmp_path)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 100
    assert "125±" in printed
    assert "1,600" in printed
    (cold,) = [line for line in lines if line.startswith("  cold start, CPU, beside tutorial")]
    assert cold.split()[-5:] == ["1.25x", "at", "most", "1.3x", "met"]
    (lost,) = [line for line in lines if line.startswith("  broker down: lost")]
    assert lost.endswith("NOT MET")
    assert "not measured: c: needs gcc" in lines
    assert "goals were not measured in this run" in printed


def test_a_goal_is_judged_in_each_run_and_the_verdict_says_in_how_many(tmp_path: Path) -> None:
    """A loss in one run of three is a goal that was missed; the median of the three hides it."""
    cold = {"tutorial": {"cpu_ms": [100.0]}, "node": {"cpu_ms": [140.0]}}
    lost_none = {"outage-down": {"node": {"lost": [0.0], "went_back": [0.0]}}, "cold": cold}
    printed = render(tmp_path, more=(lost_none, lost_none))
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 100
    goals = {line[2:46].rstrip(): " ".join(line[46:].split()) for line in lines}
    assert goals["broker down: lost"] == "0 0 to 3 at most 0 NOT MET, 2 of 3"
    assert goals["broker down: out of order"].endswith("met, 3 of 3")
    cold_start = goals["cold start, CPU, beside tutorial"]
    assert cold_start == "1.40x 1.25 to 1.40 at most 1.3x NOT MET, 1 of 3"
    assert goals["cold start, CPU, beside mqtt-io"].endswith(", 1 of 1")
    assert "in 6 min; runs: 3" in printed
    assert "too few runs" not in printed
    assert "runs: 1\ntoo few runs for a verdict" in render(tmp_path)


def test_what_is_written_is_counted_at_the_device_or_not_at_all() -> None:
    """Of another user than root there is no figure, and the reason is said."""
    printed = inside(
        """
import os
from scenarios.card import on_cards
os.geteuid = lambda: 1000
try:
    with on_cards(None, None):
        print("mounted")
except RuntimeError as error:
    print(error)
"""
    )
    assert printed == "needs root and mkfs.ext4, to mount a file system for each peer\n"


def test_a_machine_that_changes_its_pace_is_not_held_against_the_node() -> None:
    """Rounds of 1.2x, at half the speed from the third on; one of the node's fell between."""
    printed = inside(
        """
from results import Results
samples = {"node": [120, 120, 120, 240, 240], "tutorial": [100, 100, 200, 200, 200]}
cold = {peer: {"cpu_ms": list(map(float, each))} for peer, each in samples.items()}
results = Results("", False, {}, {}, {}, {"cold": cold}, {}, {}, [])
print(results.ratio("cold", "cpu_ms", "tutorial"), results.ratio("cold", "cpu_ms", "c"))
cold["node"]["cpu_ms"].pop()
cold["node"]["cpu_ms"][0] = None
print(results.ratio("cold", "cpu_ms", "tutorial"))
"""
    )
    assert printed.splitlines() == ["1.2 None", "1.2"]


def rows_of(block: str) -> list[str]:
    """What a table and a list of goals say besides figures: headings, labels, limits."""
    goal = re.compile(r"^(  .*?)  +\S+ ( +(?:at most|more than) .*?)  +(?:met|NOT MET)$")
    return [
        goal.sub(r"\1\2", line) if goal.match(line) else re.split("  +-?[\\d.]", line)[0]
        for line in block.splitlines()
    ]


def test_what_the_readme_shows_has_the_rows_and_goals_of_the_program(tmp_path: Path) -> None:
    """The figures are those of a run of half an hour; names and limits are the program's."""
    script = (
        "import goals, json, table\n"
        "rows = [r for r in table._ROWS if not isinstance(r, str)] + list(goals.GOALS)\n"
        "print(json.dumps([(r.scenario, r.metric) for r in rows]))\n"
    )
    figures: Figures = {}
    peers = ("tutorial", "node", "mqtt-io", "collectd", "schedule", "paho", "c")
    for scenario, metric in json.loads(inside(script)):
        for peer in peers:
            figures.setdefault(scenario, {}).setdefault(peer, {})[metric] = [1.0]
    printed = render(tmp_path, "--readme", figures=figures).split("\n\npeers:")[0]
    text = (BENCH / "README.md").read_text()
    shown = text[text.index("```\n      ") :].split("\n\npeers:")[0]
    assert rows_of(shown) == rows_of(printed)


def test_what_is_shown_of_a_pi_zero_has_the_rows_of_the_program() -> None:
    script = (
        "import footprint\n"
        "class One(dict):\n"
        "    def __missing__(self, key): return 1.0\n"
        "footprint.show(dict.fromkeys((*footprint.PEERS, 'interpreter'), One()))\n"
    )
    text = (BENCH / "README.md").read_text()
    shown = text[text.index("counted (QEMU") :].split("```")[0]
    printed = inside(script)

    def labels(block: str) -> list[str]:
        return [line[:46].rstrip(" 0123456789") for line in block.splitlines()]

    assert labels(shown) == labels(printed.replace("0 million", "34 million"))


def test_the_chart_is_small_and_always_the_same(tmp_path: Path) -> None:
    """Well-formed, below 30 kB, the same bytes for the same figures; no value, no bar."""
    for name in ("a.svg", "b.svg"):
        render(tmp_path, "--svg", str(tmp_path / name))
    drawn = (tmp_path / "a.svg").read_bytes()
    assert drawn == (tmp_path / "b.svg").read_bytes()
    assert len(drawn) < 30_000
    root = xml.etree.ElementTree.fromstring(drawn)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 3


def test_every_read_of_a_file_gives_the_next_number(tmp_path: Path) -> None:
    """By whomever; and a folder that nobody watches stays as it is."""
    printed = inside(
        f"""
import mmap, time
from pathlib import Path
from counters import Feeder
feeder = Feeder()
watched, other = (feeder.make(Path({str(tmp_path)!r}) / name, 2) for name in ("a", "b"))
feeder.watch(watched)
with watched.paths[1].open("rb") as file:
    unread = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)  # seen without being read
for turn in range(1, 4):
    print(watched.paths[1].read_text().strip(), other.paths[1].read_text().strip())
    while unread[:] != b"%d\\n" % (20_000 + turn):
        time.sleep(0.001)
print(watched.numbers, watched.made(), other.made())
"""
    )
    assert printed.splitlines() == [
        "20000 20000",
        "20001 20000",
        "20002 20000",
        "[20000, 20003] 3 0",
    ]


def test_what_is_lost_repeated_and_out_of_order_is_told_apart() -> None:
    """Of one sensor: 1 is lost, 3 comes twice, 2 comes after 3; 5 is after the time that counts."""
    printed = inside(
        """
from contest import Arrival
from ledger import account
came = [Arrival(0.0, "state", 0, number) for number in (0, 3, 3, 2, 4, 5)]
print(*account(came, [0], [5]))
came += [Arrival(0.0, "history", 0, number) for number in (0, 1, 2, 3, 4)]
print(*account(came, [0], [5]))
"""
    )
    assert printed.splitlines() == ["5 1 1 1", "5 0 1 1"]


def test_missed_readings_are_counted_and_drift_is_no_miss() -> None:
    """A sensor at its pace misses none, one that drifts none, one at half its pace half of them."""
    printed = inside(
        """
from timing import missed
for period in (1.0, 1.002, 2.0):
    times = {0: [n * period for n in range(100) if n * period < 50]}
    print(missed(times, 1, 1.0, 0.0, 50.0))
print(missed({}, 1, 1.0, 0.0, 50.0))
"""
    )
    assert printed.split() == ["0", "0", "25", "50"]


def test_the_page_about_growth_has_the_rows_of_the_program(tmp_path: Path) -> None:
    """Its figures are those of a run of half an hour; its chart is well-formed."""
    printed = inside(
        f"""
from pathlib import Path
import growth
from results import Results
cases = {{"sensors": growth.SENSORS, "backlog": growth.HOURS, "log": growth.LOGS}}
figures = {{
    part: {{case: {{row.metric: [2.0] for row in rows}} for case in cases[part]}}
    for part, (_, rows) in growth.ROWS.items()
}}
settings = {{part: {{"took_s": 60}} for part in figures}}
results = Results("", False, {{"kernel": "new"}}, {{}}, {{}}, figures, settings, {{}}, [])
Path({str(tmp_path)!r}, "growth.svg").write_text(growth.draw(growth.panels(results), "it grows"))
print(*growth.report(results), sep="\\n")
"""
    )
    text = (BENCH / "growth.md").read_text()
    shown = text[text.index("```\nsensors") + 4 :].split("\n\nmachine:")[0]
    assert rows_of(shown) == rows_of(printed.split("\n\nmachine:")[0])
    root = xml.etree.ElementTree.parse(tmp_path / "growth.svg").getroot()
    drawn = xml.etree.ElementTree.parse(BENCH / "growth.svg").getroot()
    bars = "{http://www.w3.org/2000/svg}rect"
    assert len(list(drawn.iter(bars))) == len(list(root.iter(bars)))
