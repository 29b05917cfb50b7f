"""A subscriber that shows what it hears: a live table, lines, or JSON; for `watch` and `demo`."""

from __future__ import annotations

import contextlib
import queue
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from node.broker_events import Arrived, BrokerEvent
from node.clock import utc_text
from node.link import Change, Link
from node.live_model import LiveModel, Message, Units, values_in
from node.schema import MqttTable
from node.terminal import is_plain, sparkline
from node.units import duration_text

__all__ = ["watch"]

REFRESH_S = 0.5

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

    Ends with Ctrl-C, after `seconds`, or when `go_on` says no. Whether there was a broker.
    """
    events: queue.SimpleQueue[BrokerEvent] = queue.SimpleQueue()
    link = Link(
        mqtt,
        client_id=f"sensor-node-watch-{uuid.uuid4().hex[:5]}",
        tls_context=tls_context,
        report=events.put,
        subscribe=(f"{mqtt.base_topic}/{node or '+'}/#",),
    )
    model = LiveModel(mqtt.base_topic, units)
    end_s = time.monotonic() + seconds if seconds is not None else float("inf")
    reached = False
    link.start()
    try:
        with _view(model, as_json, title) as view:
            while (left_s := end_s - time.monotonic()) > 0 and go_on():
                with contextlib.suppress(queue.Empty):
                    event = events.get(timeout=min(REFRESH_S, left_s))
                    reached |= link.handle(event) is Change.UP
                    if isinstance(event, Arrived):
                        message = Message(event.topic, event.payload, event.retained)
                        model.take(message, time.time())
                        view.show(message)
                view.refresh()
    finally:
        link.disconnect(wait_s=0.5)
    return reached


@contextlib.contextmanager
def _view(model: LiveModel, as_json: bool, title: str) -> Iterator[_View]:
    if as_json:
        yield _JsonLines()
        return
    if not is_plain(sys.stdout):
        with contextlib.suppress(ImportError):
            from rich.live import Live

            with Live(refresh_per_second=4, auto_refresh=False) as live:
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
            "time": utc_text(time.time()),
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

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left")
        table.title = self._title or None
        table.add_column("TOPIC", no_wrap=True, overflow="ellipsis", ratio=None)
        table.add_column("CHANNEL", no_wrap=True)
        table.add_column("VALUE", no_wrap=True, justify="right")
        table.add_column("AGE", no_wrap=True, justify="right")
        table.add_column("STATUS", no_wrap=True)
        table.add_column("TREND", no_wrap=True)
        width = max(6, self._live.console.width - 66)
        for row in self._model.rows(time.time()):
            online = row.status == "online"
            table.add_row(
                Text(row.topic),
                Text(row.channel),
                Text(f"{row.value:g} {row.unit}", style="bold" if online else "dim"),
                "?" if row.age_s is None else duration_text(round(row.age_s)),
                Text(row.status, style="green" if online else "red"),
                Text(sparkline(row.history[-width:]), style="cyan"),
            )
        if not table.rows:
            return Text("waiting for the first message ...", style="dim")
        return table
