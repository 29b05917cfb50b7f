"""Lets the network know of the page, by mDNS (RFC 6763), where avahi is there.

avahi's own program does it, as a child of this process: with the port that is really used, no
longer than the page is there, and with no right to write anything.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from node.system.child import end_child, start_child

__all__ = ["announced", "announcement"]

_PROGRAM = "avahi-publish-service"


def announcement(node: str, port: int) -> list[str]:
    """The words of avahi-publish-service(1); `-f`: wait for a daemon that is not there yet."""
    return ["-f", f"{node} (sensor-node)", "_http._tcp", str(port), "path=/"]


@contextlib.contextmanager
def announced(node: str, port: int) -> Iterator[bool]:
    """While this is open, browsers of services see the page; False where there is no avahi."""
    program = shutil.which(_PROGRAM)
    if program is None:
        yield False
        return
    process = start_child([program, *announcement(node, port)], own_session=False)
    try:
        yield True
    finally:
        end_child(process, patience_s=2.0)
