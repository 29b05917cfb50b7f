"""Lays the image out as a disk: a FAT partition, two root file systems, and /var.

    at 1 and 2 MiB      which root file system is the good one (the record of the slots: slots.py)
    partition 1         FAT
    partition 2         slot a: the root file system of the image
    partition 3         /var
    partition 4         slot b: for the next one; it lies behind the end of the image

Loop devices and mounts are not needed: each file system is made in a separate file, with its
content, and copied to its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "root/usr/lib/sensor-node"))

from slots import GOOD_AT, pack

__all__ = ["DISK_ID", "LAYOUT", "lay_out"]

LAYOUT = 1
"""The number of this layout. A system fits a card of its own layout alone."""
DISK_ID = f"534e{LAYOUT:04x}"
"""The disk's signature. It names the partitions (PARTUUID) in every system of this layout."""
_BOOT_OFFSET_MIB = 4
_BOOT_MIB = 256
_VAR_MIB = 512
_SLOT_MIB = 1024
_ROOM_IN_ROOT = 1.1
"""How much larger than its content the root file system is: for what its owner changes."""
_NAMESPACE = uuid.UUID("b6c9a2a4-4d0e-4a3c-9a56-5f2f0a1d8e11")


def lay_out(
    root: Path, boot: Path, out: Path, *, build_id: str, epoch: int, say: Callable[[str], None]
) -> None:
    """Write the disk image `out`; `root/var` goes into a separate partition.

    Beside it, `sensor-node.rootfs`: the root file system alone, for an update of other cards.
    `build_id`: eight hexadecimal digits, from which the ids of the file systems are derived.
    """
    work = out.parent / (out.name + ".parts")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        _lay_out(root, boot, out, work, build_id=build_id, epoch=epoch, say=say)
    finally:
        shutil.rmtree(work)


def _lay_out(
    root: Path,
    boot: Path,
    out: Path,
    work: Path,
    *,
    build_id: str,
    epoch: int,
    say: Callable[[str], None],
) -> None:
    say("disk: FAT partition")
    fat = work / "boot"
    _make_fat(boot, fat, build_id=build_id, epoch=epoch)
    say("disk: /var")
    var = work / "var"
    _make_ext4(root / "var", var, _VAR_MIB, label="var", build_id=build_id, epoch=epoch)
    shutil.rmtree(root / "var")
    # systemd-resolved starts before /var is mounted, and mounts a private /var/tmp on this folder.
    (root / "var/tmp").mkdir(parents=True)
    for folder in (root / "var/tmp", root / "var", root):
        os.utime(folder, (epoch, epoch))
    say("disk: root file system")
    used_kib = int(_output("du", "--summarize", "--block-size=1024", root).split()[0])
    root_mib = int(used_kib * _ROOM_IN_ROOT / 1024) + 32
    if root_mib > _SLOT_MIB:
        raise SystemExit(f"the root file system needs {root_mib} MiB, and a slot has {_SLOT_MIB}")
    rootfs = work / "rootfs"
    _make_ext4(root, rootfs, root_mib, label="rootfs", build_id=build_id, epoch=epoch)

    say("disk: partitions")
    sizes_mib = (_BOOT_MIB, _SLOT_MIB, _VAR_MIB, _SLOT_MIB)
    starts_mib = [_BOOT_OFFSET_MIB + sum(sizes_mib[:number]) for number in range(len(sizes_mib))]
    table = f"label: dos\nlabel-id: 0x{DISK_ID}\n"
    for start_mib, size_mib, kind in zip(
        starts_mib, sizes_mib, ("c, bootable", "83", "83", "83"), strict=True
    ):
        table += f"start={start_mib}MiB, size={size_mib}MiB, type={kind}\n"
    unfinished = work / "disk"
    _run("truncate", f"--size={starts_mib[3] + _SLOT_MIB}M", unfinished)
    _run("sfdisk", "--quiet", unfinished, given=table)
    _run("truncate", f"--size={starts_mib[3]}M", unfinished)
    for part, start_mib in zip((fat, rootfs, var), starts_mib, strict=False):
        to = (f"of={unfinished}", "bs=1M", f"seek={start_mib}")
        _run("dd", f"if={part}", *to, "conv=notrunc,sparse", "status=none")
    with unfinished.open("r+b") as disk:
        for offset in GOOD_AT:
            disk.seek(offset)
            disk.write(pack({"good": "a"}))
    rootfs.replace(out.with_suffix(".rootfs"))
    unfinished.replace(out)


def _make_fat(content: Path, file: Path, *, build_id: str, epoch: int) -> None:
    _run("truncate", f"--size={_BOOT_MIB}M", file)
    _run("mkfs.vfat", "-F", "32", "-n", "SENSOR-NODE", "-i", build_id, "--invariant", file)
    entries = sorted(str(path) for path in content.iterdir())
    _run("mcopy", "-s", "-m", "-Q", "-i", file, *entries, "::", epoch=epoch)


def _make_ext4(
    content: Path, file: Path, size_mib: int, *, label: str, build_id: str, epoch: int
) -> None:
    identity = uuid.uuid5(_NAMESPACE, f"{build_id} {label}")
    _run("truncate", f"--size={size_mib}M", file)
    options = f"hash_seed={identity},lazy_itable_init=0,lazy_journal_init=0"
    make = ("mkfs.ext4", "-q", "-L", label, "-U", identity, "-E", options, "-m", "1")
    _run(*make, "-d", content, file, epoch=epoch)
    _forget_when_it_was_filled(file, epoch)


def _forget_when_it_was_filled(ext4: Path, epoch: int) -> None:
    """Give all inodes the same times of change and access, in place of those of this build.

    mkfs.ext4 takes both from the source files, whose time of change cannot be set.
    """
    lines = (line.partition(":") for line in _output("dumpe2fs", "-h", ext4).splitlines())
    told = {key: value.strip() for key, _, value in lines}
    used = int(told["Inode count"]) - int(told["Free inodes"])
    # In a new file system the inodes are consecutive: the root's, then those after the reserved.
    inodes = (2, *range(int(told["First inode"]), used + 1))
    fields = (
        ("ctime", f"@{epoch}"),
        ("ctime_extra", 0),
        ("atime", f"@{epoch}"),
        ("atime_extra", 0),
    )
    commands = (f"sif <{inode}> {name} {value}\n" for inode in inodes for name, value in fields)
    _run("debugfs", "-w", "-f", "-", ext4, given="".join(commands), epoch=epoch)


def _run(*command: object, given: str | None = None, epoch: int | None = None) -> None:
    words = [str(word) for word in command]
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    if epoch is not None:  # the second works since e2fsprogs 1.47.1
        environment |= {"SOURCE_DATE_EPOCH": str(epoch), "E2FSPROGS_FAKE_TIME": str(epoch)}
    done = subprocess.run(
        words, env=environment, input=given, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{words[0]} failed:\n{done.stdout}{done.stderr}")


def _output(*command: object) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
