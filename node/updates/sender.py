"""Brings a bundle to a node over MQTT, as an operator: the other end of `Updater`.

    state? ──► announce ──► piece, piece, ... ──► wait for root ──► kept | undone | refused | failed

Each step follows from what the node says of itself, so it goes on after a lost connection, after a
restart of the node, and when another process has begun it.

In the foreground, on one thread.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from node.mqtt.events import Arrived, Outgoing
from node.mqtt.leftovers import Denied, NoAnswer, NoBroker, Visit
from node.mqtt.reasons import PACKET_TOO_LARGE
from node.topics import OFFLINE, ONLINE, UPDATE_PIECE, Topics
from node.updates.request import Offer

__all__ = ["Answer", "Refused", "Sender", "Silent", "filters"]

PIECE_BYTES = 24 * 1024
"""What a node takes at most, so that a piece in base64 stays below 33 kB."""
_LEAST_PIECE_BYTES = 512
_BESIDE_THE_PIECE = 512
"""Most bytes of a packet that has a piece, beyond its base64: topics, offset and digest."""
FIRST_ANSWER_S = 30.0
"""How long a node may take to answer at first; it may just be starting."""
SILENT_S = 3600.0
"""How long it may be silent later, as a sender may for the node: it restarts for the trial."""
ANSWER_S = 10.0
LOOK_EVERY_S = 5.0
"""How often the node is asked what has become of the bundle."""
_MOST_IN_VAIN = 5
"""How many pieces a node may refuse while no more of the bundle comes; its disk may be full."""
_LOST_IF_TOO_LARGE = 2
"""How many pieces in a row are lost, with nothing between, if they are too large for a broker."""
_MOST_LOST = 16
"""How many are lost before it ends: the last ones are as small as they get."""
_MOST_REFUSALS = 3
"""How often the question for the state may be refused: in MQTT 3.1.1 an answer cannot be told from
one to an earlier question."""
_UPDATE = "update"
_IN_PROGRESS = ("fetching", "receiving", "staged", "installing", "trial")


class Refused(Exception):
    """The node refuses the bundle; the message says why."""


class _StartedAgain(NoAnswer):
    """The node says that it is online, so it may not have seen the question."""


class Silent(Exception):
    """The node does not answer; the message says what is known of it."""


class Answer(msgspec.Struct, frozen=True):
    """What a node answers: the state of its update, or how much of a bundle it has."""

    command: str
    ok: bool
    state: str = ""
    text: str = ""
    bundle: str = ""
    """The SHA-256 of the bundle that it is about; "" once that is the version that runs."""
    received: int = 0
    """How many bytes of the bundle are there."""
    error: str = ""

    @property
    def in_progress(self) -> bool:
        return self.state in _IN_PROGRESS


def filters(topics: Topics) -> list[str]:
    """Return what the visit of a `Sender` has to subscribe to."""
    results = [f"{topics.command_result(name)}/#" for name in (_UPDATE, UPDATE_PIECE)]
    return [*results, topics.status]  # `result/#` includes `result` (MQTT 5, §4.7.1.2)


class Sender:
    """Brings one bundle to one node."""

    def __init__(
        self,
        visit: Visit,
        topics: Topics,
        file: Path,
        offer: Offer,
        *,
        show: Callable[[Answer], None],
        waits: Callable[[str], None],
    ) -> None:
        """`show` is called with what the node says, `waits` with why it says nothing."""
        self._visit = visit
        self._topics = topics
        self._file = file
        self._offer = offer
        self._show = show
        self._waits = waits
        self._name = f"push-{os.urandom(4).hex()}"
        self._questions = 0
        self._patience_s = FIRST_ANSWER_S
        self._has_answered = False
        self._piece_bytes = PIECE_BYTES
        self._in_vain = 0
        """How many pieces have not arrived, since `_vain_from` bytes were there."""
        self._vain_from = 0

    def send(self) -> Answer:
        """Bring the bundle to the node; return how that has ended.

        Raises:
            NoBroker: the broker cannot be reached, or refuses something.
            Silent: the node does not answer.
            Refused: the node does not take the bundle.
            OSError: the file cannot be read any more.
        """
        self._visit.begin()
        answer, has_begun = self._state(), False
        while True:
            self._show(answer)
            is_ours = answer.bundle == self._offer.bundle
            has_begun |= is_ours and answer.in_progress
            if is_ours and answer.in_progress:
                answer = self._go_on(answer)
            elif has_begun or (is_ours and self._offer.offer and answer.state == "offered"):
                return answer
            else:
                answer = self._announce()

    def _announce(self) -> Answer:
        try:
            return self._ask_once(_UPDATE, msgspec.json.encode(self._offer))
        except Denied:
            raise
        except NoBroker:
            return self._state()
        except Refused:
            # Another command may have been faster, or it was an answer to an earlier question.
            answer = self._state()
            if answer.bundle == self._offer.bundle and answer.in_progress:
                return answer
            raise

    def _go_on(self, answer: Answer) -> Answer:
        """Do the next step of an update that is under way; return what the node says then."""
        if answer.state != "receiving" or answer.received >= self._offer.size:
            return self._next_state(answer)
        if self._offer.file is not None:
            raise Refused(
                f"it has begun to take this bundle in pieces ({answer.received} bytes): go on "
                "without --fetch, or cancel that"
            )
        return self._send_pieces(answer)

    def _send_pieces(self, answer: Answer) -> Answer:
        """Send pieces until the node has all of it, or one does not arrive."""
        with self._file.open("rb") as stream:
            while (received := answer.received) < self._offer.size:
                stream.seek(received)
                piece = stream.read(self._bytes_at_once())
                if not piece:
                    raise Refused(f"{self._file} was changed meanwhile: start again")
                text = f"{received} {self._offer.bundle[:16]} ".encode() + base64.b64encode(piece)
                try:
                    answer = self._ask_once(UPDATE_PIECE, text)
                except Denied as denied:
                    if denied.code != PACKET_TOO_LARGE or not self._use_smaller_pieces():
                        raise
                    continue
                except NoBroker:
                    self._mind_loss(received)
                    break
                if answer.error:
                    self._mind_error(answer)
                    break
                self._show(answer)
        return self._state()

    def _bytes_at_once(self) -> int:
        """Return how much of the bundle a message has: whole groups of base64."""
        room = (self._visit.max_packet_bytes - _BESIDE_THE_PIECE) // 4 * 3
        return max(_LEAST_PIECE_BYTES, min(self._piece_bytes, room))

    def _use_smaller_pieces(self) -> bool:
        """Halve the pieces, because one was too large; return whether they can be smaller."""
        if self._piece_bytes <= _LEAST_PIECE_BYTES:
            return False
        self._piece_bytes = max(_LEAST_PIECE_BYTES, self._piece_bytes // 2)
        return True

    def _mind_loss(self, received: int) -> None:
        """Bear lost pieces; a broker without MQTT 5 does not say that one is too large."""
        lost = self._count_in_vain(received)
        if lost % _LOST_IF_TOO_LARGE == 0:
            self._use_smaller_pieces()
        if lost >= _MOST_LOST:
            raise Silent(
                f"{self._topics.node} answers, but no piece of the bundle reaches it; may this "
                f"login publish to {self._topics.command(UPDATE_PIECE)}, by the broker's ACL?"
            )

    def _mind_error(self, answer: Answer) -> None:
        """Bear some errors: after a lost answer a piece comes twice, or another client sends it."""
        if self._count_in_vain(answer.received) >= _MOST_IN_VAIN:
            raise Refused(answer.error)

    def _count_in_vain(self, received: int) -> int:
        """Count a piece that has not arrived; return how many since so much was received."""
        if received != self._vain_from:
            self._in_vain, self._vain_from = 0, received
        self._in_vain += 1
        return self._in_vain

    def _next_state(self, answer: Answer) -> Answer:
        """Wait for another state; return the present one after a while."""
        found: list[Answer] = []

        def is_news(event: Arrived) -> bool:
            heard = self._answer_in(event, _UPDATE)
            if heard is not None and heard.state not in ("", answer.state):
                found.append(heard)
            return bool(found) or self._has_come_back(event)

        with suppress(NoBroker):  # the next question waits for the connection
            self._visit.hear(LOOK_EVERY_S, is_news)
        return found[-1] if found else self._state()

    # -- questions

    def _state(self) -> Answer:
        """Ask for the state until an answer comes."""
        end_s = time.monotonic() + self._patience_s
        refusals = 0
        while True:
            try:
                self._visit.come_back(max(0.0, end_s - time.monotonic()))
                answer = self._ask_once(_UPDATE, b"")
            except Denied:
                raise
            except _StartedAgain:
                continue
            except Refused:
                refusals += 1
                if refusals >= _MOST_REFUSALS:
                    raise
                continue
            except NoBroker as error:
                if time.monotonic() >= end_s:
                    raise Silent(self._silence(error)) from None
                if isinstance(error, NoAnswer):  # a lost connection is in the log
                    self._waits(self._silence(error))
                continue
            self._patience_s, self._has_answered = SILENT_S, True
            return answer

    def _ask_once(self, command: str, payload: bytes) -> Answer:
        """Send a command; return its answer.

        Raises:
            Refused: it is one that refuses the command, and not a piece.
            NoBroker, NoAnswer: it has not come.
        """
        self._questions += 1
        correlation = str(self._questions).encode()
        question = Outgoing(
            self._topics.command(command),
            payload,
            retain=False,
            correlation=correlation,
            response_topic=f"{self._topics.command_result(command)}/{self._name}",
        )
        found: list[Answer] = []

        def is_answer(event: Arrived) -> bool:
            heard = self._answer_in(event, command)
            # In MQTT 3.1.1, of this client or of the node, the answer is on the common topic.
            is_common = event.topic == self._topics.command_result(command)
            is_mine = event.topic == question.response_topic and event.correlation == correlation
            if heard is not None and (is_common or is_mine):
                found.append(heard)
            return bool(found) or self._has_come_back(event)

        within_s = min(ANSWER_S, self._patience_s)
        self._visit.ask(question, within_s, is_answer)
        if not found:
            raise _StartedAgain
        answer = found[-1]
        if answer.error and command == _UPDATE and not answer.state:
            raise Refused(answer.error)
        return answer

    def _answer_in(self, event: Arrived, command: str) -> Answer | None:
        """Return the answer that a message is; None for another, or one without sense."""
        common = self._topics.command_result(command)
        if event.topic != common and not event.topic.startswith(f"{common}/"):
            return None
        try:
            answer = msgspec.json.decode(event.payload, type=Answer)
        except (msgspec.DecodeError, RecursionError):
            return None
        return answer if answer.command == command else None

    def _has_come_back(self, event: Arrived) -> bool:
        """Return whether a message says that the node is there again, or as always.

        It says so once a minute, too: then there is one question more.
        """
        is_new = event.topic == self._topics.status and not event.retained
        return is_new and event.payload == ONLINE

    def _silence(self, error: NoBroker) -> str:
        """Return why the node is not heard of."""
        if not isinstance(error, NoAnswer):
            return str(error)
        status = self._visit.newest(self._topics.status)
        node = self._topics.node
        if status is None:
            return f"{node} is not known to the broker: it has nothing on {self._topics.status}"
        if status == OFFLINE:
            return f"{node} is offline"
        said = f"{node} is online, but does not answer"
        if self._has_answered:
            return said
        command = self._topics.command(_UPDATE)
        return (
            f"{said}; may this login publish to {command} and read what is below it, by the "
            "broker's ACL?"
        )
