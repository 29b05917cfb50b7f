"""What `B/N/cmd/config` answers, computed in a process of its own that `request` starts.

It gets a request as JSON on standard input, and prints an answer. It reads the configuration file,
and writes nothing. A process of its own keeps the node from waiting for the check, and from what
other packages' drivers do when they are imported.

    {"source": "/etc/sensor-node/node.toml"}                        →  get
    {"source": ..., "base": "SHA256", "text": "..."}                →  set, as far as the check
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tomllib
from pathlib import Path

import msgspec

from node.config import load as configuration
from node.config.afar.hide import CannotHide, Hidden, NoCounterpart, hide, restore
from node.config.afar.request import Answer, Request, digest_of
from node.config.afar.rules import refusals
from node.config.reader import ConfigError, Problem, TableReader

__all__ = ["answer"]

_NICENESS = 10
"""Readings come first."""


def answer(request: Request) -> Answer:
    """Return the present text without its secrets, or the result of the check of another one."""
    source = Path(request.source)
    try:
        content = configuration.read(source)
        text, _ = configuration.document_of(source, content)
        configuration.parse(source, content)
    except ConfigError as error:
        what = "the present configuration is not valid itself; correct it on the node's computer"
        return Answer(error=what, problems=error.problems)
    present_sha = digest_of(content)
    try:
        present = hide(text)
    except CannotHide as error:
        what = f"the present configuration cannot be shown without its secrets: {error}"
        return Answer(error=what, sha256=present_sha)
    if request.text is None:
        return Answer(sha256=present_sha, text=present.text)
    if request.base != present_sha:
        what = "it is not based on the present configuration; get that, and change it again"
        return Answer(error=what, sha256=present_sha)
    return _checked(source, text, present, request.text, present_sha)


def _checked(source: Path, text: str, present: Hidden, sent: str, present_sha: str) -> Answer:
    """Return the text that was sent with its secrets, or what is wrong with it."""

    def wrong(problems: list[Problem]) -> Answer:
        many = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        return Answer(error=f"the text has {many}", problems=problems, sha256=present_sha)

    try:
        normal, _ = configuration.document_of(source, sent.encode())
        restored = restore(normal, present)
        document = tomllib.loads(restored.text)
    except ConfigError as error:
        return wrong(error.problems)
    except NoCounterpart as error:
        return wrong([error.problem])
    except (CannotHide, ValueError) as error:
        return Answer(error=f"the text cannot be used: {error}", sha256=present_sha)
    reader = TableReader(source, restored.text)
    reader.sensor_ids = {
        index: sensor["id"]
        for index, sensor in enumerate(document.get("sensor", []))
        if isinstance(sensor, dict) and isinstance(sensor.get("id"), str)
    }
    refused = refusals(tomllib.loads(text), document)
    for path, why in refused:
        reader.problem(path, why)
    problems = reader.problems
    # A check of what must not be set would say which files there are. A slip of the pen is none.
    if all(path[0] != "sensor" and not configuration.is_known(path) for path, _ in refused):
        try:
            configuration.parse(source, restored.text.encode())
        except ConfigError as error:
            problems = error.problems
    if problems:
        lines = sorted(problems, key=lambda problem: problem.line)
        return wrong(
            [msgspec.structs.replace(p, line=restored.line_as_sent(p.line)) for p in lines]
        )
    return Answer(sha256=digest_of(restored.text.encode()), text=restored.text)


def main() -> int:
    logging.disable()  # the answer is all that leaves this process
    with contextlib.suppress(OSError):  # the unit of the service does not allow it
        os.nice(_NICENESS)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        result = answer(request)
    except Exception as error:  # noqa: BLE001, a driver of another package may raise anything
        result = Answer(error=f"the check has failed: {type(error).__name__}")
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
