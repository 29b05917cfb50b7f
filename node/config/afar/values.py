"""Finds where the values and the comments of a TOML text are, because `tomllib` does not say.

For texts that `tomllib` has accepted: the scanner follows TOML 1.0.0, and rejects nothing. Who
replaces what it finds parses the result again. Pure.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, NamedTuple

from node.config.toml_lines import KeyPath

__all__ = ["Span", "Unscannable", "scan"]

_BLANK = re.compile(r"[ \t\n]*")
_SPACE = re.compile(r"[ \t]*")
_COMMENT = re.compile(r"#[^\n]*")
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*'""")
_TEXT = re.compile(
    r'"""(?:\\.|(?!""")[^\\])*"{3,5}'
    r"|'''(?:(?!''').)*'{3,5}"
    r"""|"(?:\\.|[^"\\])*"|'[^']*'""",
    re.DOTALL,
)
_BARE = re.compile(r"[^,\]}#\n]*")


class Unscannable(ValueError):
    """The scanner does not understand the text, although `tomllib` does."""


class Span(NamedTuple):
    """A value or a comment: `text[start:end]`, with `#` for a comment."""

    path: KeyPath
    """The keys of a value; of a comment those of the table or value that it stands in."""
    start: int
    end: int
    is_comment: bool = False


def scan(text: str) -> list[Span]:
    """Return all values and comments in order; a value that others are part of comes before them.

    Raises:
        Unscannable: the text is not read as `tomllib` reads it.
    """
    scanner = _Scanner(text)
    try:
        scanner.document()
    except (IndexError, AttributeError, ValueError, RecursionError) as error:
        raise Unscannable(f"cannot be read at character {scanner.at}") from error
    return sorted(scanner.spans, key=lambda span: (span.start, -span.end))


class _Scanner:
    """One pass over a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.at = 0
        self.spans: list[Span] = []
        self._sizes: dict[KeyPath, int] = {}
        """How many tables each array of tables has so far."""

    def document(self) -> None:
        table: KeyPath = ()
        self._blank(table)
        while self.at < len(self._text):
            if self._text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._blank(table)

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Move beyond what the pattern matches here, and return it."""
        match = pattern.match(self._text, self.at)
        assert match is not None
        self.at = match.end()
        return match[0]

    def _blank(self, path: KeyPath) -> None:
        """Move to what comes after blanks, ends of lines and comments; note the comments."""
        self._skip(_BLANK)
        while self._text.startswith("#", self.at):
            start = self.at
            self._skip(_COMMENT)
            self.spans.append(Span(path, start, self.at, is_comment=True))
            self._skip(_BLANK)

    def _expect(self, character: str) -> None:
        self._skip(_SPACE)
        if self._text[self.at] != character:
            raise ValueError(f"expected {character}")
        self.at += 1

    def _key(self) -> KeyPath:
        """Read a key with its dots."""
        parts: list[str] = []
        while True:
            self._skip(_SPACE)
            match = _KEY_PART.match(self._text, self.at)
            if match is None:
                raise ValueError("expected a key")
            self.at = match.end()
            quoted = match[0][0] in "\"'"
            parts.append(value_of(match[0]) if quoted else match[0])
            self._skip(_SPACE)
            if not self._text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def _header(self) -> KeyPath:
        """Read `[a.b]` or `[[a.b]]`; return the path of the table, with the indices of arrays."""
        is_array = self._text.startswith("[[", self.at)
        self.at += 1 + is_array
        *above, last = self._key()
        for _ in range(1 + is_array):
            self._expect("]")
        path: KeyPath = ()
        for name in above:
            path = (*path, name)
            if path in self._sizes:
                path = (*path, self._sizes[path] - 1)
        path = (*path, last)
        if is_array:
            self._sizes[path] = self._sizes.get(path, 0) + 1
            path = (*path, self._sizes[path] - 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        path = table + self._key()
        self._expect("=")
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        start = self.at
        first = self._text[start]
        if first in "\"'":
            match = _TEXT.match(self._text, start)
            if match is None:
                raise ValueError("a text that does not end")
            self.at = match.end()
        elif first == "[":
            self._array(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self.at = start + len(self._skip(_BARE).rstrip())
        self.spans.append(Span(path, start, self.at))

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        index = 0
        self._blank(path)
        while self._text[self.at] != "]":
            self._value((*path, index))
            index += 1
            self._blank(path)
            if self._text[self.at] == ",":
                self.at += 1
                self._blank(path)
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        self._blank(path)
        while self._text[self.at] != "}":
            self._pair(path)
            self._blank(path)
            if self._text[self.at] == ",":
                self.at += 1
                self._blank(path)
        self.at += 1


def value_of(token: str) -> Any:
    """Return the value that a token of TOML stands for."""
    return tomllib.loads(f"x = {token}")["x"]
