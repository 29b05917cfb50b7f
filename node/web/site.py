"""What every page of this package has as a WSGI application: access control, and the headers.

Runs on the server's threads. `application` and `fleet_application` add the routes.
"""

from __future__ import annotations

import abc
import hashlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from node.web import api
from node.web.document import Assets
from node.web.login import HostNames, Login
from node.web.requests import Refused, expect_own_page, form_of, parameters_of
from node.web.settings import Settings

__all__ = ["Answer", "Site", "html_answer", "json_answer", "plain_answer"]

_log = logging.getLogger(__name__)

_STATIC = Path(__file__).with_name("static")
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # Not no-referrer: the page's own form would come from the origin `null` (Fetch, §3.2).
    ("Referrer-Policy", "same-origin"),
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
    303: "See Other",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
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


class Site(abc.ABC):
    """A page: who may read it, its style and script, and what `answer_to` adds."""

    actions: tuple[str, ...] = ()
    """The paths that take a POST; `act` answers it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._login = Login(settings.password) if settings.password else None
        table = settings.web
        # A browser sent here by another name (DNS rebinding) does not send this host's password.
        any_name = table.on_the_network and self._login is not None
        names = HostNames(table.host, on_the_network=table.on_the_network)
        self._names = None if any_name else names
        self._files = {name: (_STATIC / name).read_bytes() for name in ("page.css", "page.js")}
        version = {
            name: hashlib.sha256(content).hexdigest()[:12] for name, content in self._files.items()
        }
        self.assets = Assets(
            style=f"/page.css?v={version['page.css']}", script=f"/page.js?v={version['page.js']}"
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        try:
            answer = self._answer(environ)
        except Refused as refused:
            answer = plain_answer(refused.code, str(refused), *refused.headers)
        except Exception:  # noqa: BLE001, logged; the next request is answered
            _log.exception("a request could not be answered")
            answer = plain_answer(500, "this page has a fault: see its log")
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
        path = _path(environ)
        acts = path in self.actions
        if acts and environ["REQUEST_METHOD"] != "POST":
            raise Refused(405, "this address takes a form of the page alone", ("Allow", "POST"))
        if not acts and environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            raise Refused(405, "this page can only be read", ("Allow", "GET, HEAD"))
        self._check_host(environ)
        self._check_password(environ)
        if acts:
            expect_own_page(environ)
            return self.act(path, form_of(environ))
        if path in ("/page.css", "/page.js"):
            kind = "text/css" if path == "/page.css" else "text/javascript"
            return Answer(200, f"{kind}; charset=utf-8", self._files[path[1:]], lasting=True)
        if path in ("/icon.svg", "/favicon.ico"):
            return Answer(200, "image/svg+xml", _ICON.encode(), lasting=True)
        return self.answer_to(path, parameters_of(environ))

    def act(self, path: str, form: dict[str, str]) -> Answer:
        """Do what a form of the page asks for, at one of the `actions`.

        Raises:
            Refused: it may not be done, or something in the form is wrong.
        """
        raise NotImplementedError(path)

    @abc.abstractmethod
    def answer_to(self, path: str, query: dict[str, str]) -> Answer:
        """Return the answer to a request that may be made.

        Raises:
            Refused: there is nothing at this path, or a parameter is wrong.
        """

    def _check_host(self, environ: Environ) -> None:
        if self._names is None:
            return
        host = environ.get("HTTP_HOST", "")
        if not host and environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            return  # not a browser's request
        if not self._names.has(host):
            what = "unknown host name: open http://localhost"
            if self.settings.web.on_the_network:
                what = "unknown host name: open it by its address, or its name.local"
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
        raise Refused(401, "password required (any user name)", realm)


def plain_answer(code: int, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(code, "text/plain; charset=utf-8", f"{text}\n".encode(), headers=headers)


def html_answer(html: str) -> Answer:
    return Answer(200, "text/html; charset=utf-8", html.encode())


def json_answer(answer: dict[str, Any]) -> Answer:
    return Answer(200, "application/json", api.encoded(answer))


def _path(environ: Environ) -> str:
    try:
        return str(environ.get("PATH_INFO", "")).encode("latin-1").decode("utf-8")
    except UnicodeError:
        raise Refused(404, "there is nothing here") from None
