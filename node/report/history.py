"""Sends every committed reading, in order, in batches, and moves the cursor as they arrive.

Rounds begin on connecting and then every `history_interval`; a round sends what there was when it
began, at most `drain_rate` messages a second. Readings from before the clock was set wait for it,
at most until two minutes after boot.

Used on the loop's thread, which calls `send_due` in each turn and wakes up for `next_due_s`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice

from node.config.schema import OutboxTable
from node.mqtt.events import Outgoing
from node.mqtt.publisher import Outcome, Publisher
from node.outbox.outbox import Outbox
from node.reading import Reading
from node.system.back_off import BackOff
from node.system.clock import Clock
from node.topics import history_payload

__all__ = ["AFTER_READS_S", "History"]

BATCH = 50
"""Readings in a message, at most."""
READ_AHEAD = 10 * BATCH
LOOK_AGAIN_S = 1.0
"""When readings wait for their time, or cannot be read, whether that has changed."""
AFTER_READS_S = 0.9
"""How long after the reads that begin with a round it is sent, so that it has them, too; what is
read with a round and not sent would look like a backlog."""
TOGETHER_S = 0.001
"""Messages that `drain_rate` allows within so short a time are sent together."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""How long history waits after a refusal that may pass."""
WAIT_FOR_CLOCK_S = 120.0
"""How long after boot the clock may take to be set, before readings are sent without it."""


