"""The node's page as a WSGI application: its routes.

Runs on the server's threads. The watcher's lock is held while an answer is made, not while it is
sent.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from node.outbox.reader import LOG_TROUBLE, open_log
from node.plot.times import parse_since
from node.system.terminal import visible
from node.web.export import csv_pieces
from node.web.metrics import CONTENT_TYPE, metrics_text
from node.web.page import index_page, sensor_page
from node.web.requests import Refused, api_answer, number_of, sensor_of, span_of
from node.web.settings import Settings
from node.web.site import Answer, Site, html_answer, json_answer, plain_answer
from node.web.view import view_of
from node.web.watcher import Watcher

__all__ = ["Application"]

MAX_EXPORTS = 2
"""Concurrent exports: each holds a thread for as long as its reader takes."""


class Application(Site):
    """One page, over one log."""

    def __init__(self, watcher: Watcher, settings: Settings) -> None:
        super().__init__(settings)
        self._watcher = watcher
        self._exports = threading.BoundedSemaphore(MAX_EXPORTS)

    def answer_to(self, path: str, query: dict[str, str]) -> Answer:
        if path == "/export.csv":
            return self._export(query)
        with self._watcher.lock:
            return self._of_now(path, query)

    def _of_now(self, path: str, query: dict[str, str]) -> Answer:
        """Return an answer made from the current content of the log."""
        node = view_of(self._watcher, self.settings)
        if path == "/":
            html = index_page(node, span_of(query), number_of(query, "page", 1), self.assets)
            return html_answer(html)
        if path.startswith("/sensor/"):
            html = sensor_page(node, sensor_of(node, path.removeprefix("/sensor/")), self.assets)
            return html_answer(html)
        if path == "/metrics":
            return Answer(200, CONTENT_TYPE, metrics_text(node).encode())
        if path == "/healthz":
            if node.unhealthy:
                return plain_answer(503, node.unhealthy)
            return plain_answer(200, "ok")
        if path.startswith("/api/v1/"):
            return json_answer(api_answer(node, path.removeprefix("/api/v1/").split("/"), query))
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
