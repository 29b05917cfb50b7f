"""Who may look: the optional password (HTTP Basic, RFC 7617), and the names of this computer.

A wrong password costs its sender time, and nobody else: after a few of them that address is told
to wait (429), whatever it sends. Nothing sleeps, so no thread is held.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import socket
import threading
import time
from collections import OrderedDict

__all__ = ["Login", "names_of_this_computer"]

_FREE = 5
"""Wrong passwords before the first wait."""
_MAX_WAIT_S = 60.0
_FORGET_AFTER_S = 900.0
_MAX_ADDRESSES = 1000


class Login:
    """Checks the password of each request, on any thread."""

    def __init__(self, password: str) -> None:
        self._digest = _digest(password)
        self._lock = threading.Lock()
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Address -> how many wrong ones came from it, and when it may try again."""

    def wait_s(self, address: str) -> float:
        """How long this address has to wait before it is listened to."""
        with self._lock:
            _, until_s = self._wrong.get(_who(address), (0, 0.0))
            return max(0.0, until_s - time.monotonic())

    def admits(self, authorization: str, address: str) -> bool:
        """Whether the header has the password; any name goes with it."""
        given = _password_in(authorization)
        # Digests are of one length, so that the time tells nothing of the password's either.
        right = hmac.compare_digest(_digest(given or ""), self._digest) and given is not None
        if authorization:
            self._note(address, right=right)
        return right

    def _note(self, address: str, *, right: bool) -> None:
        who, now_s = _who(address), time.monotonic()
        with self._lock:
            if right:
                self._wrong.pop(who, None)
                return
            count, until_s = self._wrong.pop(who, (0, 0.0))
            count = 1 if now_s > until_s + _FORGET_AFTER_S else count + 1
            # A power of ever more wrong ones would be no number any more.
            doubled = min(count - _FREE, 10)
            wait_s = min(_MAX_WAIT_S, 2.0**doubled) if count >= _FREE else 0.0
            self._wrong[who] = (count, now_s + wait_s)
            while len(self._wrong) > _MAX_ADDRESSES:
                self._wrong.popitem(last=False)


def _digest(password: str) -> bytes:
    return hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest()


def _password_in(authorization: str) -> str | None:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(value.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    _, colon, password = decoded.partition(":")
    return password if colon else None


def _who(address: str) -> str:
    """An address; of IPv6 the network of it, for one computer has all of that."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 6:
        mapped = parsed.ipv4_mapped
        if mapped is not None:
            return str(mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def names_of_this_computer(host: str) -> frozenset[str]:
    """What a Host header may say while only this computer can connect.

    Another name there means that some page on the web has had its own name lead here, to read
    with its visitor's browser what only this computer may (DNS rebinding).
    """
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return frozenset(
        {"localhost", "127.0.0.1", "::1", host.lower(), name, short, f"{short}.local"} - {""}
    )
