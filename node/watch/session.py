"""A subscriber that shows messages as a live table, lines, or JSON; for `watch` and `demo`.

One loop owns the model and the view. paho's thread and signal handlers only put events into the
loop's inbox.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from node.config.schema import MqttTable
from node.mqtt.topic_filters import covers, without_covered
from node.system.clock import SystemClock
from node.system.terminal import is_plain
from node.watch.discovery import Units, discovery_filters
from node.watch.gaps import HistoryLog
from node.watch.lines import JsonLines, TextLines
from node.watch.model import LiveModel
from node.watch.payloads import Message
from node.watch.rows import WatchTime
from node.watch.subscriber import Subscriber

__all__ = ["watch"]

_log = logging.getLogger(__name__)

_TICK_S = 0.5
_STUCK_S = 1.0
"""A running loop handles a signal within this time."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_OF_THE_TERMINAL = (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)


class _View(Protocol):
    """Shows messages."""

    def show(self, message: Message, now: WatchTime) -> None: ...

    def tick(self, connected: bool, link: str, now: WatchTime, remark: str) -> None: ...


class _LiveView(_View, AbstractContextManager[Any], Protocol):
    """A view that owns the terminal while it is entered."""

    def resized(self) -> None: ...

    def suspend(self) -> None: ...

    def resume(self) -> None: ...


def watch(
    mqtt: MqttTable,
    *,
    tls_context: Any = None,
    filters: Sequence[str] = (),
    others: bool = False,
    prefix: str = "homeassistant",
    units: Units | None = None,
    history: bool = False,
    seconds: float | None = None,
    as_json: bool = False,
    title: str = "",
    go_on: Callable[[], bool] = lambda: True,
    remark: Callable[[], str] = str,
    all_simulated: bool = False,
) -> bool:
    """Subscribe to `filters`, or to the topics of all nodes, and show the messages.

    With `others`, topics that do not belong to a node are shown, too. Units come from the nodes'
    discovery below `prefix`, else from `units`. With `all_simulated`, the title says that readings
    are simulated, and the rows do not. The view ends with a signal (SIGINT, SIGTERM, SIGHUP,
    SIGQUIT), after `seconds`, when `go_on` returns False, or when the reader of the output has
    gone. `remark` is called twice a second for a sentence to show.

    Return False, and log why, if no message arrived.
    """
    wanted = without_covered(filters or (f"{mqtt.base_topic}/+/#",))
    topics = ", ".join(wanted)
    model = LiveModel(mqtt.base_topic, units, others=others, all_simulated=all_simulated)
    log = HistoryLog() if history else None
    discovery = () if as_json else discovery_filters(prefix)
    watcher = _Watcher(mqtt, tls_context, wanted, discovery, model, log)
    live = None if as_json else _live_table(model, log, title or topics, topics)
    view = live or (JsonLines(model, log) if as_json else TextLines(model, log))
    watcher.connect()
    try:
        with watcher.signals(live), live or contextlib.nullcontext():
            watcher.run(view, seconds, go_on, remark)
    except OSError as error:
        # The reader has gone, as after `| head -1` or a hang-up; or the disk is full.
        if not isinstance(error, BrokenPipeError):
            _log.error("the output cannot be written: %s", error.strerror)
            watcher.heard = False
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        watcher.disconnect()
    watcher.explain()
    return watcher.heard


def _live_table(
    model: LiveModel, history: HistoryLog | None, title: str, topics: str
) -> _LiveView | None:
    """Return the live table; None if the output is not a terminal or rich is not installed."""
    if is_plain(sys.stdout):
        return None
    try:
        from node.watch.screen import LiveTable
    except ImportError:
        from drivers.packages import install_command

        _log.warning("for a live table: %s", install_command("view"))
        return None
    return LiveTable(model, history, title=title, topics=topics)


class _Watcher:
    """The loop between the broker and a view."""

    def __init__(
        self,
        mqtt: MqttTable,
        tls_context: Any,
        wanted: tuple[str, ...],
        discovery: tuple[str, ...],
        model: LiveModel,
        history: HistoryLog | None,
    ) -> None:
        self._mqtt = mqtt
        self._wanted = wanted
        self._discovery = discovery
        self._model = model
        self._history = history
        self._clock = SystemClock()
        self._live: _LiveView | None = None
        self._view: _View
        self._subscriber = Subscriber(
            mqtt,
            self._clock,
            name="sensor-node-watch",
            tls_context=tls_context,
            filters=(*wanted, *discovery),
            on_message=self._arrived,
            on_again=self._connected_again,
        )
        self._asked_to_end_s = math.inf
        self.heard = False

    def connect(self) -> None:
        self._subscriber.connect()

    def disconnect(self) -> None:
        self._subscriber.disconnect()

    def explain(self) -> None:
        """Log why nothing could be shown."""
        if not self._subscriber.reached:
            _log.warning("no connection to %s", self._mqtt.address)
        elif not self.heard:
            _log.warning("no message on %s", ", ".join(self._wanted))

    @contextlib.contextmanager
    def signals(self, live: _LiveView | None) -> Iterator[None]:
        """Turn signals into events within the context; ignored ones (nohup) stay ignored."""
        self._live = live
        numbers = _ENDING if live is None else _ENDING + _OF_THE_TERMINAL
        before = {number: signal.getsignal(number) for number in numbers}
        mine = {n: h for n, h in before.items() if h not in (signal.SIG_IGN, None)}
        for number in mine:
            signal.signal(number, self._signalled)
        try:
            yield
        finally:
            for number, handler in mine.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, _frame: object) -> None:
        if number in _ENDING:
            now_s = self._clock.boot_s()
            if now_s - self._asked_to_end_s > _STUCK_S:
                raise KeyboardInterrupt  # a second request: a write to the terminal may block
            self._asked_to_end_s = min(self._asked_to_end_s, now_s)
        self._subscriber.signalled(number)

    def run(
        self,
        view: _View,
        seconds: float | None,
        go_on: Callable[[], bool],
        remark: Callable[[], str],
    ) -> None:
        self._view = view
        end_s = self._clock.boot_s() + (seconds or math.inf)
        while math.isinf(self._asked_to_end_s) and go_on():
            left_s = end_s - self._clock.boot_s()
            if left_s <= 0:
                break
            for number in self._subscriber.turn(min(_TICK_S, left_s)):
                self._obey(number)
            link = self._subscriber
            view.tick(link.connected, link.described, self._now(), remark())

    def _now(self) -> WatchTime:
        return WatchTime(self._clock.boot_s(), self._clock.utc_s())

    def _obey(self, number: int) -> None:
        if self._live is None:
            return
        if number == signal.SIGTSTP:
            self._live.suspend()
        elif number == signal.SIGCONT:
            self._live.resume()
        elif number == signal.SIGWINCH:
            self._live.resized()

    def _connected_again(self) -> None:
        self._model.forget_status()
        if self._history is not None:
            self._history.interrupted()
        _log.warning("connected to %s again", self._mqtt.address)

    def _arrived(self, message: Message) -> None:
        if any(covers(each, message.topic) for each in self._discovery):
            self._model.discovered.learn(message.topic, message.payload)
        if any(covers(one, message.topic) for one in self._wanted):
            self.heard = True
            now = self._now()
            self._model.add(message, now)
            self._view.show(message, now)
