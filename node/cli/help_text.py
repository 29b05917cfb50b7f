"""What `sensor-node COMMAND --help` says in addition to the options: as much as a manual page.

Each command's module has a `HELP`; `cli.main` gives it to the parser of the chosen command.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

__all__ = ["CommandHelp", "CommandParser", "HelpFormatter"]

_WIDTH = 78
_EXIT_CODES = {
    0: "done",
    1: "the work could not be done",
    2: "wrong usage",
    78: "the configuration is invalid",
}


class CommandHelp:
    """The parts of a command's manual."""

    def __init__(
        self,
        *,
        details: str,
        examples: dict[str, str],
        exit_codes: Mapping[int, str] | None = None,
        without: tuple[int, ...] = (),
    ) -> None:
        """Keep the parts.

        `details`: paragraphs, separated by empty lines. `examples`: command line -> what it does.
        `exit_codes`: codes whose meaning differs from the usual one. `without`: usual exit codes
        that this command does not have.
        """
        self._details = details
        self._examples = examples
        self._exit_codes = {**_EXIT_CODES, **(exit_codes or {})}
        self._without = without

    def put_into(self, parser: argparse.ArgumentParser) -> None:
        """Add the manual to a command's parser, around its options."""
        import textwrap  # only needed for --help

        paragraphs = self._details.strip().split("\n\n")
        parser.description = "\n\n".join(
            textwrap.fill(" ".join(paragraph.split()), _WIDTH) for paragraph in paragraphs
        )
        codes = sorted(self._exit_codes.keys() - set(self._without))
        lines = ["exit codes:", *(f"  {code:<4}{self._exit_codes[code]}" for code in codes)]
        lines += ["", "examples:"]
        indented = " " * 6
        for command, meaning in self._examples.items():
            lines.append(f"  {command}")
            lines += textwrap.wrap(
                meaning, _WIDTH, initial_indent=indented, subsequent_indent=indented
            )
        parser.epilog = "\n".join(lines)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Format help at a fixed width, like a manual page.

    To ask the terminal for its width, argparse would import shutil, and with it four libraries for
    compressed files.
    """

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"width": _WIDTH, **options})


class CommandParser(argparse.ArgumentParser):
    """A parser that adds the manual around its options when help is requested."""

    manual: CommandHelp | None = None

    def format_help(self) -> str:
        if self.manual is not None:
            self.manual.put_into(self)
        return super().format_help()
