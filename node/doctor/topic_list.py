"""The topics that the node uses, and harmless messages for them."""

from __future__ import annotations

import msgspec

from node.topics import history_payload

__all__ = ["TopicList", "TriedSubscription"]

_NO_DISCOVERY = b"{}"
"""A payload that Home Assistant rejects with a line in its log."""


class TriedSubscription(msgspec.Struct, frozen=True):
    """A topic filter of the node.

    `try_on` is a topic of it on which an empty message does nothing; "" if there is none.
    """

    topic_filter: str
    try_on: str = ""


class TopicList(msgspec.Struct, frozen=True):
    """All topics that the node publishes and subscribes to."""

    published: tuple[str, ...]
    history: str
    discovery: frozenset[str]
    subscribed: tuple[TriedSubscription, ...]
    stream: str = ""
    """The stream of the log, if it is known."""

    def harmless(self, topic: str) -> bytes:
        """Return a harmless message for a topic without a retained one."""
        if topic == self.history:
            return history_payload(self.stream, [])
        return _NO_DISCOVERY if topic in self.discovery else b""
