"""The messages on their way to the broker: the newest of each retained topic, and history.

For each retained topic at most one message is in flight and only the newest one waits, so a topic
never goes backwards. History may use a part of the window, so that it does not delay states.
Nothing is published while the link is down, and unacknowledged messages are forgotten when a link
breaks. On connecting the loop sets the current state again, and history goes back to its cursor.

Used on the loop's thread.
"""

from __future__ import annotations

import enum
import logging
import math
import sys
from collections import Counter, deque
from collections.abc import Callable
from itertools import chain, islice

from node.mqtt.connection import BrokerConnection, Change
from node.mqtt.events import Acknowledged, Outgoing
from node.mqtt.reasons import MAY_PASS, NOT_AUTHORIZED, PACKET_TOO_LARGE, Reason
from node.mqtt.retained_topics import RetainedTopics
from node.topics import OFFLINE

__all__ = ["Outcome", "Publisher"]

_log = logging.getLogger(__name__)

WINDOW = 20
"""Most messages in flight; also mosquitto's default for its side."""

_OVERHEAD_BYTES = 32
"""An upper bound for the fixed header, message id and properties of a PUBLISH."""

ALWAYS_TAKEN_BYTES = 1024
MAX_ANSWERS = 20
"""Most answers to commands that may wait; honest clients do not cause more."""
LOSSES = 2
"""How many links in a row must be lost with a message before it is considered the cause."""
_DISCONNECT_S = 0.5


class Outcome(enum.Enum):
    """The outcome of a message of history."""

    TAKEN = enum.auto()
    REFUSED = enum.auto()
    LATER = enum.auto()
    """It was temporarily refused, and has to be sent again after a while."""
    TOO_LARGE = enum.auto()
    """It has to be sent again in smaller parts, of `history_bytes` each."""


