"""A socket that asks the kernel once for what paho asks of it byte by byte."""

from __future__ import annotations

from typing import Any

__all__ = ["BufferedSocket"]

_AT_ONCE = 4096


class BufferedSocket:
    """As the socket it is given, TCP or TLS, but for `recv`, which reads ahead.

    paho (2.2) reads a packet in three calls, its first two bytes one by one: thirty system calls
    for the acknowledgements of ten readings, where one does.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._ahead = b""
        self._at = 0

    def recv(self, size: int) -> bytes:
        """As of the socket: at most `size` bytes, none at the end; raises what the socket does."""
        if self._at == len(self._ahead):
            self._ahead = self._inner.recv(_AT_ONCE)
            self._at = 0
        chunk: bytes = self._ahead[self._at : self._at + size]
        self._at += len(chunk)
        return chunk

    def pending(self) -> int:
        """How many bytes there are that a select does not tell of; as of an SSLSocket."""
        inner = self._inner.pending() if hasattr(self._inner, "pending") else 0
        return len(self._ahead) - self._at + inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
