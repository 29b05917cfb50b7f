"""Announces the page on the network, by mDNS (RFC 6763), if avahi is installed.

avahi's own program does it, as a child of this process: with the port that is really used, only
for as long as the page runs, and without the right to write anything.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from node.system.child import end_child, start_child

__all__ = ["announced", "announcement"]

_PROGRAM = "avahi-publish-service"


def announcement(node: str, port: int) -> list[str]:
    """Return the command, avahi-publish-service(1); `-f` waits for a daemon that starts later."""
    return ["-f", f"{node} (sensor-node)", "_http._tcp", str(port), "path=/"]


@contextlib.contextmanager
def announced(node: str, port: int) -> Iterator[bool]:
    """Announce the page within the context. Yield False if avahi is not installed."""
    program = shutil.which(_PROGRAM)
    if program is None:
        yield False
        return
    process = start_child([program, *announcement(node, port)], own_session=False)
    try:
        yield True
    finally:
        end_child(process, patience_s=2.0)
