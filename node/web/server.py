"""Serves the application with waitress: one thread that waits, and four that answer.

A client costs a thread only while its answer is made, so slow ones keep nobody waiting; there is a
bound to their number, to the size of what they send, and to how long they may take to send it or
to take what they asked for. README.md says why it is waitress.

The worker threads also look into the log once a minute, whoever asks or not, and feed systemd's
watchdog: that they do it is the proof that they live.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from node.system.systemd import Service
from node.web.watcher import Watcher

__all__ = ["Server", "listening_socket", "make_server"]

THREADS = 4
MAX_CONNECTIONS = 250
REQUEST_WITHIN_S = 10.0
"""From the first byte of a request to its last."""
TAKE_WITHIN_S = 20.0
"""How long a client may take nothing of what it asked for."""
_ROOM = 10
"""Below the bound: beyond that nobody is let in until somebody goes."""
_WAKE_S = 5.0
_LOOK_EVERY_S = 60.0
_HEADER_BYTES = 16_384
_BODY_BYTES = 1_024
_OUTBUF_BYTES = 256 * 1024
_PIPELINED_PATIENCE_S = 2.0
_SEND_BUFFER_BYTES = 64 * 1024
"""What the kernel may keep for a client that takes nothing: it doubles this (socket(7)). By itself
it goes up to tcp_wmem, 4 MB, in which a whole export is gone before anybody has taken it."""


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there; `::` is for IPv4 as well.

    Raises:
        OSError: it cannot.
    """
    [(family, _, _, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=128, dualstack_ipv6=both)


def make_server(
    application: Any, listener: socket.socket, watcher: Watcher, service: Service
) -> Server:
    """A server on a socket that listens already; `run` it."""
    for name in ("waitress", "waitress.queue"):
        logging.getLogger(name).setLevel(logging.ERROR)
    adjustments = Adjustments(
        sockets=[listener],
        threads=THREADS,
        ident=None,
        log_socket_errors=False,
        connection_limit=MAX_CONNECTIONS,
        channel_timeout=round(TAKE_WITHIN_S),
        cleanup_interval=5,
        asyncore_loop_timeout=_WAKE_S,
        asyncore_use_poll=True,
        max_request_header_size=_HEADER_BYTES,
        max_request_body_size=_BODY_BYTES,
        outbuf_high_watermark=_OUTBUF_BYTES,
        outbuf_overflow=1 << 30,  # never into a file: what is above the mark waits
        clear_untrusted_proxy_headers=True,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(THREADS)
    return Server(application, listener, adjustments, dispatcher, watcher, service)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that cannot hold a thread by reading slowly."""

    def service(self) -> None:
        """Answer one request; a client that was cut off between two is no fault to be logged."""
        try:
            super().service()
        except ClientDisconnected:
            self.cancel()

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Wait until the client has taken what is there; cut off one that takes nothing.

        waitress waits for ever, and on a thread of the few: with several requests in one packet,
        and nobody who reads the answers, that would be the end of them.
        """
        patience_s = TAKE_WITHIN_S if len(self.requests) <= 1 else _PIPELINED_PATIENCE_S
        with self.outbuf_lock:
            left, deadline_s = self.total_outbufs_len, time.monotonic() + patience_s
            while self.connected and self.total_outbufs_len > self.adj.outbuf_high_watermark:
                if self.total_outbufs_len < left:
                    left, deadline_s = self.total_outbufs_len, time.monotonic() + patience_s
                elif time.monotonic() > deadline_s:
                    self.will_close = True
                    self.server.pull_trigger()
                    raise ClientDisconnected
                self.server.pull_trigger()
                self.outbuf_lock.wait(0.5)


class Server(TcpWSGIServer):  # type: ignore[misc]
    """The server; its loop is the main thread's."""

    channel_class = _Channel

    def __init__(
        self,
        application: Any,
        listener: socket.socket,
        adjustments: Adjustments,
        dispatcher: ThreadedTaskDispatcher,
        watcher: Watcher,
        service: Service,
    ) -> None:
        self._chores = _Chores(watcher, service)
        self._looked_at_clients_s = 0.0
        self._partial: dict[Any, tuple[int, float]] = {}
        """Connections with an unfinished request: which one, and since when."""
        where = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(
            application,
            _sock=listener,
            dispatcher=dispatcher,
            adj=adjustments,
            sockinfo=where,
            bind_socket=False,
        )

    def set_socket_options(self, conn: socket.socket) -> None:
        """The kernel keeps little, and ends a connection whose other end takes nothing (tcp(7))."""
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        timeout_ms = round(TAKE_WITHIN_S * 1000)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    def handle_accept(self) -> None:
        """Let one in; when that makes too many, the oldest of which nothing is asked goes.

        Who holds connections for nothing keeps nobody else out, from however many addresses.
        """
        super().handle_accept()
        if len(self.active_channels) > MAX_CONNECTIONS - _ROOM:
            for channel in self.active_channels.values():  # oldest first
                if not channel.requests and not channel.total_outbufs_len:
                    channel.handle_close()
                    break

    def readable(self) -> bool:
        """waitress asks it at each turn of its loop."""
        now_s = time.monotonic()
        if now_s >= self._looked_at_clients_s + 1.0:
            self._looked_at_clients_s = now_s
            self._end_slow_clients(now_s)
        if self._chores.due(now_s):
            self.add_task(self._chores)
        return bool(super().readable())

    def _end_slow_clients(self, now_s: float) -> None:
        partial = {}
        for channel in list(self.active_channels.values()):
            if channel.will_close:
                # waitress waits until it can write, which may be never.
                channel.handle_close()
                continue
            if channel.request is None:
                continue
            request, since_s = self._partial.get(channel, (0, 0.0))
            if request != id(channel.request):
                request, since_s = id(channel.request), now_s
            partial[channel] = request, since_s
            if now_s - since_s > REQUEST_WITHIN_S:
                channel.will_close = True
        self._partial = partial


class _Chores:
    """A task for the worker threads, beside the requests."""

    def __init__(self, watcher: Watcher, service: Service) -> None:
        self._watcher = watcher
        self._service = service
        self._queued = False
        self._look_at_s = 0.0
        # All threads wait while one reads a long log anew, as when the clock has been set.
        watcher.on_progress = service.feed_watchdog

    def due(self, now_s: float) -> bool:
        """Whether it is to be queued now; it is not queued twice."""
        if self._queued or now_s < min(self._look_at_s, self._service.next_feed_s):
            return False
        self._queued = True
        return True

    def service(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + _LOOK_EVERY_S
            self._watcher.look()
        self._service.feed_watchdog()
        self._queued = False

    def cancel(self) -> None:
        """waitress calls it when the server ends before the task's turn."""
