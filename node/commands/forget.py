"""`sensor-node forget`: removes the retained topics that a former node left at the broker."""

from __future__ import annotations

import argparse
import os
import sys

from node.cli.arguments import node_name
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.tls import tls_files
from node.mqtt.leftovers import Leftovers, NoBroker
from node.system.terminal import count, table, visible
from node.topics import ONLINE, Topics

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_LONGEST = 40

HELP = CommandHelp(
    details="""\
Lists the broker's retained topics of a node, asks for confirmation, and deletes them: its status,
its health, the topics of its sensors, and its device in Home Assistant. Use it for a node that will
not come back. A running node would publish everything again, and a node that was renamed or has
other sensors removes its former topics by itself.

The broker and the login come from the configuration; the login must be allowed to read and write
the topics of that node. If the status of the node is online, the command asks twice; with --yes it
then leaves the node alone.
""",
    examples={
        "sudo sensor-node forget greenhouse": "list, ask, and remove",
        "sudo sensor-node forget greenhouse --yes": "for scripts",
    },
    exit_codes={
        0: "removed, or there was nothing to remove",
        1: "not removed: the answer was no, the node is online, or the broker refused",
    },
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", type=node_name, metavar="NODE", help="the name of the node")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """List, ask, remove; exit code 1 if something is left."""
    config = configuration.load(configuration.find_file(arguments.config))
    mqtt, prefix = config.mqtt, config.homeassistant.prefix
    topics = Topics(mqtt.base_topic, arguments.node)
    client = f"snforget{os.urandom(4).hex()}"
    filters = [f"{topics.root}/#", f"{prefix}/device/+/config", f"{prefix}/+/+/+/config"]
    tls = tls_files(mqtt.tls)
    leftovers = Leftovers(mqtt, tls, client, filters)
    try:
        found = {
            topic: payload
            for topic, payload in leftovers.find().items()
            if topic.startswith(f"{topics.root}/") or _is_of(topics, payload)
        }
        return _forget(leftovers, topics, found, yes=arguments.yes)
    except NoBroker as error:
        print(f"{mqtt.address}: {error}", file=sys.stderr)
        return 1
    finally:
        leftovers.close()


def _is_of(topics: Topics, payload: bytes) -> bool:
    """Return whether a discovery message is about the node: it contains its status, in quotes."""
    return f'"{topics.status}"'.encode() in payload


def _forget(leftovers: Leftovers, topics: Topics, found: dict[str, bytes], *, yes: bool) -> int:
    if not found:
        print(f"the broker has no retained topics of {topics.root}")
        return 0
    rows = [(visible(topic), _content(payload)) for topic, payload in sorted(found.items())]
    print(table([("TOPIC", "CONTENT"), *rows]))
    print()
    is_online = found.get(topics.status) == ONLINE
    if is_online:
        print(
            f"{topics.node} is online, as far as the broker knows. A node that runs publishes all "
            "of this again: stop it first. One that was cut off is noticed after one and a half "
            "keepalives.",
            file=sys.stderr,
        )
    if yes and is_online:
        return 1
    if not yes and not _agreed(f"Remove {count([*found], 'message')}"):
        return 1
    refused = leftovers.remove(found)
    for topic, why in sorted(refused.items()):
        print(
            f"{visible(topic)} was not removed: {why}; allow this login to write there, in the "
            "broker's ACL",
            file=sys.stderr,
        )
    print(f"removed {len(found) - len(refused)} of {count([*found], 'message')}")
    return 1 if refused else 0


def _content(payload: bytes) -> str:
    text = visible(payload.decode("utf-8", "replace"))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def _agreed(question: str) -> bool:
    print(f"{question}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
