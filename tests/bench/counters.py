"""Files that count how often they are read, so that what was read and what arrived can be compared.

Each peer has a folder of files of its own, `s0`, `s1`, ... A file holds a number, in m°C as the
kernel's thermometers have it, that begins at `FIRST`. The kernel tells by inotify (IN_ACCESS) that
somebody has read a file, and the feeder then raises its number by one, in place. So every
reading carries a number of its own, without gaps and whatever the pace: one that never arrives was
lost, one that arrives twice was repeated, and the last number tells how many were made. A file
system in user space would do the same and need a package and a kernel module; a rewriting clock
would take a reading that came late for one that was lost.

It holds as long as a file is not read again before its number is raised. A sensor is read ten times
a second at most, and the feeder is a process of its own that the scheduler prefers to all others
(where it may: as root), so it takes some tens of microseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import multiprocessing
import multiprocessing.connection
import os
import select
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["FIRST", "BlockingSensor", "Feeder", "SensorFiles"]

FIRST = 20_000
"""20 °C. Five digits, up to 99,999: a file is always as long as before."""

_IN_ACCESS = 0x1  # inotify(7)
_EVENT = struct.Struct("iIII")
_MAX_FILES = 1_000_000  # of all scenarios of a run
_libc = ctypes.CDLL(None, use_errno=True)


class SensorFiles:
    """A folder of `count` files that the feeder looks after."""

    def __init__(self, folder: Path, numbers: memoryview, begin: int) -> None:
        """`numbers` are theirs among the feeder's, from `begin` on."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.begin = begin
        self.paths = [folder / f"s{number}" for number in range(len(numbers))]
        self._numbers = numbers
        for sensor, path in enumerate(self.paths):
            numbers[sensor] = FIRST
            path.write_text(f"{FIRST}\n")

    @property
    def numbers(self) -> list[int]:
        """What the files hold now."""
        return self._numbers.tolist()

    def made(self) -> int:
        """How often they were read in all."""
        return sum(self._numbers) - FIRST * len(self._numbers)


class Feeder:
    """Raises the number of each file that was read, in a process of its own; the numbers are in
    memory that both share."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 4 * _MAX_FILES)).cast("i")
        self._used = 0
        self._inotify = _checked(_libc.inotify_init1(os.O_CLOEXEC), "inotify")
        here, there = multiprocessing.Pipe()
        self._orders = here
        fork = multiprocessing.get_context("fork")
        arguments = (self._inotify, there, here, self._numbers)
        fork.Process(target=_feed, args=arguments, name="feeder", daemon=True).start()
        there.close()

    def make(self, folder: Path, count: int) -> SensorFiles:
        """Files that are not counted yet."""
        begin, self._used = self._used, self._used + count
        return SensorFiles(folder, self._numbers[begin : self._used], begin)

    def watch(self, files: SensorFiles) -> None:
        """From now on; whoever reads is to be started afterwards. Ends when the folder is gone."""
        name = os.fsencode(files.folder)
        watch = _checked(_libc.inotify_add_watch(self._inotify, name, _IN_ACCESS), str(name))
        self._orders.send((watch, [str(path) for path in files.paths], files.begin))
        self._orders.recv()


def _feed(
    inotify: int,
    orders: multiprocessing.connection.Connection,
    parents_end: multiprocessing.connection.Connection,
    numbers: memoryview,
) -> None:
    """The feeder's process; ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parents_end.close()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    watched: dict[int, tuple[list[str], int]] = {}
    while True:
        waiting: list[Any] = [orders, inotify]
        ready, _, _ = select.select(waiting, [], [])
        if orders in ready:
            try:
                watch, paths, begin = orders.recv()
            except EOFError:
                return
            watched[watch] = (paths, begin)
            orders.send(None)
        if inotify in ready:
            for watch, name in _accesses(os.read(inotify, 1 << 16)):
                if watch in watched and name.startswith(b"s"):
                    paths, begin = watched[watch]
                    sensor = int(name[1:])
                    numbers[begin + sensor] += 1
                    _write(paths[sensor], numbers[begin + sensor])


def _accesses(events: bytes) -> list[tuple[int, bytes]]:
    """(watch, name) of each read among the events."""
    found = []
    offset = 0
    while offset < len(events):
        watch, mask, _, length = _EVENT.unpack_from(events, offset)
        offset += _EVENT.size
        if mask & _IN_ACCESS:
            found.append((watch, events[offset : offset + length].rstrip(b"\0")))
        offset += length
    return found


def _write(path: str, number: int) -> None:
    """In place, all at once; a file that has gone meanwhile needs no number."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_WRONLY)
        os.pwrite(descriptor, b"%d\n" % number, 0)
        os.close(descriptor)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


class BlockingSensor:
    """Sensor 0 of a folder, from now on: a named pipe that lets every reader wait `blocks_s`."""

    def __init__(self, files: SensorFiles, blocks_s: float) -> None:
        self._path = files.paths[0]
        self._renew()
        self._blocks_s = blocks_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="blocking sensor", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._ended.is_set():
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:  # nobody reads
                    raise
                time.sleep(0.01)
                continue
            self._ended.wait(self._blocks_s)
            # Who opened this one again before it is closed would find nothing but its end.
            self._renew()
            try:
                os.write(descriptor, b"%d\n" % FIRST)
            except BrokenPipeError:
                pass  # the reader has not waited
            finally:
                os.close(descriptor)

    def _renew(self) -> None:
        new = self._path.with_suffix(".new")
        os.mkfifo(new)
        new.replace(self._path)

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
