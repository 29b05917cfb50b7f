"""The socket of a simulated node: opened, lost and opened again as the node's paho does it."""

from __future__ import annotations

import contextlib
import errno
import random
import selectors
import socket
import ssl
import time
from collections.abc import Callable

from fleet_node import FleetNode

from node.doctor.packets import WireError
from node.mqtt.client import CONNECT_TIMEOUT_S
from node.mqtt.spread import reconnect_ranges

__all__ = ["FleetSocket"]

_HANDSHAKE_S = 30.0
"""How long paho waits for TLS: the keepalive."""
_TO_WRITE = selectors.EVENT_READ | selectors.EVENT_WRITE


class FleetSocket:
    """One node's; `later(after_s, what)` calls back on the same thread."""

    def __init__(
        self,
        node: FleetNode,
        port: int,
        *,
        selector: selectors.BaseSelector,
        later: Callable[[float, Callable[[], None]], None],
        tls: ssl.SSLContext | None,
        chance: random.Random,
        spread_s: float,
        connected: Callable[[], None],
    ) -> None:
        """`connected` is called whenever the broker has accepted the node."""
        self.node = node
        self._address = ("127.0.0.1", port)
        self._selector = selector
        self._later = later
        self._tls = tls
        self._connected = connected
        # Each client draws its own, once: `NetworkClient.pause_before_reconnecting`.
        first, longest = reconnect_ranges(spread_s)
        self._first_delay_s = chance.uniform(*first)
        self._longest_delay_s = chance.uniform(*longest)
        self._delay_s: float | None = None
        self._socket: socket.socket | None = None
        self._greeting = False
        """TCP is there, TLS is not yet."""
        self._attempt = 0
        self.attempts = self.losses = 0

    def connect(self) -> None:
        """One attempt; whatever becomes of it, there is another one after it."""
        self.attempts += 1
        self._attempt += 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        code = sock.connect_ex(self._address)
        if code not in (0, errno.EINPROGRESS):
            self.lose()
            return
        self._selector.register(sock, _TO_WRITE, self)
        self._give_up_after(CONNECT_TIMEOUT_S)

    def _give_up_after(self, seconds: float) -> None:
        attempt = self._attempt

        def give_up() -> None:
            if self._attempt == attempt and not self._begun:
                self.lose()

        self._later(seconds, give_up)

    _begun = False

    def ready(self, mask: int) -> None:
        """The selector says that something can be done."""
        try:
            if not self._begun and not self._advance():
                return
            if mask & selectors.EVENT_READ:
                self._receive()
            self.send()
        except (OSError, WireError):
            self.lose()

    def _advance(self) -> bool:
        """From TCP to TLS to MQTT; whether MQTT may begin."""
        assert self._socket is not None
        if not self._greeting:
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "connect")
            if self._tls is not None:
                self._selector.unregister(self._socket)
                self._socket = self._tls.wrap_socket(
                    self._socket, server_hostname="localhost", do_handshake_on_connect=False
                )
                self._selector.register(self._socket, _TO_WRITE, self)
                self._give_up_after(_HANDSHAKE_S)
            self._greeting = True
        if isinstance(self._socket, ssl.SSLSocket):
            try:
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                self._selector.modify(self._socket, selectors.EVENT_READ, self)
                return False
            except ssl.SSLWantWriteError:
                self._selector.modify(self._socket, _TO_WRITE, self)
                return False
        self._begun = True
        self.node.link.begin()
        return True

    def _receive(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
            while received := self._socket.recv(65_536):
                was_connected = self.node.link.connected
                self.node.happened(self.node.link.take(received))
                if self.node.link.connected and not was_connected:
                    self._delay_s = None
                    self._connected()
                if not isinstance(self._socket, ssl.SSLSocket) and len(received) < 65_536:
                    return
            raise ConnectionResetError

    def send(self) -> None:
        """What there is to be sent, as far as the socket takes it."""
        if not self._begun or self._socket is None:
            return
        out = self.node.link.out
        try:
            while out:
                sent = self._socket.send(out)
                del out[:sent]
        except (BlockingIOError, ssl.SSLWantWriteError):
            pass
        except OSError:  # the other end has closed it
            self.lose()
            return
        wanted = _TO_WRITE if out else selectors.EVENT_READ
        if self._selector.get_key(self._socket).events != wanted:
            self._selector.modify(self._socket, wanted, self)

    def lose(self) -> None:
        """The connection, or the attempt, is over: try again after the next delay."""
        if self._socket is None:
            return
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._socket)
        self._socket.close()
        self._socket = None
        self.losses += self.node.link.connected
        self._begun = self._greeting = False
        self._attempt += 1
        self.node.lost()
        if self._delay_s is None:
            self._delay_s = self._first_delay_s
        else:
            self._delay_s = min(2 * self._delay_s, self._longest_delay_s)
        self._later(self._delay_s, self.connect)

    def keep_alive(self) -> None:
        """Look after the keepalive, as paho's loop does when it wakes up."""
        now_s = time.monotonic()
        if not self._begun:
            return
        if self.node.link.keep_alive(now_s) and not self.node.is_stalled(now_s):
            self.send()
        else:
            self.lose()
