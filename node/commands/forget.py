"""`sensor-node forget`: removes what a node that is gone has left at the broker."""

from __future__ import annotations

import argparse
import os
import re
import sys

from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.tls import TlsFiles
from node.mqtt.leftovers import Leftovers, NoBroker
from node.system.terminal import count, table, visible
from node.topics import ONLINE, Topics

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_LONGEST = 40

HELP = CommandHelp(
    details="""\
Lists what the broker has retained of a node, asks, and then empties it: its status, health, the
topics of its sensors, and its device in Home Assistant. That is for a node that will not come back:
one that runs publishes all of it again, and one that has another name or other sensors by now
removes by itself what it published before.

The broker and the login are those of the configuration; the login has to be allowed to read and to
write the topics of that node. A node whose status is online is asked about twice, and left alone
with --yes.
""",
    examples={
        "sudo sensor-node forget greenhouse": "list, ask, and remove",
        "sudo sensor-node forget greenhouse --yes": "for scripts",
    },
    exit_codes={
        0: "removed, or there was nothing",
        1: "not removed: the answer was no, the node is online, or the broker refuses",
    },
)


def _node(written: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", written):
        raise argparse.ArgumentTypeError("a node's name has letters, digits, _ and - alone")
    return written


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", type=_node, metavar="NODE", help="the name of the node")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def run(arguments: argparse.Namespace) -> int:
    """List, ask, remove; exit code 1 if something is left."""
    config = configuration.load(configuration.find_file(arguments.config))
    mqtt, prefix = config.mqtt, config.homeassistant.prefix
    topics = Topics(mqtt.base_topic, arguments.node)
    client = f"snforget{os.urandom(4).hex()}"
    filters = [f"{topics.root}/#", f"{prefix}/device/+/config", f"{prefix}/+/+/+/config"]
    tls = None if mqtt.tls is None else TlsFiles(mqtt.tls)
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
    """Whether a discovery message speaks of the node: its status is in it, in quotes."""
    return f'"{topics.status}"'.encode() in payload


def _forget(leftovers: Leftovers, topics: Topics, found: dict[str, bytes], *, yes: bool) -> int:
    if not found:
        print(f"the broker has nothing retained of {topics.root}")
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
