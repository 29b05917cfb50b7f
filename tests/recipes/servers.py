"""What the recipes are for, as processes on free ports of 127.0.0.1; and a node for them."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from databases import HttpServer
from store_support import StoreProcess
from support import Mosquitto, NodeProcess, replaced, sysfs_config, wait_until
from web_support import WebProcess

__all__ = ["RECIPES", "Alertmanager", "Installation", "MailServer", "Prometheus"]

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


class Installation:
    """A node with two sensors and an alarm, its page, a broker, and `store`; later a Prometheus.

    `air` and `box` are the files that its sensors read, in m°C. An alarm of `box` is on above 8 °C.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ends = contextlib.ExitStack()
        self.air, self.box = folder / "air", folder / "box"
        self.air.write_text("21500\n")
        self.box.write_text("4000\n")

    def __enter__(self) -> Installation:
        with self._ends:  # undone if a part does not start
            self._start()
            self._ends = self._ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _ended(self, end: Callable[..., Any], *arguments: object) -> None:
        self._ends.callback(end, *arguments)

    def _start(self) -> None:
        broker = Mosquitto(self.folder)
        self._ended(broker.stop, signal.SIGKILL)
        self.broker = broker.start()
        config = sysfs_config(broker.port, {"air": self.air, "box": self.box}, interval="0.5s")
        config += '[[sensor.channel.temperature.alarm]]\nname = "warm"\nabove = 8\n'
        config += '\n[outbox]\nhistory_interval = "0.5s"\n'
        self.node = NodeProcess(self.folder, config)
        self._ended(self.node.kill)
        self.node.wait_for_log("connected to")
        self.web = WebProcess(self.node.state_dir, config=config)
        self._ended(self.web.kill)
        to = f"sqlite:{self.folder}/readings.db"
        self.store = StoreProcess(self.folder, to, broker.port, "--metrics", "0")
        self._ended(self.store.kill)

    def start_prometheus(self, alertmanager: int = 9) -> Prometheus:
        """Start it with the files of the recipe, which it reads each second."""
        recipe = RECIPES / "prometheus"
        of_store = self.store.wait_for_log(r"metrics are at http://(\S+)/metrics")[1]
        config = replaced(
            (recipe / "prometheus.yml").read_text(),
            (
                "          - greenhouse.local:8080\n          - cellar.local:8080\n",
                f"          - 127.0.0.1:{self.web.port}\n",
            ),
            ("127.0.0.1:9105", of_store),
            ("127.0.0.1:9093", f"127.0.0.1:{alertmanager}"),
            ("scrape_interval: 30s", "scrape_interval: 1s"),
            ("evaluation_interval: 30s", "evaluation_interval: 1s"),
        )
        sooner = re.sub(r"(?m)^( +for: ).*", r"\g<1>3s", (recipe / "rules.yml").read_text())
        prometheus = Prometheus(self.folder, config, sooner)
        self._ended(prometheus.stop, signal.SIGKILL)
        prometheus.start()
        wait_until(lambda: prometheus.value("up") == [1, 1], 60, "both pages are read")
        wait_until(lambda: prometheus.value("sensor_node_reading") == [21.5, 4], 60)
        wait_until(lambda: prometheus.value("sensor_node_store_stored_total > 5"), 60)
        return prometheus
