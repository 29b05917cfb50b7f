"""A subscriber that shows what it hears: a live table, lines, or JSON; for `watch` and `demo`."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import msgspec

from node.broker_events import Arrived, BrokerEvent, Subscription
from node.clock import SystemClock, utc_text
from node.link import Change, Link
from node.live_model import LiveModel, Message, Row, Units, values_in
from node.schema import MqttTable
from node.terminal import is_plain, sparkline
from node.units import duration_text

__all__ = ["watch"]

_log = logging.getLogger(__name__)

REFRESH_S = 0.5

_HEADINGS = ("TOPIC", "CHANNEL", "VALUE", "AGE", "STATUS", "TREND")
_JUSTIFY: tuple[Literal["left", "right"], ...] = ("left", "left", "right", "right", "left", "left")
_AGE_WIDTH, _STATUS_WIDTH, _TREND_WIDTH = 6, 7, 8

# ruff: noqa: T201


class _View(Protocol):
    """Where messages are shown."""

    def show(self, message: Message) -> None: ...

    def refresh(self) -> None: ...


def watch(
    mqtt: MqttTable,
    *,
    tls_context: Any = None,
    node: str | None = None,
    units: Units | None = None,
    seconds: float | None = None,
    as_json: bool = False,
    title: str = "",
    go_on: Callable[[], bool] = lambda: True,
) -> bool:
    """Subscribe to the topics of `node`, or of all nodes, and show what arrives.

    Ends with Ctrl-C, after `seconds`, or when `go_on` says no. Logs, and returns False, if there
    was no broker or no message in all that time.
    """
    events: queue.SimpleQueue[BrokerEvent] = queue.SimpleQueue()
    topic = f"{mqtt.base_topic}/{node or '+'}/#"
    link = Link(
        mqtt,
        SystemClock(),
        client_id=f"sensor-node-watch-{uuid.uuid4().hex[:5]}",
        tls_context=tls_context,
        report=events.put,
        subscribe=(Subscription(topic),),
    )
    model = LiveModel(mqtt.base_topic, units)
    end_s = time.monotonic() + seconds if seconds is not None else float("inf")
    reached = heard = False
    link.start()
    try:
        with _view(model, as_json, title) as view:
            while (left_s := end_s - time.monotonic()) > 0 and go_on():
                with contextlib.suppress(queue.Empty):
                    event = events.get(timeout=min(REFRESH_S, left_s))
                    reached |= link.handle(event) is Change.UP
                    if isinstance(event, Arrived):
                        heard = True
                        message = Message(event.topic, event.payload, event.retained)
                        model.take(message, time.time())
                        view.show(message)
                view.refresh()
    finally:
        link.disconnect(wait_s=0.5)
    if not reached:
        _log.warning("no connection to %s", mqtt.address)
    elif not heard:
        _log.warning("no message on %s", topic)
    return heard


@contextlib.contextmanager
def _view(model: LiveModel, as_json: bool, title: str) -> Iterator[_View]:
    if as_json:
        yield _JsonLines()
        return
    if not is_plain(sys.stdout):
        try:
            from rich.live import Live
        except ImportError:
            _log.warning("for a live table: pip install rich")
        else:
            with Live(auto_refresh=False) as live:
                yield _LiveTable(live, model, title)
            return
    yield _Lines(model)


class _JsonLines:
    """One JSON object per message and line."""

    def show(self, message: Message) -> None:
        try:
            payload = msgspec.json.decode(message.payload)
        except msgspec.DecodeError:
            payload = message.text
        line = {
            "time": utc_text(round(time.time() * 1000)),
            "topic": message.topic,
            "payload": payload,
            "retained": message.retained,
        }
        print(msgspec.json.encode(line).decode(), flush=True)

    def refresh(self) -> None:
        """Every line is final."""


class _Lines:
    """One line of text per message."""

    def __init__(self, model: LiveModel) -> None:
        self._model = model

    def show(self, message: Message) -> None:
        units = self._model.units_for(message)
        values = ", ".join(f"{n} {v:g} {units.get(n, '')}" for n, v in values_in(message).items())
        print(time.strftime("%H:%M:%S"), message.topic, values or message.text, flush=True)

    def refresh(self) -> None:
        """Every line is final."""


class _LiveTable:
    """A table that is drawn over itself, at most every half second."""

    def __init__(self, live: Any, model: LiveModel, title: str) -> None:
        self._live = live
        self._model = model
        self._title = title
        self._drawn_s = 0.0

    def show(self, message: Message) -> None:
        """The model has it already."""

    def refresh(self) -> None:
        now_s = time.monotonic()
        if now_s - self._drawn_s >= REFRESH_S:
            self._drawn_s = now_s
            self._live.update(self._table(), refresh=True)

    def _widths(self, rows: list[Row]) -> list[int]:
        """A width for each column: topics give way first, and the trend takes what is left."""
        topic = max([len(row.topic) for row in rows], default=5)
        channel = max([len(row.channel) for row in rows], default=7)
        value = max([len(f"{row.value:g} {row.unit}") for row in rows], default=5)
        others = channel + value + _AGE_WIDTH + _STATUS_WIDTH + 2 * (len(_HEADINGS) - 1)
        room = self._live.console.width - others
        topic = max(12, min(topic, room - _TREND_WIDTH))
        return [topic, channel, value, _AGE_WIDTH, _STATUS_WIDTH, max(1, room - topic)]

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        rows = self._model.rows(time.time())
        widths = self._widths(rows)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left")
        table.title = self._title or None
        for heading, width, justify in zip(_HEADINGS, widths, _JUSTIFY, strict=True):
            table.add_column(
                heading, width=width, no_wrap=True, overflow="ellipsis", justify=justify
            )
        for row in rows:
            online = row.status == "online"
            table.add_row(
                Text(row.topic),
                Text(row.channel),
                Text(f"{row.value:g} {row.unit}", style="bold" if online else "dim"),
                "?" if row.age_s is None else duration_text(round(row.age_s)),
                Text(row.status, style="green" if online else "red"),
                Text(sparkline(row.history[-widths[-1] :]), style="cyan"),
            )
        if not table.rows:
            return Text("waiting for the first message ...", style="dim")
        return table
