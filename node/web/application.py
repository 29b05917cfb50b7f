"""The node's page as a WSGI application: its routes, and the one action, `/read`.

Runs on the server's threads. The watcher's lock is held while an answer is made, not while it is
sent.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator

from node.outbox.reader import LOG_TROUBLE, open_log
from node.plot.times import parse_since
from node.system.terminal import visible
from node.web.export import csv_pieces
from node.web.metrics import CONTENT_TYPE, metrics_text
from node.web.page import index_page, sensor_page
from node.web.page_reads import Reads, address_of
from node.web.read_now import ReadNow, TooSoon
from node.web.requests import Refused, api_answer, number_of, sensor_of, span_of
from node.web.settings import Settings
from node.web.site import Answer, Site, html_answer, json_answer, plain_answer
from node.web.view import NodeView, view_of
from node.web.watcher import Watcher

__all__ = ["Application"]

MAX_EXPORTS = 2
"""Concurrent exports: each holds a thread for as long as its reader takes."""
_SOON = ("Retry-After", "5")


class Application(Site):
    """One page, over one log."""

    actions = ("/read",)

    def __init__(self, watcher: Watcher, settings: Settings) -> None:
        super().__init__(settings)
        self._watcher = watcher
        self._exports = threading.BoundedSemaphore(MAX_EXPORTS)
        self._reads = None
        if settings.password and settings.takes_reads and settings.file is not None:
            self._reads = ReadNow(settings.file)

    def act(self, path: str, form: dict[str, str]) -> Answer:
        """Have the node read a sensor, or all; then lead to the page that shows the result."""
        if self._reads is None:
            why = "[commands] of the configuration does not allow the command read"
            if self.settings.password is None:
                why = "only a page with a password offers this: set [web] password or password_file"
            raise Refused(403, why)
        if form.keys() - {"sensor"}:
            raise Refused(400, "unknown field: there is sensor")
        with self._watcher.lock:
            node = view_of(self._watcher, self.settings)
        if node.health is None:
            raise Refused(503, "the node does not run, or has just been started", _SOON)
        sensors = tuple(node.health.sensors)
        if "sensor" in form:
            sensors = (form["sensor"],) if form["sensor"] in sensors else ()
        if not sensors:
            raise Refused(404, "the node has no such sensor")
        try:
            self._reads.ask(node.name, sensors, all_of_them="sensor" not in form)
        except TooSoon as error:
            retry = ("Retry-After", str(math.ceil(error.wait_s)))
            raise Refused(429, str(error), retry) from None
        there = address_of(form["sensor"]) if "sensor" in form else "/"
        return plain_answer(303, "the result is on the page", ("Location", there))

    def answer_to(self, path: str, query: dict[str, str]) -> Answer:
        if path == "/export.csv":
            return self._export(query)
        with self._watcher.lock:
            return self._of_now(path, query)

    def _of_now(self, path: str, query: dict[str, str]) -> Answer:
        """Return an answer made from the current content of the log."""
        node = view_of(self._watcher, self.settings)
        if path == "/":
            span, page = span_of(query), number_of(query, "page", 1)
            return html_answer(index_page(node, span, page, self.assets, self._offered(node)))
        if path.startswith("/sensor/"):
            sensor = sensor_of(node, path.removeprefix("/sensor/"))
            return html_answer(sensor_page(node, sensor, self.assets, self._offered(node)))
        if path == "/metrics":
            return Answer(200, CONTENT_TYPE, metrics_text(node).encode())
        if path == "/healthz":
            if node.unhealthy:
                return plain_answer(503, node.unhealthy)
            return plain_answer(200, "ok")
        if path.startswith("/api/v1/"):
            return json_answer(api_answer(node, path.removeprefix("/api/v1/").split("/"), query))
        raise Refused(404, "there is nothing here")

    def _offered(self, node: NodeView) -> Reads:
        if self._reads is None:
            return Reads()
        sensors = frozenset(node.health.sensors if node.health is not None else ())
        return Reads(sensors=sensors, result=self._reads.result)

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
