"""The files of a bundle that comes in, `update.part`, and of what root is handed, `update.bundle`.

`Staging` writes pieces on the loop's thread, each in one go. `fetch` and `stage` run on a thread of
the updater's, because they wait for the network and the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

from node.system.safe_files import write_file
from node.updates.request import Offer

__all__ = ["Staging"]

_PART, _BUNDLE, _REQUEST = "update.part", "update.bundle", "update-request"
_RESERVE_BYTES = 100 << 20
"""What stays free on the disk, for the log of readings above all."""
_CHUNK = 64 * 1024
_WHOLE_S = 3600.0
"""How long a bundle may take, however slowly it comes."""
_RETRY_S = (5.0, 15.0, 60.0, 300.0)


class Staging:
    """The bundle that comes in; there is one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part = folder / _PART

    @property
    def received(self) -> int:
        """Return how many bytes are there."""
        try:
            return self._part.stat().st_size
        except OSError:
            return 0

    def begin(self, offer: Offer) -> None:
        """Make room for a bundle.

        Raises:
            ValueError: there is none; the message says how much is needed.
        """
        self.drop()
        # The bundle, and as much again and more for root, which unpacks and installs it.
        needed = 2 * offer.size + _RESERVE_BYTES
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise ValueError(
                f"it needs {needed >> 20} MB on the disk, and {free >> 20} MB are free"
            )

    def add(self, offset: int, piece: bytes, offer: Offer) -> None:
        """Add a piece that follows what is there.

        Raises:
            ValueError: it does not follow, or there is too much of it.
            OSError: it cannot be written; what was there before stays.
        """
        received = self.received
        if offset != received:
            raise ValueError(f"it begins at {offset}, and {received} bytes are there")
        if received + len(piece) > offer.size:
            raise ValueError(f"it goes beyond the {offer.size} bytes of the bundle")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(self._part, flags, 0o600), "ab") as part:
            try:
                part.write(piece)
                part.flush()
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self._part, received)
                raise

    def fetch(self, url: str, offer: Offer, cancelled: threading.Event) -> None:
        """Fetch what is missing of a bundle, with some attempts.

        Raises:
            ValueError: it cannot be fetched; the message says why.
        """
        from node.updates.fetch import Unreachable, fetch_into  # brings urllib

        end_s = time.monotonic() + _WHOLE_S
        for wait_s in (*_RETRY_S, None):
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(self._part, flags, 0o600), "r+b") as part:
                    fetch_into(part, url, offer.size, cancelled, end_s=end_s)
                return
            except (Unreachable, OSError) as error:
                if wait_s is None or time.monotonic() > end_s:
                    raise ValueError(f"{offer.file} cannot be fetched: {error}") from None
                if cancelled.wait(wait_s):
                    return

    def stage(self, offer: Offer, request_id: str) -> None:
        """Verify the digest of a whole bundle, and hand it to root.

        Raises:
            ValueError: it is another one.
            OSError: the disk does not do it.
        """
        digest = hashlib.sha256()
        with self._part.open("rb") as part:
            while chunk := part.read(_CHUNK):
                digest.update(chunk)
            os.fsync(part.fileno())
        if digest.hexdigest() != offer.bundle:
            self.drop()
            raise ValueError(
                "what came is not the bundle that was named: its SHA-256 is another one"
            )
        write_file(self._folder / f"{_BUNDLE}.minisig", offer.signature.encode())
        self._part.replace(self._folder / _BUNDLE)
        # The last one: with it root begins.
        write_file(self._folder / _REQUEST, f"{request_id} {offer.bundle}\n".encode())

    def take_back(self) -> bool:
        """Take a request back that root has not taken up; return whether there was one."""
        try:
            (self._folder / _REQUEST).unlink()
        except OSError:
            return False
        return True

    def drop(self) -> None:
        """Delete what has come so far."""
        for name in (_PART, _BUNDLE, f"{_BUNDLE}.minisig"):
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
