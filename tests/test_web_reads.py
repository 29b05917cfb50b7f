"""The page's button "Read now": who may press it, and that it shows the node's answer alone."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from support import Mosquitto, NodeProcess, replaced, sysfs_config, wait_until
from test_web import EVIL, held
from web_log import health_text, make_log
from web_support import Reply, WebProcess

from node.web.settings import settings_of

pytestmark = pytest.mark.real_time

RIGHT = {"Authorization": "Basic " + base64.b64encode(b":sesame").decode()}
PAGE = '\n[web]\npassword = "sesame"\n'
DEPLOY = Path(__file__).parents[1] / "deploy"
COMMAND, RESULT = "sensors/test/cmd/read", "sensors/test/cmd/read/result"


@pytest.fixture
def slow_node(start_node, temperature_file, tmp_path) -> Callable[..., NodeProcess]:
    """Starts a node that has read its sensors, `good` and `gone`, and does so again in an hour."""

    def start(port: int, *, mqtt: str = "", more: str = "") -> NodeProcess:
        files = {"good": temperature_file, "gone": tmp_path / "gone"}
        config = sysfs_config(port, files, interval="1h", mqtt=mqtt) + PAGE + more
        node: NodeProcess = start_node(config)
        return node

    return start


def page_of(start_web: Callable[..., WebProcess], node: NodeProcess) -> WebProcess:
    """The page of a node, once it knows the node's health."""
    web = start_web(node.state_dir, "--config", str(node.config))
    wait_until(lambda: web.get("/api/v1/health", **RIGHT).json["current"], what="health")
    return web


def press(web: WebProcess, body: str = "sensor=good", **headers: str) -> Reply:
    return web.post("/read", body, **{**RIGHT, **headers})


def shown(web: WebProcess, path: str = "/") -> str:
    """The result on a page, as HTML; "" without one."""
    text = web.get(path, **RIGHT).text
    _, found, rest = text.partition('<section class="result"')
    return found + rest.partition("</section>")[0]


def again(web: WebProcess, body: str = "sensor=good") -> Reply:
    """Press until the page allows the next request."""

    def pressed() -> Reply | None:
        reply = press(web, body)
        return None if reply.code == 429 else reply

    reply: Reply = wait_until(pressed)
    return reply


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_press_reads_the_sensor_and_shows_what_came(
    broker, subscribe, slow_node, start_web, temperature_file, protocol
):
    subscriber = subscribe(broker.port)
    node = slow_node(broker.port, mqtt=f'protocol = "{protocol}"')
    subscriber.wait_for_states("good", 1)
    web = page_of(start_web, node)
    index = web.get("/", **RIGHT).text
    assert index.count('form="read" name="sensor"') == 2
    assert "Read all now</button>" in index
    temperature_file.write_text("33300\n")
    reply = press(web)
    assert (reply.code, reply.headers["location"]) == (303, "/sensor/good")
    assert "good: temperature 33.3 °C" in shown(web, "/sensor/good")
    subscriber.wait_for_states("good", 2)
    assert subscriber.states("good")[-1]["temperature"] == 33.3
    reply = again(web, "")
    assert (reply.code, reply.headers["location"]) == (303, "/")
    assert "good: temperature 33.3 °C" in shown(web)
    assert 'gone: <span class="error">' in shown(web)
    assert "does not exist" in shown(web)
    assert "33.3" not in web.log


@pytest.mark.parametrize(
    ("tables", "why"),
    [("", "set [web] password"), (PAGE + "[commands]\nenabled = false\n", "[commands]")],
)
def test_without_a_password_or_the_command_there_is_no_button(tmp_path, start_web, tables, why):
    state = tmp_path / "state"
    make_log(state, hours=0.1, health=health_text({"s0": True}, process=os.getpid()))
    with held(state):
        web = start_web(config='[mqtt]\nhost = "127.0.0.1"\n' + tables)
        assert 'action="/read"' not in web.get("/", **RIGHT).text
        reply = press(web, "sensor=s0")
        assert reply.code == 403
        assert why in reply.text