class History:
    """The way of readings from the outbox to the broker."""

    def __init__(
        self,
        table: OutboxTable,
        outbox: Outbox,
        publisher: Publisher,
        clock: Clock,
        *,
        topic: str,
        clock_found_set: Callable[[], None],
        simulated: bool = False,
    ) -> None:
        """`clock_found_set` is called when readings need the time, and it has become known."""
        self._interval_s = table.history_interval
        self._bound = table.max_readings
        self._pause_s = 1.0 / table.drain_rate
        self._outbox = outbox
        self._publisher = publisher
        self._clock = clock
        self._topic = topic
        self._simulated = simulated
        self._clock_found_set = clock_found_set
        self._connected = False
        self._finishes = False
        self._numbering = outbox.numbering
        self._position = outbox.cursor
        """The last reading that was handed to the publisher."""
        self._goal = outbox.cursor
        """The last reading of this round."""
        self._read_ahead: deque[Reading] = deque()
        self._start_s = self._round_at_s = clock.monotonic()
        self._allowed_at_s = -math.inf
        self._pause = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self.sent = 0
        """Readings that the broker has acknowledged."""
        self.waiting = False
        """More could be sent, were there not so much in flight."""
        self.next_due_s = math.inf

    @property
    def under_way(self) -> bool:
        """The broker has not acknowledged all of this round yet."""
        return self._connected and self._outbox.cursor < self._goal

    @property
    def interval_s(self) -> float:
        """How often a round begins, in seconds; 0: whenever there is a reading."""
        return float(self._interval_s)

    def start(self, start_s: float) -> None:
        """Put the rounds on a grid soon after the one of the reads, which begins at `start_s`."""
        self._start_s = start_s + min(AFTER_READS_S, self._interval_s / 2)
        self._round_at_s = start_s

    @property
    def refusal(self) -> str:
        """Why the broker takes no history for now; "" while it does."""
        return self._publisher.history_refusal

    def link_up(self) -> None:
        """Begin again at the cursor, at once."""
        self._connected = True
        self._round_at_s = self._clock.monotonic()
        self._begin_at_cursor()

    def link_down(self) -> None:
        """What is in flight is void."""
        self._connected = False
        self.waiting = False
        self.next_due_s = math.inf

    def clock_was_set(self) -> None:
        """Readings may have other times by now."""
        self._read_ahead.clear()

    def _begin_at_cursor(self) -> None:
        self._outbox.forget_acknowledged()
        self._numbering = self._outbox.numbering
        self._position = self._outbox.cursor
        self._read_ahead.clear()

    def finish(self, now_s: float) -> None:
        """Send what there is, at once, and without waiting for its time: this is the end."""
        self._finishes = True
        self._pause_s = 0.0
        self._allowed_at_s = -math.inf
        self._round_at_s = now_s
        self.send_due(now_s)

    def send_due(self, now_s: float) -> None:
        """Send what may be sent now; set when there is more to do."""
        if not self._connected:
            return
        if self._numbering != self._outbox.numbering:
            self._begin_at_cursor()
        if now_s >= self._round_at_s or 2 * self._outbox.unsent > self._bound:
            self._goal = self._outbox.last_seq
            self._round_at_s = self._next_round_s(now_s)
        self._position = max(self._position, self._outbox.cursor)
        self.waiting = False
        self.next_due_s = math.inf
        while self._position < self._goal:
            if self._publisher.history_room <= 0:
                self.waiting = True
                return
            allowed_at_s = max(self._allowed_at_s, self._pause.until_s)
            if now_s + TOGETHER_S < allowed_at_s:
                self.next_due_s = allowed_at_s
                return
            batch = self._next_batch()
            if not batch:
                self.next_due_s = now_s + LOOK_AGAIN_S
                return
            self._send(batch)
            # One message may be made up for that came late.
            self._allowed_at_s = max(self._allowed_at_s, now_s - self._pause_s) + self._pause_s
        if self._interval_s and self._position < self._outbox.last_seq:
            self.next_due_s = self._round_at_s

    def _next_round_s(self, now_s: float) -> float:
        if not self._interval_s:
            return now_s
        passed = math.floor((now_s - self._start_s) / self._interval_s)
        return self._start_s + (passed + 1) * self._interval_s

    def _next_batch(self) -> list[Reading]:
        """The next readings of this round; none, if they have to wait or cannot be read now."""
        while self._read_ahead and self._read_ahead[0].seq <= self._position:
            self._read_ahead.popleft()
        if not self._read_ahead:
            self._read_ahead.extend(self._outbox.read(self._position, READ_AHEAD))
        batch = [r for r in islice(self._read_ahead, BATCH) if r.seq <= self._goal]
        if batch:  # a message has one stream
            stream = self._outbox.stream_of(batch[0].seq)
            batch = [r for r in batch if self._outbox.stream_of(r.seq) == stream]
        timeless = next((i for i, r in enumerate(batch) if self._lacks_time(r)), None)
        if timeless is None:
            return batch
        if self._clock.synced():
            self._clock_found_set()
            return [self._outbox.retimed(reading) for reading in batch]
        if self._finishes or self._clock.boot_s() >= WAIT_FOR_CLOCK_S:
            return batch
        return batch[:timeless]

    def _lacks_time(self, reading: Reading) -> bool:
        return not reading.synced and reading.boot_id == self._clock.boot_id

    def _send(self, batch: list[Reading]) -> None:
        stream = self._outbox.stream_of(batch[0].seq)
        payload = history_payload(stream, batch, simulated=self._simulated)
        room = self._publisher.history_bytes - len(self._topic.encode())
        while len(payload) > room and len(batch) > 1:
            batch = batch[: len(batch) // 2]
            payload = history_payload(stream, batch, simulated=self._simulated)
        after_seq, self._position = self._position, batch[-1].seq
        message = Outgoing(self._topic, payload, retain=False)
        settled = partial(self._settled, self._numbering, after_seq + 1, self._position, len(batch))
        self._publisher.send(message, settled, divisible=len(batch) > 1)

    def _settled(
        self, numbering: int, first_seq: int, last_seq: int, count: int, outcome: Outcome
    ) -> None:
        """The broker has the batch, or will never take it; what it refuses is a dead letter.

        One that is too large is sent again, in smaller ones, and with it what was sent after it:
        a reading may come twice, and never out of order but once. So is one that was refused for a
        reason that may pass, after a pause.
        """
        if numbering != self._outbox.numbering:
            return
        if outcome in (Outcome.TOO_LARGE, Outcome.LATER):
            self._position = min(self._position, first_seq - 1)
            self._read_ahead.clear()
            self._allowed_at_s = -math.inf
            if outcome is Outcome.LATER:
                self._pause.failed(self._clock.monotonic())
            return
        if outcome is Outcome.TAKEN:
            self._pause.succeeded()
        self.sent += count if outcome is Outcome.TAKEN else 0
        self._outbox.acknowledge(first_seq, last_seq)
