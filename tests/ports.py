"""Ports that a test may give to a server of its own, and take from it and give again."""

from __future__ import annotations

import socket

__all__ = ["free_port"]

_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that nobody else is given while we live.

    Its socket stays bound and never listens: connecting is refused, the kernel gives the port to
    nobody who asks for any, and a broker may have it by its number (SO_REUSEADDR, socket(7)).
    """
    placeholder = socket.socket()
    placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    placeholder.bind(("127.0.0.1", 0))
    _reserved.append(placeholder)
    port: int = placeholder.getsockname()[1]
    return port
