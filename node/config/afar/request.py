"""What the node asks of `answer`, which is a process of its own, and what that answers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import msgspec

from node.config.reader import Problem

__all__ = ["Answer", "Request", "ask", "digest_of"]

PATIENCE_S = 120.0
"""How long a check may take; one of many sensors takes some seconds on a Pi Zero."""
_PROGRAM = "node.config.afar.answer"


class Request(msgspec.Struct, omit_defaults=True):
    """With a `text`, that is to be checked, and `base` is the SHA-256 of what it replaces."""

    source: str
    base: str = ""
    text: str | None = None


class Answer(msgspec.Struct, omit_defaults=True):
    """The answer, without any secret but for the `text` of one that was checked."""

    error: str = ""
    problems: list[Problem] = []
    sha256: str = ""
    """Of the present file; after a check that went well, of `text`."""
    text: str = ""


def ask(request: Request) -> Answer:
    """Return the answer to a request. It takes a second or more: not for the loop's thread."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-m", _PROGRAM],
            input=msgspec.json.encode(request),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            cwd=os.sep,
            check=True,
        )
        return msgspec.json.decode(done.stdout, type=Answer)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        return Answer(error=f"the check cannot be run: {type(error).__name__}")


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of the content of a configuration file, in hex digits."""
    return hashlib.sha256(content).hexdigest()
