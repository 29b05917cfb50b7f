"""Secrets of a configuration become placeholders, and placeholders secrets again.

    password = "hunter2"  # since May      →      password = "(hidden 1)"  # (hidden 2)

A secret is the value of a key whose name says so, in whatever table; what a program is started
with; a text with a login or a question in it, as addresses have; and a comment that may name any of
these. What is hidden too much comes back all the same. Pure.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any, NamedTuple

from node.config.afar.values import Span, Unscannable, scan, value_of
from node.config.reader import Problem
from node.config.syntax import SECRET_WORD
from node.config.toml_lines import KeyPath

__all__ = ["CannotHide", "Hidden", "NoCounterpart", "Restored", "hide", "restore"]

_NOT_SECRET = ("_file", "_valid_for")
"""Ends of keys that do not hold the secret itself, but where it is, or how long it lasts."""
_PROGRAMS = ("exec",)
_IN_AN_ADDRESS = re.compile(r"://[^/\s]*@|\?\S*=")
_PLACEHOLDER = re.compile(r"\(hidden ([0-9]{1,6})\)")
_HIDDEN_COMMENT = re.compile(r"#\s*\(hidden ([0-9]{1,6})\)\s*")
_SHORTEST = 3
"""Fewer characters of a secret are in a comment by chance."""


class CannotHide(ValueError):
    """The secrets cannot be found in this text."""


class NoCounterpart(ValueError):
    """A placeholder stands for nothing; `problem` says which."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Secret(NamedTuple):
    """One part of a text that is hidden: where, and the kind of place, to which it may return."""

    start: int
    end: int
    kind: tuple[str, ...]
    text: str


class Hidden(NamedTuple):
    """A text with placeholders, and what they stand for: the n-th for the n-th."""

    text: str
    secrets: list[_Secret]


class Restored(NamedTuple):
    """A text with its secrets, and where it is longer for them: (line as it was sent, by what)."""

    text: str
    longer: list[tuple[int, int]]

    def line_as_sent(self, line: int) -> int:
        """Return the line of the text with placeholders, for a line of this one."""
        for sent, more in self.longer:
            if line <= sent:
                break
            line -= min(more, line - sent)
        return line


def hide(text: str) -> Hidden:
    """Return a valid text of TOML with placeholders in place of its secrets.

    Raises:
        CannotHide: what is left could be a secret. Nothing of the text may be shown.
    """
    document = tomllib.loads(text)
    try:
        spans = scan(text)
        secrets = list(_secrets(text, spans))
    except (Unscannable, KeyError, IndexError, TypeError) as error:
        raise CannotHide("it is written in an unusual way") from error
    parts, at = [], 0
    for number, secret in enumerate(secrets, start=1):
        is_comment = secret.kind == ()
        placeholder = f"# (hidden {number})" if is_comment else f'"(hidden {number})"'
        parts += [text[at : secret.start], placeholder]
        at = secret.end
    hidden = "".join([*parts, text[at:]])
    _look_again(document, hidden)
    return Hidden(hidden, secrets)


def restore(sent: str, present: Hidden) -> Restored:
    """Return a text of valid TOML with the secrets of the present one in place of placeholders.

    Each may stand only at the key that it was hidden at, or at that of another sensor: elsewhere it
    could be published.

    Raises:
        NoCounterpart: a placeholder stands for nothing.
        CannotHide: the places of placeholders cannot be found.
    """
    try:
        spans = scan(sent)
    except Unscannable as error:
        raise CannotHide("it is written in an unusual way") from error
    parts, longer, at = [], [], 0
    for span in spans:
        token = sent[span.start : span.end]
        number = _number(token, is_comment=span.is_comment)
        if number is None or span.start < at:
            continue
        line = sent.count("\n", 0, span.start) + 1
        kind = () if span.is_comment else _kind(span.path)
        if not 1 <= number <= len(present.secrets) or present.secrets[number - 1].kind != kind:
            raise NoCounterpart(Problem(line, _name(span), _WRITE_IT))
        secret = present.secrets[number - 1].text
        parts += [sent[at : span.start], secret]
        at = span.end
        longer.append((line, secret.count("\n")))
    return Restored("".join([*parts, sent[at:]]), longer)


