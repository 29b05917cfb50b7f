"""Which slot the boot loader chooses: boot.cmd in a real U-Boot, on cards without a kernel.

So it says which slot it tries, and which one next, and ends. The image's own program writes and
reads the records.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from image.boot_files import compile_script
from image.disk import DISK_ID
from image_support import DEPLOY, on_the_pi
from machine import QEMU, U_BOOT, Machine
from report import Report
from support import Subscriber

__all__ = ["run_choice"]

slots = on_the_pi("slots")
_A, _B, _TRIAL_B = "a", "b", "b sensor_node.trial"
_TABLE = f"""\
label: dos
label-id: 0x{DISK_ID}
start=4MiB, size=40MiB, type=c, bootable
start=44MiB, size=8MiB, type=83
start=52MiB, size=2MiB, type=83
start=54MiB, size=8MiB, type=83
"""
Prepare = Callable[[Path, Any], None]


def _damage(card: Path, offset: int) -> None:
    with card.open("r+b") as stream:
        stream.seek(offset + 4)
        stream.write(b"\xff")


def _keeps_b(_card: Path, record: Any) -> None:
    record.keep("b")


def _first_copy_is_damaged(card: Path, record: Any) -> None:
    record.keep("b")
    _damage(card, slots.GOOD_AT[0])


def _both_are_damaged(card: Path, record: Any) -> None:
    record.keep("b")
    for offset in slots.GOOD_AT:
        _damage(card, offset)


def _trial(_card: Path, record: Any) -> None:
    record.keep("a")
    record.begin_trial("b", 3)


def _last_try(_card: Path, record: Any) -> None:
    record.begin_trial("b", 1)


def _no_try_left(_card: Path, record: Any) -> None:
    record.begin_trial("b", 0)


def _damaged_trial(card: Path, record: Any) -> None:
    record.begin_trial("b", 3)
    _damage(card, slots.TRIAL_AT)


def _ended_trial(_card: Path, record: Any) -> None:
    record.begin_trial("b", 3)
    record.end_trial()


_CASES: tuple[tuple[Prepare | None, list[str], Any], ...] = (
    (None, [_A, _B], None),
    (_keeps_b, [_B, _A], None),
    (_first_copy_is_damaged, [_B, _A], None),
    (_both_are_damaged, [_A, _B], None),
    (_trial, [_TRIAL_B, _A, _B], slots.Trial("b", 2)),
    (_last_try, [_TRIAL_B, _A, _B], slots.Trial("b", 0)),
    (_no_try_left, [_A, _B], slots.Trial("b", 0)),
    (_damaged_trial, [_A, _B], None),
    (_ended_trial, [_A, _B], None),
)
"""What is on the card, the slots that are tried one after the other, and the trial afterwards."""


def run_choice(machine: Machine, _seen: Subscriber, report: Report) -> None:
    empty = _make_card(machine.folder)
    for prepare, tried, left in _CASES:
        what = prepare.__name__.strip("_").replace("_", " ") if prepare else "a new card"
        with report.check(f"{what}: U-Boot tries slot {', then '.join(tried)}"):
            card = machine.folder / "small-card"
            card.write_bytes(empty.read_bytes())
            record = slots.Record(card)
            if prepare is not None:
                prepare(card, record)
            assert _tried(card, machine.folder / "small.log") == tried
            assert record.newest_trial == left


def _make_card(folder: Path) -> Path:
    card, fat, script = folder / "empty", folder / "fat", folder / "boot.scr"
    source = (DEPLOY / "image/boot.cmd").read_text().replace("@DISK@", DISK_ID)
    compile_script(source, script, 0)
    with fat.open("wb") as made, card.open("wb") as disk:
        made.truncate(40 << 20)
        disk.truncate(64 << 20)
    _run("mkfs.vfat", "-F", "32", fat)
    _run("mcopy", "-i", fat, script, "::boot.scr")
    _run("sfdisk", "--quiet", card, given=_TABLE)
    _run("dd", f"if={fat}", f"of={card}", "bs=1M", "seek=4", "conv=notrunc", "status=none")
    return card


def _tried(card: Path, log: Path) -> list[str]:
    drive = f"file={card},format=raw,if=none,id=card"
    command = [QEMU, "-M", "virt", "-cpu", "cortex-a53", "-m", "512", "-bios", U_BOOT]
    command += ["-drive", drive, "-device", "virtio-blk-pci,drive=card", "-no-reboot"]
    command += ["-display", "none", "-monitor", "none", "-serial", f"file:{log}"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=300)
    said = log.read_text(errors="replace")
    return re.findall(r"^sensor-node: slot (.*), partition \d\r?$", said, re.MULTILINE)


def _run(*command: object, given: str | None = None) -> None:
    words = [str(word) for word in command]
    subprocess.run(words, input=given, text=True, check=True, capture_output=True)
