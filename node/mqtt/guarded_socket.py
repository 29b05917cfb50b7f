"""The narrow point between the network and paho, where each packet is checked by `sieve`.

paho parses and keeps any packet of a broker, of any size, in time that grows with the square of the
size. It also reads a packet in three calls, byte by byte. paho asks a socket for bytes, so it gets
one that reads ahead and only returns bytes of whole packets within bounds.

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
"""How long a flood has to wait after this many packets: as long as Python lets a thread compute
while another one waits (`sys.getswitchinterval`)."""
SIGN_OF_LIFE_S = 1.0
"""How often the library sees a PUBACK. It pings a broker that sends nothing (§3.1.2.10), and
considers the connection lost if there is no answer."""


class GuardedSocket:
    """Behaves like the given socket, TCP, TLS or WebSockets, except for `recv` and `send`."""

    def __init__(
        self,
        inner: Any,
        sieve: Sieve,
        *,
        acknowledged: Callable[[list[tuple[int, int]]], int],
        is_writing: Callable[[], bool],
    ) -> None:
        """Wrap a socket.

        `acknowledged` is called with the content of `Sieve.acknowledged`, and returns how many of
        them were expected. `is_writing` returns whether some answers have not been sent yet.
        """
        self._inner = inner
        self._sieve = sieve
        self._acknowledged = acknowledged
        self._is_writing = is_writing
        self._ahead = b""
        self._at = 0
        self.fault = ""
        """The violation of the protocol by the broker, if any."""
        self._sign_of_life_s = 0.0
        """When the library should see the next PUBACK."""
        self._unasked = 0
        """Unexpected packets since the last pause."""

    def recv(self, size: int) -> bytes:
        """Return at most `size` bytes, none at the end of the stream.

        Raises the socket's errors, BrokerFault, and BlockingIOError while a packet is incomplete.
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
        """Read ahead; return False at the end of the stream."""
        sieve = self._sieve
        self._ahead, self._at = b"", 0
        if self._unasked >= MAX_PASSED:
            time.sleep(BREATH_S)
            if self._is_writing():  # do not listen to a broker that does not read
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

    def send(self, content: bytes) -> int:
        """Send, and return how many bytes were; raise BlockingIOError if they must be sent again.

        paho's WebSockets return 0 for a frame of which a part was sent, and want the same content
        again. paho's client (2.2) forgets the packet then, and spoils the next one.
        """
        sent: int = self._inner.send(content)
        if sent == 0 and content:
            raise BlockingIOError("a frame is not sent yet")
        return sent

    def pending(self) -> int:
        """Return how many bytes are available that select does not report, as an SSLSocket does."""
        inner = self._inner.pending() if hasattr(self._inner, "pending") else 0
        return len(self._ahead) - self._at + inner + self._sieve.waits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
