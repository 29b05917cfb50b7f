"""What the node has staged for root, and what root reports to it: files in the node's state folder.

    update-request          which bundle is to be installed; the node writes it last
    update.bundle           the bundle, and its signature, update.bundle.minisig
    update-report.json      what became of the newest request; root writes it

The node is not trusted here: a request says only what is to be looked at. The files lie directly in
the folder, which root owns the parent of, so that none of them leads elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from safe_files import open_foreign, write_file

__all__ = ["BUNDLE", "Request", "count_attempt", "drop_request", "read_request", "write_report"]

BUNDLE = "update.bundle"
_REQUEST, _REPORT = "update-request", "update-report.json"
_MAX_BYTES = 1024
_MAX_CHARACTERS = 500


class Request(NamedTuple):
    """A request of the node."""

    id: str
    """Another one for each request; the report has it."""
    digest: str
    """The SHA-256 of the bundle."""


def read_request(folder: Path) -> Request | None:
    """Return the request; None without one, or with one that cannot be read."""
    try:
        with open_foreign(folder / _REQUEST) as stream:
            words = stream.read(_MAX_BYTES).decode("ascii").split()
    except (OSError, ValueError):
        return None
    if len(words) != 2 or not re.fullmatch("[0-9a-f]{8,64} [0-9a-f]{64}", " ".join(words)):
        return None
    return Request(*words)


def drop_request(folder: Path) -> None:
    """Delete the request and its bundle, so that the path unit finds nothing any more."""
    for name in (BUNDLE, f"{BUNDLE}.minisig", _REQUEST):
        with contextlib.suppress(OSError):
            os.unlink(folder / name)


def write_report(folder: Path, request_id: str, state: str, text: str, name: str = "") -> None:
    """Write what has become of a request.

    `state`: installing, trial, kept, undone or refused. `name`: the release.
    """
    content = {
        "request": request_id,
        "state": state,
        "text": " ".join(text.split())[:_MAX_CHARACTERS],
        "release": name,
    }
    with contextlib.suppress(OSError):  # a full disk: the journal has it
        write_file(folder / _REPORT, json.dumps(content).encode(), mode=0o644)


def count_attempt(file: Path, request_id: str) -> int:
    """Count, in a file of root's, how often a request was begun; return the number."""
    attempts = 0
    with contextlib.suppress(OSError, ValueError):
        known, number = file.read_text(encoding="ascii").split()
        attempts = int(number) if known == request_id else 0
    write_file(file, f"{request_id} {attempts + 1}".encode(), mode=0o644)
    return attempts + 1
