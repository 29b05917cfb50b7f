"""What a reading costs the card: bytes that go to an ext4, by what they are for.

    sudo tests/.venv/bin/python tests/bench/card.py [--ticks 40] [--every 30]

An outbox commits ten readings at a time, as the node does, to file systems of its own on loop
devices; and next to it a plain file of fixed size gets the same bytes, with fdatasync(2). Counted
are the requests of the kernel to the devices (the trace event block_rq_issue), which are sorted by
where the files and the journal of the file system lie.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from node.config.schema import OutboxTable
from node.outbox.outbox import Outbox
from node.outbox.store import FILE_NAME
from node.reading import Layout
from node.system.clock import SystemClock
from node.units import Seconds

_BLOCK_BYTES = 4096
_SECTOR_BYTES = 512
_SENSORS = 10
_ROW_BYTES = 250
"""About what a row of ten readings has."""
_EXPIRE = Path("/proc/sys/vm/dirty_expire_centisecs")
_EVENT = re.compile(r"block_rq_issue: (\d+),(\d+) (\S+) (\d+) \(\) (\d+) \+ \d+")
"""Device, kind of request, bytes, first sector (include/trace/events/block.h)."""

Tick = Callable[[int], None]


class Card:
    """A file system that is mounted, and what is written to it."""

    def __init__(self, folder: Path, options: str) -> None:
        self.folder = folder / "mounted"
        self.folder.mkdir(parents=True)
        image = folder / "ext4"
        with image.open("wb") as stream:
            stream.truncate(256 << 20)
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        run("mkfs.ext4", "-q", "-b", str(_BLOCK_BYTES), "-E", lazy, str(image))
        run("mount", "-o", f"loop,{options}", str(image), str(self.folder))
        self.device = run("findmnt", "-no", "SOURCE", "--target", str(self.folder)).strip()
        number = Path(self.device).stat().st_rdev
        self.number = os.major(number), os.minor(number)

    def written_bytes(self) -> int:
        """Return what the device was given to write so far; what waits is written first.

        In sectors of 512 bytes whatever the device (Documentation/block/stat.rst).
        """
        run("sync", "--file-system", str(self.folder))
        major, minor = self.number
        fields = Path(f"/sys/dev/block/{major}:{minor}/stat").read_text().split()
        return int(fields[6]) * _SECTOR_BYTES

    def places(self) -> dict[range, str]:
        """Blocks -> what lies there: the files, and the journal, which is inode 8."""
        run("sync", "--file-system", str(self.folder))
        names = {f"<{file.stat().st_ino}>": file.name for file in self.folder.iterdir()}
        found = {}
        for inode, name in {**names, "<8>": "journal"}.items():
            said = run("debugfs", "-R", f"stat {inode}", self.device)
            for first, last in re.findall(r"\([\d-]+\):(\d+)(?:-(\d+))?", said):
                found[range(int(first), int(last or first) + 1)] = name
        return found

    def close(self) -> None:
        run("umount", str(self.folder))


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def log_on(folder: Path, sync_every_s: float, close: contextlib.ExitStack) -> Tick:
    """Return what commits ten readings to a log there, which the broker then has."""
    clock = SystemClock()
    outbox = Outbox(folder, OutboxTable(sync_every=Seconds(sync_every_s)), clock)
    close.callback(outbox.close)
    layouts = [Layout(f"s{n}", ("temperature",), ("°C",)) for n in range(_SENSORS)]

    def tick(number: int) -> None:
        for n, layout in enumerate(layouts):
            boot_s, utc_s = clock.boot_s(), clock.utc_s()
            value = (20.0 + n + number % 50 / 10,)
            outbox.append(layout, value, boot_s=boot_s, utc_s=utc_s, synced=True)
        outbox.commit()
        outbox.acknowledge(outbox.cursor + 1, outbox.last_seq)

    tick(0)
    return tick


def plain_file_on(folder: Path, close: contextlib.ExitStack) -> Tick:
    """Return what appends as many bytes to a file that has its later size."""
    file = os.open(folder / "plain", os.O_RDWR | os.O_CREAT)
    close.callback(os.close, file)
    os.pwrite(file, bytes(1 << 20), 0)
    os.fsync(file)

    def tick(number: int) -> None:
        os.pwrite(file, os.urandom(_ROW_BYTES), number * _ROW_BYTES)
        os.fdatasync(file)

    return tick


@contextlib.contextmanager
def traced(cards: Iterable[Card]) -> Iterator[Path]:
    """Trace the requests to the cards; yields the file that has them."""
    with tempfile.TemporaryDirectory(prefix="tracing-") as name, contextlib.ExitStack() as stack:
        run("mount", "-t", "tracefs", "none", name)
        stack.callback(run, "umount", name)
        buffer = Path(name, "instances", f"sensor-node-card-{os.getpid()}")
        buffer.mkdir()
        stack.callback(buffer.rmdir)
        event = buffer / "events/block/block_rq_issue"
        numbers = [major << 20 | minor for major, minor in (card.number for card in cards)]
        (event / "filter").write_text(" || ".join(f"dev == {number}" for number in numbers))
        (event / "enable").write_text("1")
        yield buffer / "trace"


@contextlib.contextmanager
def expiring_after(seconds: int) -> Iterator[None]:
    """Have the kernel keep what nobody syncs for so long (vm.dirty_expire_centisecs)."""
    before = _EXPIRE.read_text()
    _EXPIRE.write_text(str(100 * seconds))
    try:
        yield
    finally:
        _EXPIRE.write_text(before)


def written(trace: str, card: Card, places: dict[range, str]) -> Counter[str]:
    """What the blocks are for -> bytes that were written to them."""
    found: Counter[str] = Counter()
    for major, minor, kind, size, sector in _EVENT.findall(trace):
        if (int(major), int(minor)) == card.number and "W" in kind:
            block = int(sector) * _SECTOR_BYTES // _BLOCK_BYTES
            name = next((name for blocks, name in places.items() if block in blocks), "metadata")
            found[name.removeprefix(FILE_NAME) or "file"] += int(size)
    return found


def measure(folder: Path, ticks: int, every_s: float, *, expire_s: int, options: str) -> None:
    """Print what the variants of one way to mount write in an hour."""
    cards = {name: Card(folder / name, options) for name in ("log", "log, 5 min", "plain file")}
    with contextlib.ExitStack() as stack:
        for card in cards.values():
            stack.callback(card.close)
        work = [
            log_on(cards["log"].folder, 0, stack),
            log_on(cards["log, 5 min"].folder, 300, stack),
            plain_file_on(cards["plain file"].folder, stack),
        ]
        stack.enter_context(expiring_after(expire_s))
        places = {name: card.places() for name, card in cards.items()}
        time.sleep(10)
        with traced(cards.values()) as trace:
            for number in range(1, ticks + 1):
                for tick in work:
                    tick(number)
                time.sleep(every_s)
            run("sync")
            said = trace.read_text()
        hour = 3600 / every_s / ticks / 1e6
        for name, card in cards.items():
            parts = written(said, card, places[name] | card.places())
            by_part = ", ".join(f"{part} {size * hour:.2f}" for part, size in parts.most_common())
            print(f"{name:12} {options:24} {parts.total() * hour:5.2f} MB/h: {by_part}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ticks", type=int, default=40, help="commits (40)")
    parser.add_argument("--every", type=float, default=30, metavar="S", help="seconds (30)")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("card: needs root, to mount and to trace", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unmounts
    ways = {"noatime": 30, "noatime,commit=300": 300}  # as most systems have it; as the image
    for options, expire_s in ways.items():
        with tempfile.TemporaryDirectory(prefix="card-") as name:
            ticks, every_s = arguments.ticks, arguments.every
            measure(Path(name), ticks, every_s, expire_s=expire_s, options=options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
