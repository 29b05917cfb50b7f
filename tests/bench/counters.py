"""Files that count how often they are read, so that what was read and what arrived can be compared.

Each peer has a folder of files of its own, `s0`, `s1`, ... A file holds a number, in m°C as the
kernel's thermometers have it, that begins at `FIRST`. The kernel tells by inotify (IN_ACCESS) that
somebody has read a file, and the feeder's thread then raises its number by one, in place. So every
reading carries a number of its own, without gaps and whatever the pace: one that never arrives was
lost, one that arrives twice was repeated, and the last number tells how many were made. A file
system in user space would do the same and need a package and a kernel module; a rewriting clock
would take a reading that came late for one that was lost.

It holds as long as a file is not read again before its number is raised: that takes the feeder a
millisecond, and a sensor is read ten times a second at most.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
import time
from pathlib import Path

__all__ = ["FIRST", "BlockingSensor", "Feeder", "SensorFiles"]

FIRST = 20_000
"""20 °C. Five digits, up to 99,999: a file is always as long as before."""

_IN_ACCESS = 0x1  # inotify(7)
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class SensorFiles:
    """A folder of `count` files; `numbers` are those that they hold now."""

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.paths = [folder / f"s{number}" for number in range(count)]
        self.numbers = [FIRST] * count
        for path in self.paths:
            path.write_text(f"{FIRST}\n")

    def made(self) -> int:
        """How often they were read in all."""
        return sum(self.numbers) - FIRST * len(self.numbers)

    def raise_number(self, sensor: int) -> None:
        self.numbers[sensor] += 1
        descriptor = os.open(self.paths[sensor], os.O_WRONLY)
        try:
            os.pwrite(descriptor, b"%d\n" % self.numbers[sensor], 0)
        finally:
            os.close(descriptor)


class Feeder:
    """Raises the number of each file that was read, on a thread of its own."""

    def __init__(self) -> None:
        self._inotify = _checked(_libc.inotify_init1(os.O_CLOEXEC), "inotify")
        self._folders: dict[int, SensorFiles] = {}
        self._thread = threading.Thread(target=self._feed, name="feeder", daemon=True)
        self._thread.start()

    def watch(self, files: SensorFiles) -> None:
        """From now on; whoever reads is to be started afterwards."""
        watch = _libc.inotify_add_watch(self._inotify, os.fsencode(files.folder), _IN_ACCESS)
        self._folders[_checked(watch, str(files.folder))] = files

    def forget(self, files: SensorFiles) -> None:
        for watch, watched in list(self._folders.items()):
            if watched is files:
                _libc.inotify_rm_watch(self._inotify, watch)

    def _feed(self) -> None:
        while True:
            events = os.read(self._inotify, 1 << 16)
            offset = 0
            while offset < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, offset)
                offset += _EVENT.size
                name = events[offset : offset + length].rstrip(b"\0")
                offset += length
                files = self._folders.get(watch)
                if mask & _IN_ACCESS and files and name.startswith(b"s"):
                    files.raise_number(int(name[1:]))


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


class BlockingSensor:
    """Sensor 0 of a folder, from now on: a named pipe that lets every reader wait `blocks_s`."""

    def __init__(self, files: SensorFiles, blocks_s: float) -> None:
        self._path = files.paths[0]
        self._path.unlink()
        os.mkfifo(self._path)
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
            try:
                os.write(descriptor, b"%d\n" % FIRST)
            except BrokenPipeError:
                pass  # the reader has not waited
            finally:
                os.close(descriptor)
            time.sleep(0.02)  # so that the reader sees the end of the file

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
