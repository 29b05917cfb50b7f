#!/usr/bin/env python3
"""Fills hours that Home Assistant has missed into its long-term statistics.

While a node, the network or Home Assistant is away, Home Assistant learns nothing; what the node
measured comes later, as history, and `sensor-node store` puts it into a database. This program
computes the hours from there, by the rule of Home Assistant itself: a value holds until the next
one, or until it expires. An hour that Home Assistant does not have is filled in. One that it has
is replaced only if the database has all of that hour, and shows that Home Assistant saw only a
part. So it can be run again at any time; once an hour is right:

    fill_hours.py --from sqlite:readings.db --homeassistant http://ha.lan:8123 --token-file FILE

It needs Home Assistant 2025.11 or newer, the package websockets, and where the database is
PostgreSQL, psycopg.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from node.units import convert, convert_back, convertible

# ruff: noqa: T201

_HOUR_S = 3600
_SETTLED_S = 900
"""How long after its end Home Assistant has certainly computed an hour itself."""
_WHOLE_S = 0.95 * _HOUR_S
_SAME_MEAN = 0.02
"""Means that differ by less than this part of the hour's range are the same."""
_TIMEOUT_S = 30.0
_ARITHMETIC = 1
"""`StatisticMeanType.ARITHMETIC` of Home Assistant."""
_NATIVE_UNITS = ("°C", "hPa", "kPa")


class Problem(Exception):
    """What ends the program; the text says what to do."""


class WrongUnit(Exception):
    """The statistics of an entity are in a unit that its readings cannot be converted to."""


class Entity(NamedTuple):
    """An entity of Home Assistant, and what it shows."""

    id: str
    node: str
    sensor: str
    channel: str
    unit: str
    valid_s: float
    """How long a value holds without a newer one."""


class Hour(NamedTuple):
    mean: float
    low: float
    high: float
    covered_s: float = _HOUR_S


# -- pure


