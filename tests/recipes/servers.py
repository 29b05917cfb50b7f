"""What the recipes are for, as processes on free ports of 127.0.0.1."""

from __future__ import annotations

import json
import re
import socketserver
import threading
from pathlib import Path
from typing import Any

from databases import HttpServer

__all__ = ["RECIPES", "Alertmanager", "MailServer", "Prometheus"]

RECIPES = Path(__file__).parents[2] / "deploy/recipes"


class Prometheus(HttpServer):
    """Debian's Prometheus, with a configuration and rules next to it."""

    ping = "/-/ready"

    def __init__(self, folder: Path, config: str, rules: str) -> None:
        super().__init__(folder)
        (folder / "prometheus.yml").write_text(config)
        (folder / "rules.yml").write_text(rules)

    def command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def api(self, path: str, **parameters: str) -> Any:
        answer = json.loads(self.get(f"/api/v1/{path}", **parameters))
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, query: str) -> list[float]:
        """What a query gives now: the values of all its series."""
        result = self.api("query", query=query)["result"]
        return [float(series["value"][1]) for series in result]

    def firing(self) -> set[tuple[str, str]]:
        """(name, sensor) of the alerts that are on."""
        alerts = self.api("alerts")["alerts"]
        return {
            (alert["labels"]["alertname"], alert["labels"].get("sensor", ""))
            for alert in alerts
            if alert["state"] == "firing"
        }


class Alertmanager(HttpServer):
    ping = "/-/ready"

    def __init__(self, folder: Path, config: str) -> None:
        super().__init__(folder)
        (folder / "alertmanager.yml").write_text(config)

    def command(self) -> list[str]:
        return [
            "prometheus-alertmanager",
            f"--config.file={self.folder}/alertmanager.yml",
            f"--storage.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        ]


class MailServer:
    """As much of SMTP (RFC 5321) as it takes to keep every mail."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        mails = self.mails

        class Session(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.say("220 ready")
                while line := self.rfile.readline():
                    command = line[:4].upper()
                    if command == b"DATA":
                        self.say("354 go on")
                        lines = iter(self.rfile.readline, b".\r\n")
                        mails.append(b"".join(lines).decode())
                    self.say("221 bye" if command == b"QUIT" else "250 done")

            def say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def subjects(self) -> list[str]:
        return [
            match[1]
            for mail in self.mails
            if (match := re.search(r"(?m)^Subject: (.*?)\r?$", mail))
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
