"""Writes the system of a bundle into a slot that does not run; for update_image.py, as root."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from update_parts.bundle import open_root
from update_parts.take import Taken

__all__ = ["Impossible", "keep_machine_id", "write_system"]

_PIECE_BYTES = 1 << 20


class Impossible(Exception):
    """The update cannot be done; the message says why, and the system that runs stays."""


def write_system(taken: Taken, device: Path, say: Callable[[str], None]) -> None:
    """Write the root file system of a bundle, and compare what the card then has.

    `say` is told each step.

    Raises:
        Impossible: the card has too little room, or does not keep what was written.
    """
    system = taken.manifest.system
    assert system is not None, "take() has seen to it"
    with device.open("r+b", buffering=0) as target:
        room = os.lseek(target.fileno(), 0, os.SEEK_END)
        if room < system.bytes:
            raise Impossible(
                f"{device} has {room >> 20} MB, and the system needs {system.bytes >> 20}: "
                "take a larger card"
            )
        os.lseek(target.fileno(), 0, os.SEEK_SET)
        say(f"writing {system.bytes >> 20} MB to {device} ...")
        unpack = ["zstd", "-d", "-q", "-c", "--no-sparse"]
        with (
            open_root(taken.bundle) as packed,
            subprocess.Popen(unpack, stdin=subprocess.PIPE, stdout=target) as zstd,
        ):
            assert zstd.stdin is not None
            with contextlib.suppress(BrokenPipeError), zstd.stdin:
                shutil.copyfileobj(packed, zstd.stdin, _PIECE_BYTES)
        if zstd.returncode != 0:
            raise Impossible(f"zstd cannot unpack the system (exit code {zstd.returncode})")
        os.fsync(target.fileno())
        # So that the card is read, and not the memory.
        os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        say("reading it again ...")
        os.lseek(target.fileno(), 0, os.SEEK_SET)
        if _digest(target.fileno(), system.bytes) != system.sha256:
            raise Impossible(f"{device} does not have what was written: the card is worn out")


def _digest(descriptor: int, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (piece := os.read(descriptor, min(size, _PIECE_BYTES))):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def keep_machine_id(known: Path, device: Path, work: Path) -> None:
    """Give the new system the id of this Pi, by which a router knows it.

    `known` is the file with the id, `work` a folder for a temporary file.

    Raises:
        Impossible: debugfs fails.
    """
    text = known.read_text(encoding="ascii").strip()
    if not re.fullmatch("[0-9a-f]{32}", text):
        return
    with tempfile.TemporaryDirectory(dir=work) as folder:
        source = Path(folder, "machine-id")
        source.write_text(f"{text}\n", encoding="ascii")
        source.chmod(0o444)
        target = "/etc/machine-id"
        commands = f"rm {target}\nwrite {source} {target}\nset_inode_field {target} mode 0100444\n"
        done = subprocess.run(
            ["debugfs", "-w", "-f", "-", str(device)],
            input=commands,
            capture_output=True,
            text=True,
            check=False,
        )
    with device.open("r+b", buffering=0) as target_file:
        os.fsync(target_file.fileno())
    shown = subprocess.run(
        ["debugfs", "-R", "cat /etc/machine-id", str(device)],
        capture_output=True,
        text=True,
        check=False,
    )
    if shown.stdout.strip() != text:
        raise Impossible(f"debugfs cannot write to {device}: {done.stderr.strip()}")
