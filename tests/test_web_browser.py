"""The status page in a real Chromium: what a person sees, and what the browser complains about."""

from __future__ import annotations

import base64
import http.server
import itertools
import json
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from chromium import Chromium, Page
from ports import free_port
from support import sysfs_config, wait_until
from test_web import EVIL, health_for_two, held
from web_log import health_text, make_log
from web_support import WebProcess

pytestmark = pytest.mark.real_time

VALUE = "document.querySelector('[data-sensor=s] [data-channel=temperature] b')?.textContent"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    browser = Chromium()
    yield browser
    browser.close()


@pytest.fixture(autouse=True)
def no_tab_stays(chromium: Chromium) -> Iterator[None]:
    yield
    chromium.close_pages()


@pytest.fixture
def lived(tmp_path: Path, start_web) -> Iterator[WebProcess]:
    """A page over two days of two sensors, one of them offline."""
    make_log(tmp_path / "state", hours=48, interval_s=60, health=health_for_two())
    with held(tmp_path / "state"):
        yield start_web(tmp_path / "state")


def only_from(page: Page, web: WebProcess) -> bool:
    return all(address.startswith((web.url, "about:")) for address in page.requests)


@pytest.mark.real_time(seconds=20)
def test_it_shows_what_the_broker_has_lives_on_through_a_restart_and_tells_when_it_is_cut_off(
    chromium, broker, subscribe, start_node, start_web, temperature_file
):
    """One page, never loaded again by the test."""
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.5s")
    node = start_node(config)
    subscriber.wait_for_states("s", 2)
    port = free_port()  # nobody else is given it while there is no page
    web = start_web(node.state_dir, port=port)
    page = chromium.page()
    page.go(web.url)
    page.wait_for(f"{VALUE} === '21.5'")
    page.wait_for("document.querySelector('.pill')?.textContent === 'online'")
    wait_until(lambda: "broker connected, MQTT 5" in page.text("header"))

    def has_come(celsius: float) -> bool:
        newest: float = subscriber.states("s")[-1]["temperature"]
        return newest == celsius

    for raw, shown in (("22250", "22.25"), ("-3000", "−3.00")):
        temperature_file.write_text(raw + "\n")
        wait_until(partial(has_come, int(raw) / 1000))
        page.wait_for(f"Number({VALUE}.replace('−', '-')) === {float(raw) / 1000}")
        assert page.js(VALUE)[0] == shown[0]
    node.kill()
    page.wait_for("document.querySelector('.problem li')?.textContent.includes('does not run')")
    page.wait_for("document.querySelector('.pill').textContent === 'offline'")
    assert "last value" in page.text("article")
    again = start_node(config)
    page.wait_for("document.querySelector('.pill').textContent === 'online'")
    page.wait_for("document.querySelector('.problem li') === null")
    again.wait_for_log("s (sysfs): online")
    assert page.complaints == []
    web.stop()
    page.wait_for("!document.getElementById('lost').hidden")
    assert "what it shows is old" in page.text("#lost")
    start_web(node.state_dir, port=port)
    page.wait_for("document.getElementById('lost').hidden")
    assert only_from(page, web)


