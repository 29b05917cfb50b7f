"""The steps before `online` on a new connection, so that old values do not look current.

    subscribe ─► availability `offline` of every sensor, alarms as they are, former topics deleted
              ─► (answered) topics that this node has published under another name deleted
              ─► the Reporter publishes `online`, and everything else

After a crash the broker has `online` and a value of every sensor. They must be gone before the
status says `online` again. The broker processes the messages of a connection in order (MQTT 5,
§4.6). The retained messages of others have arrived when the last of the subscriptions is answered.

Used on the loop's thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from node.mqtt.connection import BrokerConnection
from node.mqtt.events import Arrived
from node.mqtt.publisher import Publisher
from node.mqtt.retained_topics import RetainedTopics
from node.system.clock import Clock
from node.topics import OFFLINE, ONLINE

__all__ = ["Opening"]

_log = logging.getLogger(__name__)

MAX_WAIT_S = 3.0
"""How long the node waits for the broker's answer to subscriptions before it goes on."""


class Opening:
    """Takes a new connection to the point where the node may publish `online`."""

    def __init__(
        self,
        link: BrokerConnection,
        publisher: Publisher,
        retained: RetainedTopics,
        clock: Clock,
        *,
        status: str,
        availability: Sequence[str],
        states: Sequence[str],
        channels: Sequence[str],
        is_current: Callable[[str], bool],
        set_alarms: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep the topics.

        `availability`, `states` and `channels` are the topics of the sensors. `is_current` returns
        whether the node still publishes on a topic. `set_alarms` publishes the alarms as they are.
        """
        self._link = link
        self._publisher = publisher
        self._retained = retained
        self._clock = clock
        self._status = status
        self._availability = availability
        self._states = states
        self._channels = channels
        self._is_current = is_current
        self._set_alarms = set_alarms
        self._steps: list[Callable[[], None]] = []
        """The remaining steps; each begins when all messages before it are sent."""
        self._first = True
        self._status_of = {f"{node}/status": node for node in retained.others}
        self._heard_all = True
        self._wait_until_s = -math.inf
        self._statuses: dict[str, bytes] = {}
        """Former name of this node -> the status there."""

    @property
    def under_way(self) -> bool:
        """Return whether the steps are not complete, so that nothing else may be published."""
        return bool(self._steps)

    def begin(self) -> None:
        """Begin the steps for a new connection."""
        self._statuses.clear()
        topics = [*self._status_of, *(self._states if self._first else ())]
        self._heard_all = not (self._first or topics)
        if not self._heard_all:
            self._link.listen_also([*topics, self._status])
            self._wait_until_s = self._clock.monotonic() + MAX_WAIT_S
        self._steps = [self._empty_others, self._end]
        gone = sorted(topic for topic in self._retained.own if not self._is_current(topic))
        if gone:
            _log.info("removing former topics from the broker: %s", ", ".join(gone))
        for topic in gone:
            self._publisher.set(topic, b"")
        # All at once: the list is written whole, and the first readings come one by one.
        self._retained.remember([*self._availability, *self._states, *self._channels])
        for topic in self._availability:
            self._publisher.set(topic, OFFLINE)
        self._set_alarms()

    def link_down(self) -> None:
        """Begin again at the next connection."""
        self._steps = []

    def hear(self, message: Arrived) -> bool:
        """Note a message under a former name of this node; return whether it was one."""
        node = self._status_of.get(message.topic)
        if node is None:
            return False
        self._statuses[node] = message.payload
        if not self.under_way:
            self._empty(node)
        return True

    def heard_all(self) -> None:
        """Note that the broker's retained messages have arrived."""
        self._heard_all = True

    @property
    def next_due_s(self) -> float:
        """Return when to go on without the broker's answer; infinity for never."""
        return math.inf if self._heard_all or not self._steps else self._wait_until_s

    def proceed(self) -> bool:
        """Do the next step if the previous one is sent; return whether it was the last."""
        self._heard_all |= self._clock.monotonic() >= self._wait_until_s
        while self._steps and self._heard_all and self._publisher.sent:
            self._steps.pop(0)()
            if not self._steps:
                return True
        return False

    def _empty_others(self) -> None:
        for node in self._retained.others:
            self._empty(node)

    def _empty(self, node: str) -> None:
        """Delete the topics that this node has published as another one, unless that is online.

        If it is online, either it runs and its card was copied, or it was this node's previous
        process, whose end the broker has not noticed yet. Its will then says `offline`.
        """
        topics = self._retained.others.get(node, set())
        if not topics or self._statuses.get(node) == ONLINE:
            return
        _log.info("removing the topics that this node published as %s from the broker", node)
        for topic in sorted(topics):
            if not self._is_current(topic):
                self._publisher.set(topic, b"")
            else:
                self._retained.emptied(topic)

    def _end(self) -> None:
        if self._first:
            self._link.ignore(*self._states)
        self._first = False
        self._retained.save()
