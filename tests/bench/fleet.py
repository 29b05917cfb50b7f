"""A thousand simulated nodes and one mosquitto on this machine: what it bears, and its subscribers.

The nodes say what real ones say, by the node's own code (`fleet_node.py`). Processor time is
counted for broker, subscriber and load apart, in shares of one processor; "late" is how late the
load was with what it wanted to send, so that it is seen when the machine and not the broker is what
lags.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from fleet_faults import open_files, slow, spread, storm, tls, wills
from fleet_likeness import likeness
from fleet_rates import Row, limit, rates, views

from node.demo_broker import find_mosquitto

_SPARE_FILES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=1000, help="a multiple of 4 (default: 1000)")
    parser.add_argument("--seconds", type=float, default=30, help="of each measurement (30)")
    parser.add_argument(
        "--interval", type=float, nargs="+", default=[30, 10, 1], help="of the rates (30 10 1)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here")
    scenarios: dict[str, Callable[[], list[Row]]] = {
        "likeness": lambda: likeness(say),
        "rates": lambda: rates(say, arguments.nodes, arguments.seconds, arguments.interval),
        "views": lambda: views(say, arguments.nodes, arguments.seconds),
        "limit": lambda: limit(say, arguments.seconds / 4),
        "wills": lambda: wills(say, arguments.nodes),
        "storm": lambda: storm(say, arguments.nodes),
        "spread": lambda: spread(say, arguments.nodes),
        "slow": lambda: slow(say, arguments.nodes, arguments.seconds),
        "tls": lambda: tls(say, arguments.nodes),
        "files": lambda: open_files(say),
    }
    parser.add_argument("what", nargs="*", choices=[*scenarios, []], help="(default: everything)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind
    _allow_files(arguments.nodes + _SPARE_FILES)
    say(_machine())
    figures = {}
    for name in arguments.what or scenarios:
        say("")
        figures[name] = scenarios[name]()
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": _machine(), **figures}, indent=1))


def say(line: str) -> None:
    print(line, flush=True)


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise SystemExit(f"fleet: {wanted} open files are needed, {hard} allowed: ulimit -n")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _machine() -> str:
    program = find_mosquitto() or "mosquitto"
    version = subprocess.run([program, "-h"], capture_output=True, text=True, check=False).stdout
    model = next(
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return (
        f"{version.partition(chr(10))[0]}; {os.cpu_count()} x {model}; "
        f"load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
