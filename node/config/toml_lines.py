"""Finds the line of a key in a TOML file, because `tomllib` does not report it.

Errors of the configuration name their line. This reads the table headers and keys of a document
that `tomllib` has already accepted, so it need not be strict, only right.
"""

from __future__ import annotations

import re

__all__ = ["KeyPath", "line_of", "locate_keys"]

KeyPath = tuple[str | int, ...]
"""("sensor", 0, "pin"): the keys from the root, with the index of each array of tables."""

_HEADER = re.compile(r"\s*(\[\[?)(.+?)\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_.\-\s]|"[^"]*"|'[^']*')+?)\s*=(?!=)""")
_KEY_PART = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_\-]+))\s*\.?""")
_QUOTED = re.compile(r'"""|\'\'\'|"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*')


def locate_keys(text: str) -> dict[KeyPath, int]:
    """Return the line numbers, from 1, of every table header and key of `text`."""
    lines: dict[KeyPath, int] = {}
    array_sizes: dict[KeyPath, int] = {}
    table: KeyPath = ()
    open_quote, depth = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if open_quote:
            _, closed, rest = line.partition(open_quote)
            if not closed:
                continue
            open_quote = ""
            depth, open_quote = _nesting(rest, depth)
            continue
        if depth == 0:
            if header := _HEADER.match(line):
                table = _enter_table(header, array_sizes)
                lines.setdefault(table, number)
                continue
            if key := _KEY.match(line):
                lines.setdefault(table + tuple(_parts(key[1])), number)
        depth, open_quote = _nesting(line, depth)
    return lines


def line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """Return the line of `path`, or of the nearest table around it; 1 if there is none."""
    while path and path not in lines:
        if (*path, 0) in lines:  # the first of an array of tables
            return lines[*path, 0]
        path = path[:-1]
    return lines.get(path, 1)


def _parts(key: str) -> list[str]:
    return [double or single or bare for double, single, bare in _KEY_PART.findall(key)]


def _enter_table(header: re.Match[str], array_sizes: dict[KeyPath, int]) -> KeyPath:
    """Return a table's path from its header; a header below an array means its last element."""
    names = _parts(header[2])
    path: KeyPath = ()
    for name in names[:-1]:
        path += (name,)
        if path in array_sizes:
            path += (array_sizes[path] - 1,)
    path += (names[-1],)
    if header[1] == "[[":
        array_sizes[path] = array_sizes.get(path, 0) + 1
        path += (array_sizes[path] - 1,)
    return path


def _nesting(line: str, depth: int) -> tuple[int, str]:
    """Return the bracket depth after `line`, and the triple quote that it leaves open, if any."""
    position = 0
    while position < len(line):
        match = _QUOTED.match(line, position)
        if match is None:
            depth += (line[position] in "[{") - (line[position] in "]}")
            position += 1
        elif match[0] in ('"""', "'''"):
            end = line.find(match[0], match.end())
            if end < 0:
                return depth, match[0]
            position = end + 3
        else:
            position = match.end()
    return depth, ""
