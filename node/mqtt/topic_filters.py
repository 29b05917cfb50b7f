"""MQTT topic filters: their validity, and the topics that they match. Pure (MQTT 5, §4.7)."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["check_filter", "covers", "without_covered"]

_MAX_BYTES = 65_535


def check_filter(written: str) -> str:
    """Return `written` if it is a valid topic filter.

    Raises:
        ValueError: it is not valid; the message says why.
    """
    if not written:
        raise ValueError("a topic filter has at least one character")
    if not written.isprintable():  # MQTT 5, §1.5.4: NUL is forbidden, others are not wise
        raise ValueError("a topic filter cannot have control characters or broken UTF-8")
    if len(written.encode()) > _MAX_BYTES:
        raise ValueError(f"a topic filter has at most {_MAX_BYTES} bytes")
    if written.startswith("$share/"):
        raise ValueError("a shared subscription would take messages from the others in its group")
    levels = written.split("/")
    if "#" in levels[:-1]:
        raise ValueError("# matches all following levels, so it must be the last level")
    if any(level not in "+#" and ("+" in level or "#" in level) for level in levels):
        raise ValueError("+ and # match whole levels, as in a/+/c and a/#")
    return written


def covers(general: str, special: str) -> bool:
    """Return whether `general` matches everything that `special`, a filter or topic, matches."""
    ours, theirs = general.split("/"), special.split("/")
    if theirs[0].startswith("$") and ours[0] in ("+", "#"):
        return False  # §4.7.2: wildcards do not match the broker's own topics
    for position, level in enumerate(ours):
        if level == "#":
            return True
        if position >= len(theirs) or theirs[position] == "#":
            return False
        if level not in ("+", theirs[position]):
            return False
    # §4.7.1.2: a/# also matches a, so only a/# itself covers it.
    return len(ours) == len(theirs)


def without_covered(filters: Iterable[str]) -> tuple[str, ...]:
    """Return only the necessary filters: a broker may deliver a message once for each match."""
    needed: list[str] = []
    for one in filters:
        if not any(covers(other, one) for other in needed):
            needed = [other for other in needed if not covers(one, other)] + [one]
    return tuple(needed)
