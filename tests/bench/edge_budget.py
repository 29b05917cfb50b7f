"""How long a Pi Zero W takes from the release of a DHT's line until it notices edges: an estimate.

Counted: instructions of Debian's ARMv6 kernel in a QEMU that is a Pi Zero (`pi_guest.py`), in the
call that makes the line an input and asks for its edges, as `drivers.dht_edges` does. The kernel
releases the line soon after the call begins (what an input alone takes), and notices edges before
the call ends. Estimated: the time, as footprint.md says.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from footprint import CLOCK_HZ, INSTRUCTIONS_PER_CYCLE
from pi_guest import COMPILER, NS_PER_INSTRUCTION, Unavailable, boot, check, packed, unpacked

_PROGRAM = Path(__file__).with_name("programs") / "edge_budget.c"
_CHIP = "pinctrl-bcm2835"
_MISSED = {
    "without the first edge": 190,
    "a DHT11 without the first two": 266,
    "a DHT22 without the first seven": 646,
}
"""µs from the release to the last edge that may be missed: 30, 160, and 76 for each bit of 0."""


def counted() -> dict[str, list[int]]:
    """Name of a call -> its instructions: median, 99th percentile, most.

    Raises:
        Unavailable: it cannot run here.
    """
    check()
    debian = unpacked(lambda text: print(text, flush=True))
    with tempfile.TemporaryDirectory(prefix="pi-zero-") as name:
        root = Path(name, "root")
        (root / "dev").mkdir(parents=True)
        compiler = [COMPILER, "-O2", "-static", "-Wall", "-Werror"]
        subprocess.run([*compiler, "-o", str(root / "init"), str(_PROGRAM)], check=True)
        lines = boot(debian, packed(root, Path(name)), Path(name, "console"))
    if f"CHIP {_CHIP}" not in lines:
        raise SystemExit("\n".join([*lines[-10:], f"the guest has no {_CHIP}"]))
    told = [line.split()[1:] for line in lines if line.startswith("TOOK ")]
    return {what: [int(ns) // NS_PER_INSTRUCTION for ns in times] for what, *times in told}


def main() -> int:
    try:
        figures = counted()
    except Unavailable as error:
        print(f"NOT RUN: edge_budget: {error}")
        return 0
    print(f"{'instructions of a call (QEMU, ARM1176)':<40}{'median':>10}{'99 %':>10}{'most':>10}")
    for what, text in (("input", "an input"), ("edges", "an input with edges")):
        print(f"{text:<40}" + "".join(f"{count:>10,}" for count in figures[what]))
    slow, fast = (CLOCK_HZ * share / 1e6 for share in INSTRUCTIONS_PER_CYCLE)
    print(f"\n{'from the release to the first edge, µs':<40}", end="")
    for count in figures["edges"]:
        print(f"{f'{count / fast:.0f}-{count / slow:.0f}':>10}", end="")
    low, high = INSTRUCTIONS_PER_CYCLE
    print(f"\nat 1 GHz and {low} to {high} instructions a cycle; it may take, µs:")
    for what, us in _MISSED.items():
        print(f"{what:<40}{us:>10}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
