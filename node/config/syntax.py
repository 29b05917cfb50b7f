"""Explains a file that is not valid TOML: the line, a mark below the place, and what to write.

`tomllib` names the place, and describes it in terms of grammar. This module turns its error into a
problem that a person who has never seen TOML can understand. Pure; imported only for a file that
cannot be parsed.
"""

from __future__ import annotations

import re
import unicodedata

from node.config.reader import Problem

__all__ = ["SECRET_WORD", "not_text", "syntax_problem"]

_CURLY = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2018\u2019\u201a\u201b\u2033\u2032`\u00b4"
SECRET_WORD = re.compile(r"pass|pw|psk|secret|token|user|key|login|auth|credential", re.IGNORECASE)
_NOTHING = ("none", "null", "nil", "undefined")
_TRUTHS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false"}
_TRUTHS |= {"off": "false"}
_LIST = re.compile(r"[^=#\"']*=\s*[\[{]")
_OPEN_TEXT = re.compile(r"""[^=#"']*=\s*("(?:[^"\\\\]|\\\\.)*|'[^']*|\"{3}.*|'{3}.*)$""")
"""A text that is not closed on its line."""
_LONGEST = 76
_REPEATED = "\0"
"""Marks the part of a hint that repeats the file. It cannot occur in a line: see `load.parse`."""


def not_text(content: bytes) -> Problem:
    """Return the problem of a file that is not encoded in UTF-8."""
    remedy = "save the file as UTF-8"
    if b"\0" in content or content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return Problem(0, "file", f"is UTF-16, not UTF-8; {remedy}")
    start = len(content.decode(errors="replace").partition("\ufffd")[0].encode())
    line = content.count(b"\n", 0, start) + 1
    may_be = content[start : start + 1].decode("cp1252", errors="replace")
    seen = f"the byte 0x{content[start]:02x}, perhaps meant as {may_be},"
    return Problem(line, "file", f"is not UTF-8: {seen} is not valid there; {remedy}")


def syntax_problem(text: str, error: Exception) -> tuple[Problem, str]:
    """Return the problem of a text that `tomllib` rejects with `error`.

    Also return the message for the author of the line: the line, a mark below the place, and what
    to write. That message may contain a password.
    """
    message = re.sub(r"\s*\(at .*\)$", "", str(error))
    lines = text.splitlines() or [""]
    match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
    if match is not None:
        number, column = int(match[1]), int(match[2])
    elif "end of document" in str(error):
        number = next((n for n in range(len(lines), 0, -1) if lines[n - 1].strip()), 1)
        column = len(lines[number - 1].rstrip()) + 1
    else:
        return Problem(1, "file", f"not valid TOML: {_general(message)}"), ""
    if message.startswith("Unclosed"):
        number, column = _before(lines, number, _LIST)
    elif match is None:
        number, column = _before(lines, number, _OPEN_TEXT) or (number, column)
    line = lines[number - 1]
    hint = _hint(line, column, message) or message
    problem = Problem(number, f"column {column}", f"not valid TOML: {_general(hint)}")
    if _has_secret(lines, number):
        line, column = _without_value(line, column)
        hint = re.sub(r"(\S+ = ).*", r'\1"..."', hint.replace(_REPEATED, ""))
    whole = f"not valid TOML: {hint.replace(_REPEATED, '')}\n{_excerpt(line, column)}"
    return problem, whole


def _general(hint: str) -> str:
    """Return a hint without the parts that it repeats from the file: they may be a password."""
    if _REPEATED in hint:
        said = hint.partition(_REPEATED)[0].rstrip(" :")
        return re.sub(r"(^|[:;] )write$", r"\1write it as sensor-node check shows", said)
    # tomllib says: "Cannot declare ('a', 'b') twice".
    return re.sub(r"\(['\"].*\)", "this", hint)


def _before(lines: list[str], number: int, opening: re.Pattern[str]) -> tuple[int, int]:
    """Return the line and column where the text or list open at line `number` begins.

    If there is none, return that line.
    """
    for before in range(min(number, len(lines)), 0, -1):
        match = opening.match(lines[before - 1])
        if match is not None:
            return before, match.end()
    return number, len(lines[number - 1].rstrip()) + 1


def _has_secret(lines: list[str], number: int) -> bool:
    """Return whether the line, or the key that it continues, is for a secret."""
    for before in range(number, 0, -1):
        line = lines[before - 1]
        if SECRET_WORD.search(line):
            return True
        if "=" in line or line.strip().startswith("["):
            return False
    return False


def _without_value(line: str, column: int) -> tuple[str, int]:
    """Return the line up to its first key, and the column of the place in it."""
    match = re.match(r"(\s*[\w.-]+\s*)([=:]?)", line)
    key = match[0] if match is not None and (match[2] or SECRET_WORD.search(match[1])) else ""
    return f"{key.rstrip()} ...", min(column, len(key.rstrip()) + 2)


def _excerpt(line: str, column: int) -> str:
    """Return the line and a mark below the place."""
    shown = "".join(c if c.isprintable() else " " for c in line).rstrip()
    start = max(0, column - _LONGEST)
    return f"    {shown[start : start + _LONGEST]}\n    {' ' * (column - 1 - start)}^"


def _hint(line: str, column: int, message: str) -> str:
    """Return what to write instead of `line`; "" if there is nothing better than `message`."""
    key, equals, rest = (part.strip() for part in line.partition("="))
    if any(c in _CURLY for c in rest.partition("#")[0]) and rest[0] not in "\"'":
        return f"TOML does not accept curly quotes: write {_written(key, _straight(rest))}"
    odd = next((c for c in line if c != " " and unicodedata.category(c) in ("Zs", "Cf")), "")
    if odd:
        name = unicodedata.name(odd, "no name").lower()
        return f"there is a U+{ord(odd):04X} ({name}) in the line; type it again"
    if line.strip().startswith(("//", ";", "--", "/*")):
        return "a comment begins with #"
    if "twice" in message or "overwrite" in message:
        return "it is already in the file; remove one of them"
    if message.startswith("Unclosed"):
        end = "]" if "array" in message else "}"
        if end in line[column:]:
            return "the values of a list need commas between them"
        return f"the {end} at the end is missing"
    if line.strip().startswith("- "):
        return "this is YAML; in TOML, each [[sensor]] has lines of the form: key = value"
    if line.strip().startswith("["):
        return "write the name of a table in brackets, alone on its line: [mqtt], [[sensor]]"
    if not equals or column <= line.find("=") or key.count('"') % 2 or key.count("'") % 2:
        return _hint_of_key(line, key if equals else "")
    return _hint_of_value(key, rest, message)


def _hint_of_key(line: str, key: str) -> str:
    match = re.match(r"\s*-?\s*([\w-]+)\s*:\s*(.*)$", line)
    if match is not None:
        return f"use an equals sign, not a colon: {_written(match[1], _quoted(match[2]))}"
    if key.count('"') % 2 or key.count("'") % 2:
        return "the quotes of the key are not closed; leave them out"
    if key and " " in key:
        return f"a key cannot contain spaces: {_REPEATED}{key.replace(' ', '_')} ="
    if key:
        return "a key consists of letters, digits, - and _"
    words = line.split("#", maxsplit=1)[0].split()
    if len(words) == 2:
        return f"the equals sign is missing: {_written(words[0], words[1])}"
    return "expected a line like: key = value"


def _hint_of_value(key: str, rest: str, message: str) -> str:
    if rest[:1] in ('"', "'"):
        return _hint_of_text(key, rest, message)
    value = rest.partition("#")[0].strip()
    if not value:
        return "the value after the = is missing"
    if re.search(r"\s[\w-]+\s*=", value):
        return "each key stands on a line of its own"
    if value[-1] in ";,":
        return f"leave out the {value[-1]} at the end: {_written(key, _better(value[:-1]))}"
    if value[0] in "[{":
        return "in a list, put commas between the values, and texts in quotes"
    return _hint_of_word(key, value)


def _hint_of_text(key: str, rest: str, message: str) -> str:
    quote = rest[0]
    if rest.startswith(quote * 3):
        return f"the {quote * 3} at the end is missing"
    closed = rest.find(quote, 1)
    if "\\" in rest and ("Unescaped" in message or "\\" in message or "hex" in message):
        return f"write a text with a backslash in single quotes: {_REPEATED}{key} = '...'"
    if closed < 0:
        return f"the quote at the end is missing: {_written(key, _quoted(rest[1:]))}"
    after = rest[closed + 1 :].strip()
    if after[:1] in (";", ","):
        return f"leave out the {after[0]} at the end"
    if re.match(r"[\w-]+\s*=", after):
        return "each key stands on a line of its own"
    return "only a comment (#) may follow the closing quote"


def _hint_of_word(key: str, value: str) -> str:
    """Return the hint for a value that is not a text, list, number or truth value in TOML."""
    if value.lower() in _TRUTHS:
        return f"write true or false in small letters: {_written(key, _TRUTHS[value.lower()])}"
    if value.lower() in _NOTHING:
        return "TOML has no empty value; leave the key out"
    if pin := re.fullmatch(r"(?:GPIO|BCM|IO|D)[ _-]?(\d+)", value, re.IGNORECASE):
        return f"write only the GPIO number (BCM): {_written(key, pin[1])}"
    better = _better(value)
    if re.fullmatch(r"[+-]?\d+,\d+", value):
        return f"use a decimal point, not a comma: {_written(key, better)}"
    if better != value:
        return f"write {_written(key, better)}"
    return f"is the text in quotes? {_written(key, _quoted(value))}"


def _better(value: str) -> str:
    """Return a number in TOML's form: a decimal point, no leading zeros, digits on both sides."""
    match = re.fullmatch(r"([+-]?)0*(\d*)(?:[.,](\d*))?", value)
    if match is None or not (match[2] or match[3] or "0" in value):
        return value
    sign, whole, part = match.groups()
    return f"{sign}{whole or '0'}" + ("" if part is None else f".{part or '0'}")


def _straight(rest: str) -> str:
    """Return a value with its curly quotes made straight."""
    return _quoted("".join(c for c in rest.partition("#")[0] if c not in _CURLY))


def _quoted(value: str) -> str:
    return '"' + value.strip().strip("\"'") + '"'


def _written(key: str, value: str) -> str:
    return f"{_REPEATED}{key} = {value}"
