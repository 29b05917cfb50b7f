"""The Home Assistant add-on: its files by what is documented, and its start on the loopback."""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import free_port
from support import end, wait_until

import node
from node.config.load import parse

ADDON = Path(__file__).parent.parent / "deploy" / "addon"
START = ADDON / "start"
CONFIG: dict[str, Any] = yaml.safe_load((ADDON / "config.yaml").read_text())

# Keys, and what their values may be: developers.home-assistant.io/docs/add-ons/configuration, and
# `src/config.schema.json` of frenck/action-addon-linter, looked up in November 2026.
DOCUMENTED: dict[str, Any] = {
    "name": str,
    "version": str,
    "slug": "[a-z0-9_]+",
    "description": str,
    "arch": ["aarch64", "amd64", "armhf", "armv7", "i386"],
    "init": bool,
    "startup": "application|initialize|once|services|system",
    "boot": "auto|manual|manual_only",
    "services": ["mqtt:provide", "mqtt:want", "mqtt:need", "mysql:want", "mysql:need"],
    "gpio": bool,
    "uart": bool,
    "host_dbus": bool,
    "devices": list,
    "map": list,
    "timeout": int,
    "options": dict,
    "schema": dict,
}
REQUIRED = {"name", "version", "slug", "description", "arch"}
_TYPE = (
    r"(str|bool|email|url|password|port|(int|float)(\(-?[0-9.]*,-?[0-9.]*\))?|match\(.+\)"
    r"|list\([^|()]+(\|[^|()]+)*\)|device(\(.+\))?)\??"
)
"""The types of options, which a ? makes optional."""


def leaves(schema: Any) -> Iterator[str]:
    if isinstance(schema, str):
        yield schema
    for each in schema.values() if isinstance(schema, dict) else schema if schema else ():
        if not isinstance(schema, str):
            yield from leaves(each)


def fits(value: Any, kind: str) -> bool:
    """Whether the Supervisor takes the value for an option of that type."""
    name, _, more = kind.rstrip("?").partition("(")
    more = more.removesuffix(")")
    if name == "match":
        return isinstance(value, str) and re.match(more, value) is not None
    if name == "list":
        return value in more.split("|")
    if name == "int":
        low, high = more.split(",")
        return isinstance(value, int) and int(low or value) <= value <= int(high or value)
    return isinstance(value, bool if name == "bool" else str)


def test_every_key_of_the_add_on_is_a_documented_one():
    assert REQUIRED <= set(CONFIG) <= set(DOCUMENTED)
    for key, value in CONFIG.items():
        allowed = DOCUMENTED[key]
        if isinstance(allowed, str):
            assert re.fullmatch(allowed, value), key
        elif isinstance(allowed, list):
            assert set(value) <= set(allowed), key
        else:
            assert isinstance(value, allowed), key
    assert all(set(each) <= {"type", "read_only", "path"} for each in CONFIG["map"])


def test_its_version_is_the_programs():
    assert CONFIG["version"] == node.__version__


def test_its_options_have_documented_types_and_defaults_that_fit():
    schema, options = CONFIG["schema"], CONFIG["options"]
    assert all(re.fullmatch(_TYPE, kind) for kind in leaves(schema))
    for key, kind in schema.items():
        if key == "sensors":
            (of_one,) = kind
            for sensor in options[key]:
                assert all(fits(value, of_one[name]) for name, value in sensor.items())
        elif key in options:
            assert fits(options[key], kind), key
        else:
            assert kind.endswith("?"), f"{key} has no default, and may not be left out"


@pytest.mark.parametrize(
    "language", sorted((ADDON / "translations").iterdir()), ids=lambda f: f.stem
)
def test_every_option_has_a_name_in_each_language(language):
    texts = yaml.safe_load(language.read_text())["configuration"]
    assert set(texts) == set(CONFIG["schema"])
    assert all(set(text) <= {"name", "description"} and text["name"] for text in texts.values())


def test_every_option_is_documented():
    text = (ADDON / "DOCS.md").read_text()
    assert [key for key in CONFIG["schema"] if f"| `{key}` |" not in text] == []
    assert [key for key in CONFIG["schema"]["sensors"][0] if f"`{key}`" not in text] == []


def test_each_processor_has_a_base_and_a_package():
    bases = yaml.safe_load((ADDON / "build.yaml").read_text())["build_from"]
    assert set(bases) == set(CONFIG["arch"])
    dockerfile = (ADDON / "Dockerfile").read_text()
    assert dockerfile.startswith("#")
    assert "ARG BUILD_FROM\nFROM ${BUILD_FROM}\n" in dockerfile


def test_its_archive_has_the_version_and_the_packages_of_the_release(tmp_path, pack):
    deb = tmp_path / "sensor-node_9.8.7_arm64.deb"
    deb.write_bytes(b"a package")
    for name in ("one", "other"):
        pack(tmp_path / name, version="9.8.7", debs=[deb], epoch=1_800_000_000)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    with tarfile.open(tmp_path / "one") as archive:
        members = {member.name: member for member in archive.getmembers()}
        read = archive.extractfile("sensor_node/config.yaml")
        assert read is not None
        config = yaml.safe_load(read)
    ours = {str(file.relative_to(ADDON)) for file in ADDON.rglob("*") if file.is_file()}
    names = {name.removeprefix("sensor_node/") for name in members}
    assert names == ours | {f"debs/{deb.name}"}
    assert config == CONFIG | {"version": "9.8.7"}
    assert members["sensor_node/start"].mode == 0o755