@pytest.mark.parametrize(
    ("commands", "takes_reads"),
    [
        ("", True),
        ("[commands]\n", True),
        ('[commands]\nallow = ["read"]\n', True),
        ('[commands]\nallow = ["identify"]\n', False),
        ("[commands]\nenabled = false\n", False),
        ("[commands]\nallow = 7\n", False),
        ("commands = 7\n", False),
    ],
)
def test_what_the_node_takes_is_known_though_the_rest_may_be_wrong(tmp_path, commands, takes_reads):
    file = tmp_path / "node.toml"
    file.write_text(commands + "[sensors]\nwrong = 1\n")
    assert settings_of(file).takes_reads is takes_reads


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    """A page over a log of a node that seems to run, without a broker at its port."""
    state = tmp_path_factory.mktemp("offered") / "state"
    make_log(state, hours=0.1, health=health_text({"s0": True}, process=os.getpid()))
    with held(state):
        web = WebProcess(state, config='[mqtt]\nhost = "127.0.0.1"\nport = 1\n' + PAGE)
        yield web
        web.kill()


def test_a_broker_that_is_away_is_said_on_the_page(offered):
    assert 'action="/read"' in offered.get("/", **RIGHT).text
    reply = press(offered, "sensor=s0")
    assert (reply.code, reply.headers["location"]) == (303, "/sensor/s0")
    assert "Not read: no broker: 127.0.0.1:1 refuses" in shown(offered, "/sensor/s0")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "file://127.0.0.1:{port}"}, 403),
        ({"Origin": "http://127.0.0.1:{port}.evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin, cross-site"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 421),
        ({"Authorization": "Basic " + base64.b64encode(b":guess").decode()}, 401),
        ({"Authorization": ""}, 401),
        # The controls: the page itself, behind a proxy with TLS, and a program.
        ({"Origin": "http://127.0.0.1:{port}"}, 404),
        ({"Origin": "https://greenhouse.local", "Sec-Fetch-Site": "same-origin"}, 404),
        ({}, 404),
    ],
)
def test_only_the_page_itself_can_have_it_pressed(offered, headers, code):
    """The sensor is unknown, so 404 is the answer of who may."""
    headers = {name: value.replace("{port}", str(offered.port)) for name, value in headers.items()}
    assert press(offered, "sensor=nothing", **headers).code == code


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        ("sensor=" + quote(EVIL), {}, 404),
        ("sensor=s0%20s1", {}, 404),
        ("sensor=", {}, 404),
        ("other=" + quote(EVIL), {}, 400),
        ("sensor=s0" + "&a=b" * 10, {}, 400),
        ("sensor=s0", {"Content-Type": "text/plain"}, 400),
        ("sensor=" + "x" * 2000, {}, 413),
    ],
)
def test_what_is_sent_never_comes_back(offered, body, headers, code):
    reply = press(offered, body, **headers)
    told = repr(reply.headers) + reply.text
    assert reply.code == code
    assert "alert" not in told
    assert "xxx" not in told


def test_the_address_takes_nothing_but_a_post(offered):
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        reply = offered.get("/read", method, **RIGHT)
        assert (reply.code, reply.headers["allow"]) == (405, "POST")


def test_a_node_that_does_not_run_is_not_asked(tmp_path, start_web):
    make_log(tmp_path / "state", hours=0.1, health=health_text({"s0": True}, process=1))
    web = start_web(config='[mqtt]\nhost = "127.0.0.1"\n' + PAGE)
    assert 'action="/read"' not in web.get("/", **RIGHT).text
    reply = press(web, "sensor=s0")
    assert reply.code == 503
    assert "the node does not run" in reply.text


