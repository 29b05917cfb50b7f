"""A real Home Assistant as a process of its own, used through the API that its frontend uses.

It is started headless, set up as a person would (a user, then the MQTT integration with a broker's
address), and stopped and started again with its folder kept. `$HOME_ASSISTANT` is the command that
starts it; `$HOME_ASSISTANT_ROOT` the folder that is its root file system, where it has one of its
own. `run` sets both.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

from support import wait_until
from websockets.sync.client import ClientConnection, connect

__all__ = ["HomeAssistant"]

_PORT = 8123  # its default; the network is its own
_CLIENT = "http://127.0.0.1/"
_SETTINGS = """\
homeassistant:
  name: Test
  unit_system: metric
  time_zone: UTC
  country: DE
  latitude: 52
  longitude: 13
recorder:
  db_url: sqlite:///{folder}/recorder.db
  commit_interval: 1
config:
history:
logger:
  default: info
"""


def _filled_in(form: list[dict[str, Any]], known: dict[str, Any]) -> dict[str, Any]:
    """The answers to a form of Home Assistant's: what is known, else its defaults."""
    answers: dict[str, Any] = {}
    for field in form:
        name = field["name"]
        if field.get("type") == "expandable":
            answers[name] = _filled_in(field["schema"], known)
        elif name in known or field.get("required"):
            answers[name] = known.get(name, field.get("default"))
    return answers


class HomeAssistant:
    """One installation: `start` it, `set_up_mqtt` once, then look at what it made of messages."""

    def __init__(self, settings: str = _SETTINGS) -> None:
        root = os.environ.get("HOME_ASSISTANT_ROOT", "")
        self._command = shlex.split(os.environ["HOME_ASSISTANT"])
        self.folder = Path(tempfile.mkdtemp(prefix="hass-", dir=f"{root}/tmp" if root else None))
        self._inside = Path("/", self.folder.relative_to(root or "/"))
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: ClientConnection | None = None
        self._token: dict[str, str] = {}
        self._ids = itertools.count(1)

    # --- the process

    def start(self, seconds: float = 120.0) -> HomeAssistant:
        text = self._settings.format(folder=self._inside)
        (self.folder / "configuration.yaml").write_text(text)
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [*self._command, "--config", str(self._inside), "--skip-pip"],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(self._answers, seconds, "Home Assistant answers")
        if not self._token:
            self._make_user()
        self._socket = None
        self._log_in()
        wait_until(lambda: self.ask("get_config")["state"] == "RUNNING", seconds, "it runs")
        return self

    @property
    def output(self) -> Path:
        return self.folder / "output.log"

    @property
    def log(self) -> str:
        return self.output.read_text()

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)
            self._process.wait(60)

    def close(self) -> None:
        """Stop it, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.folder)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log[-4000:]
        with contextlib.suppress(OSError):
            self._post("GET", "/api/onboarding")
            return True
        return False

    # --- its API

    def _post(self, method: str, path: str, content: Any = None, *, form: bool = False) -> Any:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(content).encode()
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = "&".join(f"{k}={v}" for k, v in content.items()).encode()
        if self._token:
            headers["Authorization"] = f"Bearer {self._token['access_token']}"
        url = f"http://127.0.0.1:{_PORT}{path}"
        request = urllib.request.Request(
            url, None if method == "GET" else body, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error}: {error.read().decode()}") from error

    @property
    def token(self) -> str:
        """What a program of the user logs in with, for half an hour."""
        return self._token["access_token"]

    def _make_user(self) -> None:
        user = {"name": "T", "username": "t", "password": "t", "client_id": _CLIENT}
        code = self._post("POST", "/api/onboarding/users", {**user, "language": "en"})["auth_code"]
        grant = {"grant_type": "authorization_code", "code": code, "client_id": _CLIENT}
        self._token = self._post("POST", "/auth/token", grant, form=True)

    def _log_in(self) -> None:
        self._socket = connect(f"ws://127.0.0.1:{_PORT}/api/websocket", max_size=None)
        self._socket.recv()
        hello = {"type": "auth", "access_token": self._token["access_token"]}
        self._socket.send(json.dumps(hello))
        answer = json.loads(self._socket.recv())
        assert answer["type"] == "auth_ok", answer

    def ask(self, kind: str, **arguments: Any) -> Any:
        """The result of one command of the websocket API."""
        assert self._socket is not None
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "type": kind, **arguments}))
        while True:
            answer = json.loads(self._socket.recv(30))
            if answer["id"] == number and answer["type"] == "result":
                assert answer["success"], answer
                return answer["result"]

    def set_up_mqtt(self, port: int) -> None:
        """Add the MQTT integration by its own dialogue."""
        flows = "/api/config/config_entries/flow"
        flow = self._post("POST", flows, {"handler": "mqtt", "show_advanced_options": False})
        known = {
            "broker": "127.0.0.1",
            "port": port,
            "set_client_cert": False,
            "set_ca_cert": "off",
        }
        while flow["type"] != "create_entry":
            assert flow["type"] == "form", flow
            assert not flow["errors"], flow
            answers = _filled_in(flow["data_schema"], known)
            flow = self._post("POST", f"{flows}/{flow['flow_id']}", answers)

    def states(self) -> dict[str, dict[str, Any]]:
        """Every entity's state: entity id -> state, attributes, times."""
        return {state["entity_id"]: state for state in self.ask("get_states")}

    def entities(self) -> dict[str, dict[str, Any]]:
        """What its registry says of each entity from MQTT: entity id -> entry."""
        entries = self.ask("config/entity_registry/list")
        return {e["entity_id"]: e for e in entries if e["platform"] == "mqtt"}

    def devices(self) -> list[dict[str, Any]]:
        """The devices that came by MQTT."""
        devices: list[dict[str, Any]] = self.ask("config/device_registry/list")
        return [d for d in devices if any(kind == "mqtt" for kind, _ in d["identifiers"])]

    def history(self, entity: str, since: datetime) -> list[str]:
        """Every state that an entity has had, the one at `since` first; up to two seconds ago."""
        asked = {"start_time": since.isoformat(), "entity_ids": [entity], "no_attributes": True}
        answer = self.ask("history/history_during_period", **asked)
        return [state["s"] for state in answer.get(entity, [])]

    def delete_device(self, device: dict[str, Any]) -> None:
        """As a person does on the device's page."""
        registry = "config/device_registry"
        try:
            self.ask(f"{registry}/remove", device_id=device["id"])
        except AssertionError:  # before 2026.9
            of = {"config_entry_id": device["config_entries"][0], "device_id": device["id"]}
            self.ask(f"{registry}/remove_config_entry", **of)

    def call(self, action: str, **target: Any) -> None:
        """Do an action, `button.press` say."""
        domain, name = action.split(".")
        self.ask("call_service", domain=domain, service=name, target=target)
