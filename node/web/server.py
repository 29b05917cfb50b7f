"""Serves the application with waitress: one thread that waits, and four that answer.

A client needs a thread only while its answer is made, so slow clients do not block others. There
are bounds on the number of clients, the size of their requests, and the time that they take to
send a request or to receive an answer. README.md says why waitress was chosen.

The worker threads also look into the log once a minute, even without requests, and feed systemd's
watchdog, which proves that they are alive.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from waitress.adjustments import Adjustments
from waitress.channel import ClientDisconnected, HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

from node.system.systemd import Service

__all__ = ["Looker", "Server", "listening_socket", "make_server"]

THREADS = 4
MAX_CONNECTIONS = 250
REQUEST_WITHIN_S = 10.0
"""Maximum time from the first byte of a request to its last."""
TAKE_WITHIN_S = 20.0
"""How long a client may go without receiving any part of its answer."""
_ROOM = 10
"""Connections kept free below the limit, at which waitress stops accepting clients."""
_WAKE_S = 5.0
_LOOK_EVERY_S = 60.0
_HEADER_BYTES = 16_384
_BODY_BYTES = 1_024
_OUTBUF_BYTES = 256 * 1024
_PIPELINED_PATIENCE_S = 2.0
_SEND_BUFFER_BYTES = 64 * 1024
"""The kernel's buffer for a client that does not read; the kernel doubles this (socket(7)). The
default grows up to tcp_wmem, 4 MB, which holds a whole export before the client has read it."""


class Looker(Protocol):
    """What the page shows; `look` keeps it up to date even without requests."""

    on_progress: Callable[[], object]
    """Called now and then during a look that takes long."""

    def look(self) -> object: ...


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; `::` also accepts IPv4.

    Raises:
        OSError: the address is in use, or cannot be bound or resolved.
    """
    [(family, _, _, _, address), *_] = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=128, dualstack_ipv6=both)


def make_server(
    application: Any, listener: socket.socket, watcher: Looker, service: Service
) -> Server:
    """Return a server on a listening socket; call its `run`."""
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
        outbuf_overflow=1 << 30,  # never to a file: output above the mark waits
        clear_untrusted_proxy_headers=True,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(THREADS)
    return Server(application, listener, adjustments, dispatcher, watcher, service)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that cannot hold a thread by reading slowly."""

    def service(self) -> None:
        """Answer one request. A client cut off between two requests is not logged as an error."""
        try:
            super().service()
        except ClientDisconnected:
            self.cancel()

    def _flush_outbufs_below_high_watermark(self) -> None:
        """Wait until the client has read the output; cut off a client that does not read.

        waitress itself waits without a limit, on one of the few threads: clients that send several
        requests in one packet and never read the answers would block all threads.
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
    """The server; its loop runs on the main thread."""

    channel_class = _Channel

    def __init__(
        self,
        application: Any,
        listener: socket.socket,
        adjustments: Adjustments,
        dispatcher: ThreadedTaskDispatcher,
        watcher: Looker,
        service: Service,
    ) -> None:
        self._chores = _Chores(watcher, service)
        self._looked_at_clients_s = 0.0
        self._partial: dict[Any, tuple[int, float]] = {}
        """Connections with an unfinished request: the request's id, and since when."""
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
        """Keep the kernel's buffer small, and end a connection that is not read (tcp(7))."""
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        timeout_ms = round(TAKE_WITHIN_S * 1000)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)

    def handle_accept(self) -> None:
        """Accept a connection; close the oldest idle one if there are too many.

        So idle connections, from any number of addresses, cannot keep other clients out.
        """
        super().handle_accept()
        if len(self.active_channels) > MAX_CONNECTIONS - _ROOM:
            for channel in self.active_channels.values():  # oldest first
                if not channel.requests and not channel.total_outbufs_len:
                    channel.handle_close()
                    break

    def readable(self) -> bool:
        """Run the periodic work. waitress calls this at each turn of its loop."""
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
                # waitress would wait until it can write, which may never happen.
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
    """A task that the worker threads run in addition to the requests."""

    def __init__(self, watcher: Looker, service: Service) -> None:
        self._watcher = watcher
        self._service = service
        self._queued = False
        self._look_at_s = 0.0
        # All threads wait while one rereads a long log, as after the clock has been set.
        watcher.on_progress = service.feed_watchdog

    def due(self, now_s: float) -> bool:
        """Return whether to queue the task now; the task is never queued twice."""
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
        """Do nothing. waitress calls this when the server ends before the task has run."""
