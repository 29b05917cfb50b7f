"""`fill_hours.py` of the recipes, on a real Home Assistant: which hours it fills, and with what."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from home_assistant import HomeAssistant
from store_support import StoreProcess
from support import Mosquitto, NodeProcess, Subscriber, replaced, sysfs_config, wait_until

FILL_HOURS = Path(__file__).parents[2] / "deploy/recipes/homeassistant/fill_hours.py"
AIR, BOX = "sensor.greenhouse_air_temperature", "sensor.greenhouse_box_temperature"
NOW_S = int(time.time())


def hour(ago: int) -> int:
    """The beginning of an hour, in seconds since 1970; 0 is the one that goes on."""
    return NOW_S // 3600 * 3600 - ago * 3600


def batches(sensor: str, ago: int, minutes: range, value: Callable[[int], float], **also: Any):
    """A reading each minute, of one hour, as history has them."""
    times = [datetime.fromtimestamp(hour(ago) + 60 * minute, UTC) for minute in minutes]
    readings = [
        {"seq": 1000 * ago + minute, "sensor": sensor, "time": at.isoformat(), "clock": "synced"}
        | {"temperature": value(minute)}
        | also
        for minute, at in zip(minutes, times, strict=True)
    ]
    for part in (readings[:30], readings[30:]):
        if part:
            yield json.dumps({"stream": f"{sensor}-of-then", "readings": part})


def rising(minute: int) -> float:
    return 20 + minute / 60


WHOLE = {"mean": 20 + 29.5 / 60, "min": 20.0, "max": 20 + 59 / 60}
"""An hour of `rising`."""


class Room:
    """A node that was away for some hours, its readings in a database, and Home Assistant."""

    def __init__(self, folder: Path, hass: HomeAssistant, database: Path) -> None:
        self.folder, self.hass, self.database = folder, hass, database

    def fill(self, *options: str, token: str = "") -> tuple[int, str]:
        file = self.folder / "token"
        file.write_text(f"{token or self.hass.token}\n")
        command = [sys.executable, str(FILL_HOURS), "--from", f"sqlite:{self.database}"]
        command += ["--homeassistant", "http://127.0.0.1:8123", "--token-file", str(file)]
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def of(self, entity: str) -> dict[int, dict[str, float]]:
        """Hours ago -> what Home Assistant has of it."""
        rows = self.hass.ask(
            "recorder/statistics_during_period",
            start_time=datetime.fromtimestamp(hour(24), UTC).isoformat(),
            statistic_ids=[entity],
            period="hour",
        ).get(entity, [])
        known = ("mean", "min", "max")
        return {
            (hour(0) - row["start"] // 1000) // 3600: {key: row[key] for key in known}
            for row in rows
        }

    def has_seen(self, hours: dict[int, tuple[float, float, float]]) -> None:
        """Let Home Assistant have hours of the air: hours ago -> mean, min, max."""
        self.hass.ask(
            "recorder/import_statistics",
            metadata={
                "source": "recorder",
                "statistic_id": AIR,
                "name": None,
                "has_sum": False,
                "mean_type": 1,
                "unit_class": "temperature",
                "unit_of_measurement": "°C",
            },
            stats=[
                {
                    "start": datetime.fromtimestamp(hour(ago), UTC).isoformat(),
                    "mean": mean,
                    "min": low,
                    "max": high,
                }
                for ago, (mean, low, high) in hours.items()
            ],
        )
        wait_until(lambda: hours.keys() <= self.of(AIR).keys(), 60)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("room")
    broker = Mosquitto(folder).start()
    hass = HomeAssistant()
    node = store = subscriber = None
    try:
        hass.start().set_up_mqtt(broker.port)
        files = {name: folder / name for name in ("air", "box")}
        for file in files.values():
            file.write_text("21500\n")
        config = replaced(
            sysfs_config(broker.port, files), ('name = "test"', 'name = "greenhouse"')
        )
        config += '[sensor.channel.temperature]\nunit = "°F"\n'
        node = NodeProcess(folder, config)
        wait_until(lambda: {AIR, BOX} <= hass.states().keys(), 60, "the node is announced")
        database = folder / "readings.db"
        store = StoreProcess(folder, f"sqlite:{database}", broker.port)
        store.wait_for_log("connected to")
        subscriber = Subscriber(broker.port)
        everything = [
            *batches("air", 7, range(60), rising, clock="unsynced"),
            *batches("air", 6, range(60), rising),
            *batches("air", 5, range(60), rising),
            *batches("air", 4, range(60), rising),
            *batches("air", 3, range(60), rising),
            *batches("air", 2, range(30), rising),
            *batches("box", 6, range(60), lambda minute: 68.0),
        ]
        for message in everything:
            subscriber.client.publish("sensors/greenhouse/history", message, 1)
        wait_until(lambda: count(database) == 6 * 60 + 30, 60, "all is stored")
        yield Room(folder, hass, database)
    finally:
        if subscriber is not None:
            subscriber.close()
        for process in (node, store):
            if process is not None:
                process.kill()
        hass.close()
        broker.stop()


def count(database: Path) -> int:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        query = "SELECT count(*) FROM readings WHERE stream LIKE '%-of-then'"
        [(number,)] = connection.execute(query)
    return int(number)


def test_missed_hours_are_filled_in_and_partial_ones_replaced(room):
    as_it_was = {
        4: (20.49, 20.0, 20 + 59 / 60),  # all of it, but for rounding
        3: (20.5, 19.0, 22.0),  # more than the database has
        2: (20.1, 20.0, 20.2),  # of which the database has only a half
    }
    room.has_seen({5: (20.1, 20.0, 20.2), **as_it_was})  # of 5 it saw the beginning
    code, said = room.fill("--dry-run")
    assert (code, said.splitlines()) == (
        0,
        [f"{AIR}: hours filled in: 1, replaced: 1", f"{BOX}: hours filled in: 1, replaced: 0"],
    )
    assert 6 not in room.of(AIR)
    code, said = room.fill()
    assert code == 0, said
    wait_until(lambda: 6 in room.of(AIR) and 6 in room.of(BOX), 60)
    found = room.of(AIR)
    assert found[6] == pytest.approx(WHOLE)
    assert found[5] == pytest.approx(WHOLE)
    for ago, (mean, low, high) in as_it_was.items():
        assert found[ago] == pytest.approx({"mean": mean, "min": low, "max": high})
    assert 7 not in found  # whose time is not certain
    # The node has it in °F, and Home Assistant keeps it in °C.
    assert room.of(BOX)[6] == pytest.approx({"mean": 20.0, "min": 20.0, "max": 20.0})
    assert room.fill() == (0, "nothing is missing\n")
    complaints = re.findall(r"(?m)^.*(?:WARNING|ERROR).*recorder.*$", room.hass.log)
    assert complaints == []


def test_what_it_says_when_it_cannot(room, tmp_path):
    code, said = room.fill(token="wrong")
    assert (code, said.split(":")[0]) == (1, "Home Assistant refuses the token")
    for options, words in (
        (("--homeassistant", "http://127.0.0.1:1"), "Connection refused"),
        (("--homeassistant", "127.0.0.1"), "expected http://HOST:8123"),
        (("--from", f"sqlite:{tmp_path}/none.db"), "unable to open database file"),
        (("--from", "mysql://db"), "expected sqlite:FILE or postgresql://"),
        (("--token-file", f"{tmp_path}/none"), "No such file"),
    ):
        code, said = room.fill(*options)
        assert code in (1, 2)
        assert words in said, said
        assert "Traceback" not in said
