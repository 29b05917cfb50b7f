"""`tests/boot/run`, once everything is installed that it needs."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT / "tests"))

from machine import Card, Machine  # noqa: E402
from raspi import run_raspi  # noqa: E402
from report import Report, StageOver  # noqa: E402
from support import Mosquitto, Subscriber  # noqa: E402
from virt import run_virt  # noqa: E402

STAGES = ("virt", "raspi3b")


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/boot/run")
    parser.add_argument("--image", metavar="FILE", type=Path, help="default: build one")
    parser.add_argument("--only", choices=STAGES, help="default: all")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="leave consoles and cards there")
    arguments = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="boot-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        image = arguments.image or build(folder, report)
        for stage in STAGES:
            if arguments.only in (None, stage):
                run_stage(stage, image, folder, report)
            else:
                report.could_not_run(stage, "not asked for")
    report.could_not_run("Wi-Fi by radio", "QEMU has none")
    report.could_not_run(
        "the boot loader of the Pi's GPU", "QEMU has none; its files are read here"
    )
    return report.end()


def build(folder: Path, report: Report) -> Path:
    report.say("building the image")
    command = [str(CHECKOUT / "deploy/build-image"), "--output", str(folder)]
    subprocess.run(command, check=True)
    return folder / "sensor-node.img"


def run_stage(stage: str, image: Path, folder: Path, report: Report) -> None:
    """One machine with a card, a broker and a subscriber of its own; all gone at the end."""
    place = folder / stage
    place.mkdir(exist_ok=True)
    broker = Mosquitto(place).start()
    seen = Subscriber(broker.port)
    machine = Machine(stage, Card(image, place / "card.img"), place, broker_port=broker.port)
    try:
        if stage == "virt":
            run_virt(machine, seen, report)
        else:
            run_raspi(machine, seen, report, place)
    except StageOver as over:
        report.could_not_run(f"the rest of {stage}", f"it stands on: {over}")
    except Exception as error:
        report.failed.append(f"{stage}: {error}")
        report.say(f"FAILED  {stage} has ended early: {error!r}")
    finally:
        if report.failed and machine.is_on:
            report.say(f"the journal of {stage}:\n{machine.journal()}")
        machine.cut_power()
        seen.close()
        broker.stop()
        machine.card.file.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