class Publisher:
    """Keeps the retained topics of one node up to date at the broker, and sends its history.

    `refused(topic, payload, reason)` is called for each message that the broker rejects.
    """

    def __init__(
        self,
        link: BrokerConnection,
        *,
        status_topic: str,
        refused: Callable[[str, bytes, str], None],
        retained: RetainedTopics | None = None,
    ) -> None:
        """`retained` remembers the topics that something is retained on."""
        self._link = link
        self._status_topic = status_topic
        self._refused = refused
        self._retained = retained
        self._remedies: dict[str, str] = {}
        """Topic -> the remedy in addition to allowing it, for topics that are published again on
        each connection, and whose loss costs no reading."""
        self.left_out: dict[str, str] = {}
        """Topic of `_remedies` -> why the broker rejects it, until it accepts a message."""
        self._denied_for_good: set[str] = set()
        """The reasons in `left_out` that were logged."""
        self._losses_over: Counter[str] = Counter()
        """Topic of `_remedies` -> how many links in a row were soon lost while it was in flight."""
        self._emptied: set[str] = set()
        """Topics that were emptied on this connection, which is said once."""
        self._waiting: dict[str, Outgoing] = {}
        self._in_flight: set[str] = set()
        """Retained topics with a message that is not acknowledged yet."""
        self._message_of: dict[int, Outgoing] = {}
        """Message id -> message in flight, if the id is known."""
        self._settlements: dict[int, Callable[[Outcome], None]] = {}
        """Message id -> callback for the outcome; the history in flight."""
        self._answers: deque[Outgoing] = deque(maxlen=MAX_ANSWERS)
        self._refused_topics: set[str] = set()
        self._answer_was_refused = False
        self._largest_bytes = sys.maxsize
        """How large a message may be, as learnt from refusals and lost links."""
        self._divisible: set[int] = set()
        """Message ids of those in flight that can be sent in smaller parts."""
        self._losses_in_flight = 0
        self._put_off: dict[str, Outgoing] = {}
        """Topic -> the retained message that was temporarily refused."""
        self.history_refusal = ""
        """Why the broker rejects history at present; "" while it accepts it."""
        self._oldest: int | None = None
        """The id of the message longest in flight, when last checked."""
        self._oldest_since_s = 0.0

    def can_do_without(self, topic: str, remedy: str) -> None:
        """Allow the topic to be dropped if the broker rejects it: that costs no reading.

        `remedy` goes into the log after the advice to allow the topic.
        """
        self._remedies[topic] = remedy

    def set(self, topic: str, payload: bytes, *, expiry_s: float = 0, last: bool = False) -> None:
        """Make `payload` the retained message of `topic`, as soon as the link allows.

        `expiry_s`: how long an MQTT 5 broker keeps it; 0 for no limit. Without a link nothing is
        kept: the loop sets everything again on connecting. With `last` it is published after all
        waiting messages, even if an earlier message of the topic waits.
        """
        if not payload and topic in self._emptied:
            return
        self._put_off.pop(topic, None)
        if last:
            self._waiting.pop(topic, None)
        if self._link.connected and self._losses_over[topic] < LOSSES:
            self._waiting[topic] = Outgoing(topic, payload, math.ceil(expiry_s))
            (self._emptied.discard if payload else self._emptied.add)(topic)

    @property
    def put_off(self) -> bool:
        """Return whether retained messages were temporarily refused; see `try_again`."""
        return bool(self._put_off)

    def try_again(self) -> None:
        """Publish the temporarily refused retained messages again."""
        for topic, message in self._put_off.items():
            self._waiting.setdefault(topic, message)
        self._put_off.clear()

    def stalled_for_s(self, now_s: float) -> float:
        """Return how long the message longest in flight has been seen in flight."""
        oldest = next(iter(self._message_of), None)
        if oldest is None or oldest != self._oldest:
            self._oldest, self._oldest_since_s = oldest, now_s
        return now_s - self._oldest_since_s

    def flush(self) -> bool:
        """Publish waiting messages in the order in which they were set, as the window allows.

        Return whether there was one for a retained topic.
        """
        sendable = self._sendable()
        for message in sendable:
            self._message_of[self._link.publish(message)] = message
        while self._answers and self.history_room > 0:
            self.send(self._answers.popleft(), lambda _outcome: None)
        return bool(sendable)

    def send(
        self, message: Outgoing, settled: Callable[[Outcome], None], *, divisible: bool = False
    ) -> None:
        """Publish a message of history; callers keep to `history_room`.

        `settled(outcome)` is called when the broker has answered, unless the link breaks before.
        Only a `divisible` message can be TOO_LARGE; any other one has then been refused.
        """
        if not self._fits(message):
            settled(Outcome.REFUSED)
            return
        message_id = self._link.publish(message)
        self._message_of[message_id] = message
        self._settlements[message_id] = settled
        if divisible:
            self._divisible.add(message_id)

    def answer(self, message: Outgoing) -> None:
        """Publish the answer to a command once; drop it without a link."""
        if self._link.connected:
            self._answers.append(message)

    @property
    def history_room(self) -> int:
        """Return how many messages of history may be sent now: none while states wait."""
        if not self._link.connected or not self._in_flight.issuperset(self._waiting):
            return 0
        share = max(1, self._window * 3 // 4)
        return min(share - len(self._settlements), self._window - self._in_flight_count)

    @property
    def history_bytes(self) -> int:
        """Return how large the payload of a message of history may be, topic included."""
        return min(self._link.max_packet_bytes, self._largest_bytes) - _OVERHEAD_BYTES

    @property
    def _window(self) -> int:
        return min(WINDOW, self._link.window)

    @property
    def _in_flight_count(self) -> int:
        return len(self._in_flight) + len(self._settlements)

    def _sendable(self) -> list[Outgoing]:
        """Remove the messages that may be sent now from the waiting ones; count them in flight."""
        if not self._waiting or not self._link.connected:
            return []
        window = self._window - self._window // 10  # leave a slot or two for history
        room = window - self._in_flight_count
        free = (topic for topic in self._waiting if topic not in self._in_flight)
        topics = list(islice(free, max(0, room)))
        messages = [m for m in map(self._waiting.pop, topics) if self._fits(m)]
        self._in_flight.update(message.topic for message in messages)
        self._remember(messages)
        return messages

    def _remember(self, messages: list[Outgoing]) -> None:
        """Note the topics of messages before they are published.

        If one is new, so may be those that wait: all are noted, so that the topics of a thousand
        sensors are written once, and not again with each window.
        """
        if self._retained is None:
            return
        known = self._retained.own
        if any(message.payload and message.topic not in known for message in messages):
            coming = chain(messages, self._waiting.values())
            self._retained.remember(message.topic for message in coming if message.payload)

    def link_changed(self, change: Change) -> None:
        """Forget the messages in flight, and learn from a lost link."""
        if change is Change.DOWN:
            self._mind_losses()
        if change is not Change.NONE:
            self.forget()

    def acknowledged(self, event: Acknowledged) -> None:
        """Settle a message; acknowledgements of an earlier client are ignored."""
        if event.generation != self._link.generation:
            return
        message = self._message_of.pop(event.message_id, None)
        if message is None:
            return
        settled = self._settlements.pop(event.message_id, None)
        if settled is None and event.refused is None:
            self._taken(message)
            return
        divisible = event.message_id in self._divisible
        self._divisible.discard(event.message_id)
        outcome = Outcome.TAKEN
        if event.refused is not None:
            if divisible and event.refused.code == PACKET_TOO_LARGE:
                outcome = Outcome.TOO_LARGE
                self._send_less_than(message)
            else:
                outcome = self._refused_by_broker(message, event.refused, settled is not None)
        elif not message.is_answer:
            self.history_refusal = ""
        if settled is None:
            self._in_flight.discard(message.topic)
        else:
            settled(outcome)

    def _taken(self, message: Outgoing) -> None:
        """Note that the broker has taken the message of a retained topic."""
        self.left_out.pop(message.topic, None)
        self._in_flight.discard(message.topic)
        if self._retained is not None and not message.payload:
            self._retained.emptied(message.topic)

    def _mind_losses(self) -> None:
        """Send less if the link is repeatedly lost soon with the same messages in flight.

        A broker that does not announce its maximum closes the connection over a larger message
        (MQTT 5, §3.1.2.11.4; in 3.1.1 brokers cannot announce it), and would do so endlessly.
        History can be made smaller, down to `ALWAYS_TAKEN_BYTES`. Topics in `_remedies` can be left
        out, until a connection has lasted.
        """
        if not self._link.was_short_lived:
            self._losses_over.clear()
        in_flight = {message.topic for message in self._message_of.values()}
        for topic in in_flight & self._remedies.keys() if self._link.was_short_lived else ():
            self._losses_over[topic] += 1
            if self._losses_over[topic] == LOSSES:
                why = f"it ends the connection over it; raise its limit{self._remedies[topic]}"
                _log.warning("the broker rejected %s: %s", topic, why)
        if not self._settlements or not self._link.was_short_lived:
            self._losses_in_flight = 0
            return
        self._losses_in_flight += 1
        if self._losses_in_flight >= LOSSES:
            largest = max(len(self._message_of[i].payload) for i in self._settlements)
            self._largest_bytes = max(ALWAYS_TAKEN_BYTES, largest // 2)

    def forget(self) -> None:
        """Forget the messages in flight and the waiting ones."""
        self._oldest = None
        self._emptied.clear()
        self._waiting.clear()
        self._answers.clear()
        self._in_flight.clear()
        self._message_of.clear()
        self._settlements.clear()
        self._divisible.clear()
        self._put_off.clear()
        self._refused_topics.clear()
        self.history_refusal = ""

    def ask_for_acknowledgements(self, *, more_history: bool) -> int:
        """Return how many acknowledgements make it worth sending more; 0 if nothing waits.

        Half a window, so that a long queue is sent in bulk; any one if only a few are in flight.
        """
        waiting = bool(self._waiting or self._answers) or more_history
        self._link.hurry(waiting)
        if not waiting:
            return 0
        half = self._window // 2
        return half if self._in_flight_count >= half > 0 else 1

    @property
    def sent(self) -> bool:
        """Return whether every retained message is on its way, so that new ones come after it."""
        return not self._waiting

    @property
    def idle(self) -> bool:
        """Return whether nothing is on its way to the broker, or nothing can be."""
        return not self._link.connected or not (self._in_flight_count or self._waiting)

    def say_goodbye(self, also_offline: list[str]) -> None:
        """Publish `offline` for the node and on the topics `also_offline`, and nothing else.

        Messages in flight stay in flight: their acknowledgements still count, and they occupy their
        part of the window (Receive Maximum; MQTT 5, §4.9).
        """
        if self._link.connected:
            self._waiting.clear()
            self._answers.clear()
            for topic in (self._status_topic, *also_offline):
                self.set(topic, OFFLINE)
            self.flush()

    def close(self) -> None:
        """Disconnect if the goodbye was acknowledged; otherwise let the link break.

        The broker publishes the will when a link breaks, and discards it on DISCONNECT.
        """
        if not self._link.connected or not (self._in_flight or self._waiting):
            self._link.disconnect(_DISCONNECT_S)

    def _fits(self, message: Outgoing) -> bool:
        content = len(message.payload) + len(message.correlation)
        size = len(message.topic.encode()) + content + _OVERHEAD_BYTES
        if size > self._link.max_packet_bytes:
            why = f"its {size} bytes exceed the broker's maximum packet size of "
            why += f"{self._link.max_packet_bytes}; raise that"
            self._refuse(message, why + self._remedies.get(message.topic, ""))
            return False
        return True

    def _refused_by_broker(self, message: Outgoing, reason: Reason, is_history: bool) -> Outcome:
        """Keep a message that may be accepted later, and drop one that will not be."""
        why = reason.name
        if reason.code == NOT_AUTHORIZED:
            why += "; allow the topic in the broker's ACL"
            why += self._remedies.get(message.topic, "")
        if reason.code not in MAY_PASS or message.is_answer:
            self._refuse(message, why)
            return Outcome.REFUSED
        if is_history:
            self.history_refusal = why
            self._say_refused(message.topic, f"{why}; readings wait in the log, and are sent later")
            return Outcome.LATER
        self._put_off[message.topic] = message
        if reason.code == NOT_AUTHORIZED:
            self._refuse(message, why)
        else:
            self._say_refused(message.topic, f"{why}; trying again")
        return Outcome.LATER

    def _send_less_than(self, message: Outgoing) -> None:
        """Halve the size of messages of history, because the broker rejects this size."""
        size = len(message.payload)
        if size // 2 < self._largest_bytes:
            self._largest_bytes = size // 2
            _log.info("%s: %d bytes are too many for the broker; sending half", message.topic, size)

    def _refuse(self, message: Outgoing, why: str) -> None:
        """Report a message that cannot be published; log it once per topic and connection.

        Answers are logged once in total: clients may choose any number of topics for them, and
        nothing is lost that the node has to keep. Topics in `_remedies` are also logged once.
        """
        if message.is_answer:
            if not self._answer_was_refused:
                self._answer_was_refused = True
                _log.warning("the broker rejected an answer on %.80r: %s", message.topic, why)
            return
        if message.topic in self._remedies:
            self._leave_out(message.topic, why)
            return
        if message.payload or not message.retain:  # a deletion need not be kept
            self._refused(message.topic, message.payload, why)
        self._say_refused(message.topic, why)

    def _leave_out(self, topic: str, why: str) -> None:
        """Do without a topic of `_remedies`; log each reason once."""
        self.left_out[topic] = why
        if why not in self._denied_for_good:
            self._denied_for_good.add(why)
            _log.warning("the broker rejected %s: %s", topic, why)

    def _say_refused(self, topic: str, why: str) -> None:
        """Log it once per topic and connection."""
        if topic not in self._refused_topics:
            self._refused_topics.add(topic)
            _log.error("the broker rejected %s: %s", topic, why)
