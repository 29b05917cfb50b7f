"""`sensor-node verify`: checks the chain of hashes of a log, or of an export."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from node.cli.arguments import add_state_dir_argument
from node.cli.help_text import CommandHelp
from node.outbox.proof import Head, Stored, Verdict, check_export, check_log, stored_from
from node.outbox.reader import LOG_TROUBLE, open_log, why_not
from node.outbox.store import FILE_NAME
from node.system.state_dir import find_state_dir
from node.system.terminal import count, visible

if TYPE_CHECKING:  # imported with --signature
    from node.outbox.signature import Statement

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_SHOWN = 10
"""How many faults are printed."""


HELP = CommandHelp(
    details="""\
Checks that no reading was altered, removed or put in: with [outbox] chain = true each reading has a
hash that covers it and the hash before it. Without FILE it checks the log of the node on this
machine. FILE is a copy of a log (*.db), the CSV of the status page, or lines of JSON: the messages
of B/N/history as a consumer has stored them, or what watch --history --json prints. - is standard
input.

Who can write the file could make all its hashes again. --head SEQ:HASH compares it with a hash that
you have from elsewhere: chain_seq and chain_hash of B/N/health. --signature SIGNED compares it with
a head that the node has signed: the answer to the command sign, or what sensor-node sign prints.
PUBLIC is the public key, which you have kept since sensor-node sign --public-key printed it.
""",
    examples={
        "sudo sensor-node verify": "the log of the service",
        "sensor-node verify history.jsonl --head 1042:8f3c6cfa3823d6": "what a consumer has stored",
        "sudo sensor-node verify --signature head.json --key node.pub": "a signed head",
    },
    exit_codes={
        0: "every reading that has a hash is as it was",
        1: "a reading was altered or is missing, or nothing can be checked",
    },
    without=(78,),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="a log, CSV, or lines of JSON")
    known = parser.add_mutually_exclusive_group()
    known.add_argument(
        "--head", metavar="SEQ:HASH", type=_head, help="a hash that is known from elsewhere"
    )
    known.add_argument("--signature", metavar="SIGNED", help="a file with a signed head")
    parser.add_argument("--key", metavar="PUBLIC", help="the file of the public key")
    parser.add_argument("--nonce", help="the one that the signature must have")
    add_state_dir_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _head(text: str) -> Head:
    try:
        return Head.parse(text)
    except ValueError:
        raise argparse.ArgumentTypeError("expected SEQ:HASH, as 1042:8f3c6cfa3823d6") from None


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; exit code 1 if something is wrong, or nothing could be checked."""
    if (arguments.signature is None) != (arguments.key is None) or (
        arguments.nonce is not None and arguments.signature is None
    ):
        print("--signature and --key belong together, and --nonce to both", file=sys.stderr)
        return 2
    signed: Statement | None = None
    try:
        if arguments.signature is not None:
            signed = _signed(arguments)
            if not arguments.json:
                print(_signature_text(signed), flush=True)
        verdicts = _verdicts(arguments, signed)
    except LOG_TROUBLE as error:
        print(why_not(_log_of(arguments), error), file=sys.stderr)
        return 1
    except _Unreadable as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        found: dict[str, Any] = {"streams": verdicts}
        if signed is not None:
            found["signature"] = signed
        print(msgspec.json.encode(found).decode())
    else:
        for stream, verdict in verdicts.items():
            print(_as_text(stream, verdict))
    sound = all(not v.faults for v in verdicts.values())
    return 0 if sound and any(v.checked for v in verdicts.values()) else 1


class _Unreadable(Exception):
    """A file cannot be read, or is not what it should be."""


def _signed(arguments: argparse.Namespace) -> Statement:
    """Return what was signed.

    Raises:
        _Unreadable: a file cannot be read, or the signature is not right.
    """
    from node.outbox.signature import Signed
    from node.system.ed25519 import KeyTrouble

    content, public = _content(arguments.signature), _content(arguments.key)
    try:
        statement = msgspec.json.decode(content, type=Signed).checked(public)
    except KeyTrouble as error:
        raise _Unreadable(f"WRONG: {arguments.key}: {error}") from error
    except ValueError as error:
        raise _Unreadable(f"{arguments.signature} is not a signed head: {error}") from error
    if arguments.nonce not in (None, statement.nonce):
        raise _Unreadable(
            f"WRONG: the signature answers the nonce {visible(statement.nonce)}, and not "
            f"{visible(arguments.nonce)}: it was made for another request"
        )
    return statement


