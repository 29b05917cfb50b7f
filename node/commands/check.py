"""`sensor-node check`: validates the configuration, and lists what would be published where."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

import msgspec

from node.cli.arguments import add_state_dir_argument
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.schema import DEFAULT_RECONNECT_SPREAD, Config
from node.report.topic_list import published_topics, received_topics
from node.sensors.board import bare_board
from node.sensors.obstacles import obstacles
from node.system.node_ids import device_id
from node.system.state_dir import find_state_dir
from node.system.terminal import count, table
from node.units import duration_text

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_WIDTH = 80
_NARROWEST = 24


HELP = CommandHelp(
    details="""\
Reads the configuration as the node would, and lists every mistake with its line. If there are
none, it lists the topics that the node would publish, their content, and the topics that it would
subscribe to. It connects to nothing and touches no hardware.

Notes point out settings that are valid but will not work on this computer: a missing package, a
bus that is switched off, a pin that 1-Wire uses, a path that may be another device's after a boot.
""",
    examples={
        "sensor-node check node.toml": "before a restart",
        "sudo sensor-node check --json | jq -r '.topics[].topic'": "only the topics",
    },
    exit_codes={0: "the configuration is valid"},
    without=(1,),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="the same as --config FILE")
    add_state_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the topics. Problems are reported as for every command, with exit code 78."""
    if arguments.file and arguments.config:
        print("name one file: FILE or --config FILE", file=sys.stderr)
        return 2
    source = configuration.find_file(arguments.file or arguments.config)
    try:
        config = configuration.load(source)
    except configuration.ConfigError as error:
        if arguments.json:
            print(_as_json({"ok": False, "file": str(source), "problems": error.problems}))
        raise
    device = device_id(find_state_dir(arguments.state_dir))
    published, received = published_topics(config, device), received_topics(config, device)
    notes = [*config.remarks, *config.notes_for(simulate=False)]
    notes += map(str, obstacles(config, bare_board(simulate=False)))
    if arguments.json:
        report = {
            "ok": True,
            "file": str(source),
            "node": config.node.name,
            "broker": config.mqtt.address,
            "device": device,
            "topics": [{"topic": topic, "content": content} for topic, content in published],
            "received": [{"topic": topic, "content": content} for topic, content in received],
            "notes": notes,
        }
        print(_as_json(report))
    else:
        print(f"{source}: valid\n")
        print(f"{_summary(config)}\n")
        print(_as_text([("TOPIC (all but history retained)", "CONTENT"), *published]))
        print()
        print(_as_text([("LISTENS TO", "FOR"), *received]))
        for note in notes:
            print(_folded(note))
    return 0


def _as_text(rows: list[tuple[str, str]]) -> str:
    """Return two columns, the second one folded; or one below the other if topics are too long."""
    room = _WIDTH - max(len(topic) for topic, _ in rows) - 2
    if room < _NARROWEST:
        return "\n".join(f"{topic}\n    {content}" for topic, content in rows)
    folded: list[tuple[str, str]] = []
    for topic, content in rows:
        first, *others = textwrap.wrap(content, room)
        folded += [(topic, first), *(("", line) for line in others)]
    return table(folded)


def _folded(note: str) -> str:
    return textwrap.fill(
        f"note: {note}",
        _WIDTH,
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _as_json(report: dict[str, Any]) -> str:
    return msgspec.json.encode(report).decode()


def _summary(config: Config) -> str:
    mqtt = config.mqtt
    version = "5, else 3.1.1" if mqtt.protocol == "auto" else mqtt.protocol
    login = f'login "{mqtt.username}"' if mqtt.username else "no login"
    secure = "TLS" if mqtt.tls else "no TLS"
    lines = [
        f"node     {config.node.name}, {count(config.sensors, 'sensor')}",
        f"broker   {mqtt.address}, MQTT {version}, {login}, {secure}",
    ]
    if mqtt.reconnect_spread > DEFAULT_RECONNECT_SPREAD:
        spread = duration_text(mqtt.reconnect_spread)
        lines.append(f"         connected again within {spread} of the broker's return")
    if mqtt.servers is not None:
        named = ", ".join(mqtt.servers) or "none"
        lines.append(f"         other servers that it may send the node to: {named}")
    return "\n".join(lines)
