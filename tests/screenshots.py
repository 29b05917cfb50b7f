"""Makes the pictures of the status page in node/web/pictures/, by hand, when it looks different:

    tests/.venv/bin/python tests/screenshots.py

A log of two days as of a greenhouse, with a gap, a sensor that is gone, readings from before the
clock was set, and rejected values; a real node's lock on it; Chromium in light, dark, and as a
phone.
"""

from __future__ import annotations

import fcntl
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chromium import Chromium
from support import replaced
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
        finally:
            browser.close()
            web.kill()
            os.close(lock)
    return 0


def save(picture: bytes, file: Path) -> None:
    file.write_bytes(picture)
    print(f"{file}: {file.stat().st_size // 1024} kB")


if __name__ == "__main__":
    sys.exit(main())