@pytest.mark.parametrize("path", ["/", "/?span=day", "/?span=2days", "/sensor/s0"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_breaks_the_policy_and_nothing_is_asked_of_anybody_else(
    chromium, lived, path, scheme
):
    page = chromium.page(scheme=scheme)
    page.go(lived.url + path)
    page.wait_for("document.getElementById('zone').textContent.includes('Berlin')")
    page.js("refresh()")
    page.js("wholePage()")
    assert page.complaints == []
    assert only_from(page, lived)
    assert page.js("getComputedStyle(document.querySelector('.plot .line')).stroke") != "none"
    assert "rgb(0, 0, 0)" not in page.js("getComputedStyle(document.body).color")


def test_the_policy_bites(chromium, lived):
    """The control: what the policy forbids does not run, and is complained about."""
    page = chromium.page()
    page.go(lived.url)
    page.js(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        "document.body.append(s); document.body.style.cssText = '';"
        "document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\">x</p>');"
        "fetch('http://127.0.0.1:1/').catch(() => 0); return 1 })()"
    )

    def complaints() -> int:
        page.js("1")  # lets events come in
        return sum("Content Security Policy" in text for text in page.complaints)

    wait_until(lambda: complaints() >= 3, what="script, style and connection are refused")
    assert page.js("window.ran") is None


def test_with_scripts_off_the_essentials_are_there(chromium, lived):
    """Values, plots, and the choice of the time by links; the page loads itself anew."""
    page = chromium.page(scripts=False)
    page.go(lived.url)
    assert "Temperature" in page.text("main")
    assert page.js("document.querySelectorAll('svg.plot .line').length") == 4
    assert "Times are UTC" in page.text("footer")
    day = page.js("[...document.querySelectorAll('.spans a')].map(a => a.getAttribute('href'))")
    assert day == ["/?span=hour", "/?span=day", "/?span=2days"]
    page.go(lived.url + day[1])
    assert page.text(".spans a[aria-current]") == "Day"
    meta = page.js("document.querySelector('noscript meta')?.httpEquiv ?? ''")
    assert meta == "refresh"
    assert not any("/api/" in address for address in page.requests)


@pytest.mark.parametrize("path", ["/", "/sensor/s0"])
@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_is_wider_than_the_screen(chromium, tmp_path, start_web, path, width):
    long_words = {"a" * 60: True, "s0": True}
    events = ()
    health = health_text(long_words, process=os.getpid(), problems=["x" * 300])
    make_log(tmp_path / "state", hours=1, health=health, events=events)
    with held(tmp_path / "state"):
        web = start_web(tmp_path / "state")
        page = chromium.page(width=width, height=700, phone=width < 500)
        page.go(web.url + path)
        assert page.js("document.documentElement.scrollWidth") <= width
        assert page.js("window.innerWidth") == width


@pytest.mark.parametrize("path", ["/", "/sensor/s0"])
@pytest.mark.parametrize("width", [320, 1280])
def test_long_numbers_fit(chromium, tmp_path, start_web, path, width):
    """Pressure in pascal with its decimals: on the screen, and their labels within the card."""
    make_log(
        tmp_path / "state",
        hours=0.2,
        sensors=1,
        layout=(("pressure",), ("Pa",)),
        value=lambda sensor, age_s: -123456.12,
    )
    page = chromium.page(width=width, height=700, phone=width < 500)
    page.go(start_web(tmp_path / "state").url + path)
    assert page.js("document.documentElement.scrollWidth") <= width
    assert page.js("document.querySelectorAll('.y').length") >= 2
    assert page.js(
        "[...document.querySelectorAll('.y')].every(t => t.getBoundingClientRect().left >= "
        "t.closest('.card').getBoundingClientRect().left)"
    )


def luminance(colour: str) -> float:
    """WCAG 2.1, "relative luminance"."""
    parts = [int(p) / 255 for p in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


_COLOURS = """
(() => {
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!c.startsWith("rgba(0, 0, 0, 0")) return c;
    }
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
    .filter((e) => e.getClientRects().length && !e.closest("title, desc, script, noscript"))
    .map((e) => [e.className.baseVal ?? e.className,
                 e instanceof SVGElement ? getComputedStyle(e).fill : getComputedStyle(e).color,
                 behind(e)]);
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/sensor/s1"])
def test_all_text_can_be_read_by_its_contrast(chromium, lived, scheme, path):
    """4.5 to 1 at the least: WCAG 2.1, AA."""
    page = chromium.page(scheme=scheme)
    page.go(lived.url + path)
    found = page.js(_COLOURS)
    assert len(found) > 20
    for name, ink, paper in found:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, ink, paper)


def test_what_a_screen_reader_is_told(chromium, lived):
    """A language, landmarks, headings in order, names and sentences for plots, unlike ids."""
    page = chromium.page()
    for path in ("/", "/sensor/s0"):
        page.go(lived.url + path)
        assert page.js("document.documentElement.lang") == "en"
        assert page.js("document.querySelectorAll('header, main, footer').length") == 3
        levels = page.js("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        assert page.js(
            "[...document.querySelectorAll('svg.plot')].every(p => "
            "p.getAttribute('aria-labelledby').split(' ').every(i => "
            "document.getElementById(i)?.textContent))"
        )
        ids = page.js("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids))
        assert page.js("[...document.querySelectorAll('nav')].every(n => n.ariaLabel)")


def test_hostile_names_run_nothing(chromium, tmp_path, start_web):
    health = health_text(
        {"s0": True}, process=os.getpid(), node=EVIL, problems=[EVIL, "<img src=x>"]
    )
    make_log(
        tmp_path / "state",
        hours=0.2,
        sensors=1,
        layout=((EVIL, '" onload="x'), (EVIL, "%")),
        health=health,
    )
    with held(tmp_path / "state"):
        web = start_web(tmp_path / "state")
        page = chromium.page()
        for path in ("/", "/sensor/s0"):
            page.go(web.url + path)
            page.js("refresh()")
            page.js("wholePage()")
            assert page.js("document.scripts.length") == 1
            assert page.js("document.images.length") == 0
        assert "<script>alert(1)</script>" in page.text("h1")
        assert page.complaints == []
        assert only_from(page, web)


_POINT = """
(() => {
  const plot = document.querySelector(".plot");
  const line = plot.querySelector(".line").getAttribute("d").slice(1).split("L").pop();
  const [x] = line.split(" ").map(Number);
  const box = plot.getBoundingClientRect();
  const at = box.left + (x / plot.viewBox.baseVal.width) * box.width;
  plot.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, clientX: at, clientY: 0 }));
  return plot.querySelector(".hover")?.textContent;
})()
"""


def test_the_value_under_the_pointer_is_that_of_the_line(chromium, lived):
    """The line's last point is the mean of the newest bucket."""
    page = chromium.page()
    page.go(lived.url)
    said = page.js(_POINT)
    low, high = (float(word) for word in re.findall(r"[\d.]+", page.text(".range"))[1:])
    shown = re.search(r"(-?[\d.]+) °C$", said)
    assert shown is not None, said
    assert low - 0.05 <= float(shown[1]) <= high + 0.05
    assert re.match(r"\d\d? \w{3,4} \d\d:\d\d ", said)
    page.js("document.documentElement.dispatchEvent(new PointerEvent('pointerleave'))")
    assert page.js("document.querySelectorAll('.hover').length") == 0