# -- its start ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pack() -> Any:
    return runpy.run_path(str(ADDON.parent / "release_parts/addon.py"))["pack_addon"]


class Supervisor:
    """Answers as the Supervisor's API does at http://supervisor."""

    def __init__(self) -> None:
        self.code = 200
        self.answer: object = {}
        self.asked: list[tuple[str, str | None]] = []
        supervisor = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                supervisor.asked.append((self.path, self.headers["Authorization"]))
                body = json.dumps(supervisor.answer).encode()
                self.send_response(supervisor.code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def offers(self, **broker: Any) -> None:
        self.code, self.answer = 200, {"result": "ok", "data": {"addon": "mosquitto", **broker}}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    server = Supervisor()
    yield server
    server.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The add-on's /data, with its options as they are at first."""
    (tmp_path / "options.json").write_text(json.dumps(CONFIG["options"]))
    return tmp_path


def environment(supervisor: Supervisor, data: Path) -> dict[str, str]:
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": programs,
        "SUPERVISOR_API": supervisor.url,
        "SUPERVISOR_TOKEN": "token",
        "SENSOR_NODE_DATA": str(data),
    }


@pytest.mark.real_time
def test_it_publishes_at_the_broker_that_the_supervisor_names(
    supervisor, data, broker, subscribe, temperature_file
):
    """The real program; the password is in a file of its own, which others cannot read."""
    options = CONFIG["options"] | {
        "sensors": [
            {"id": "t", "driver": "sysfs", "path": str(temperature_file), "interval": "1s"},
        ],
        "toml": '[[sensor.channel.temperature.alarm]]\nname = "warm"\nabove = 90.0\n',
    }
    (data / "options.json").write_text(json.dumps(options))
    supervisor.offers(host="127.0.0.1", port=broker.port, username="addons", password="s3cret")
    subscriber = subscribe(broker.port)
    process = subprocess.Popen(
        [sys.executable, str(START)],
        env=environment(supervisor, data),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        subscriber.wait_for("sensors/homeassistant/status", "online", 20)
        wait_until(lambda: subscriber.states("t", "homeassistant"), 20)
        assert '"off"' in subscriber.on("sensors/homeassistant/t/alarm/warm")[-1]
    finally:
        end(process)
    assert supervisor.asked == [("/services/mqtt", "Bearer token")]
    assert "s3cret" not in (data / "node.toml").read_text()
    assert (data / "mqtt.password").read_text() == "s3cret\n"
    modes = {name: (data / name).stat().st_mode & 0o777 for name in ("mqtt.password", "node.toml")}
    assert set(modes.values()) == {0o600}
    assert (data / "state/outbox.db").exists()


@pytest.fixture(scope="module")
def start() -> Any:
    return argparse.Namespace(**runpy.run_path(str(START)))


@pytest.mark.parametrize(
    "broker",
    [
        {"host": "core-mosquitto", "port": 1883, "ssl": False, "username": "a", "password": "b"},
        {"host": "core-mosquitto", "port": 8883, "ssl": True, "username": "a", "password": "b"},
        {"host": "10.0.0.1", "port": None, "username": None, "password": None},
    ],
)
def test_what_it_writes_is_a_valid_configuration(start, data, broker):
    (data / "mqtt.password").write_text("b\n")
    options = CONFIG["options"] | {"base_topic": 'a "quoted" \\ topic', "toml": None}
    text = start.configuration(options, broker)
    config = parse(data / "node.toml", text.encode())
    assert (config.mqtt.host, config.mqtt.port) == (broker["host"], broker["port"] or 1883)
    assert (config.mqtt.tls is not None) is bool(broker.get("ssl"))
    assert config.mqtt.base_topic == 'a "quoted" \\ topic'
    assert [sensor.id for sensor in config.sensors] == ["cpu"]
    assert config.node.name == "homeassistant"


@pytest.mark.parametrize(
    ("code", "answer", "words"),
    [
        (400, {"result": "error", "message": "Service not enabled"}, "Service not enabled (400)"),
        (403, {"message": "403: Forbidden"}, "403: Forbidden (403)"),
        (200, {"result": "ok", "data": {}}, "its answer has no host"),
        (200, [], "its answer has no host"),
    ],
)
def test_without_a_broker_it_says_what_to_do(
    start, supervisor, data, monkeypatch, capsys, code, answer, words
):
    names = start.main.__globals__
    monkeypatch.setitem(names, "DATA", data)
    monkeypatch.setitem(names, "API", supervisor.url)
    monkeypatch.setitem(names, "PATIENCE_S", 0.0)
    supervisor.code, supervisor.answer = code, answer
    before = os.umask(0o022)
    try:
        assert start.main() == 1
    finally:
        os.umask(before)
    said = capsys.readouterr().err
    assert words in said
    assert "Install and start the Mosquitto broker add-on" in said


def test_a_supervisor_that_is_away_is_told_too(start, data, monkeypatch, capsys):
    names = start.main.__globals__
    monkeypatch.setitem(names, "DATA", data)
    monkeypatch.setitem(names, "API", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setitem(names, "PATIENCE_S", 0.0)
    before = os.umask(0o022)
    try:
        assert start.main() == 1
    finally:
        os.umask(before)
    assert "refused" in capsys.readouterr().err
