"""The record of the slots: which of the two systems on the card the boot loader starts.

    partition 2: slot a, partition 4: slot b   a system each: one runs, the other is older or newer
    at 1 MiB and 2 MiB of the card             good=a            the slot that is known to work
    at 3 MiB                                   trial=b tries=3   the one on trial, and how often yet

Each record is one sector, which is written as a whole, in the form in which U-Boot keeps its
environment: a CRC-32, and names with values (`env export -c`). boot.cmd reads them, and counts the
tries. A record that is damaged counts as missing: then the second copy says which slot is good, and
nothing is on trial.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

__all__ = ["SLOTS", "Record", "Trial", "disk", "is_trial", "other", "partition", "running"]

SLOTS = {"a": 2, "b": 4}
"""Slot -> number of its partition."""
SECTOR_BYTES = 512
GOOD_AT = (1 << 20, 2 << 20)
TRIAL_AT = 3 << 20
_PARTITIONS = Path("/dev/disk/by-partuuid")
_DISK_ID = "@DISK@"
_COMMAND_LINE = Path("/proc/cmdline")


class Trial(NamedTuple):
    """A slot that is on trial."""

    slot: str
    tries: int
    """How often the boot loader still starts it."""


class Record:
    """The record on a card; `file` is the card's device, or an image of it."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def good(self) -> str:
        """The slot that the boot loader starts if none is on trial."""
        for offset in GOOD_AT:
            if (slot := self._read(offset).get("good", "")) in SLOTS:
                return slot
        return "a"

    @property
    def trial(self) -> Trial | None:
        """The slot on trial, as long as it has tries left."""
        trial = self.newest_trial
        return trial if trial is not None and trial.tries > 0 else None

    @property
    def newest_trial(self) -> Trial | None:
        """The same, also without tries left; None once the trial was ended."""
        found = self._read(TRIAL_AT)
        try:
            trial = Trial(found["trial"], int(found["tries"], 16))
        except (KeyError, ValueError):
            return None
        return trial if trial.slot in SLOTS else None

    def begin_trial(self, slot: str, tries: int) -> None:
        """Have the boot loader start a slot, so often at most.

        Raises:
            OSError: the card cannot be written to.
        """
        self._write(TRIAL_AT, {"trial": slot, "tries": f"{tries:x}"})

    def end_trial(self) -> None:
        """Have the boot loader start the good slot."""
        self._write(TRIAL_AT, {})

    def keep(self, slot: str) -> None:
        """Make a slot the good one. A power cut leaves the old one or the new one."""
        for offset in GOOD_AT:
            self._write(offset, {"good": slot})
        self.end_trial()

    def _read(self, offset: int) -> dict[str, str]:
        try:
            with self._file.open("rb", buffering=0) as stream:
                sector = os.pread(stream.fileno(), SECTOR_BYTES, offset)
        except OSError:
            return {}
        return unpack(sector)

    def _write(self, offset: int, values: dict[str, str]) -> None:
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, pack(values), offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def pack(values: dict[str, str]) -> bytes:
    """Return the sector for some names and values."""
    text = "".join(f"{name}={value}\0" for name, value in values.items()) + "\0"
    content = text.encode("ascii").ljust(SECTOR_BYTES - 4, b"\0")
    return struct.pack("<I", zlib.crc32(content)) + content


def unpack(sector: bytes) -> dict[str, str]:
    """Return the names and values of a sector; none of a damaged one."""
    content = sector[4:]
    if len(sector) != SECTOR_BYTES or struct.unpack("<I", sector[:4])[0] != zlib.crc32(content):
        return {}
    text = content.partition(b"\0\0")[0].decode("ascii", "replace")
    pairs = (line.partition("=") for line in text.split("\0"))
    return {name: value for name, _, value in pairs if name}


# -- this computer


def partition(slot: str) -> Path:
    """Return the device of a slot's partition."""
    return _PARTITIONS / f"{_DISK_ID}-{SLOTS[slot]:02}"


def disk() -> Path:
    """Return the device of the card."""
    first = os.path.realpath(_PARTITIONS / f"{_DISK_ID}-01")
    return Path("/dev", Path("/sys/class/block", Path(first).name).resolve().parent.name)


def running() -> str:
    """Return the slot of the system that runs; "" if it was not started by boot.cmd."""
    for word in _COMMAND_LINE.read_text(encoding="ascii").split():
        name, _, slot = word.partition("=")
        if name == "sensor_node.slot" and slot in SLOTS:
            return slot
    return ""


def is_trial() -> bool:
    """Return whether the boot loader has started this system on trial."""
    return "sensor_node.trial" in _COMMAND_LINE.read_text(encoding="ascii").split()


def other(slot: str) -> str:
    """Return the other slot."""
    return "b" if slot == "a" else "a"
