"""The loop of `store`: from the broker into the database, and back the acknowledgements.

A message is acknowledged when the database has committed it. Until then the broker keeps it: in the
client's session, through crashes of this process and of the database. At most `WINDOW` messages
are on their way, so memory is bounded, too. What is missing in spite of it (the broker has lost a
session, or a queue was full) shows as a gap in the numbers, and is asked for from the node's own
log.

Used on the thread of the command; paho's thread only puts events into the inbox.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import msgspec

from node.config.schema import MqttTable
from node.mqtt.connection import BrokerConnection, Change
from node.mqtt.events import Arrived, Outgoing, Session, Subscription
from node.store.batches import Batch, Unusable, parse_batch
from node.store.database import Database, Gap, Refused, Unavailable, Written
from node.system.back_off import BackOff
from node.system.clock import Clock
from node.topics import Topics
from node.watch.inbox import Inbox

__all__ = ["Consumer", "Counts"]

_log = logging.getLogger(__name__)

WINDOW = 200
"""Most messages between the broker and the database."""
KEEP_SESSION_S = 30 * 86400
"""How long the broker keeps messages for a consumer that is away."""
TURN_S = 0.5
LOOK_FOR_GAPS_S = 5.0
GAP_AGE_S = 10.0
"""How old a gap must be before a node is asked: another consumer may be about to fill it."""
ANSWER_WITHIN_S = 60.0
"""How long a node may take to send what it was asked for."""
LONGEST_PAUSE_S = 3600.0
"""The longest time before a node that does not answer, or may not, is asked again."""
QUIET_S = 3.0
"""How long nothing may arrive before `--once` ends."""
MAX_ASKED = 5_000
"""Most readings that are asked for at once; the node's limit."""
_MAX_GAPS = 1_000
_REPLAY = "replay"


class Counts(msgspec.Struct):
    """What the process has done; read by the metrics from another thread."""

    stored: int = 0
    again: int = 0
    rejected: int = 0
    waiting: int = 0
    """Messages that the database has not yet."""
    missing: int = 0
    lost: int = 0
    lag_s: float = math.nan
    """The age of the newest reading when it was stored; NaN if no node's clock was right."""
    stored_at_s: float = math.nan
    """When that was, in seconds since 1970."""
    newest_s: dict[str, float] = {}
    """Node -> when its newest reading was taken, of those that were stored since the start."""
    connected: bool = False
    database_problem: str = ""


