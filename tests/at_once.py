"""Runs tests beside one another that are made of waiting; each has a folder and brokers of its own.

`@at_once` makes a test of a function whose arguments are the fixtures below, by name. The first
such test of a module that is run starts all of them that were selected, a few at a time.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from packet_proxy import PacketProxy
from support import Mosquitto, Subscriber

_WORKERS = 6


class _Bench:
    """What a test finds, taken away at its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._at_the_end = contextlib.ExitStack()

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._at_the_end.close()

    def tmp_path(self) -> Path:
        return self._folder

    def file(self) -> Path:
        """A temperature to be configured."""
        temperature = self._folder / "temp1_input"
        temperature.write_text("21500\n")
        return temperature

    def broker(self) -> Mosquitto:
        return self.start_broker()()

    def start_broker(self) -> Callable[..., Mosquitto]:
        def start(*lines: str) -> Mosquitto:
            mosquitto = Mosquitto(self._folder, *lines).start()
            self._at_the_end.callback(mosquitto.stop)
            return mosquitto

        return start

    def proxy(self) -> Callable[..., PacketProxy]:
        def make(*arguments: Any, **options: Any) -> PacketProxy:
            proxy = PacketProxy(*arguments, **options)
            self._at_the_end.callback(proxy.close)
            return proxy

        return make

    def subscribe(self) -> Callable[..., Subscriber]:
        def make(*arguments: Any, **options: Any) -> Subscriber:
            subscriber = Subscriber(*arguments, **options)
            self._at_the_end.callback(subscriber.close)
            return subscriber

        return make


_begun: dict[str, dict[str, Future[None]]] = {}
"""Module -> test -> its outcome."""


def at_once(body: Callable[..., None]) -> Callable[..., None]:
    def test(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
        name = request.module.__name__
        if name not in _begun:
            _begun[name] = _begin(request, tmp_path_factory)
        _begun[name][request.node.name].result()

    test.__name__, test.__doc__, test.__module__ = body.__name__, body.__doc__, body.__module__
    test.body = body  # type: ignore[attr-defined]
    return test


def _begin(
    request: pytest.FixtureRequest, folders: pytest.TempPathFactory
) -> dict[str, Future[None]]:
    pool = ThreadPoolExecutor(_WORKERS)
    begun = {}
    for item in request.session.items:
        body = getattr(getattr(item, "function", None), "body", None)
        if body is not None and body.__module__ == request.module.__name__:
            begun[item.name] = pool.submit(_run, body, folders.mktemp(item.name[:30]))
    pool.shutdown(wait=False)
    return begun


def _run(body: Callable[..., None], folder: Path) -> None:
    with _Bench(folder) as bench:
        body(**{name: getattr(bench, name)() for name in inspect.signature(body).parameters})
