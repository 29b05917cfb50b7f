"""The keys by which Home Assistant knows the sensors, so that a renamed sensor stays the same one.

A sensor that gets another `id` in the configuration but keeps its wiring keeps its key. So does one
that keeps its `id` but is wired elsewhere, or replaced. The keys are in `identities.json` in the
state directory, which is written when they change.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from node.config.schema import SensorTable
from node.system.safe_files import write_file
from node.system.state_dir import make_state_dir

__all__ = ["sensor_keys"]

_log = logging.getLogger(__name__)

FILE_NAME = "identities.json"


class _Known(msgspec.Struct, frozen=True):
    """One sensor of the last configuration."""

    id: str
    driver: str
    where: str
    key: str


def sensor_keys(sensors: Sequence[SensorTable], state_dir: Path | None) -> dict[str, str]:
    """Return sensor id -> key; a key is unique in the node, and a valid part of a topic.

    Without a state directory, every key is the id.
    """
    if state_dir is None:
        return {sensor.id: sensor.id for sensor in sensors}
    file = state_dir / FILE_NAME
    before = _read(file)
    now = _assign(sensors, before)
    if now != before:
        _write(file, now)
    return {known.id: known.key for known in now}


def _assign(sensors: Sequence[SensorTable], before: list[_Known]) -> list[_Known]:
    key_of = {known.id: known.key for known in before}
    ids = {sensor.id for sensor in sensors}
    gone = [known for known in before if known.id not in ids]
    for sensor in sensors:
        if sensor.id in key_of:
            continue
        place = (sensor.driver, sensor.options.where())
        same = next((known for known in gone if (known.driver, known.where) == place), None)
        if same is not None:
            gone.remove(same)
            key_of[sensor.id] = same.key
            _log.info("%s is the sensor formerly named %s", sensor.id, same.id)
    for sensor in sensors:
        if sensor.id not in key_of:
            key_of[sensor.id] = _unused(sensor.id, set(key_of.values()))
    return [_Known(s.id, s.driver, s.options.where(), key_of[s.id]) for s in sensors]


def _unused(key: str, taken: set[str]) -> str:
    number = 1
    candidate = key
    while candidate in taken:
        number += 1
        candidate = f"{key}-{number}"
    return candidate


def _read(file: Path) -> list[_Known]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[_Known])
    except FileNotFoundError:
        return []
    except (OSError, msgspec.DecodeError) as error:
        _log.warning(
            "%s cannot be read (%s); a sensor with a new id will be a new one", file, error
        )
        return []


def _write(file: Path, known: list[_Known]) -> None:
    try:
        make_state_dir(file.parent)
        write_file(file, msgspec.json.encode(known), mode=0o640)
    except OSError as error:
        _log.warning(
            "%s cannot be written (%s); a sensor with a new id will be a new one", file, error
        )
