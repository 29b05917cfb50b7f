"""Access control: the optional password (HTTP Basic, RFC 7617), and this computer's host names.

The right password always works, because behind a proxy, or in one IPv6 network, another person's
wrong guesses come from the same address. After a few wrong passwords, further wrong ones from that
address are answered with 429 for a while. The code never sleeps, so it does not hold a thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
import socket
import threading
import time
from collections import OrderedDict

__all__ = ["HostNames", "Login"]

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
        """Address -> its number of wrong passwords, and when it may try again."""

    def admits(self, authorization: str) -> bool:
        """Return whether the header has the password. Any user name is accepted."""
        given = _password_in(authorization)
        # Digests have one length, so that the timing does not reveal the password's length.
        return hmac.compare_digest(_digest(given or ""), self._digest) and given is not None

    def refuse(self, address: str) -> float:
        """Note a wrong password. Return how many seconds its address must still wait, or 0."""
        who, now_s = _who(address), time.monotonic()
        with self._lock:
            count, until_s = self._wrong.pop(who, (0, 0.0))
            if until_s > now_s:
                self._wrong[who] = (count, until_s)
                return until_s - now_s
            count = 1 if now_s > until_s + _FORGET_AFTER_S else count + 1
            # Bounded, because a power of a large count would overflow.
            doubled = min(count - _FREE, 10)
            wait_s = min(_MAX_WAIT_S, 2.0**doubled) if count >= _FREE else 0.0
            self._wrong[who] = (count, now_s + wait_s)
            while len(self._wrong) > _MAX_ADDRESSES:
                self._wrong.popitem(last=False)
        return 0.0


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
    """Return the address; for IPv6 its /64 network, because one computer may use all of it."""
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


class HostNames:
    """The names that a Host header may use for this computer.

    Any other name means that a web site has pointed its own name here, to read this network's data
    with its visitor's browser (DNS rebinding). An address is safe, and so is a name that the
    public DNS cannot resolve: without a dot, or below a domain for private use (RFC 6762 §3, RFC
    8375, ICANN's .internal, and those that routers use).
    """

    _PRIVATE = (".local", ".localhost", ".home.arpa", ".internal", ".lan", ".home")

    def __init__(self, host: str, *, on_the_network: bool) -> None:
        """`host`: the address that the page listens on. On loopback, fewer names are allowed."""
        name = socket.gethostname().lower()
        short = name.partition(".")[0]
        self._own = {"localhost", "127.0.0.1", "::1", host.lower(), name, short, f"{short}.local"}
        self._own -= {""}
        self._on_the_network = on_the_network

    def has(self, header: str) -> bool:
        """Return whether a Host header (RFC 9112, §3.2) names this computer."""
        match = re.fullmatch(r"\[([0-9a-fA-F:.]+)\](?::\d+)?|([^:\[\]]+?)\.?(?::\d+)?", header)
        if match is None:
            return False
        name = (match[1] or match[2]).lower()
        if name in self._own:
            return True
        return self._on_the_network and (
            _is_address(name) or "." not in name or name.endswith(self._PRIVATE)
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