def test_one_request_at_a_time_and_only_the_answer_to_it_is_shown(
    broker, subscribe, slow_node, start_web
):
    """The node is held up, so that a request waits for it as long as the test likes."""
    subscriber = subscribe(broker.port, "sensors/test/+/+")  # not the results
    node = slow_node(broker.port)
    subscriber.wait_for_states("good", 1)
    web = page_of(start_web, node)
    old = {"command": "read", "ok": True, "sensors": {"good": {"temperature": -77.7}}}
    subscriber.client.publish(RESULT, json.dumps(old), 1, retain=True).wait_for_publish()
    node.freeze()
    first: list[Reply] = []
    thread = threading.Thread(target=lambda: first.append(press(web)))
    thread.start()
    subscriber.wait_for(COMMAND, "good")
    second = press(web)
    assert second.code == 429
    assert int(second.headers["retry-after"]) >= 1
    assert web.get("/healthz", **RIGHT).code == 200, "others are answered meanwhile"
    others = {**old, "sensors": {"other": {"temperature": -88.8}}}
    evil = {"command": "read", "ok": False, "sensors": {"good": {"error": EVIL * 100, EVIL: 1}}}
    for junk in (b"", b"\xff", b"[" * 100_000, b"{}", json.dumps({**old, "command": "x"}).encode()):
        subscriber.client.publish(RESULT, junk, 1)
    for answer in (others, evil):
        subscriber.client.publish(RESULT, json.dumps(answer), 1)
    thread.join()
    assert first[0].code == 303
    assert press(web).code == 429, "and the next one not at once"
    told = shown(web)
    assert not re.search(r"[-−](77\.7|88\.8)", told), "retained, and the answer to another client"
    assert "<script" not in told
    assert "&lt;script&gt;" in told
    assert len(told) < 2000
    node.process.send_signal(signal.SIGCONT)
    again(web)
    assert "good: temperature 21.5 °C" in shown(web)
    assert subscriber.on(COMMAND) == ["good", "good"]


def test_the_login_needs_a_line_of_the_acl_and_its_password_is_read_each_time(
    tmp_path, subscribe, slow_node, start_web
):
    """The sample ACL without the line, and with it; a wrong password, and the right one again."""
    passwords, acl, secret = tmp_path / "passwords", tmp_path / "acl", tmp_path / "secret"
    line = "topic write sensors/test/cmd/read"
    sample = (DEPLOY / "mosquitto.acl").read_text().replace("greenhouse", "test")
    acl.write_text(sample)
    for file in (passwords, acl, secret):
        file.touch()
        file.chmod(0o600)
    for user in ("test", "operator"):
        subprocess.run(["mosquitto_passwd", "-b", passwords, user, "our-secret"], check=True)
    secret.write_text("our-secret\n")
    lines = ("allow_anonymous false", f"password_file {passwords}", f"acl_file {acl}")
    mosquitto = Mosquitto(tmp_path, *lines).start()
    try:
        subscriber = subscribe(mosquitto.port, username="operator", password="our-secret")
        node = slow_node(mosquitto.port, mqtt=f'username = "test"\npassword_file = "{secret}"')
        subscriber.wait_for_states("good", 1)
        web = page_of(start_web, node)
        assert press(web).code == 303
        assert f"the broker rejected {COMMAND}: Not authorized; allow this login" in shown(web)
        acl.write_text(replaced(sample, (f"#{line}", line)))
        mosquitto._signal(signal.SIGHUP)
        secret.write_text("bad-secret\n")
        again(web)
        refused = shown(web)
        assert "Not read: no broker: " in refused
        secret.write_text("our-secret\n")
        again(web)
        assert "good: temperature 21.5 °C" in shown(web)
        assert "-secret" not in refused + web.log
    finally:
        mosquitto.stop()


def test_a_page_that_is_not_asked_to_read_imports_no_client():
    program = (
        "import sys, node.web.application, node.commands.web\n"
        "print([name for name in sys.modules if name.startswith(('paho', 'node.mqtt'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
