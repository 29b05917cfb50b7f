"""Measures this node beside what people would use instead; see README.md in this folder.

tests/bench/run [--quick] [--runs N] [--only SCENARIO ...] [--json FILE] [--svg FILE]
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

import results as kept
from chart import chart
from contest import Workshop
from counters import Feeder
from machine import file_system, note
from peer import Missing, Peer
from peers import ALL
from plan import SCENARIOS
from report import readme_block, report
from results import Results

CACHE = Path(__file__).parents[1] / ".venv" / "bench"


def arguments() -> argparse.Namespace:
    names = [scenario.name for scenario in SCENARIOS]
    peers = [peer.name for peer in ALL]
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="a part of it, in two minutes")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="all of it so often (1)")
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", choices=names, default=names)
    parser.add_argument("--peers", nargs="+", metavar="NAME", choices=peers, default=peers)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all figures")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the chart of the README")
    parser.add_argument("--readme", action="store_true", help="print the block of the README")
    parser.add_argument(
        "--render", type=Path, nargs="+", metavar="FILE", help="measure nothing: of such files"
    )
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if chosen.render:
        runs = [run for file in chosen.render for run in kept.load(file)]
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end)
        with workshop(chosen.peers) as (shop, missing):
            runs = []
            for run in range(1, chosen.runs + 1):
                tell(f"run {run} of {chosen.runs}\n")
                runs.append(measure(shop, missing, chosen.only, quick=chosen.quick))
                if chosen.json:  # what is measured is kept, should a later run fail
                    kept.save(runs, chosen.json)
        print(file=sys.stderr)
    if chosen.json:
        kept.save(runs, chosen.json)
    if chosen.svg:
        chosen.svg.write_text(chart(kept.pooled(runs)))
    for line in readme_block(runs) if chosen.readme else report(runs):
        print(line)


def _end(number: int, _frame: object) -> None:
    """Once: what was started is ended on the way out, and that is not to be interrupted."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


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
        yield Workshop(disk, memory, Feeder(), ready, []), missing
    finally:
        shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)


def measure(
    shop: Workshop, missing: dict[str, str], names: Sequence[str], *, quick: bool
) -> Results:
    now = datetime.datetime.now(datetime.UTC)
    versions = {peer.name: peer.version for peer in shop.peers}
    results = Results(
        f"{now:%Y-%m-%d %H:%M} UTC", quick, note(shop.disk), versions, missing, {}, {}, {}, []
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
        results.remarks.extend(shop.remarks)
        shop.remarks.clear()
        took_s = round(time.monotonic() - begun_s)
        results.settings[scenario.name] = {**settings, "took_s": took_s}
    return results


def tell(what: str) -> None:
    """Progress, on standard error; the line before is written over."""
    if sys.stderr.isatty():
        what = f"\r\x1b[K{what}"
    elif not what.endswith("\n"):
        what += "\n"
    print(what, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
