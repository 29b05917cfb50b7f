"""Questions on a terminal, each with the answer that Enter accepts."""

from __future__ import annotations

import getpass
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import TypeVar

from node.system.terminal import visible

__all__ = ["Dialog", "Unanswered"]

# ruff: noqa: T201

_Answer = TypeVar("_Answer")
_WIDTH = 78


class Unanswered(Exception):
    """The input has ended, or a question without a default could not be asked."""


class Dialog:
    """Asks, and repeats a question until its answer is valid."""

    def __init__(self, *, accept_defaults: bool) -> None:
        """With `accept_defaults`, answer every question with its default."""
        self._accept_defaults = accept_defaults

    @property
    def asks(self) -> bool:
        """Return whether a person answers."""
        return not self._accept_defaults

    def say(self, text: str = "", *, indent: str = "") -> None:
        """Print a paragraph, at most 78 columns wide."""
        lines = textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        print("\n".join(lines), flush=True)

    def ask(self, question: str, convert: Callable[[str], _Answer], default: str = "") -> _Answer:
        """Return `convert` of the typed line, or of `default` for an empty one.

        `convert` raises ValueError with a sentence that describes the expected answer.

        Raises:
            Unanswered: there is no further input, or the default is not valid.
        """
        prompt = f"{question} [{default}]: " if default else f"{question}: "
        return self._valid(prompt, convert, default, question)

    def confirm(self, question: str, *, default: bool) -> bool:
        """Ask a yes-or-no question.

        Raises:
            Unanswered: there is no further input.
        """

        def yes_or_no(written: str) -> bool:
            word = written.lower()
            if word in ("y", "yes"):
                return True
            if word in ("n", "no"):
                return False
            raise ValueError("Please answer y or n.")

        choices = "Y/n" if default else "y/N"
        return self._valid(f"{question} [{choices}] ", yes_or_no, "y" if default else "n", question)

    def choose(self, question: str, choices: Sequence[str]) -> int | None:
        """Show numbered choices and return the index of one; None for an empty line or 0.

        Raises:
            Unanswered: there is no further input.
        """

        def number(written: str) -> int | None:
            if written in ("", "0"):
                return None
            if written.isdecimal() and 1 <= int(written) <= len(choices):
                return int(written) - 1
            raise ValueError(f"Please type a number from 1 to {len(choices)}, or 0 for none.")

        for index, choice in enumerate(choices, 1):
            self.say(f"{index}  {choice}", indent="  ")
        return self.ask(question, number)

    def secret(self, question: str) -> str:
        """Ask for a password; a terminal does not show it.

        Raises:
            Unanswered: there is no further input.
        """
        if not self.asks:
            return ""
        if not sys.stdin.isatty():
            return self._read(f"{question}: ", "")
        try:
            return getpass.getpass(f"{question} (not shown while you type): ")
        except EOFError:
            raise Unanswered(question) from None

    def _valid(
        self, prompt: str, convert: Callable[[str], _Answer], default: str, question: str
    ) -> _Answer:
        """Ask until the answer is valid."""
        while True:
            written = self._read(prompt, default)
            try:
                return convert(written)
            except ValueError as error:
                if not self.asks:
                    raise Unanswered(f"{question}: {error}") from error
                self.say(str(error))

    def _read(self, prompt: str, default: str) -> str:
        if not self.asks:
            if default:
                print(f"{prompt}{default}")
            return default
        try:
            written = input(prompt).strip()
        except EOFError:
            print()
            raise Unanswered(visible(prompt.partition(" [")[0].rstrip(": "))) from None
        return written or default
