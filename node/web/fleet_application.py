"""The page of all nodes as a WSGI application: its routes. Runs on the server's threads."""

from __future__ import annotations

from node.web import api
from node.web.fleet_page import fleet_page
from node.web.fleet_watcher import FleetWatcher
from node.web.requests import Refused, number_of
from node.web.settings import Settings
from node.web.site import Answer, Site, html_answer, json_answer, plain_answer

__all__ = ["FleetApplication"]


class FleetApplication(Site):
    """One page, over one broker."""

    def __init__(self, watcher: FleetWatcher, settings: Settings, broker: str) -> None:
        """`broker`: its address."""
        super().__init__(settings)
        self._watcher = watcher
        self._broker = "" if settings.open_to_all else broker

    def answer_to(self, path: str, query: dict[str, str]) -> Answer:
        view = self._watcher.look()
        if path == "/":
            page = number_of(query, "page", 1)
            return html_answer(fleet_page(view, self._broker, page, self.assets))
        if path == "/api/v1/fleet":
            return json_answer(api.fleet_answer(view, self._broker))
        if path == "/healthz":
            if not view.connected:
                return plain_answer(503, f"not connected to the broker: {view.link}")
            return plain_answer(200, "ok")
        raise Refused(404, "there is nothing here")
