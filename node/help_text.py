"""What `sensor-node COMMAND --help` says beside its options: as much as a manual page.

Each command's module has a `HELP`; `cli` puts it into the parser of the command that was chosen.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["CommandHelp", "put_into"]

_WIDTH = 78
_EXIT_CODES = {
    0: "done",
    1: "the work could not be done",
    2: "wrong usage",
    78: "the configuration is invalid",
}


class CommandHelp(NamedTuple):
    """The parts of a command's manual."""

    details: str
    """Paragraphs, separated by empty lines."""
    examples: dict[str, str]
    """Command line -> what it does."""
    exit_codes: Mapping[int, str] = MappingProxyType({})
    """Those whose meaning is more than the usual one."""
    without: tuple[int, ...] = ()
    """Usual exit codes that this command does not have."""


def put_into(parser: argparse.ArgumentParser, text: CommandHelp) -> None:
    """Add the manual to a command's parser, around its options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    paragraphs = text.details.strip().split("\n\n")
    parser.description = "\n\n".join(textwrap.fill(" ".join(p.split()), _WIDTH) for p in paragraphs)
    codes = {**_EXIT_CODES, **text.exit_codes}
    lines = ["exit codes:"]
    lines += [f"  {code:<4}{codes[code]}" for code in sorted(codes) if code not in text.without]
    lines += ["", "examples:"]
    for command, meaning in text.examples.items():
        lines.append(f"  {command}")
        lines += textwrap.wrap(meaning, _WIDTH, initial_indent="      ", subsequent_indent="      ")
    parser.epilog = "\n".join(lines)
