"""MQTT topic filters: whether one is valid, and what it matches. Pure (MQTT 5, §4.7)."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["check_filter", "covers", "without_covered"]

_MAX_BYTES = 65_535


def check_filter(written: str) -> str:
    """`written`, which can be subscribed to.

    Raises:
        ValueError: it cannot; the message says why.
    """
    if not written:
        raise ValueError("a topic filter has at least one character")
    if not written.isprintable():  # MQTT 5, §1.5.4: no NUL, and better no other control character
        raise ValueError("control characters and broken UTF-8 have no place in a topic filter")
    if len(written.encode()) > _MAX_BYTES:
        raise ValueError(f"a topic filter has at most {_MAX_BYTES} bytes")
    if written.startswith("$share/"):
        raise ValueError("a shared subscription takes messages away from the others of its group")
    levels = written.split("/")
    if "#" in levels[:-1]:
        raise ValueError("# stands for all that follows, so it must be the last level")
    if any(level not in "+#" and ("+" in level or "#" in level) for level in levels):
        raise ValueError("+ and # stand for whole levels, as in a/+/c and a/#")
    return written


def covers(general: str, special: str) -> bool:
    """Whether all that `special` matches, a filter or a topic, is matched by `general`."""
    ours, theirs = general.split("/"), special.split("/")
    if theirs[0].startswith("$") and ours[0] in ("+", "#"):
        return False  # §4.7.2: the broker's own topics are no matter of wildcards
    for position, level in enumerate(ours):
        if level == "#":
            return True
        if position >= len(theirs) or theirs[position] == "#":
            return False
        if level not in ("+", theirs[position]):
            return False
    # §4.7.1.2: a/# matches a too, so that a/# is covered by itself alone.
    return len(ours) == len(theirs)


def without_covered(filters: Iterable[str]) -> tuple[str, ...]:
    """The filters that are needed: a broker may deliver a message once for each that matches."""
    needed: list[str] = []
    for one in filters:
        if not any(covers(other, one) for other in needed):
            needed = [other for other in needed if not covers(one, other)] + [one]
    return tuple(needed)
