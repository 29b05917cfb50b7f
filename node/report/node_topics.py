"""The retained topics of the node itself, `status` and `health`, and when they are set again.

Used on the loop's thread; `Publisher` ensures that the messages arrive.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from node.health import Health
from node.mqtt.publisher import Publisher
from node.outbox.outbox import Outbox
from node.report.history import AFTER_READS_S, History
from node.report.own_topics import OwnTopics
from node.system.clock import Clock, utc_text
from node.topics import ONLINE, Topics

__all__ = ["NodeTopics", "StartTime"]

HEALTH_EVERY_S = 60.0
HEALTH_AT_MOST_EVERY_S = 1.0
HEALTH_WAITS_S = 5.0
"""How long the health of each minute waits until the history of that minute is acknowledged.
Otherwise it would count readings as unsent that are just being sent."""
STATUS_KEPT_S = 180.0
"""How long an MQTT 5 broker keeps `online` without renewal; each health renews it."""
STATUS_SOONER_S = 10.0
SAVE_HEALTH_WITHIN_S = 1.0
"""How long a change of health may wait for a commit of readings, before `sensor-node status` shows
it. The first health, and that of a new connection, do not wait."""

MAX_STEP_S = 2.0
"""How far the clock may be set without a change of the start time that was said."""


class StartTime:
    """When the node started, as a time that does not jitter from one health to the next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_boot_s = clock.boot_s()
        self._utc_s: float | None = None

    def text(self) -> str | None:
        """Return the start in RFC 3339, in whole seconds; None until the clock was right once."""
        if self._clock.synced():
            utc_s = self._clock.utc_s() - (self._clock.boot_s() - self._started_boot_s)
            if self._utc_s is None or abs(utc_s - self._utc_s) > MAX_STEP_S:
                self._utc_s = utc_s
        return None if self._utc_s is None else utc_text(round(self._utc_s) * 1000)


class NodeTopics:
    """Sets `status` and `health`: each minute, and when something has changed."""

    def __init__(
        self,
        topics: Topics,
        clock: Clock,
        *,
        publisher: Publisher,
        outbox: Outbox,
        history: History,
        own_topics: OwnTopics,
        collect: Callable[[float, str | None], Health],
    ) -> None:
        """Keep the parts.

        `collect` returns the present health. It is given the monotonic time at which the node
        began, in seconds, and the time of day, if that is known.
        """
        self._topics = topics
        self._clock = clock
        self._publisher = publisher
        self._outbox = outbox
        self._history = history
        self._own_topics = own_topics
        self._collect = collect
        self._started_s = self._health_at_s = clock.monotonic()
        self._start_time = StartTime(clock)
        self._changed = True
        self._not_before_s = -math.inf
        self._at_once = False
        """Whether health is sent with the states of a new connection, so that the health of an
        earlier process does not appear with them."""
        self.waits_for_history = False
        """Whether health is due, and waits for history."""
        self._status_at_s = -math.inf
        """When to renew `online`."""
        self._rejected_saved = 0
        self.save_at_s = math.inf
        """When a health that has changed is to be committed, at the latest."""

    def start(self, start_s: float) -> None:
        """Count from `start_s`, and set the first health, which is to be committed at once."""
        self._started_s = start_s
        self._health_at_s = self._next_health_s(start_s)
        self.publish_health(start_s, save_at_s=start_s)

    def note_change(self) -> None:
        """Set health again soon, because something has changed."""
        self._changed = True

    def link_up(self) -> None:
        """Set health with the states that a new connection begins with."""
        self._at_once = True

    def publish_first(self, now_s: float) -> None:
        """Set the health of a new connection, if it is not set yet."""
        if self._at_once:
            self._at_once = False
            self.publish_health(now_s, save_at_s=now_s)

    def publish_due(self, now_s: float) -> None:
        """Set health if it is due."""
        changed = self._changed and now_s >= self._not_before_s
        due = now_s >= self._health_at_s
        overdue = now_s >= self._health_at_s + HEALTH_WAITS_S
        self.waits_for_history = due and self._history.under_way and not overdue
        if due and not self.waits_for_history:
            self._health_at_s = self._next_health_s(now_s)
            changed = True
        if changed:
            self.publish_health(now_s, save_at_s=now_s + SAVE_HEALTH_WITHIN_S)

    @property
    def next_due_s(self) -> float:
        """Return when health is to be set, if nothing happens until then."""
        if self._at_once:
            return -math.inf
        if self._changed:
            return self._not_before_s
        return self._health_at_s + (HEALTH_WAITS_S if self.waits_for_history else 0.0)

    def publish_health(self, now_s: float, *, save_at_s: float) -> None:
        """Set health; have it committed by `save_at_s` if it has changed."""
        changed, self._changed = self._changed, False
        self._not_before_s = now_s + HEALTH_AT_MOST_EVERY_S
        self._outbox.look_for_set_aside()
        health = self._collect(self._started_s, self._start_time.text())
        self._history.note_accuracy({n: sensor.accuracy for n, sensor in health.sensors.items()})
        payload = msgspec.json.encode(health)
        self._own_topics.published_health(payload)
        self._publisher.set(self._topics.health, payload)
        if now_s >= self._status_at_s:
            self.say_online(now_s)
        if changed or health.rejected != self._rejected_saved:
            # Rejections are nowhere else in the log; the status page marks when they happened.
            self._rejected_saved = health.rejected
            self._outbox.set_health(payload.decode())
            self.save_at_s = min(self.save_at_s, save_at_s)

    def say_online(self, now_s: float) -> None:
        """Publish `online` with an expiry, so that a broker that returns alone drops it."""
        self._publisher.set(self._topics.status, ONLINE, expiry_s=STATUS_KEPT_S)
        self._status_at_s = now_s + HEALTH_EVERY_S - STATUS_SOONER_S

    def committed(self) -> None:
        """Note that the last health is in the log."""
        self.save_at_s = math.inf

    def _next_health_s(self, now_s: float) -> float:
        """Return when health is next due, if nothing changes until then."""
        passed = math.floor((now_s - self._started_s) / HEALTH_EVERY_S)
        return self._started_s + AFTER_READS_S + (passed + 1) * HEALTH_EVERY_S
