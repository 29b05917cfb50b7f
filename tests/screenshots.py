"""Makes the pictures of the status page in node/web/pictures/, by hand, when it looks different:

    tests/.venv/bin/python tests/screenshots.py

A log of two days as of a greenhouse, with a gap, a sensor that is gone, readings from before the
clock was set, and rejected values; a real node's lock on it; Chromium in light, dark, and as a
phone. For the page of all nodes a broker, and what five nodes would publish.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chromium import Chromium
from support import Mosquitto, Subscriber, replaced, wait_until
from web_log import health_text, log_of
from web_support import WebProcess

from node.outbox.records import Event
from node.system.safe_files import open_lock

# ruff: noqa: T201

PICTURES = Path(__file__).parent.parent / "node" / "web" / "pictures"
_CHOICE = random.Random(7)


def temperature(age_s: float, middle: float, swing: float, noise: float) -> float:
    """A day's course, warmest in the afternoon, with clouds."""
    hours = (time.time() - age_s) / 3600
    day = math.sin((hours - 9) / 24 * 2 * math.pi)
    clouds = math.sin(hours * 1.7) * math.sin(hours * 0.61)
    return middle + swing * day + 0.22 * swing * clouds + _CHOICE.gauss(0, noise)


Values = Callable[[float], tuple[float, ...]]
"""Age in s -> one value per channel."""


def sensors() -> dict[
    str, tuple[tuple[str, ...], tuple[str, ...], Values, Callable[[float], bool]]
]:
    """Name -> channels, units, values, and whether it answered at that age."""
    return {
        "air": (
            ("temperature", "humidity"),
            ("°C", "%"),
            lambda age_s: (
                round(temperature(age_s, 21, 4.5, 0.06), 1),
                round(
                    64 - 2.4 * (temperature(age_s, 21, 4.5, 0.02) - 21) + _CHOICE.gauss(0, 0.3), 1
                ),
            ),
            lambda age_s: not 5.2 * 3600 < age_s < 7.4 * 3600,
        ),
        "tank": (
            ("temperature",),
            ("°C",),
            lambda age_s: (round(temperature(age_s - 9000, 17.4, 1.1, 0.02), 2),),
            lambda age_s: True,
        ),
        "barometer": (
            ("pressure",),
            ("hPa",),
            lambda age_s: (round(1013 + 6 * math.sin(age_s / 50000) + _CHOICE.gauss(0, 0.08), 1),),
            lambda age_s: True,
        ),
        "roof": (
            ("temperature",),
            ("°C",),
            lambda age_s: (round(temperature(age_s, 11, 7.5, 0.12), 1),),
            lambda age_s: age_s > 1500,
        ),
        "cpu": (
            ("temperature",),
            ("°C",),
            lambda age_s: (round(47 + 2 * math.sin(age_s / 9000) + abs(_CHOICE.gauss(0, 0.7)), 1),),
            lambda age_s: True,
        ),
    }