def test_times_are_those_of_the_reader(chromium, lived):
    page = chromium.page()
    page.go(lived.url)
    page.wait_for("document.getElementById('zone').textContent.includes('Europe/Berlin')")
    told = json.loads(
        page.js(
            "JSON.stringify([...document.querySelectorAll('text[data-ms]')].slice(0, 3).map(t => "
            "[t.textContent, new Date(+t.dataset.ms).toLocaleTimeString('de', "
            "{hour: '2-digit', minute: '2-digit'})]))"
        )
    )
    assert told
    assert all(shown == local or re.fullmatch(r"\d+ \w{3,4}", shown) for shown, local in told)


def test_an_address_with_the_password_in_it_is_kept_fresh_too(chromium, tmp_path, start_web):
    """A browser asks for nothing relative to such an address."""
    make_log(tmp_path / "state", hours=0.1)
    web = start_web(tmp_path / "state", config='[web]\npassword = "sesame"\n')
    page = chromium.page()
    page.go(f"http://anybody:sesame@127.0.0.1:{web.port}/")
    page.js("lost(true)")
    page.js("refresh()")
    page.wait_for("document.getElementById('lost').hidden")
    assert page.js("ask('/api/v1/node').then(answer => answer.status)") == 200
    refused = page.js("fetch('/api/v1/node').then(answer => '', error => String(error))")
    assert "credentials" in refused, "the control"


@pytest.fixture
def protected(
    broker, subscribe, start_node, start_web, temperature_file
) -> tuple[WebProcess, str, Any]:
    """A page with a password and a node behind it; its address, and a subscriber."""
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="1h")
    node = start_node(config + '\n[web]\npassword = "sesame"\n')
    subscriber.wait_for_states("s", 1)
    web = start_web(node.state_dir, "--config", str(node.config))
    right = {"Authorization": "Basic " + base64.b64encode(b":sesame").decode()}
    wait_until(lambda: web.get("/api/v1/health", **right).json["current"], what="health")
    return web, f"http://anybody:sesame@127.0.0.1:{web.port}/", subscriber


def key(page: Page, name: str, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        pressed = {"type": kind, "key": name, "code": name, "text": text}
        code = {"Enter": 13, "Tab": 9}[name]
        page.call("Input.dispatchKeyEvent", windowsVirtualKeyCode=code, **pressed)


@pytest.mark.parametrize("scripts", [True, False])
def test_a_sensor_is_read_by_keyboard(chromium, protected, temperature_file, scripts):
    """The button keeps its focus when the script makes the page fresh."""
    _, address, subscriber = protected
    page = chromium.page(scripts=scripts)
    page.go(address)
    temperature_file.write_text("33300\n")
    page.js("document.querySelector('.card h3 a').focus()")
    key(page, "Tab")
    if scripts:
        page.js("wholePage()")
    assert page.js("document.activeElement.ariaLabel") == "Read now: s"
    key(page, "Enter", "\r")
    wait_until(lambda: page.text(".result"), what="the result")
    assert page.js("location.pathname") == "/sensor/s"
    assert "s: temperature 33.3 °C" in page.text(".result")
    assert page.js("document.querySelector('.result').role") == "status"
    assert subscriber.on("sensors/test/cmd/read") == ["s"]


def test_another_site_cannot_have_a_sensor_read_by_its_visitor(chromium, protected, tmp_path):
    """The browser knows the password, and sends it along."""
    web, address, subscriber = protected
    page = chromium.page()
    page.go(address)
    form = f"<form method=post action={web.url}/read></form>"
    attack = f"{form}<script>document.forms[0].submit()</script>"
    (tmp_path / "attack.html").write_text(attack)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page.call("Page.navigate", url=f"http://localhost:{site.server_port}/attack.html")
        page.wait_for("location.pathname === '/read' && document.readyState === 'complete'")
        site.shutdown()
    assert "another site has made this request" in page.text()
    assert subscriber.on("sensors/test/cmd/read") == []
