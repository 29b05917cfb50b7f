"""Sends every committed reading, in order, in batches, and moves the cursor as they arrive.

A round begins on connecting and then every `history_interval`. It sends the readings that existed
when it began, at most `drain_rate` messages a second. Readings from before the clock was set wait
for that, at most until two minutes after boot. When a round is complete, a replay goes on: readings
that a consumer has asked for again, because it has a gap.

Used on the loop's thread, which calls `send_due` in each turn and wakes up for `next_due_s`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
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

__all__ = ["AFTER_READS_S", "MAX_REPLAYED", "History"]

BATCH = 50
"""Most readings in a message."""
READ_AHEAD = 10 * BATCH
LOOK_AGAIN_S = 1.0
"""How often to check readings again that wait for their time or cannot be read."""
AFTER_READS_S = 0.9
"""How long a round waits for the reads that begin with it, so that it includes them; otherwise
they would look like a backlog."""
TOGETHER_S = 0.001
"""Messages that `drain_rate` allows within this time are sent together."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""How long history waits after a temporary refusal."""
SLOWEST_PAUSE_S = 10.0
"""Between two messages, for a broker to which more are too many."""
WAIT_FOR_CLOCK_S = 120.0
"""How long after boot the clock may take to be set, before readings are sent without it."""
MAX_REPLAYED = 5_000
"""Most readings of one replay."""


class _Replay:
    """Readings `first_seq` to `last_seq` of a stream, to be sent again from the log."""

    def __init__(
        self, stream: str, first_seq: int, last_seq: int, done: Callable[[int, int | None], None]
    ) -> None:
        self.stream = stream
        self.position = first_seq - 1
        """The last reading that was passed to the publisher, or is not in the log."""
        self.last_seq = last_seq
        self.in_flight = 0
        """Batches that the broker has not acknowledged."""
        self.sent = 0
        self.done = done


