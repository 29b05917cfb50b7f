"""`sensor-node sign`: signs the head of the log's chain, for an auditor."""

from __future__ import annotations

import argparse
import re
import secrets
import sys
from pathlib import Path

import msgspec

from node.cli.arguments import add_state_dir_argument
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.outbox.chain import NONCE
from node.outbox.log_file import LogFile
from node.outbox.reader import LOG_TROUBLE, look_into, why_not
from node.outbox.signature import make_key, signed_head
from node.outbox.store import FILE_NAME
from node.system.clock import SystemClock
from node.system.ed25519 import KeyTrouble
from node.system.state_dir import find_state_dir

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

HELP = CommandHelp(
    details="""\
Signs the newest hash of the log's chain ([outbox] chain = true), with the node, the reading, the
time and a nonce, and prints that with the signature as one line of JSON, for sensor-node verify
--signature. The node may run meanwhile. Over MQTT, the command sign gives the same.

--public-key makes the pair of keys, where there is none yet, and prints the public one: keep it
apart from the node. The private one stays in the state directory.
""",
    examples={
        "sudo sensor-node sign --public-key > greenhouse.pub": "once, when the node is set up",
        "sudo sensor-node sign --nonce 8f3c6cfa > head.json": "when an auditor asks",
    },
    exit_codes={1: "there is no key or no chain, or the log cannot be read"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--nonce", type=_nonce, help="a text that the auditor has chosen (default: a random one)"
    )
    what.add_argument(
        "--public-key", action="store_true", help="print the public key; make the pair if needed"
    )
    add_state_dir_argument(parser)


def _nonce(text: str) -> str:
    if not re.fullmatch(NONCE, text):
        raise argparse.ArgumentTypeError("expected 1 to 128 letters, digits or any of +/=_.:-")
    return text


def run(arguments: argparse.Namespace) -> int:
    """Print the signed head, or the public key; exit code 1 if there is none."""
    state_dir = find_state_dir(arguments.state_dir)
    try:
        if arguments.public_key:
            print(_public_key(state_dir), end="")
        else:
            print(_signed(arguments, state_dir))
    except KeyTrouble as error:
        print(error, file=sys.stderr)
        return 1
    except LOG_TROUBLE as error:
        print(why_not(state_dir / FILE_NAME, error), file=sys.stderr)
        return 1
    return 0


def _public_key(state_dir: Path) -> str:
    """Return the public key in PEM, and make the pair if there is none.

    Raises:
        KeyTrouble: that is not possible.
    """
    try:
        return make_key(state_dir)
    except OSError as error:
        raise KeyTrouble(
            f"a key cannot be written into {state_dir}: {error.strerror}; it is the folder of the "
            "node's log, and belongs to the node's user: use sudo, or name it with --state-dir"
        ) from error


def _signed(arguments: argparse.Namespace, state_dir: Path) -> str:
    """Return the signed head as JSON.

    Raises:
        KeyTrouble: there is no key, or nothing is chained.
        One of LOG_TROUBLE.
    """
    config = configuration.load(configuration.find_file(arguments.config))

    def newest(log: LogFile) -> tuple[str, tuple[int, bytes]] | None:
        head = log.anchors.head_at(log.ledger.last_seq)
        return None if head is None else (log.streams.of(head[0]), head)

    found = look_into(state_dir / FILE_NAME, newest)
    if found is None:
        raise KeyTrouble("the log has no chained reading: set [outbox] chain = true")
    clock = SystemClock()
    signed = signed_head(
        state_dir,
        node=config.node.name,
        stream=found[0],
        head=found[1],
        nonce=arguments.nonce or secrets.token_hex(8),
        utc_ms=round(clock.utc_s() * 1000),
        synced=clock.synced(),
    )
    return msgspec.json.encode(signed).decode()
