"""Writes the configuration file after a trial that went well.

The node does it itself where it may write the file. As a service it may not: it leaves a request
in its state directory, and `sensor-node-config.service` runs this module as root:

    python -I -m node.config.afar.place REQUEST FILE

Root trusts nothing in the request. The node's user can write anything into it, so the file's own
`[commands]` and the rules for changes from afar are looked at again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from pathlib import Path

import msgspec

from node.config import load as configuration
from node.config.afar.request import digest_of
from node.config.afar.rules import refusals
from node.config.reader import ConfigError
from node.system.safe_files import open_foreign, write_file

__all__ = ["MAX_BYTES", "PlaceRequest", "can_place", "place", "request_placing"]

# ruff: noqa: T201

MAX_BYTES = 60_000
"""The largest configuration from afar."""
_MAX_REQUEST_BYTES = 8 * MAX_BYTES


class PlaceRequest(msgspec.Struct, frozen=True):
    """`text` is to replace the file whose SHA-256 is `base`."""

    base: str
    text: str


class Refused(Exception):
    """A request is not carried out; the message says why."""


def can_place(source: Path) -> bool:
    """Return whether this process may replace the file."""
    file = source.resolve()
    return os.access(file, os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)


def place(source: Path, text: str) -> None:
    """Replace the file as a whole; a link stays one.

    Raises:
        OSError: it cannot be written, and is unchanged.
    """
    write_file(source.resolve(), text.encode())


def request_placing(request_file: Path, request: PlaceRequest) -> None:
    """Leave a request for root's service, whose path unit waits for the file.

    Raises:
        OSError: it cannot be written.
    """
    write_file(request_file, msgspec.json.encode(request), mode=0o600)


def carry_out(request_file: Path, source: Path) -> None:
    """Replace the file as requested.

    Raises:
        Refused: the request is not one, or asks for what must not be changed from afar.
        OSError: the file cannot be written.
        ConfigError: one of the two texts is not TOML.
    """
    request = _read(request_file)
    content = configuration.read(source)
    _, present = configuration.document_of(source, content)
    if present.get("commands", {}).get("config") is not True:
        raise Refused(f"{source} does not allow it: [commands] config")
    if request.base != digest_of(content):
        raise Refused(f"{source} has changed since")
    _, new = configuration.document_of(source, request.text.encode())
    for path, why in refusals(present, new):
        raise Refused(f"{'.'.join(map(str, path))} {why}")
    place(source, request.text)


def _read(file: Path) -> PlaceRequest:
    """Read a file that another user has made: no link to what that user may not read."""
    with open_foreign(file) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise Refused(f"{file} is not a file of its own")
        content = stream.read(_MAX_REQUEST_BYTES + 1)
    if len(content) > _MAX_REQUEST_BYTES:
        raise Refused(f"{file} is too large")
    try:
        request = msgspec.json.decode(content, type=PlaceRequest)
    except msgspec.DecodeError:
        raise Refused(f"{file} is not a request") from None
    if len(request.text.encode(errors="replace")) > MAX_BYTES:
        raise Refused(f"{file} has a text of more than {MAX_BYTES} bytes")
    return request


def main() -> int:
    request_file, source = map(Path, sys.argv[1:])
    try:
        with contextlib.suppress(FileNotFoundError):
            carry_out(request_file, source)
            print(f"{source}: replaced by a configuration from afar, after its trial")
    except ConfigError as error:
        print(f"a configuration from afar is refused: {error.report()}", file=sys.stderr)
        return 1
    except (Refused, OSError) as error:
        print(f"a configuration from afar is refused: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
