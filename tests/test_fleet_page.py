"""`sensor-node web --broker` as a process: real brokers and nodes, a hostile client, Chromium."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE_S,
    SENSOR_NODE,
    Mosquitto,
    NodeProcess,
    replaced,
    sysfs_config,
    wait_until,
)
from test_web_browser import _COLOURS, chromium, luminance, no_tab_stays, only_from
from web_support import WebProcess

__all__ = ["chromium", "no_tab_stays"]

ROOT = Path(__file__).parent.parent
EVIL = "<script>alert(1)<script>\"'&"


@pytest.fixture
def named_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts nodes of a name, each in a folder of its own, that are killed at the end."""
    started: list[NodeProcess] = []

    def start(name: str, port: int, *arguments: str, more: str = "") -> NodeProcess:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "air").write_text("21500\n")
        config = sysfs_config(port, {"air": folder / "air"}, interval="0.5s")
        config = replaced(config, ('name = "test"', f'name = "{name}"'))
        started.append(NodeProcess(folder, f"{config}{more}", *arguments))
        return started[-1]

    yield start
    for node in started:
        node.kill()


@pytest.fixture
def start_fleet(tmp_path: Path, start_web) -> Callable[..., WebProcess]:
    def start(*arguments: str, **options: Any) -> WebProcess:
        web: WebProcess = start_web(tmp_path / "state", "--broker", *arguments, **options)
        return web

    return start


def nodes(web: WebProcess) -> dict[str, Any]:
    return {node["name"]: node for node in web.get("/api/v1/fleet").json["nodes"]}


def wait_for(web: WebProcess, **conditions: str) -> dict[str, Any]:
    def there() -> bool:
        seen = nodes(web)
        return all(seen.get(n, {}).get("condition") == c for n, c in conditions.items())

    wait_until(there, what=f"{conditions}")
    return nodes(web)


def keys(answer: Any) -> Any:
    """The keys of a JSON answer; of a list, those of its first item."""
    if isinstance(answer, dict):
        return {key: keys(value) for key, value in answer.items()}
    return keys(answer[0]) if isinstance(answer, list) and answer else None


LINK = '\n[homeassistant]\nconfiguration_url = "http://greenhouse.local:8080/"\n'


@pytest.mark.real_time(seconds=20)
def test_two_nodes_and_one_that_is_killed(chromium, broker, named_node, start_fleet):
    """One page of the browser, which is never loaded again by the test."""
    web = start_fleet(f"127.0.0.1:{broker.port}")
    assert web.get("/healthz").code in (200, 503)
    named_node("greenhouse", broker.port, more=LINK)
    cellar = named_node("cellar", broker.port)
    seen = wait_for(web, greenhouse="online", cellar="online")
    assert web.get("/healthz").text == "ok\n"
    assert list(seen) == ["cellar", "greenhouse"]
    (air,) = seen["cellar"]["sensors"]
    assert air["channels"] == [
        {
            "channel": "temperature",
            "value": 21.5,
            "text": "21.5",
            "unit": "°C",
            "current": True,
            "why": None,
        }
    ]
    documented = (ROOT / "node/web/README.md").read_text().partition("As JSON, `/api/v1/fleet`")[2]
    example = json.loads(documented.partition("```json")[2].partition("```")[0])
    answer = web.get("/api/v1/fleet").json
    answer["nodes"].reverse()  # greenhouse is the one of the document
    assert keys(example) == keys(answer)
    page = chromium.page()
    page.go(web.url)
    page.wait_for("document.querySelectorAll('.fleet .dot-running').length === 2")
    assert page.js("document.querySelectorAll('.reading.old').length") == 0
    assert page.js("document.querySelector('.fleet h2 a').href") == "http://greenhouse.local:8080/"
    cellar.kill()
    page.wait_for("document.querySelector('.fleet .dot-stopped') !== null")
    first = page.text(".fleet .card")
    assert "cellar" in first, "most in trouble first"
    assert "node offline" in first
    assert "last value" in first
    assert page.js("document.querySelectorAll('.reading.old').length") == 1
    assert page.text("#state").endswith("1 of 2 nodes online")
    (air,) = nodes(web)["cellar"]["sensors"]
    assert (air["state"], air["channels"][0]["current"]) == ("offline", False)
    assert page.complaints == []
    assert only_from(page, web)


@pytest.mark.real_time(seconds=15)
def test_a_broker_that_goes_is_said_everywhere_and_nothing_is_current(
    broker, named_node, start_fleet
):
    web = start_fleet(f"127.0.0.1:{broker.port}")
    named_node("greenhouse", broker.port)
    wait_for(web, greenhouse="online")
    broker.stop()
    wait_for(web, greenhouse="unknown")
    answer = web.get("/healthz")
    assert answer.code == 503
    assert "not connected to the broker" in answer.text
    html = web.get("/").text
    assert "was heard before the connection was lost" in html
    assert 'class="reading"' not in html
    broker.start()
    wait_for(web, greenhouse="online")
    assert web.get("/healthz").code == 200


def test_a_simulated_node_says_so_and_a_broken_sensor_why(
    broker, named_node, start_fleet, tmp_path
):
    web = start_fleet(f"127.0.0.1:{broker.port}")
    named_node("attic", broker.port)
    wait_for(web, attic="online")
    (tmp_path / "attic" / "air").unlink()
    attic = wait_for(web, attic="sensors-offline")["attic"]
    assert "does not exist" in attic["sensors"][0]["last_error"]
    named_node("lab", broker.port, "--simulate")
    assert wait_for(web, lab="simulated")["lab"]["simulated"]
    assert "no reading here is real" in web.get("/").text


