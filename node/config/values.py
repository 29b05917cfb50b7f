"""Converts a single value from TOML to the type in the schema, or explains why it cannot.

Pure functions; `reader` walks the tables with them.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from node.config.schema import (
    HostName,
    MqttVersion,
    ProxyAddress,
    Secret,
    ServerAddress,
    WebAddress,
)
from node.units import Rate, Seconds

__all__ = [
    "choice_text",
    "convert_value",
    "did_you_mean",
    "in_quotes",
    "is_called",
    "is_like_a_key",
    "key_meant",
    "nearest",
    "parse_host",
    "parse_server",
    "parse_web_address",
    "shown",
]


_LONGEST_ADDRESS = 200
_ADDRESS = (
    r"https?://(?:[^/?#@\[\]]+@)?(?:\[([0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\]|([^/?#@:\[\]]*))"
    r"(?::([0-9]{0,5}))?(?:[/?#].*)?"
)
"""The part of RFC 3986, §3, that browsers accept; groups: an IPv6 address, else a host; a port."""


def convert_value(target: Any, written: object) -> Any:
    """Convert `written` to the type `target`.

    Raises:
        ValueError: it cannot be converted; the message uses the words of TOML.
    """
    try:
        value = msgspec.convert(written, target, dec_hook=_decode)
    except (msgspec.ValidationError, ValueError) as error:
        if choices := _choices(target):
            raise ValueError(f"expected one of {', '.join(choices)}") from error
        if (rule := _rule(target)) and not _fits(written, rule):
            raise ValueError(f"expected {rule.description}") from error
        raise ValueError(_in_words(str(error))) from error
    if not _is_finite(value):
        raise ValueError("must be a finite number")
    return value


def _choices(target: Any) -> list[str]:
    """Return the values that a key, or each element of its list, can have; [] if any."""
    parts = [target]
    for part in parts:
        if get_origin(part) is not Literal:
            parts += get_args(part)
    literal = next((part for part in parts if get_origin(part) is Literal), None)
    choices = get_args(literal)
    return [choice_text(each) for each in choices]


def choice_text(choice: object) -> str:
    """Return one of a key's values as people write it: an address in hexadecimal."""
    return f"0x{choice:02x}" if isinstance(choice, int) and choice > 9 else str(choice)