class History:
    """Sends readings from the outbox to the broker."""

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
        """Keep the parts. `clock_found_set` is called when waiting readings can get their time."""
        self._interval_s = table.history_interval
        self._bound = table.max_readings
        self._pause_s = self._usual_pause_s = 1.0 / table.drain_rate
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
        """The last reading that was passed to the publisher."""
        self._goal = outbox.cursor
        """The last reading of this round."""
        self._read_ahead: deque[Reading] = deque()
        self._start_s = self._round_at_s = clock.monotonic()
        self._allowed_at_s = -math.inf
        self._pause = BackOff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._replay: _Replay | None = None
        self._accuracy: dict[str, dict[str, float]] = {}
        """Sensor -> its accuracy, to be said with the next batch."""
        self._accuracy_said: dict[str, dict[str, float]] = {}
        """What was said of it on this connection."""
        self.sent = 0
        """Readings that the broker has acknowledged."""
        self.waiting = False
        """Whether only the messages in flight keep more from being sent."""
        self.next_due_s = math.inf

    @property
    def under_way(self) -> bool:
        """Return whether the broker has not acknowledged all of this round yet."""
        return self._connected and self._outbox.cursor < self._goal

    @property
    def interval_s(self) -> float:
        """Return how often a round begins, in seconds; 0: whenever there is a reading."""
        return float(self._interval_s)

    def start(self, start_s: float) -> None:
        """Put the rounds on a grid soon after that of the reads, which begins at `start_s`."""
        self._start_s = start_s + min(AFTER_READS_S, self._interval_s / 2)
        self._round_at_s = start_s

    @property
    def refusal(self) -> str:
        """Return why the broker rejects history at present; "" while it accepts it."""
        return self._publisher.history_refusal

    def link_up(self) -> None:
        """Begin again at the cursor immediately."""
        self._connected = True
        self._round_at_s = self._clock.monotonic()
        self._begin_at_cursor()

    def link_down(self) -> None:
        """Forget the messages in flight, and the replay: a consumer asks again."""
        self._connected = False
        self._accuracy_said.clear()
        self._replay = None
        self.waiting = False
        self.next_due_s = math.inf

    def slow_down(self) -> None:
        """Send half as many messages a second: the broker has said that their rate is too high.

        Each round that is complete doubles it again, up to `drain_rate`.
        """
        self._pause_s = min(2 * self._pause_s, SLOWEST_PAUSE_S)

    def note_accuracy(self, accuracy: Mapping[str, dict[str, float]]) -> None:
        """Say with the next batch how far values may be off, of sensors of which that is new."""
        self._accuracy = {
            sensor: limits
            for sensor, limits in accuracy.items()
            if limits and limits != self._accuracy_said.get(sensor)
        }

    def clock_was_set(self) -> None:
        """Note that readings may have other times by now."""
        self._read_ahead.clear()

    def _begin_at_cursor(self) -> None:
        self._outbox.forget_acknowledged()
        self._numbering = self._outbox.numbering
        self._position = self._outbox.cursor
        self._read_ahead.clear()

    def finish(self, now_s: float) -> None:
        """Send what there is, at once, and without waiting for its time: this is the end."""
        self._finishes = True
        self._replay = None
        self._pause_s = 0.0
        self._allowed_at_s = -math.inf
        self._round_at_s = now_s
        self.send_due(now_s)

    def replay(
        self, stream: str, first_seq: int, last_seq: int, done: Callable[[int, int | None], None]
    ) -> None:
        """Send readings again that are still in the log, when no new ones wait.

        `done(count, begin)` is called when the broker has them, with how many there were, and the
        first `seq` of the stream (None if the log has nothing of it). It is not called if the link
        is lost before. Readings that the broker has not acknowledged yet are left out:
        they come by themselves.

        Raises:
            ValueError: another replay is under way, or the range is empty or too long.
        """
        if self._replay is not None:
            raise ValueError("another replay is under way; try again later")
        if not 0 < first_seq <= last_seq:
            raise ValueError("the first reading must be 1 or more, and not after the last")
        if last_seq - first_seq >= MAX_REPLAYED:
            raise ValueError(f"more than {MAX_REPLAYED} readings at once")
        self._replay = _Replay(stream, first_seq, min(last_seq, self._outbox.cursor), done)
        self.next_due_s = self._clock.monotonic()

    def send_due(self, now_s: float) -> None:
        """Send the messages that are allowed now; set when there is more to do."""
        if not self._connected:
            return
        if self._numbering != self._outbox.numbering:
            self._begin_at_cursor()
        if now_s >= self._round_at_s or 2 * self._outbox.unsent > self._bound:
            if self._position >= self._goal and self._pause_s > self._usual_pause_s:
                self._pause_s = max(self._pause_s / 2, self._usual_pause_s)
            self._goal = self._outbox.last_seq
            self._round_at_s = self._next_round_s(now_s)
        self._position = max(self._position, self._outbox.cursor)
        self.waiting = False
        self.next_due_s = math.inf
        while self._position < self._goal:
            if not self._may_send(now_s):
                return
            batch = self._next_batch()
            if not batch:
                self.next_due_s = now_s + LOOK_AGAIN_S
                return
            self._send(batch)
            self._sent_one(now_s)
        while self._replay is not None and self._replay.position < self._replay.last_seq:
            if not self._may_send(now_s):
                return
            self._send_again(self._replay)
            self._sent_one(now_s)
        self._end_replay()
        if self._interval_s and self._position < self._outbox.last_seq:
            self.next_due_s = self._round_at_s

    def _may_send(self, now_s: float) -> bool:
        """Return whether a message is allowed now; note when, or that it waits for others."""
        if self._publisher.history_room <= 0:
            self.waiting = True
            return False
        allowed_at_s = max(self._allowed_at_s, self._pause.until_s)
        if now_s + TOGETHER_S < allowed_at_s:
            self.next_due_s = allowed_at_s
            return False
        return True

    def _sent_one(self, now_s: float) -> None:
        """Space the messages; at most one late message may be made up for."""
        self._allowed_at_s = max(self._allowed_at_s, now_s - self._pause_s) + self._pause_s

    def _next_round_s(self, now_s: float) -> float:
        if not self._interval_s:
            return now_s
        passed = math.floor((now_s - self._start_s) / self._interval_s)
        return self._start_s + (passed + 1) * self._interval_s

    def _next_batch(self) -> list[Reading]:
        """Return the next readings of this round; none if they must wait or are unreadable now."""
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

    def _message(self, stream: str, batch: list[Reading]) -> tuple[Outgoing, list[Reading]]:
        """Return a message with as many of the readings as it may have, and these."""
        accuracy, self._accuracy = self._accuracy, {}
        payload = history_payload(stream, batch, accuracy=accuracy, simulated=self._simulated)
        room = self._publisher.history_bytes - len(self._topic.encode())
        if accuracy and len(payload) > room:  # health has it too
            payload = history_payload(stream, batch, simulated=self._simulated)
        else:
            self._accuracy_said |= accuracy
        while len(payload) > room and len(batch) > 1:
            batch = batch[: len(batch) // 2]
            payload = history_payload(stream, batch, simulated=self._simulated)
        return Outgoing(self._topic, payload, retain=False), batch

    def _send(self, batch: list[Reading]) -> None:
        message, batch = self._message(self._outbox.stream_of(batch[0].seq), batch)
        after_seq, self._position = self._position, batch[-1].seq
        settled = partial(self._settled, self._numbering, after_seq + 1, self._position, len(batch))
        self._publisher.send(message, settled, divisible=len(batch) > 1)

    def _settled(
        self, numbering: int, first_seq: int, last_seq: int, count: int, outcome: Outcome
    ) -> None:
        """Note that the broker has the batch, or rejects it for good, as a dead letter.

        A batch that is too large is sent again in smaller ones, together with all batches sent
        after it: a reading may come twice, but never out of order the first time. A temporarily
        rejected batch is sent again in the same way, after a pause.
        """
        if numbering != self._outbox.numbering:
            return
        if outcome in (Outcome.TOO_LARGE, Outcome.LATER):
            self._accuracy_said.clear()
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

    def _send_again(self, replay: _Replay) -> None:
        """Send the next batch of the replay, or skip what is not in the log."""
        found = self._outbox.read(replay.position, BATCH)
        batch = [r for r in found if r.seq <= replay.last_seq]
        if not batch:
            replay.position = replay.last_seq
            return
        ours = [r for r in batch if self._outbox.stream_of(r.seq) == replay.stream]
        if not ours:
            replay.position = batch[-1].seq
            return
        message, ours = self._message(replay.stream, ours)
        after_seq, replay.position = replay.position, ours[-1].seq
        replay.in_flight += 1
        settled = partial(self._settled_again, replay, after_seq, len(ours))
        self._publisher.send(message, settled, divisible=len(ours) > 1)

    def _settled_again(self, replay: _Replay, after_seq: int, count: int, outcome: Outcome) -> None:
        replay.in_flight -= 1
        if outcome in (Outcome.TOO_LARGE, Outcome.LATER):
            replay.position = min(replay.position, after_seq)
            if outcome is Outcome.LATER:
                self._pause.failed(self._clock.monotonic())
        elif outcome is Outcome.TAKEN:
            replay.sent += count
            self._pause.succeeded()
        self._end_replay()

    def _end_replay(self) -> None:
        """Report a replay of which the broker has everything."""
        replay = self._replay
        if replay is None or replay.in_flight or replay.position < replay.last_seq:
            return
        self._replay = None
        replay.done(replay.sent, self._outbox.begin_of(replay.stream))
