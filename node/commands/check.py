"""`sensor-node check`: is the configuration right, and what would be published where."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from node import config as configuration
from node.messages import Topics
from node.schema import Config, SensorTable
from node.terminal import count, table
from node.units import duration_text

__all__ = ["add_arguments", "run"]

# ruff: noqa: T201

_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the topics; problems go the way of every command's, with exit code 78."""
    source = configuration.find_file(arguments.config)
    try:
        config = configuration.load(source)
    except configuration.ConfigError as error:
        if arguments.json:
            print(_as_json({"ok": False, "file": str(source), "problems": error.problems}))
        raise
    topics = published_topics(config)
    if arguments.json:
        report = {
            "ok": True,
            "file": str(source),
            "node": config.node.name,
            "broker": config.mqtt.address,
            "topics": [{"topic": topic, "content": content} for topic, content in topics],
            "notes": config.notes_for(simulate=False),
        }
        print(_as_json(report))
    else:
        print(f"{source}: valid\n")
        print(f"{_summary(config)}\n")
        print(_as_text([("TOPIC (all but history retained)", "CONTENT"), *topics]))
        for note in config.notes_for(simulate=False):
            print(f"note: {note}")
    return 0


def _as_text(rows: list[tuple[str, str]]) -> str:
    """A table; with the content below the topics, where they do not fit side by side."""
    text = table(rows)
    if max(map(len, text.splitlines())) <= _WIDTH:
        return text
    return "\n".join(f"{topic}\n    {content}" for topic, content in rows[1:])


def _as_json(report: dict[str, Any]) -> str:
    return msgspec.json.encode(report).decode()


def _summary(config: Config) -> str:
    mqtt = config.mqtt
    version = "5, else 3.1.1" if mqtt.protocol == "auto" else mqtt.protocol
    login = f'login "{mqtt.username}"' if mqtt.username else "no login"
    secure = "TLS" if mqtt.tls else "no TLS"
    return (
        f"node     {config.node.name}, {count(config.sensors, 'sensor')}\n"
        f"broker   {mqtt.address}, MQTT {version}, {login}, {secure}"
    )


def published_topics(config: Config) -> list[tuple[str, str]]:
    """Every topic that the node publishes on, and what stands there."""
    topics = Topics(config.mqtt.base_topic, config.node.name)
    rows = [(topics.status, "online, offline")]
    for sensor in config.sensors:
        rows.append((topics.availability(sensor.id), "online, offline"))
        rows += _reading_topics(config, sensor, topics)
    interval = duration_text(config.outbox.history_interval)
    rows.append((topics.history, f"every reading, in batches, every {interval}"))
    rows.append((topics.health, "the node itself, every minute"))
    return rows


def _reading_topics(config: Config, sensor: SensorTable, topics: Topics) -> list[tuple[str, str]]:
    every = f"every {duration_text(sensor.interval)}"
    units = {
        channel.name: sensor.channel[channel.name].unit or channel.unit
        if channel.name in sensor.channel
        else channel.unit
        for channel in sensor.info.channels_with(sensor.options)
    }
    rows = []
    if config.mqtt.payload != "plain":
        channels = ", ".join(f"{name} {unit}" for name, unit in units.items())
        more = ", whatever else the folder has" if sensor.info.more_channels else ""
        rows.append((topics.state(sensor.id), f"{channels}{more}, {every}"))
    if config.mqtt.payload != "json":
        rows += [(topics.channel(sensor.id, name), f"{u}, {every}") for name, u in units.items()]
        if sensor.info.more_channels:
            rows.append((topics.channel(sensor.id, "..."), "whatever else the folder has"))
    return rows