def test_the_broker_of_the_configuration_with_its_login_and_base_topic(
    tmp_path, subscribe, start_fleet
):
    password = subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(tmp_path / "users"), "me", "sesame"], check=False
    )
    assert password.returncode == 0
    lines = ("allow_anonymous false", f"password_file {tmp_path / 'users'}")
    broker = Mosquitto(tmp_path, *lines).start()
    login = 'username = "me"\npassword = "sesame"\nbase_topic = "home/sensors"\n'
    config = f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\n{login}'
    sensor = '\n[[sensor]]\nid = "cpu"\ndriver = "cpu"\n'
    client = subscribe(broker.port, "home/#", username="me", password="sesame").client
    client.publish("home/sensors/far/status", "offline", 1, retain=True)
    try:
        web = start_fleet(config=config + sensor)
        wait_for(web, far="offline")
    finally:
        broker.stop()


def refused(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:0", "A port is a number from 1 to 65535."),
        ("a..b", "not a valid host name"),
        ("http://x", "Please type a host name or an IP address"),
    ],
)
def test_an_address_that_is_none_is_refused(address, said):
    command = [SENSOR_NODE, "web", "--broker", address]
    ended = refused(command)
    assert ended.returncode == 2
    assert said in ended.stderr


def test_without_an_address_the_configuration_is_needed(tmp_path):
    command = [SENSOR_NODE, "web", "--broker", "--config", str(tmp_path / "none.toml")]
    ended = refused(command)
    assert ended.returncode == 78
    assert "none.toml" in ended.stderr


def test_the_password_and_the_host_names_of_the_page_hold_here_too(broker, start_fleet):
    web = start_fleet(f"127.0.0.1:{broker.port}", config='[web]\npassword = "sesame"\n')
    for path in ("/", "/api/v1/fleet", "/healthz"):
        assert web.get(path).code == 401
        assert web.get(path, Host="evil.example").code == 421
    login = base64.b64encode(b"x:sesame").decode()
    reply = web.get("/", Authorization=f"Basic {login}")
    assert reply.code == 200
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert f"127.0.0.1:{broker.port}" in reply.text
    assert web.get("/metrics", Authorization=f"Basic {login}").code == 404


def test_a_page_that_is_open_to_all_does_not_name_the_broker(broker, subscribe, start_fleet):
    client = subscribe(broker.port).client
    health = {"problems": ["127.0.0.1 is slow"]}
    client.publish("sensors/n/status", "online", 1, retain=True)
    client.publish("sensors/n/health", json.dumps(health), 1, retain=True)
    web = start_fleet(f"127.0.0.1:{broker.port}", "--host", "0.0.0.0")
    wait_for(web, n="problems")
    broker.stop()
    wait_for(web, n="unknown")
    for path in ("/", "/api/v1/fleet", "/healthz"):
        text = web.get(path).text
        assert f"127.0.0.1:{broker.port}" not in text
    assert web.get("/api/v1/fleet").json["broker"] is None


# -- as a person sees it


@pytest.fixture
def mixed(broker, subscribe, start_fleet) -> WebProcess:
    """Nodes in every condition, and a hostile client."""
    client = subscribe(broker.port).client

    def say(topic: str, payload: Any) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        client.publish(f"sensors/{topic}", text, 1, retain=True)

    for name in ("fine", "gone", "ill", "mute", "toy", EVIL, "n" * 64):
        say(f"{name}/status", "offline" if name == "gone" else "online")
        say(f"{name}/air/availability", "online")
        state = {"temperature": -21.5, "pressure": 101325.25, "time": "2036-01-01T00:00:00Z"}
        say(f"{name}/air/state", state | {"clock": "synced" if name == "ill" else "unsynced"})
        if name != "mute":
            problems = [EVIL * 5, "x" * 300] if name in ("ill", EVIL) else []
            say(f"{name}/health", {"problems": problems, "simulated": name == "toy"})
    say(f"{EVIL}/{'s' * 200}/state", {EVIL: 1.5, "y" * 300: 2, "0": "text"})
    say(f"{EVIL}/words/plain", EVIL * 50)
    web: WebProcess = start_fleet(f"127.0.0.1:{broker.port}")

    def all_heard() -> bool:
        seen = nodes(web).values()
        healths = sum(node["health_age_s"] is not None for node in seen)
        return len(seen) == 7 and healths == 6 and all(node["sensors"] for node in seen)

    wait_until(all_heard)
    return web


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen_can_be_read_and_runs_nothing(chromium, mixed, scheme, width):
    page = chromium.page(width=width, height=800, scheme=scheme, phone=width < 500)
    page.go(mixed.url)
    page.js("refresh()")
    assert page.js("document.documentElement.scrollWidth") <= width
    assert page.js("window.innerWidth") == width
    assert page.js("document.scripts.length") == 1
    assert EVIL in page.text("main")
    found = page.js(_COLOURS)
    assert len(found) > 20
    for name, ink, paper in found:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ink, paper)
    levels = page.js("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[:3] == [1, 2, 3]
    assert page.complaints == []
    assert only_from(page, mixed)


def test_without_scripts_it_loads_itself_again(chromium, mixed):
    page = chromium.page(scripts=False)
    page.go(mixed.url)
    assert "gone" in page.text(".fleet .card")
    assert "−21.5" in page.text("main")
    assert page.js("document.querySelector('noscript meta')?.httpEquiv") == "refresh"
    assert not any("/api/" in address for address in page.requests)


@pytest.mark.real_time(seconds=10)
def test_a_page_whose_server_is_gone_says_so(chromium, mixed):
    page = chromium.page()
    page.go(mixed.url)
    mixed.stop()
    page.wait_for("!document.getElementById('lost').hidden")