def _content(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _Unreadable(f"{name} cannot be read: {reason}") from error


def _signature_text(signed: Statement) -> str:
    when = f"at {visible(signed.time)} (clock {visible(signed.clock)})"
    return (
        f"signed by {visible(signed.node)} with the key {visible(signed.key)} {when}, for the "
        f"nonce {visible(signed.nonce)}"
    )


def _log_of(arguments: argparse.Namespace) -> Path:
    if arguments.file:
        return Path(arguments.file)
    return Path(find_state_dir(arguments.state_dir)) / FILE_NAME


def _verdicts(arguments: argparse.Namespace, signed: Statement | None) -> dict[str, Verdict]:
    """Return stream -> what was found."""
    name = arguments.file
    head = arguments.head if signed is None else signed.head
    if name is None or name.endswith(".db"):
        with open_log(_log_of(arguments)) as log:
            if signed is not None and (found := log.streams.of(signed.seq)) != signed.stream:
                raise _other_stream(signed, found)
            return {log.stream: check_log(log, head)}
    try:
        if name == "-":
            stored = list(_stored_in(sys.stdin))
        else:
            with Path(name).open(encoding="utf-8", newline="") as text:
                stored = list(_stored_in(text))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise _Unreadable(f"{name} cannot be read: {reason}") from error
    if not stored:
        raise _Unreadable(f"{name} has no readings")
    by_stream: dict[str, list[Stored]] = {}
    for one in stored:
        by_stream.setdefault(one.stream, []).append(one)
    named = stored[-1].stream if signed is None else signed.stream
    if list(by_stream) == [""]:
        named = ""  # the CSV does not say which stream it is of
    if named not in by_stream:
        assert signed is not None
        raise _other_stream(signed, ", ".join(by_stream))
    return {
        stream: check_export(readings, head if stream == named else None)
        for stream, readings in by_stream.items()
    }


def _other_stream(signed: Statement, found: str) -> _Unreadable:
    return _Unreadable(
        f"WRONG: the signature is of the stream {visible(signed.stream)}, which is not in it, but "
        f"{visible(found, 200)}"
    )


def _stored_in(text: TextIO) -> Iterator[Stored]:
    """Yield the readings of an export.

    Raises:
        _Unreadable: a line is neither.
    """
    first = text.readline()
    if first.startswith("seq,"):
        yield from _stored_in_csv(csv.DictReader(text, first.strip().split(",")))
        return
    number = 0
    for number, line in enumerate(_all_lines(first, text), start=1):
        if not line.strip():
            continue
        try:
            content = msgspec.json.decode(line)
            items = content.get("readings", [content])
            for item in items:
                yield stored_from(str(content.get("stream", "")), item)
        except (ValueError, AttributeError, TypeError) as error:
            raise _Unreadable(f"line {number} is not a reading: {error}") from error


def _all_lines(first: str, rest: TextIO) -> Iterator[str]:
    yield first
    yield from rest


def _stored_in_csv(rows: Iterable[dict[str, Any]]) -> Iterator[Stored]:
    """Yield the readings of the status page's CSV, which has a line for each value."""
    item: dict[str, Any] = {}
    for number, row in enumerate(rows, start=2):
        try:
            if item and row["seq"] != item["seq"]:
                yield stored_from("", item)
                item = {}
            if not item:
                item = {key: row[key] for key in ("seq", "sensor", "time", "clock", "hash")}
                item["values"] = {"hash": item.pop("hash")}
            item["values"][row["channel"]] = msgspec.json.decode(row["value"])
        except (KeyError, TypeError, ValueError) as error:
            raise _Unreadable(f"line {number} is not a value of a chained log: {error}") from error
    if item:
        yield stored_from("", item)


def _as_text(stream: str, verdict: Verdict) -> str:
    named = f"stream {visible(stream, 40)}: " if stream else ""
    if verdict.first is None:
        return f"{named}no readings"
    span = f"{named}readings {verdict.first} to {verdict.last}"
    lines = [f"{span}: {count(range(verdict.checked), 'reading')} as written"]
    if verdict.unchained:
        lines.append(f"  {verdict.unchained} not covered: no hash before them is known")
    if verdict.timeless:
        lines.append(
            f"  {verdict.timeless} were taken before the clock was set: their times are not"
        )
        lines[-1] += " covered"
    if verdict.skipped:
        lines.append(f"  {verdict.skipped} numbers were never in the log, as the chain shows")
    if verdict.head_seen and not verdict.faults:
        lines.append("  the hash that is known from elsewhere is among theirs")
    lines += [f"  WRONG: {visible(fault, 500)}" for fault in verdict.faults[:_SHOWN]]
    if len(verdict.faults) > _SHOWN:
        lines.append(f"  WRONG: and {len(verdict.faults) - _SHOWN} more")
    if not verdict.checked and not verdict.faults:
        lines.append("  nothing could be checked: set [outbox] chain = true")
    return "\n".join(lines)