def hours_of(readings: Iterable[tuple[float, float]], valid_s: float) -> dict[int, Hour]:
    """Return the hours (their beginning, in seconds since 1970) of readings (time, value).

    An hour without a reading of its own is left out, unless the one before holds for all of it.
    """
    parts: dict[int, list[tuple[float, float]]] = {}
    ordered = sorted(readings)
    for (at_s, value), (next_s, _) in itertools.pairwise([*ordered, (math.inf, 0.0)]):
        until_s = min(next_s, at_s + valid_s)
        while True:
            start_s = int(at_s // _HOUR_S) * _HOUR_S
            end_s = min(until_s, start_s + _HOUR_S)
            parts.setdefault(start_s, []).append((value, end_s - at_s))
            if end_s >= until_s:
                break
            at_s = end_s
    own = {int(at_s // _HOUR_S) * _HOUR_S for at_s, _ in ordered}
    hours = {}
    for start_s, weighed in parts.items():
        covered_s = sum(weight for _, weight in weighed)
        values = [value for value, _ in weighed]
        if covered_s and (start_s in own or covered_s >= _WHOLE_S):
            mean = sum(value * weight for value, weight in weighed) / covered_s
            hours[start_s] = Hour(mean, min(values), max(values), covered_s)
    return hours


def is_better(ours: Hour, theirs: Hour | None) -> bool:
    """Return whether `ours` has to take the place of what Home Assistant has of the hour."""
    if theirs is None:
        return True

    def below(one: float, other: float) -> bool:
        return one < other and not math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)

    has_all = not (below(theirs.low, ours.low) or below(ours.high, theirs.high))
    if not has_all or ours.covered_s < _WHOLE_S:
        return False
    wider = below(ours.low, theirs.low) or below(theirs.high, ours.high)
    near = max(_SAME_MEAN * (ours.high - ours.low), 1e-6 * abs(ours.mean))
    return wider or abs(ours.mean - theirs.mean) > near


def converted(value: float, unit: str, wanted: str) -> float:
    """Convert a value.

    Raises:
        WrongUnit: no quantity has both units.
    """
    if unit == wanted:
        return value
    for native in _NATIVE_UNITS:
        if {unit, wanted} <= {*convertible(native)}:
            return convert(convert_back(value, native, unit), native, wanted)
    raise WrongUnit(f"its statistics are in {wanted}, and {unit} cannot be converted to that")


def entity_of(found: dict[str, Any]) -> Entity | None:
    """Return the entity of a channel, of what Home Assistant knows of one; None of any other."""
    announced = found["discovery_data"]["payload"]
    if not isinstance(announced, dict) or announced.get("state_class") != "measurement":
        return None
    topic = announced["state_topic"].split("/")
    if len(topic) < 3 or topic[-1] == "health":
        return None
    return Entity(
        id=found["entity_id"],
        node=topic[-3],
        sensor=topic[-2],
        channel=announced["unique_id"].rpartition(".")[2],
        unit=announced.get("unit_of_measurement", ""),
        valid_s=float(announced.get("expire_after", _HOUR_S)),
    )


# -- the database


def _connected(address: str) -> Any:
    """Return a connection of the DB-API (PEP 249)."""
    if address.startswith("postgres"):
        try:
            import psycopg
        except ImportError:
            raise Problem("PostgreSQL needs psycopg: pip install 'psycopg[binary]'") from None
        return psycopg.connect(address, options="-c search_path=sensor_node")
    if not address.startswith("sqlite:"):
        raise Problem(f"--from {address}: expected sqlite:FILE or postgresql://...")
    file = Path(address.removeprefix("sqlite:")).resolve()
    return sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)


def _errors() -> tuple[type[Exception], ...]:
    """Return the errors of the libraries that are in use."""
    psycopg = sys.modules.get("psycopg")
    return (sqlite3.Error, psycopg.Error) if psycopg else (sqlite3.Error,)


class Readings:
    """What `sensor-node store` has stored: certain in time, and of real hardware."""

    _QUERY = (
        "SELECT time, value FROM readings WHERE node = ? AND sensor = ? AND channel = ? "
        "AND time >= ? AND synced AND NOT simulated"
    )

    def __init__(self, address: str) -> None:
        """Open `sqlite:FILE` or `postgresql://...`.

        Raises:
            Problem: it cannot be opened.
        """
        self._postgres = address.startswith("postgres")
        try:
            self._connection: Any = _connected(address)
            self._connection.execute("SELECT 1 FROM readings LIMIT 1")
        except _errors() as error:
            raise Problem(f"--from: {str(error).strip()}") from None

    def of(self, entity: Entity, since_s: float) -> list[tuple[float, float]]:
        """Return (time in seconds since 1970, value) of each reading from then on.

        Raises:
            Problem: the database is gone.
        """
        since = datetime.fromtimestamp(since_s, UTC)
        names = (entity.node, entity.sensor, entity.channel)
        try:
            if self._postgres:
                query = self._QUERY.replace("?", "%s")
                rows = self._connection.execute(query, (*names, since))
                return [(moment.timestamp(), value) for moment, value in rows]
            written = since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            rows = self._connection.execute(self._QUERY, (*names, written))
            return [(datetime.fromisoformat(moment).timestamp(), value) for moment, value in rows]
        except _errors() as error:
            raise Problem(f"--from: {str(error).strip()}") from None

    def close(self) -> None:
        self._connection.close()


# -- Home Assistant


class HomeAssistant:
    """Its websocket API (https://developers.home-assistant.io/docs/api/websocket)."""

    def __init__(self, address: str, token: str) -> None:
        url = f"{address.rstrip('/').replace('http', 'ws', 1)}/api/websocket"
        try:
            self._socket: ClientConnection = connect(
                url, open_timeout=_TIMEOUT_S, max_size=None, proxy=None
            )
            self._receive()
            self._socket.send(json.dumps({"type": "auth", "access_token": token}))
            if self._receive()["type"] != "auth_ok":
                raise Problem(
                    "Home Assistant refuses the token: make one on the page of an administrator, "
                    "under Security, Long-lived access tokens"
                )
        except (OSError, ValueError, WebSocketException) as error:
            raise Problem(f"{address}: {error or type(error).__name__}") from None
        self._ids = itertools.count(1)

    def _receive(self) -> Any:
        return json.loads(self._socket.recv(_TIMEOUT_S))

    def ask(self, kind: str, **arguments: Any) -> Any:
        """Return the result of a command.

        Raises:
            Problem: Home Assistant refuses it, or is gone.
        """
        number = next(self._ids)
        try:
            self._socket.send(json.dumps({"id": number, "type": kind, **arguments}))
            while True:
                answer = self._receive()
                if answer.get("id") == number and answer["type"] == "result":
                    break
        except (OSError, WebSocketException) as error:
            raise Problem(f"Home Assistant: {error or type(error).__name__}") from None
        if not answer["success"]:
            raise Problem(f"Home Assistant refuses {kind}: {answer['error']['message']}")
        return answer["result"]

    def entities(self) -> Iterator[Entity]:
        """Yield the entities of all nodes that are values of sensors."""
        for device in self.ask("config/device_registry/list"):
            if device["manufacturer"] == "sensor-node":
                about = self.ask("mqtt/device/debug_info", device_id=device["id"])
                yield from filter(None, map(entity_of, about["entities"]))

    def statistics(self) -> dict[str, dict[str, Any]]:
        """Return entity id -> what Home Assistant says of its statistics, if it keeps them."""
        found = self.ask("recorder/list_statistic_ids", statistic_type="mean")
        return {one["statistic_id"]: one for one in found if one["source"] == "recorder"}

    def hours(self, about: dict[str, Any], since_s: float) -> dict[int, Hour]:
        """Return the hours that it has of an entity, in the unit in which it keeps them."""
        name, kind = about["statistic_id"], about["unit_class"]
        rows = self.ask(
            "recorder/statistics_during_period",
            start_time=datetime.fromtimestamp(since_s, UTC).isoformat(),
            statistic_ids=[name],
            period="hour",
            types=["mean", "min", "max"],
            units={kind: about["statistics_unit_of_measurement"]} if kind else {},
        )
        return {
            row["start"] // 1000: Hour(row["mean"], row["min"], row["max"])
            for row in rows.get(name, ())
            if row["mean"] is not None
        }

    def fill(self, about: dict[str, Any], hours: dict[int, Hour]) -> None:
        """Write hours of an entity, in place of those that it may have of the same time."""
        self.ask(
            "recorder/import_statistics",
            metadata={
                "source": "recorder",
                "statistic_id": about["statistic_id"],
                "name": None,
                "has_sum": False,
                "mean_type": about.get("mean_type", _ARITHMETIC),
                "unit_class": about["unit_class"],
                "unit_of_measurement": about["statistics_unit_of_measurement"],
            },
            stats=[
                {
                    "start": datetime.fromtimestamp(start_s, UTC).isoformat(),
                    "mean": hour.mean,
                    "min": hour.low,
                    "max": hour.high,
                }
                for start_s, hour in sorted(hours.items())
            ],
        )

    def close(self) -> None:
        self._socket.close()


# -- together


def missed_hours(
    entity: Entity, about: dict[str, Any], readings: Readings, hass: HomeAssistant, since_s: int
) -> tuple[dict[int, Hour], int]:
    """Return the hours to be written, and how many of them Home Assistant does not have at all.

    Raises:
        WrongUnit: see `converted`.
        Problem: the database or Home Assistant fails.
    """
    before_s = since_s - entity.valid_s  # the last value before still holds
    unit = about["statistics_unit_of_measurement"] or ""
    ours = hours_of(
        ((at_s, converted(v, entity.unit, unit)) for at_s, v in readings.of(entity, before_s)),
        entity.valid_s,
    )
    theirs = hass.hours(about, since_s)
    settled_s = time.time() - _HOUR_S - _SETTLED_S
    better = {
        start_s: hour
        for start_s, hour in ours.items()
        if since_s <= start_s <= settled_s and is_better(hour, theirs.get(start_s))
    }
    return better, len(better.keys() - theirs.keys())


def fill_all(readings: Readings, hass: HomeAssistant, days: float, *, dry_run: bool) -> int:
    """Fill in what is missing of the last days, and say so; return 1 if an entity has a problem."""
    since_s = int((time.time() - days * 86400) // _HOUR_S) * _HOUR_S
    known = hass.statistics()
    code = filled = 0
    for entity in hass.entities():
        if entity.id not in known:
            continue  # disabled, or left out of the recorder
        try:
            hours, missing = missed_hours(entity, known[entity.id], readings, hass, since_s)
            if hours and not dry_run:
                hass.fill(known[entity.id], hours)
        except WrongUnit as problem:
            print(f"{entity.id}: {problem}", file=sys.stderr)
            code = 1
            continue
        filled += len(hours)
        if hours:
            print(f"{entity.id}: hours filled in: {missing}, replaced: {len(hours) - missing}")
    if not filled and not code:
        print("nothing is missing")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Fill hours that Home Assistant has missed into its long-term statistics, from "
        "the database of `sensor-node store`."
    )
    database = os.environ.get("SENSOR_NODE_STORE")
    parser.add_argument(
        "--from",
        dest="database",
        metavar="DATABASE",
        default=database,
        required=not database,
        help="sqlite:FILE or postgresql://USER@HOST/NAME (default: $SENSOR_NODE_STORE)",
    )
    parser.add_argument(
        "--homeassistant", metavar="URL", required=True, help="as http://homeassistant.local:8123"
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        type=Path,
        required=True,
        help="a file with a long-lived access token of an administrator",
    )
    parser.add_argument("--days", type=float, default=7.0, help="how far back to look (7)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be filled in")
    arguments = parser.parse_args()
    if not arguments.homeassistant.startswith(("http://", "https://")):
        parser.error("--homeassistant: expected http://HOST:8123 or https://HOST")
    try:
        token = arguments.token_file.read_text().strip()
        with (
            closing(Readings(arguments.database)) as readings,
            closing(HomeAssistant(arguments.homeassistant, token)) as hass,
        ):
            return fill_all(readings, hass, arguments.days, dry_run=arguments.dry_run)
    except (Problem, OSError) as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