def _rule(target: Any) -> msgspec.Meta | None:
    """Return the schema's rule for a text, if the schema also describes it in words.

    It may be the rule for each text of a list.
    """
    for meta in getattr(target, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta
    return next((rule for part in get_args(target) if (rule := _rule(part))), None)


def _fits(written: object, rule: msgspec.Meta) -> bool:
    """Return whether a text matches the rule; True also for other types, a different mistake."""
    if isinstance(written, list):
        return all(_fits(each, rule) for each in written)
    return not isinstance(written, str) or re.search(rule.pattern or "", written) is not None


def parse_host(written: object) -> HostName:
    """Check a broker's host name or IP address.

    Raises:
        ValueError: it is not valid. (An IDNA-invalid name such as "a..b" would raise inside paho's
            network thread and end it.)
    """
    if not isinstance(written, str) or not written.strip():
        raise ValueError("expected a host name or an IP address")
    if "://" in written:
        raise ValueError("expected a host name, not a URL: leave out the scheme, set port apart")
    # The zone of a link-local address is the interface that leads to it (RFC 4007, §11).
    address, _, zone = written.partition("%")
    if zone and not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", zone):
        raise ValueError("expected an interface after the % of an address: fe80::1%eth0")
    for family in (socket.AF_INET6,) if zone else (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, address if zone else written)
        except OSError:
            continue
        return HostName(written)
    if written.startswith("["):
        raise ValueError("expected an address without brackets: set port separately")
    if re.search(r":\d+$", written):
        raise ValueError("expected only a host name: set port separately")
    try:
        # The codec takes long to import, and leaves a name in ASCII as it is.
        ascii_name = written if written.isascii() else written.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("not a valid host name") from None
    ascii_name = ascii_name.removesuffix(".")
    labels = ascii_name.split(".")
    if len(ascii_name) > 253 or not all(
        re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", label) for label in labels
    ):
        raise ValueError("not a valid host name")
    if all(label.isdigit() for label in labels):
        raise ValueError("not a complete IP address")
    return HostName(written)


def parse_proxy(written: object) -> ProxyAddress:
    """Check the address of a proxy.

    Raises:
        ValueError: it is not one of `http://HOST:PORT` and `socks5://HOST:PORT`.
    """
    found = re.fullmatch(r"(?:http|socks5)://(\[[^]]+\]|[^:/@]+):(\d{1,5})/?", str(written))
    if found is None or not 0 < int(found[2]) <= 65535:
        raise ValueError('expected "http://HOST:PORT" or "socks5://HOST:PORT"')
    parse_host(found[1].strip("[]"))
    return ProxyAddress(str(written).rstrip("/"))


def parse_server(written: object) -> ServerAddress:
    """Check the address of a server, with or without a port.

    Raises:
        ValueError: it is not `HOST`, `HOST:PORT`, or an IPv6 address in brackets.
    """
    found = re.fullmatch(r"(\[[^]]+\]|[^:]+)(?::(\d{1,5}))?", str(written))
    if found is None or not 0 < int(found[2] or 1) <= 65535:
        raise ValueError('expected "HOST" or "HOST:PORT", an IPv6 address in brackets')
    parse_host(found[1].strip("[]"))
    return ServerAddress(written)


def parse_web_address(written: object) -> WebAddress:
    """Check the address of a web page.

    Home Assistant checks it part by part, and rejects the whole discovery message over an invalid
    host or port.

    Raises:
        ValueError: it is not valid.
    """
    if not isinstance(written, str) or not re.match(r"https?://", written):
        raise ValueError('expected an address that begins with "http://" or "https://"')
    if len(written) > _LONGEST_ADDRESS:
        raise ValueError(f"expected at most {_LONGEST_ADDRESS} characters")
    if not written.isprintable() or " " in written:
        raise ValueError(
            "an address cannot have spaces or control characters: write %20 for a space"
        )
    parts = re.fullmatch(_ADDRESS, written)
    if parts is None:
        raise ValueError("expected an address like http://HOST:8080/PAGE, with a number as port")
    bracketed, host, port = parts.groups()
    try:
        parse_host(bracketed or host)
    except ValueError as error:
        raise ValueError(f"its host is invalid: {error}") from None
    if port and not 1 <= int(port) <= 65535:
        raise ValueError("its port is invalid: expected a number from 1 to 65535")
    return WebAddress(written)


def _decode(target: Any, written: object) -> object:
    """Decode the types of `schema` that TOML does not have: msgspec's `dec_hook`."""
    parsers: dict[Any, Callable[[object], object]] = {
        Seconds: Seconds.parse,
        Rate: Rate.parse,
        HostName: parse_host,
        WebAddress: parse_web_address,
        ProxyAddress: parse_proxy,
        ServerAddress: parse_server,
        MqttVersion: MqttVersion.parse,
    }
    if target in parsers:
        return parsers[target](written)
    if target in (Secret, Path):
        if not isinstance(written, str) or not written:
            raise ValueError("expected a text that is not empty")
        return target(written)
    raise NotImplementedError(target)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a misspelt one resembles; None if there is none."""
    import difflib

    return next(iter(difflib.get_close_matches(word, sorted(known), n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that a misspelt one resembles, or list all of them."""
    choices = sorted(known)
    close = nearest(word, choices)
    return f"did you mean {close}?" if close else "known here: " + ", ".join(choices)


# Names that people use for a key out of habit, from other programs or from daily life.
_CALLED = {
    "host": "broker server hostname ip address url",
    "username": "user login name",
    "password": "pass pwd",
    "pin": "gpio data_pin gpio_pin bcm",
    "driver": "type model sensor chip kind platform",
    "id": "name",
    "interval": "period every update_interval scan_interval poll",
    "base_topic": "topic prefix root",
    "address": "addr",
    "offset": "correction",
}


def key_meant(key: str, known: Iterable[str]) -> str:
    """Suggest a key as `did_you_mean` does, but prefer one of the same meaning to a similar one."""
    keys = list(known)
    meant = _called(key, keys)
    return f"did you mean {meant}?" if meant else did_you_mean(key, keys)


def is_like_a_key(key: str, known: Iterable[str]) -> bool:
    """Return whether an unknown key is still a key: a word, not a misplaced password.

    It is a slip of the pen, or a habit, or consists only of small letters as keys do.
    """
    keys = list(known)
    return bool(_called(key, keys) or nearest(key, keys) or re.fullmatch("[a-z][a-z_]{0,23}", key))


def _called(key: str, keys: list[str]) -> str:
    return next((name for name in keys if is_called(key, name)), "")


def is_called(key: str, name: str) -> bool:
    """Return whether some people or programs use `key` for the key `name`."""
    return key.lower() in (name, *_CALLED.get(name, "").split())


def in_quotes(target: Any, written: object) -> str:
    """Return a hint for a number or truth value that is in quotes; "" for anything else."""
    if not isinstance(written, str):
        return ""
    bare = written.strip().replace(",", ".")
    try:
        import tomllib

        value = tomllib.loads(f"value = {bare}")["value"]
        convert_value(target, value)
    except ValueError:
        return ""
    return f"; without the quotes: {bare}"


_WORDS = (
    (r" - at `\$.*`$", ""),
    (r"`", ""),
    (r" \| null", ""),
    (r"\bint\b", "a whole number"),
    (r"\bfloat\b", "a number"),
    (r"\bstr\b", "a text"),
    (r"\bbool\b", "true or false"),
    (r"\barray\b", "a list"),
    (r"\bobject\b", "a table"),
    (r"^Expected", "expected"),
)


def _in_words(message: str) -> str:
    """Translate a message of msgspec into the words of TOML."""
    for pattern, words in _WORDS:
        message = re.sub(pattern, words, message)
    return message


def _is_finite(value: object) -> bool:
    """Return whether every number in `value`, or in the lists in it, is finite."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(_is_finite(element) for element in value)
    return True


_MAX_SHOWN = 1000
_MAX_SHOWN_CHARACTERS = 5


def shown(written: object) -> str:
    """Return the part of a wrong value that may be repeated; "" for none.

    Problems go into logs, into health and onto the card. A text, or a long number, may be a
    password that was written into the wrong line.
    """
    if isinstance(written, bool):
        return str(written).lower()
    if isinstance(written, int | float) and abs(written) < _MAX_SHOWN:
        return f"{written:g}"
    if isinstance(written, str) and len(written) <= _MAX_SHOWN_CHARACTERS:
        return f'"{written}"'
    return ""
