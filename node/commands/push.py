"""`sensor-node push`: brings a signed bundle to a node over MQTT."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from node.cli.arguments import node_name
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.schema import MqttTable
from node.config.tls import tls_files
from node.mqtt.leftovers import NoBroker, Visit
from node.system.terminal import is_plain, visible
from node.topics import Topics
from node.updates.bundle_file import NotABundle, read_offer
from node.updates.request import Offer
from node.updates.sender import Answer, Refused, Sender, Silent, filters

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

HELP = CommandHelp(
    details="""\
Sends a bundle and its signature, BUNDLE.minisig, to a node over MQTT, waits until the node has
installed it and tried it, and says whether the new version was kept. About 5 MB arrive in a minute,
and the node goes on reading its sensors. The node needs a key of the publisher, in its folder
/etc/sensor-node/update-keys or in update-keys on the card of an image, and verifies the signature.

Nothing is lost if this command, the node or the broker is interrupted: start the command again, and
it goes on where it was. Without a piece for an hour, the node gives up.

The broker and the login come from the configuration; the login must be allowed to publish to the
commands of that node, as that of an operator is.
""",
    examples={
        "sensor-node push greenhouse new.bundle --config operator.toml": (
            "send new.bundle with new.bundle.minisig, and wait for the end"
        ),
        "sudo sensor-node push greenhouse new.bundle --fetch": (
            "the same, but the node fetches new.bundle from its [update] url"
        ),
    },
    exit_codes={
        0: "the new version was kept; with --offer: it is offered",
        1: "it was undone or refused, it failed, or how it ended is not known",
    },
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", type=node_name, metavar="NODE", help="the name of the node")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the file of the bundle")
    parser.add_argument(
        "--fetch",
        action="store_true",
        help="have the node fetch the file, by its name, from [update] url of its configuration",
    )
    parser.add_argument(
        "--offer",
        action="store_true",
        help="only offer it, so that somebody presses Install in Home Assistant",
    )


def run(arguments: argparse.Namespace) -> int:
    """Bring the bundle to the node; exit code 0 if its version was kept."""
    mqtt = configuration.load(configuration.find_file(arguments.config)).mqtt
    try:
        offer = read_offer(arguments.bundle, fetch=arguments.fetch, offer=arguments.offer)
    except NotABundle as error:
        print(error, file=sys.stderr)
        return 1
    topics = Topics(mqtt.base_topic, arguments.node)
    visit = Visit(mqtt, tls_files(mqtt.tls), f"snpush{os.urandom(4).hex()}", filters(topics))
    progress = _Progress(topics.node, offer)
    sender = Sender(visit, topics, arguments.bundle, offer, show=progress.show, waits=progress.wait)
    try:
        about = f"{_megabytes(offer.size)}, version {offer.version}"
        progress.say(f"{arguments.bundle.name} ({about}) is for {topics.node}")
        try:
            answer = sender.send()
        finally:
            progress.clear()
        return _ended(answer, topics, offer)
    except NoBroker as error:
        print(f"{mqtt.address}: {error}", file=sys.stderr)
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"{arguments.bundle} cannot be read any more: {error.strerror}", file=sys.stderr)
    except Silent as error:
        print(f"given up: {visible(str(error))}{progress.so_far}", file=sys.stderr)
    except Refused as error:
        print(_refusal(str(error), mqtt, topics), file=sys.stderr)
    except KeyboardInterrupt:
        print(f"\n{_interrupted(progress.newest, mqtt, topics)}", file=sys.stderr)
    finally:
        visit.close()
    return 1


def _ended(answer: Answer, topics: Topics, offer: Offer) -> int:
    state = "" if answer.state == "idle" else f"{visible(answer.state)}: "
    said = f"{topics.node}: {state}{visible(answer.text, 600)}"
    if answer.state == "offered":
        print(said)
        if offer.file is None:
            print("When Install was pressed, run this command again without --offer: it sends it.")
        return 0
    is_kept = answer.state == "kept"
    print(said, file=sys.stdout if is_kept else sys.stderr)
    return 0 if is_kept else 1


def _refusal(error: str, mqtt: MqttTable, topics: Topics) -> str:
    said = f"{topics.node} refuses it: {visible(error, 600)}"
    if error.startswith("unknown command"):
        return (
            f"{said}\nIt takes no bundle without a key: put the publisher's update.pub into "
            "/etc/sensor-node/update-keys on it (update-keys on the card of an image), and "
            "restart it."
        )
    return f"{said}\n{_how_to_cancel(mqtt, topics)}" if "cancel" in error else said


def _interrupted(newest: Answer | None, mqtt: MqttTable, topics: Topics) -> str:
    """Return what an interruption leaves, and what can be done."""
    node, state = topics.node, newest.state if newest is not None else ""
    if newest is None or not newest.in_progress:
        return f"interrupted; {node} has not begun an update"
    if state == "receiving":
        text = f"{node} keeps what has come for an hour. To go on, start the command again."
    else:
        text = f"{node} goes on without this command ({state}); `update` in its health says how."
    if state in ("receiving", "fetching", "staged"):
        text += f"\n{_how_to_cancel(mqtt, topics)}"
    return text


def _how_to_cancel(mqtt: MqttTable, topics: Topics) -> str:
    where = f"-h {mqtt.host} -p {mqtt.broker_port} -t {shlex.quote(topics.command('update'))}"
    return f"To cancel it, with your login: mosquitto_pub {where} -m cancel"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


class _Progress:
    """Says how far it is: on one line of a terminal, else now and then, on standard error."""

    def __init__(self, node: str, offer: Offer) -> None:
        self._node = node
        self._offer = offer
        self._is_live = not is_plain(sys.stderr)
        self._percent = -1
        self._said = ""
        self.newest: Answer | None = None
        """What the node has said last about this bundle."""

    def show(self, answer: Answer) -> None:
        """Show what a node says, if it is about this bundle."""
        if answer.state:
            self.newest = answer if answer.bundle == self._offer.bundle else None
            if self.newest is None:
                return
        if answer.state in ("", "receiving", "fetching"):
            self._show_percent(answer.received * 100 // self._offer.size)
        elif answer.in_progress:
            self.say(f"{self._node}: {answer.state}: {visible(answer.text, 600)}")

    def _show_percent(self, percent: int) -> None:
        self._said = ""
        if self._is_live:
            # The cursor stands at the beginning, so that a line of the log overwrites it.
            text = f"\x1b[K{self._node}: {percent} % of {_megabytes(self._offer.size)}\r"
            print(text, end="", file=sys.stderr, flush=True)
        elif percent // 10 != self._percent // 10:
            self._percent = percent
            print(f"{self._node}: {percent} %", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the percentage off the terminal, for the last line."""
        if self._is_live:
            print("\x1b[K", end="", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Say something, once."""
        if text != self._said:
            self._said = text
            start = "\x1b[K" if self._is_live else ""
            print(f"{start}{text}", file=sys.stderr, flush=True)

    def wait(self, why: str) -> None:
        """Say that the node is waited for."""
        self.say(f"{visible(why)}; waiting for it")

    @property
    def so_far(self) -> str:
        """Return what remains at the node, for a sentence that says why it ends."""
        if self.newest is None or not self.newest.in_progress:
            return ""
        return f"; it was {self.newest.state}, and goes on if the command is started again"
