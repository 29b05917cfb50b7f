"""Listens on this node's own topics, to detect another node of its name or a restored card.

Two nodes with one name publish `offline` for each other, and their values alternate. A card that
was restored from a copy uses numbers a second time: the broker then has a number of this log's
stream that the log does not have, or has for another reading.

Used on the loop's thread.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from datetime import datetime
from typing import Annotated

import msgspec

from node.mqtt.events import Arrived
from node.outbox.outbox import Outbox
from node.system.clock import Clock
from node.topics import OFFLINE, ONLINE, Topics

__all__ = ["OwnTopics"]

_log = logging.getLogger(__name__)

_KEPT_S = 600.0
"""How long another node is reported after its last message; its health comes each minute."""
_SAY_AGAIN_S = 1.0
"""The least time between corrections of a false `offline`."""
_A_COPY = (
    "the broker has readings of this log's stream that are not in the log; the card was "
    "restored from a copy, or another node has a copy of it"
)
_STREAM_EVERY_S = 3600.0
"""The least time between streams that are begun because of what others say: no copy of the card has
a stream that was begun a moment ago, but everybody who may read this topic can repeat its name."""
_OWN_KEPT = 5
_SAME_TIME_MS = 1000


class _Said(msgspec.Struct, frozen=True):
    """The fields of health and state that describe their log."""

    stream: str = ""
    seq: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    time: str = ""
    clock: str = ""

    @property
    def utc_ms(self) -> int | None:
        """Return when it was published; None if that is not known, or the clock was not set."""
        try:
            moment = datetime.fromisoformat(self.time)
            utc_ms = round(moment.timestamp() * 1000)
        except (ValueError, OverflowError):
            return None
        return utc_ms if self.clock == "synced" and moment.tzinfo is not None else None


class OwnTopics:
    """Watches what others publish in this node's name."""

    def __init__(self, topics: Topics, outbox: Outbox, clock: Clock) -> None:
        self._topics = topics
        self._outbox = outbox
        self._clock = clock
        self._own_health: deque[bytes] = deque(maxlen=_OWN_KEPT)
        self._heard_at_s = -math.inf
        self._said = False
        self._contradicted = False
        self._say_at_s = -math.inf
        self._stream_not_before_s = -math.inf
        self.heard_online = False
        """Whether the broker has sent back `online` on this connection."""
        self._unknown: list[_Said] = []
        """The readings of our stream that the broker has and the log does not."""

    @property
    def problem(self) -> str:
        """Return the problem with the node's name; "" if there is none."""
        if self._clock.monotonic() > self._heard_at_s + _KEPT_S:
            return ""
        return (
            f"another node is named {self._topics.node} at this broker, below {self._topics.base}: "
            "give each a different name ([node] name)"
        )

    def published_health(self, payload: bytes) -> None:
        """Remember our own message, because the broker sends it back."""
        self._own_health.append(payload)

    def hear(self, message: Arrived, *, opening: bool) -> bool:
        """Note a message; return whether it is on a topic of this node.

        `opening`: the node has not published `online` yet.
        """
        if message.topic == self._topics.status:
            self.heard_online |= message.payload == ONLINE and not message.retained
            if message.payload == OFFLINE and not message.retained and not opening:
                self._contradicted = True
                self._another_node(f"{message.topic} says offline")
            return True
        is_health = message.topic == self._topics.health
        if not is_health and not self._topics.is_state(message.topic):
            return False
        try:
            said = msgspec.json.decode(message.payload, type=_Said)
        except (msgspec.DecodeError, RecursionError):
            return True
        if message.retained:
            self._compare(said, is_health=is_health)
            if not opening:  # some brokers answer subscriptions before they have finished them
                self.opened()
        elif is_health and message.payload not in self._own_health:
            self._another_node(f"{message.topic} has a message that is not from this node")
            now_s = self._clock.monotonic()
            if said.stream == self._outbox.stream and now_s >= self._stream_not_before_s:
                self._stream_not_before_s = now_s + _STREAM_EVERY_S
                _log.warning("%s: another stream is begun", _A_COPY)
                self._outbox.begin_stream()
        return True

    def contradicts(self, now_s: float) -> bool:
        """Return whether it is time to publish `online` again."""
        if not self._contradicted or now_s < self._say_at_s:
            return False
        self._contradicted = False
        self._say_at_s = now_s + _SAY_AGAIN_S
        return True

    @property
    def next_due_s(self) -> float:
        """Return when `contradicts` may be true next; infinity for never."""
        return self._say_at_s if self._contradicted else math.inf

    def opened(self) -> None:
        """Compare the log with the retained messages, before any of the log is sent."""
        if self._unknown:
            times = [said.utc_ms for said in self._unknown if said.utc_ms is not None]
            _log.warning("%s: another stream is begun", _A_COPY)
            self._outbox.begin_stream_since(max(times, default=None))
        self._unknown.clear()

    def _another_node(self, how: str) -> None:
        gone = self._clock.monotonic() > self._heard_at_s + _KEPT_S
        self._heard_at_s = self._clock.monotonic()
        if gone:
            _log.error("%s: %s", self.problem, how)

    def _compare(self, said: _Said, *, is_health: bool) -> None:
        """Note messages from a log that diverged from this one."""
        if said.stream != self._outbox.stream_of(said.seq) or not said.stream:
            return
        if said.seq > self._outbox.last_seq:
            self._unknown.append(said)
            return
        if is_health or said.utc_ms is None:  # the time of a health is not that of its seq
            return
        for reading in self._outbox.read(said.seq - 1, 1):
            differs = abs(reading.utc_ms - said.utc_ms) > _SAME_TIME_MS
            if reading.seq == said.seq and reading.synced and differs:
                self._unknown.append(said)
