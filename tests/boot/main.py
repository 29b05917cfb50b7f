"""`tests/boot/run`, once everything is installed.

Two stages run at the same time, each with a machine, a broker and a subscriber of its own. All that
must be gone at the end belongs to the main thread, which an interrupt reaches.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / "tests"), str(CHECKOUT / "deploy")]

from choice import run_choice  # noqa: E402
from cuts import run_cuts  # noqa: E402
from machine import Card, Machine  # noqa: E402
from raspi import run_raspi  # noqa: E402
from report import Report, StageOver  # noqa: E402
from support import Mosquitto, Subscriber  # noqa: E402
from updates import run_updates  # noqa: E402
from virt import run_virt  # noqa: E402

Stage = Callable[[Machine, Subscriber, Report], None]
STAGES = {
    "virt": "virt",
    "updates": "virt",
    "choice": "virt",
    "raspi3b": "raspi3b",
    "cuts": "virt",
}
"""Stage -> QEMU's machine; the longest first."""
_AT_ONCE = 2
"""More on two processors are no quicker, and a guest that is too slow is not a Pi."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/boot/run")
    parser.add_argument("--image", metavar="FILE", type=Path, help="default: build one")
    parser.add_argument("--only", choices=STAGES, help="default: all")
    parser.add_argument(
        "--cuts", metavar="N", type=int, default=3, help="of power, in the last two stages"
    )
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave consoles there")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began_s = time.monotonic()
    report = Report(began_s)
    stages = [stage for stage in STAGES if arguments.only in (None, stage)]
    with tempfile.TemporaryDirectory(prefix="boot-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        image = arguments.image or build(folder, report)
        runs: dict[str, Stage] = {
            "virt": run_virt,
            "updates": functools.partial(run_updates, image=image, cuts=arguments.cuts),
            "choice": run_choice,
            "raspi3b": run_raspi,
            "cuts": functools.partial(run_cuts, cuts=arguments.cuts),
        }
        for part in run_stages({stage: runs[stage] for stage in stages}, image, folder, began_s):
            report.add(part)
    for stage in STAGES:
        if stage not in stages:
            report.could_not_run(stage, "not asked for")
    report.could_not_run(
        "the radio of a Pi, with its firmware", "QEMU has none; Wi-Fi is simulated"
    )
    report.could_not_run(
        "the boot loader of the Pi's GPU", "QEMU has none; its files are read here"
    )
    return report.end()


def build(folder: Path, report: Report) -> Path:
    report.say("building the image")
    command = [str(CHECKOUT / "deploy/build-image"), "--output", str(folder)]
    subprocess.run(command, check=True)
    return folder / "sensor-node.img"


def run_stages(stages: dict[str, Stage], image: Path, folder: Path, began_s: float) -> list[Report]:
    reports = [Report(began_s, stage) for stage in stages]
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def work() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.get_nowait()()

    with contextlib.ExitStack() as stack:
        for (stage, run), report in zip(stages.items(), reports, strict=True):
            machine, seen = stack.enter_context(set_up(stage, image, folder / stage))
            waiting.put(functools.partial(run_stage, stage, run, machine, seen, report))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(_AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return reports


@contextlib.contextmanager
def set_up(stage: str, image: Path, folder: Path) -> Iterator[tuple[Machine, Subscriber]]:
    """A machine with a card, and who sees what it publishes; all gone at the end."""
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        broker = Mosquitto(folder).start()
        stack.callback(broker.stop)
        seen = Subscriber(broker.port)
        stack.callback(seen.close)
        card = Card(image, folder / "card.img")
        stack.callback(card.file.unlink)
        machine = Machine(STAGES[stage], card, folder, broker_port=broker.port)
        stack.callback(machine.cut_power)
        yield machine, seen


def run_stage(stage: str, run: Stage, machine: Machine, seen: Subscriber, report: Report) -> None:
    try:
        run(machine, seen, report)
    except StageOver as over:
        report.could_not_run(f"the rest of {stage}", f"it stands on: {over}")
    except Exception as error:  # noqa: BLE001, failed, and told
        report.failed.append(f"{stage}: {error}")
        report.say(f"FAILED  {stage} has ended early: {error!r}")
    if report.failed and machine.is_on:
        report.say(f"the journal of {stage}:\n{machine.journal()}")


if __name__ == "__main__":
    sys.exit(main())