_WRITE_IT = "the present configuration hides nothing of this number here; write the value itself"


def _secrets(text: str, spans: list[Span]) -> Iterator[_Secret]:
    """Yield what is to be hidden, in order, each with nothing of another one in it."""
    end = 0
    values = (span for span in spans if not span.is_comment)
    wanted = {span for span in values if _is_secret(span.path, value_of(_token(text, span)))}
    lines = {number for span in wanted for number in _lines(text, span)}
    words = {word for span in wanted for word in _texts(value_of(_token(text, span)))}
    for span in spans:
        if span.start < end:
            continue
        token = _token(text, span)
        if span.is_comment:
            beside = bool(lines & set(_lines(text, span)))
            if not (beside or _may_name_one(token) or any(word in token for word in words)):
                continue
        elif span not in wanted:
            continue
        end = span.end
        yield _Secret(span.start, span.end, () if span.is_comment else _kind(span.path), token)


def _token(text: str, span: Span) -> str:
    return text[span.start : span.end]


def _lines(text: str, span: Span) -> range:
    first = text.count("\n", 0, span.start)
    return range(first, first + text.count("\n", span.start, span.end) + 1)


def _is_secret(path: KeyPath, value: object) -> bool:
    """Return whether the value at `path` is a secret."""
    if isinstance(value, dict) or (isinstance(value, list) and _has_tables(value)):
        return False  # each of its keys is looked at
    names = [part for part in path if isinstance(part, str)]
    if any(name in _PROGRAMS for name in names):
        return True
    if any(SECRET_WORD.search(name) and not name.endswith(_NOT_SECRET) for name in names):
        return True
    return any(_IN_AN_ADDRESS.search(text) for text in _texts(value, shortest=0))


def _has_tables(value: list[Any]) -> bool:
    return any(isinstance(v, dict) or (isinstance(v, list) and _has_tables(v)) for v in value)


def _may_name_one(comment: str) -> bool:
    return bool(SECRET_WORD.search(comment) or _IN_AN_ADDRESS.search(comment))


def _texts(value: object, shortest: int = _SHORTEST) -> Iterator[str]:
    """Yield the texts in a value that are long enough to be recognised."""
    if isinstance(value, str):
        if len(value) >= shortest:
            yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one, shortest)


def _kind(path: KeyPath) -> tuple[str, ...]:
    """Return the keys to a value without the number of its sensor, or of its place in a list."""
    return tuple(part for part in path if isinstance(part, str))


def _name(span: Span) -> str:
    return "comment" if span.is_comment else ".".join(_kind(span.path))


def _number(token: str, *, is_comment: bool) -> int | None:
    """Return the number of a placeholder; None for anything else."""
    if is_comment:
        match = _HIDDEN_COMMENT.fullmatch(token)
    elif token[0] in "\"'":
        match = _PLACEHOLDER.fullmatch(value_of(token))
    else:
        match = None
    return None if match is None else int(match[1])


def _look_again(document: dict[str, Any], hidden: str) -> None:
    """Raise CannotHide unless only placeholders stand where `tomllib` finds secrets."""
    try:
        shown = tomllib.loads(hidden)
    except ValueError as error:
        raise CannotHide("it is written in an unusual way") from error
    pairs: list[tuple[KeyPath, Any, Any]] = [((), document, shown)]
    while pairs:
        path, was, now = pairs.pop()
        if isinstance(now, str) and _PLACEHOLDER.fullmatch(now) and was != now:
            continue
        if type(was) is not type(now) or _is_secret(path, was):
            raise CannotHide("a secret in it would be shown")
        if isinstance(was, dict):
            if was.keys() != now.keys():
                raise CannotHide("a key of it would be lost")
            pairs += [((*path, key), was[key], now[key]) for key in was]
        elif isinstance(was, list):
            if len(was) != len(now):
                raise CannotHide("a value of it would be lost")
            pairs += [
                ((*path, index), *both) for index, both in enumerate(zip(was, now, strict=True))
            ]