def main() -> int:
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sensor-node-pictures-") as name:
        folder = Path(name, "state")
        now_ms = round(time.time() * 1000)
        health = health_text(
            {"air": True, "barometer": True, "cpu": True, "roof": False, "tank": True},
            process=os.getpid(),
            node="greenhouse",
        )
        trouble = (
            "I2C bus 1 address 0x76: no acknowledgement (NACK); "
            "check power, SDA, SCL and the address"
        )
        health = replaced(health, ("roof: no answer; check the wires", trouble))
        events = (
            Event(
                now_ms - 5 * 3_600_000,
                "WARNING",
                "no broker: 192.168.1.10:1883 does not answer; "
                "is the host up, and no firewall between?",
            ),
            Event(
                now_ms - 1_480_000,
                "WARNING",
                f"roof (bme280): offline: {trouble}",
            ),
        )
        log_of(folder, sensors(), health=health, events=events)
        lock = open_lock(folder / "node.lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
        web = WebProcess(folder)
        browser = Chromium()
        try:
            for picture, path, options in (
                ("light", "/?span=day", {"width": 1180, "height": 1010}),
                ("dark", "/?span=day", {"width": 1180, "height": 1010, "scheme": "dark"}),
                ("phone", "/?span=day", {"width": 390, "height": 844, "scale": 1.5, "phone": True}),
                ("sensor", "/sensor/air", {"width": 1180, "height": 1010}),
            ):
                page = browser.page(**options)
                page.go(web.url + path)
                page.wait_for("document.getElementById('zone').textContent.includes('Berlin')")
                save(page.picture("webp"), PICTURES / f"{picture}.webp")
            picture_fleet(browser, Path(name))
        finally:
            browser.close()
            web.kill()
            os.close(lock)
    return 0


NODES: dict[str, dict[str, dict[str, tuple[float, str]]]] = {
    "attic": {"roof": {"temperature": (9.4, "°C")}, "air": {"temperature": (14.1, "°C")}},
    "cellar": {"air": {"temperature": (12.6, "°C"), "humidity": (61.2, "%")}},
    "garage": {"freezer": {"temperature": (-18.9, "°C")}},
    "greenhouse": {
        "air": {"temperature": (21.7, "°C"), "humidity": (48.3, "%")},
        "tank": {"temperature": (17.44, "°C")},
    },
    "lab": {"air": {"temperature": (20.3, "°C"), "humidity": (44.8, "%")}},
}
"""Node -> sensor -> channel -> value and unit."""


def picture_fleet(browser: Chromium, folder: Path) -> None:
    broker = Mosquitto(folder).start()
    publisher = Subscriber(broker.port)
    web = WebProcess(folder / "state", "--broker", f"127.0.0.1:{broker.port}", folder=folder)
    try:
        publish_fleet(publisher)
        wait_until(lambda: len(web.get("/api/v1/fleet").json["nodes"]) == len(NODES))
        wait_until(lambda: "no health" not in web.get("/").text)
        for picture, options in (
            ("fleet", {"width": 1180, "height": 760}),
            ("fleet-phone", {"width": 390, "height": 844, "scale": 1.5, "phone": True}),
        ):
            page = browser.page(**options)
            page.go(web.url)
            page.wait_for("document.getElementById('zone').textContent.includes('Berlin')")
            save(page.picture("webp"), PICTURES / f"{picture}.webp")
    finally:
        web.kill()
        publisher.close()
        broker.stop()


def publish_fleet(publisher: Subscriber) -> None:
    """As five nodes: one is offline, one has a broken sensor, one is simulated."""

    def say(topic: str, payload: object) -> None:
        text = payload if isinstance(payload, str) else json.dumps(payload)
        publisher.client.publish(topic, text, 1)

    trouble = "no thermometer with this address; check 3V3, the data wire and the 4.7 kΩ pull-up"
    for node, sensors in NODES.items():
        components = {
            f"{sensor}.{channel}": {
                "stat_t": f"sensors/{node}/{sensor}/state",
                "val_tpl": f"{{{{ value_json['{channel}'] }}}}",
                "unit_of_meas": unit,
            }
            for sensor, channels in sensors.items()
            for channel, (_, unit) in channels.items()
        }
        device = {"dev": {"cu": f"http://{node}.local:8080/"}, "cmps": components}
        say(f"homeassistant/device/{node}/config", device)
        say(f"sensors/{node}/status", "offline" if node == "cellar" else "online")
        for sensor, channels in sensors.items():
            say(f"sensors/{node}/{sensor}/state", {c: v for c, (v, _) in channels.items()})
            say(
                f"sensors/{node}/{sensor}/availability", "offline" if sensor == "roof" else "online"
            )
        told = {name: {"last_error": trouble} if name == "roof" else {} for name in sensors}
        health = {"version": "0.1.0", "simulated": node == "lab", "sensors": told}
        if node == "garage":
            health["problems"] = ["the supply is too weak (under-voltage): use another one"]
        say(f"sensors/{node}/health", health)


def save(picture: bytes, file: Path) -> None:
    file.write_bytes(picture)
    print(f"{file}: {file.stat().st_size // 1024} kB")


if __name__ == "__main__":
    sys.exit(main())
