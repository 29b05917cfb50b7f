"""The one narrow place between the network and paho: each packet is held against `sieve` there.

paho parses whatever a broker sends, of any size, in time that grows with the square of it, and
keeps it; and it reads a packet in three calls, byte by byte. It asks a socket for bytes, so it is
given a socket that reads ahead, and has bytes of whole packets only, within bounds.

Used on paho's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from node.mqtt.sieve import MAX_PASSED, BrokerFault, Sieve, puback

__all__ = ["GuardedSocket"]

_AT_ONCE = 4096
_MOST_AT_ONCE = 65_536
BREATH_S = 0.005
"""How long a flood has to wait after so many packets: as long as Python lets a thread compute that
another one waits for (`sys.getswitchinterval`)."""
SIGN_OF_LIFE_S = 1.0
"""How often the library sees a PUBACK: it asks a broker for a sign of life that sends it nothing
(§3.1.2.10), and takes one for gone that does not answer."""


class GuardedSocket:
    """As the socket it is given, TCP or TLS, but for `recv`."""

    def __init__(
        self,
        inner: Any,
        sieve: Sieve,
        *,
        acknowledged: Callable[[list[tuple[int, int]]], int],
        is_writing: Callable[[], bool],
    ) -> None:
        """`acknowledged` is called with what `Sieve.acknowledged` has, and returns how many of them
        were waited for; `is_writing`: whether there are answers that have not left yet."""
        self._inner = inner
        self._sieve = sieve
        self._acknowledged = acknowledged
        self._is_writing = is_writing
        self._ahead = b""
        self._at = 0
        self.fault = ""
        """What the broker has sent that no broker may send."""
        self._sign_of_life_s = 0.0
        """When the library is to see a PUBACK next."""
        self._unasked = 0
        """Packets that nobody has waited for, since the last breath."""

    def recv(self, size: int) -> bytes:
        """At most `size` bytes, none at the end; raises what the socket does, and BrokerFault.

        Raises BlockingIOError, too, while no whole packet has come.
        """
        if self._at == len(self._ahead):
            if not self._fill():
                return b""
            if not self._ahead:
                raise BlockingIOError("no whole packet yet")
        chunk = self._ahead[self._at : self._at + size]
        self._at += len(chunk)
        return chunk

    def _fill(self) -> bool:
        """Read ahead; False at the end of the stream."""
        sieve = self._sieve
        self._ahead, self._at = b"", 0
        if self._unasked >= MAX_PASSED:
            time.sleep(BREATH_S)
            if self._is_writing():  # a broker that does not read is not listened to either
                return True
            self._unasked = 0
        chunk = b""
        if not sieve.waits:
            chunk = self._inner.recv(min(max(sieve.wanted, _AT_ONCE), _MOST_AT_ONCE))
            if not chunk:
                return False
        before = sieve.packets
        try:
            self._ahead = sieve.feed(chunk)
        except BrokerFault as fault:
            self.fault = str(fault)
            raise
        self._unasked += sieve.packets - before
        if sieve.acknowledged:
            acknowledged, sieve.acknowledged = sieve.acknowledged, []
            self._unasked -= self._acknowledged(acknowledged)
            if (now_s := time.monotonic()) >= self._sign_of_life_s:
                self._sign_of_life_s = now_s + SIGN_OF_LIFE_S
                self._ahead += puback(acknowledged[0][0])
        return True

    def pending(self) -> int:
        """How many bytes there are that a select does not tell of; as of an SSLSocket."""
        inner = self._inner.pending() if hasattr(self._inner, "pending") else 0
        return len(self._ahead) - self._at + inner + self._sieve.waits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
