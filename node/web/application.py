"""The page as a WSGI application: routes, access control, and the headers of every answer.

Runs on the server's threads. The watcher's lock is held while an answer is made, not while it is
sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from node.outbox.reader import LOG_TROUBLE, open_log
from node.plot.times import parse_since
from node.system.terminal import visible
from node.web import api
from node.web.export import csv_pieces
from node.web.login import HostNames, Login
from node.web.metrics import CONTENT_TYPE, metrics_text
from node.web.page import Assets, index_page, sensor_page
from node.web.requests import (
    Refused,
    api_answer,
    number_of,
    parameters_of,
    sensor_of,
    span_of,
)
from node.web.settings import Settings
from node.web.view import view_of
from node.web.watcher import Watcher

__all__ = ["Application"]

_log = logging.getLogger(__name__)

MAX_EXPORTS = 2
"""Concurrent exports: each holds a thread for as long as its reader takes."""
_STATIC = Path(__file__).with_name("static")
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
)
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" '
    'rx="7" fill="#0b6e5f"/><path d="M5 20l6-5 5 4 5-9 6 6" fill="none" stroke="#fff" '
    'stroke-width="3" stroke-linecap="round" stroke-linejoin="round"/></svg>'
)
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    421: "Misdirected Request",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class Answer(msgspec.Struct):
    """The answer to a request. A `body` of pieces is made while it is sent."""

    code: int
    kind: str
    body: bytes | Iterator[bytes]
    headers: tuple[tuple[str, str], ...] = ()
    lasting: bool = False
    """Clients may cache the answer: its address changes with its content."""


class Application:
    """One page, over one log."""

    def __init__(self, watcher: Watcher, settings: Settings) -> None:
        self._watcher = watcher
        self._settings = settings
        self._login = Login(settings.password) if settings.password else None
        table = settings.web
        # A browser sent here by another name (DNS rebinding) does not send this host's password.
        any_name = table.on_the_network and self._login is not None
        names = HostNames(table.host, on_the_network=table.on_the_network)
        self._names = None if any_name else names
        self._exports = threading.BoundedSemaphore(MAX_EXPORTS)
        self._files = {name: (_STATIC / name).read_bytes() for name in ("page.css", "page.js")}
        version = {
            name: hashlib.sha256(content).hexdigest()[:12] for name, content in self._files.items()
        }
        self._assets = Assets(
            style=f"/page.css?v={version['page.css']}", script=f"/page.js?v={version['page.js']}"
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            answer = self._answer(environ)
        except Refused as refused:
            answer = _plain(refused.code, str(refused), *refused.headers)
        except Exception:  # noqa: BLE001, logged; the next request is answered
            _log.exception("a request could not be answered")
            answer = _plain(500, "this page has a fault: see its log")
        headers = [*_HEADERS, ("Content-Type", answer.kind), *answer.headers]
        keep = "public, max-age=31536000, immutable" if answer.lasting else "no-store"
        headers.append(("Cache-Control", keep))
        head = environ["REQUEST_METHOD"] == "HEAD"
        if isinstance(answer.body, bytes):
            headers.append(("Content-Length", str(len(answer.body))))
        start_response(f"{answer.code} {_REASONS[answer.code]}", headers)
        if head:
            if not isinstance(answer.body, bytes):
                answer.body.close()  # type: ignore[attr-defined]
            return []
        return [answer.body] if isinstance(answer.body, bytes) else answer.body

    def _answer(self, environ: Environ) -> Answer:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            raise Refused(405, "this page can only be read", ("Allow", "GET, HEAD"))
        self._check_host(environ)
        self._check_password(environ)
        path = _path(environ)
        if path in ("/page.css", "/page.js"):
            kind = "text/css" if path == "/page.css" else "text/javascript"
            return Answer(200, f"{kind}; charset=utf-8", self._files[path[1:]], lasting=True)
        if path in ("/icon.svg", "/favicon.ico"):
            return Answer(200, "image/svg+xml", _ICON.encode(), lasting=True)
        query = parameters_of(environ)
        if path == "/export.csv":
            return self._export(query)
        with self._watcher.lock:
            return self._of_now(path, query)

    def _of_now(self, path: str, query: dict[str, str]) -> Answer:
        """Return an answer made from the current content of the log."""
        node = view_of(self._watcher, self._settings)
        if path == "/":
            html = index_page(node, span_of(query), number_of(query, "page", 1), self._assets)
            return Answer(200, "text/html; charset=utf-8", html.encode())
        if path.startswith("/sensor/"):
            html = sensor_page(node, sensor_of(node, path.removeprefix("/sensor/")), self._assets)
            return Answer(200, "text/html; charset=utf-8", html.encode())
        if path == "/metrics":
            return Answer(200, CONTENT_TYPE, metrics_text(node).encode())
        if path == "/healthz":
            if node.unhealthy:
                return _plain(503, node.unhealthy)
            return _plain(200, "ok")
        if path.startswith("/api/v1/"):
            return _json(api_answer(node, path.removeprefix("/api/v1/").split("/"), query))
        raise Refused(404, "there is nothing here")

    def _export(self, query: dict[str, str]) -> Answer:
        unknown = sorted(query.keys() - {"since", "sensor"})
        if unknown:
            raise Refused(400, f"unknown parameter {visible(unknown[0])}: there are since, sensor")
        self._expect_readings_of(query.get("sensor"))
        since_ms = None
        if "since" in query:
            try:
                since_ms = parse_since(query["since"], self._watcher.now_ms())
            except ValueError as error:
                raise Refused(400, f"since: {error}") from error
        if not self._exports.acquire(blocking=False):
            raise Refused(503, "others are exporting: try again later", ("Retry-After", "10"))
        pieces = csv_pieces(self._watcher.file, since_ms=since_ms, sensor=query.get("sensor"))
        return Answer(
            200,
            "text/csv; charset=utf-8; header=present",
            _Releasing(pieces, self._exports.release),
            headers=(("Content-Disposition", 'attachment; filename="readings.csv"'),),
        )

    def _expect_readings_of(self, sensor: str | None) -> None:
        """Refuse a name that is no sensor's; a log that cannot be read says so by itself."""
        with contextlib.suppress(*LOG_TROUBLE), open_log(self._watcher.file) as log:
            if sensor is not None and sensor not in log.sensors:
                raise Refused(404, "the log has no reading of such a sensor")

    def _check_host(self, environ: Environ) -> None:
        if self._names is None:
            return
        host = environ.get("HTTP_HOST", "")
        if not host and environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            return  # not a browser's request
        if not self._names.has(host):
            what = "this computer has another name: open http://localhost"
            if self._settings.web.on_the_network:
                what = "this computer has another name: open it by its address, or its name.local"
            raise Refused(421, what)

    def _check_password(self, environ: Environ) -> None:
        if self._login is None:
            return
        authorization = environ.get("HTTP_AUTHORIZATION", "")
        if self._login.admits(authorization):
            return
        wait_s = self._login.refuse(environ.get("REMOTE_ADDR", "")) if authorization else 0.0
        if wait_s > 0:
            retry = ("Retry-After", str(math.ceil(wait_s)))
            raise Refused(429, "too many wrong passwords: wait", retry)
        realm = ("WWW-Authenticate", 'Basic realm="sensor-node", charset="UTF-8"')
        raise Refused(401, "the password of the page is wanted; any name goes with it", realm)


class _Releasing(Iterator[bytes]):
    """Yields pieces, and calls `release` at the end or when the client has gone."""

    def __init__(self, pieces: Iterator[bytes], release: Callable[[], None]) -> None:
        self._pieces = pieces
        self._release: Callable[[], None] | None = release

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Release once. WSGI calls this for every answer, even an aborted one (PEP 3333)."""
        release, self._release = self._release, None
        if release is not None:
            release()


def _plain(code: int, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(code, "text/plain; charset=utf-8", f"{text}\n".encode(), headers=headers)


def _json(answer: dict[str, Any]) -> Answer:
    return Answer(200, "application/json", api.encoded(answer))


def _path(environ: Environ) -> str:
    try:
        return str(environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise Refused(404, "there is nothing here") from None