class Consumer:
    """Stores the history of the nodes below `mqtt.base_topic`."""

    def __init__(
        self,
        mqtt: MqttTable,
        database: Database,
        clock: Clock,
        *,
        name: str,
        share: str | None,
        tls_context: Any,
    ) -> None:
        """`name` makes the client id, and so the session. `share`: the group of consumers."""
        self._mqtt = mqtt
        self._database = database
        self._clock = clock
        self._inbox = Inbox()
        history = f"{mqtt.base_topic}/+/history"
        self._answers = f"{mqtt.base_topic}/+/cmd/{_REPLAY}/result"
        self._link = BrokerConnection(
            mqtt,
            clock,
            client_id=f"sensor-node-store-{name}",
            tls_context=tls_context,
            report=self._inbox.report,
            subscribe=(
                Subscription(f"$share/{share}/{history}", unshared=history)
                if share
                else Subscription(history),
                Subscription(self._answers),
            ),
            session=Session(keep_s=KEEP_SESSION_S, window=WINDOW),
        )
        self._pending: list[Arrived] = []
        self._pause = BackOff(1.0, 30.0)
        self._gaps_at_s = clock.monotonic()
        self._gap_age_s = GAP_AGE_S
        self._seen_since_s: dict[Gap, float] = {}
        self._not_again: dict[str, BackOff] = {}
        """Node -> when it may be asked again, after it has refused or not answered."""
        self._asked: dict[str, tuple[Gap, float]] = {}
        """Node -> the gap that it was asked for, and when."""
        self._busy_at_s = self._looked_at_s = clock.monotonic()
        self._ending = False
        self._in_database = False
        self.counts = Counts()

    def open_database(self) -> None:
        """Open the database, or try again later.

        Raises:
            NewerDatabase: its tables are of a newer version of this program.
        """
        self._with_database(self._database.open)

    def run(self, *, once: bool = False) -> None:
        """Store until `stop` is called; with `once`, until nothing more comes."""
        if once:
            self._gap_age_s = 0.0
        self._link.start()
        try:
            while not (self._ending or (once and self._is_quiet())):
                self._turn()
        finally:
            self._inbox.close()
            self._link.disconnect(TURN_S)
            self._database.close()

    def stop(self, name: str) -> None:
        """End `run`: soon, or at once if the database does not answer. For a signal handler."""
        self._ending = True
        self._inbox.signalled(0)
        if self._in_database:
            raise SystemExit(0)  # nothing was acknowledged that is not committed

    def _is_quiet(self) -> bool:
        """Return whether nothing has come for a while, and the gaps were looked at since."""
        quiet_s = self._clock.monotonic() - self._busy_at_s
        idle = self._link.connected and not self._pending and not self._asked
        return idle and quiet_s >= QUIET_S and self._looked_at_s > self._busy_at_s

    def _turn(self) -> None:
        for event in self._inbox.wait(TURN_S):
            if isinstance(event, int):
                continue
            change = self._link.follow(event)
            if change is not Change.NONE:
                self._asked.clear()
                self._busy_at_s = self._clock.monotonic()
                if len(self._pending) > WINDOW:
                    self._pending.clear()  # the broker sends them again, a second time
            if isinstance(event, Arrived):
                self._arrived(event)
        now_s = self._clock.monotonic()
        if not self._link.alive:
            self._link.restart()
        self.counts.connected = self._link.connected
        if self._pending and now_s >= self._pause.until_s:
            self._store()
        if now_s >= self._gaps_at_s and now_s >= self._pause.until_s and self._link.connected:
            self._gaps_at_s = now_s + LOOK_FOR_GAPS_S
            self._with_database(self._look_for_gaps)
        self.counts.waiting = len(self._pending)

    def _arrived(self, message: Arrived) -> None:
        self._busy_at_s = self._clock.monotonic()
        if message.topic.endswith("/history"):
            self._pending.append(message)
            return
        self._link.settle(message)
        self._with_database(lambda: self._answered(message))

    def _with_database(self, work: Callable[[], None]) -> bool:
        """Do some work; return False, and say so once, if the database is away."""
        try:
            self._in_database = True
            work()
        except Unavailable as problem:
            if self.counts.database_problem != str(problem):
                _log.error("%s; trying again, and the broker keeps what comes", problem)
            self.counts.database_problem = str(problem)
            self._pause.failed(self._clock.monotonic())
            return False
        finally:
            self._in_database = False
        if self.counts.database_problem:
            _log.warning("the database is there again")
        self.counts.database_problem = ""
        self._pause.succeeded()
        return True

    # -- readings

    def _store(self) -> None:
        messages, self._pending = self._pending, []
        batches: list[tuple[Arrived, Batch]] = []
        unusable: list[tuple[Arrived, str]] = []
        for message in messages:
            try:
                batch = parse_batch(message.topic, message.payload, self._mqtt.base_topic)
                batches.append((message, batch))
            except Unusable as problem:
                unusable.append((message, str(problem)))

        def write() -> None:
            try:
                self._count(self._database.write([batch for _, batch in batches]))
            except Refused:
                for message, batch in batches:  # one of them; the others are stored
                    try:
                        self._count(self._database.write([batch]))
                    except Refused as problem:
                        self._reject(message, str(problem))
            for message, why in unusable:
                self._reject(message, why)

        if not self._with_database(write):
            self._pending = messages + self._pending
            return
        for message in messages:
            self._link.settle(message)

    def _count(self, written: Written) -> None:
        self.counts.stored += written.new
        self.counts.again += written.again
        now_s = self._clock.utc_s()
        if written.new:
            self.counts.stored_at_s = now_s
        for node, newest in written.newest.items():
            taken_s = min(newest.timestamp(), now_s)
            self.counts.newest_s[node] = max(taken_s, self.counts.newest_s.get(node, 0.0))
        if written.newest:
            self.counts.lag_s = max(0.0, now_s - max(written.newest.values()).timestamp())

    def _reject(self, message: Arrived, problem: str) -> None:
        self._database.reject(message.topic, message.payload, problem)
        self.counts.rejected += 1
        _log.warning("%s: a message is not stored: %s", message.topic, problem)

    # -- gaps

    def _look_for_gaps(self) -> None:
        now_s = self._clock.monotonic()
        self._looked_at_s = now_s
        self.counts.missing, self.counts.lost = self._database.missing()
        for node, (_, asked_at_s) in list(self._asked.items()):
            if now_s - asked_at_s > ANSWER_WITHIN_S:
                del self._asked[node]
                self._pause_asking(node)
        gaps = [] if self.counts.missing == self.counts.lost else self._database.gaps(_MAX_GAPS)
        self._seen_since_s = {gap: self._seen_since_s.get(gap, now_s) for gap in gaps}
        for gap, since_s in self._seen_since_s.items():
            not_again = self._not_again.get(gap.node)
            if gap.node in self._asked or now_s - since_s < self._gap_age_s:
                continue
            if not_again is not None and now_s < not_again.until_s:
                continue
            if self._database.claim(gap.stream_id, ANSWER_WITHIN_S):
                self._ask(gap)
        self._link.send()

    def _ask(self, gap: Gap) -> None:
        """Ask the node for the newest part of the gap."""
        self._asked[gap.node] = (gap, self._clock.monotonic())
        first_seq = max(gap.first_seq, gap.last_seq - MAX_ASKED + 1)
        topic = Topics(self._mqtt.base_topic, gap.node).command(_REPLAY)
        content = f"{gap.stream} {first_seq} {gap.last_seq}".encode()
        _log.info("%s: asking for its readings %d to %d", gap.node, first_seq, gap.last_seq)
        self._link.publish(Outgoing(topic, content, retain=False))

    def _pause_asking(self, node: str) -> None:
        pause = self._not_again.setdefault(node, BackOff(ANSWER_WITHIN_S, LONGEST_PAUSE_S))
        pause.failed(self._clock.monotonic())

    def _answered(self, message: Arrived) -> None:
        """Note what a node has answered to `replay`; the readings themselves come as history."""
        node = message.topic.removeprefix(f"{self._mqtt.base_topic}/").partition("/")[0]
        try:
            answer = msgspec.json.decode(message.payload, type=_Answer)
        except (msgspec.DecodeError, RecursionError):
            return
        gap, _ = self._asked.get(node, (None, 0.0))
        if gap is None or (
            answer.ok and (answer.stream, answer.last) != (gap.stream, gap.last_seq)
        ):
            return
        del self._asked[node]
        if not answer.ok:
            self._pause_asking(node)
            _log.warning("%s cannot send readings that are missing: %s", node, answer.error)
            return
        self._not_again.pop(node, None)
        # A log forgets its oldest readings first, so what is before an empty part is gone, too.
        first_seq = gap.first_seq if answer.readings == 0 else answer.first
        self._database.answered(gap, (first_seq, answer.last), answer.stream_begins)
        self._gaps_at_s = self._clock.monotonic()


class _Answer(msgspec.Struct):
    """What a node answers to `replay`."""

    ok: bool
    error: str = ""
    stream: str = ""
    first: int = 0
    last: int = 0
    readings: int = 0
    stream_begins: int | None = None
