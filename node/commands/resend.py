"""`sensor-node resend`: sends history again that the broker once refused for good."""

from __future__ import annotations

import argparse
import os
import sys

from node.cli.arguments import add_state_dir_argument
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.tls import tls_files
from node.mqtt.events import Outgoing
from node.mqtt.leftovers import NoBroker, Visit
from node.outbox.file import OutboxFile
from node.outbox.reader import LOG_TROUBLE
from node.outbox.store import FILE_NAME
from node.system.state_dir import StateDirLock, StateDirTaken, find_state_dir
from node.system.terminal import count, visible

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

HELP = CommandHelp(
    details="""\
Sends the batches of history again that the broker refused for good: with a reading above its size
limit, or a payload that it rejects. They are in the log, and `status` and `health` count them. A
batch that is refused temporarily, for example by a quota or an ACL, is not among them: it waits in
the log, and the node sends it by itself.

Batches that the broker now accepts are removed from the log. A refused value of a retained topic is
not sent, because it would look current. Stop the node first.
""",
    examples={
        "sudo sensor-node resend": "after sudo systemctl stop sensor-node",
    },
    exit_codes={
        0: "everything was accepted, or there was nothing to send",
        1: "something was refused again, the node runs, or the broker does not answer",
    },
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_state_dir_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Send, and remove what was taken; exit code 1 if something is left."""
    config = configuration.load(configuration.find_file(arguments.config))
    state_dir = find_state_dir(arguments.state_dir)
    file = state_dir / FILE_NAME
    if not file.exists():
        print(f"there is no log in {state_dir}", file=sys.stderr)
        return 1
    try:
        StateDirLock(state_dir).hold()
        log = OutboxFile(file)
    except StateDirTaken as error:
        print(error, file=sys.stderr)
        return 1
    except LOG_TROUBLE as error:
        print(f"{file} cannot be used: {error}", file=sys.stderr)
        return 1
    tls = tls_files(config.mqtt.tls)
    visit = Visit(config.mqtt, tls, f"snresend{os.urandom(4).hex()}")
    try:
        return _resend(log, visit)
    except NoBroker as error:
        print(f"{config.mqtt.address}: {error}", file=sys.stderr)
        return 1
    finally:
        log.close()


def _resend(log: OutboxFile, visit: Visit) -> int:
    letters = [(n, letter) for n, letter in log.dead_letters() if letter.topic.endswith("/history")]
    if not letters:
        print("the broker has not refused any history")
        return 0
    visit.begin()
    try:
        messages = [Outgoing(letter.topic, letter.payload, retain=False) for _, letter in letters]
        refused = visit.publish(messages)
    finally:
        visit.close()
    taken = [number for index, (number, _) in enumerate(letters) if index not in refused]
    log.remove_dead_letters(taken)
    for index, why in sorted(refused.items()):
        print(f"{visible(letters[index][1].topic)} was refused again: {why}", file=sys.stderr)
    print(f"the broker has accepted {len(taken)} of {count(letters, 'message')}")
    return 1 if refused else 0
