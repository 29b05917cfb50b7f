"""Measures this node beside what people would use instead; see README.md in this folder.

tests/bench/run [--quick] [--only SCENARIO ...] [--peers NAME ...] [--json FILE] [--svg FILE]
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import results as kept
from contest import Workshop
from counters import Feeder
from goals import goal_lines
from machine import file_system, note
from peers import ALL, Missing, Peer
from results import Results
from table import table

CACHE = Path(__file__).parents[1] / ".venv" / "bench"


class Scenario(NamedTuple):
    """A module of scenarios/, and what its `measure` is given; `quick` is None where `--quick`
    leaves it out. `quick_peers`: all, or those alone."""

    name: str
    module: str
    full: dict[str, Any]
    quick: dict[str, Any] | None
    quick_peers: tuple[str, ...] = ()


SCENARIOS = (
    Scenario("cold", "cold", {"starts": 11}, {"starts": 3}),
    Scenario(
        "steady-10s",
        "steady",
        {"interval_s": 10.0, "slices": 5, "slice_s": 60, "traced_s": 20},
        {"interval_s": 10.0, "slices": 1, "slice_s": 20, "traced_s": 0},
    ),
    Scenario(
        "steady-1s",
        "steady",
        {"interval_s": 1.0, "slices": 5, "slice_s": 24, "traced_s": 10},
        {"interval_s": 1.0, "slices": 1, "slice_s": 12, "traced_s": 3},
    ),
    Scenario(
        "sizes",
        "sizes",
        {"sizes": [1, 10, 100, 1000], "slices": 3, "slice_s": 7, "rounds": 1},
        {"sizes": [1000], "slices": 1, "slice_s": 6, "rounds": 1},
        ("tutorial", "node"),
    ),
)


def arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    peers = [peer.name for peer in ALL]
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a part of it, in two minutes")
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", choices=names, default=names)
    parser.add_argument("--peers", nargs="+", metavar="NAME", choices=peers, default=peers)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures")
    parser.add_argument(
        "--render", type=Path, metavar="FILE", help="measure nothing: of such a file"
    )
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if chosen.render:
        results = kept.load(chosen.render)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        with workshop(chosen.peers) as (shop, missing):
            results = measure(shop, missing, chosen.only, quick=chosen.quick)
        print(file=sys.stderr)
    if chosen.json:
        kept.save(results, chosen.json)
    for line in report(results):
        print(line)


@contextmanager
def workshop(names: Sequence[str]) -> Iterator[tuple[Workshop, dict[str, str]]]:
    """Folders, feeder and the peers that there are; the reasons why others are not."""
    CACHE.mkdir(parents=True, exist_ok=True)
    ready: list[Peer] = []
    missing = {}
    for kind in ALL:
        if kind.name in names:
            peer = kind()
            tell(f"{peer.name} ...")
            try:
                peer.prepare(CACHE)
                ready.append(peer)
            except Missing as reason:
                missing[peer.name] = str(reason)
    disk = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
    memory = Path(tempfile.mkdtemp(prefix="bench-", dir="/dev/shm"))
    if file_system(disk) in ("tmpfs", "ramfs"):
        tell("warning: /var/tmp is in memory, so the node's log is not on a disk\n")
    try:
        yield Workshop(disk, memory, Feeder(), ready), missing
    finally:
        shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)


def measure(
    shop: Workshop, missing: dict[str, str], names: Sequence[str], *, quick: bool
) -> Results:
    now = datetime.datetime.now(datetime.UTC)
    versions = {peer.name: peer.version for peer in shop.peers}
    results = Results(
        f"{now:%Y-%m-%d %H:%M} UTC", quick, note(shop.disk), versions, missing, {}, {}, {}
    )
    for scenario in SCENARIOS:
        settings = scenario.quick if quick else scenario.full
        if scenario.name not in names or settings is None:
            continue
        tell(f"{scenario.name} ...")
        begun_s = time.monotonic()
        module = importlib.import_module(f"scenarios.{scenario.module}")
        part = shop.only(scenario.quick_peers) if quick and scenario.quick_peers else shop
        try:
            results.scenarios[scenario.name] = module.measure(part, **settings)
        except RuntimeError as error:
            results.failed[scenario.name] = str(error)
        took_s = round(time.monotonic() - begun_s)
        results.settings[scenario.name] = {**settings, "took_s": took_s}
    return results


def report(results: Results) -> Iterator[str]:
    part = "a quick run, of a part of the scenarios: " if results.quick else ""
    yield f"{part}{results.began}; medians, ± half the distance between the quartiles"
    yield ""
    yield from table(results)
    yield ""
    yield "goals of the node"
    yield from goal_lines(results)
    yield ""
    for what, reason in {**results.missing, **results.failed}.items():
        yield f"not measured: {what}: {reason}"
    for name, version in results.peers.items():
        yield f"{name}: {version}"
    for name, value in results.machine.items():
        yield f"{name}: {value}"
    total_s = sum(settings["took_s"] for settings in results.settings.values())
    yield f"measured in {total_s / 60:.0f} min"


def tell(what: str) -> None:
    """Progress, on standard error; the line before is written over."""
    if sys.stderr.isatty():
        what = f"\r\x1b[K{what}"
    elif not what.endswith("\n"):
        what += "\n"
    print(what, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
