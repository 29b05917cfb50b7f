"""The node as a service: systemd's notifications and watchdog, and the signals that end it.

Without systemd ($NOTIFY_SOCKET unset) this module only catches the signals.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sys
from collections.abc import Callable

from node.system.clock import Clock

__all__ = ["Service", "begin_again", "catch_signals"]


class Service:
    """Speaks sd_notify(3)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._address = _notify_address()
        self._status = ""
        self._feed_every_s = _watchdog_interval_s() if self._address else math.inf
        self.next_feed_s = clock.monotonic() if self._feed_every_s < math.inf else math.inf
        """When the watchdog must be fed next; infinity without one."""

    def ready(self) -> None:
        self._notify("READY=1")

    def stopping(self) -> None:
        self._notify("STOPPING=1")

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows; sent when it changes."""
        if text != self._status:
            self._status = text
            self._notify(f"STATUS={text}")

    def feed_watchdog(self) -> None:
        """Report to systemd that the node's loop runs; call this only where that is true.

        The watchdog is fed before it is due if the node is awake anyway.
        """
        now_s = self._clock.monotonic()
        if self.next_feed_s < math.inf and now_s >= self.next_feed_s - self._feed_every_s / 2:
            self.next_feed_s = now_s + self._feed_every_s
            self._notify("WATCHDOG=1")

    def skip_feed(self) -> None:
        """Skip a feed: something is wrong, and systemd should find out."""
        self.next_feed_s = self._clock.monotonic() + self._feed_every_s

    def _notify(self, state: str) -> None:
        if self._address:
            with (
                contextlib.suppress(OSError),  # systemd has gone away or is busy: not our problem
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify_socket,
            ):
                notify_socket.setblocking(False)
                notify_socket.sendto(state.encode(), self._address)


def _notify_address() -> str:
    """Return $NOTIFY_SOCKET, with NUL in place of an abstract socket's @; "" without systemd."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    return "\0" + address[1:] if address.startswith("@") else address


def _watchdog_interval_s() -> float:
    """Return a third of $WATCHDOG_USEC (sd_watchdog_enabled(3) advises half); inf if not ours."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return math.inf
    try:
        interval_s = int(os.environ["WATCHDOG_USEC"]) / 3e6
    except (KeyError, ValueError):
        return math.inf
    return interval_s if interval_s > 0 else math.inf


def catch_signals(stop: Callable[[str], None]) -> None:
    """Call `stop(name)` on SIGTERM or SIGINT; the second signal ends the process at once.

    Call this after drivers are preloaded, because Blinka's PulseIn takes SIGTERM on import.
    """

    def caught(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, caught)


def begin_again() -> None:
    """Replace this process by a new one with the same command line; systemd sees no end of it.

    Files that libraries have left open are closed: lgpio's would keep its pins.

    Raises:
        OSError: the program is not there any more.
    """
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.execv(sys.executable, sys.orig_argv)
