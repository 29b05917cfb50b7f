"""Fuzz the node: `tests/fuzz/run [TARGET ...] [--seconds N] [--seed S]`; see tests/README.md."""

from __future__ import annotations

import argparse
import hashlib
import logging
import random
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from live import fuzz_node  # noqa: E402
from targets import TARGETS, Found  # noqa: E402

CORPUS = Path(__file__).parent / "corpus"


def rounds_of(target: str, seed: int, seconds: float) -> int:
    """Rounds of a target until the time is over; each has a seed of its own, to have it again.

    Raises:
        Found: one has found something; the case is in the corpus then.
    """
    end_s = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end_s:
        try:
            TARGETS[target](random.Random(f"{seed} {number}"))
        except Found as found:
            name = hashlib.sha256(found.case).hexdigest()[:12]
            (CORPUS / target).mkdir(parents=True, exist_ok=True)
            (CORPUS / target / name).write_bytes(found.case)
            print(f"{target}: seed {seed}, round {number}: {found}; kept as corpus/{target}/{name}")
            raise
        number += 1
    return number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join([*TARGETS, "node"]))
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    logging.disable()
    wanted = arguments.targets or [*TARGETS, "node"]
    if unknown := set(wanted) - {*TARGETS, "node"}:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    failed = False
    for target in wanted:
        try:
            if target == "node":
                halves = [
                    fuzz_node(random.Random(arguments.seed), arguments.seconds / 2, mqtt_5=mqtt_5)
                    for mqtt_5 in (True, False)
                ]
                done = sum(halves)
            else:
                done = rounds_of(target, arguments.seed, arguments.seconds)
            print(f"{target}: seed {arguments.seed}, {done} rounds, nothing found", flush=True)
        except (Found, AssertionError) as error:
            print(f"{target}: seed {arguments.seed}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
