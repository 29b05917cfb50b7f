"""Fixtures; the pieces themselves are in support.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import FakeClock, Mosquitto, NodeProcess, Subscriber

from drivers.sim.board import SimulatedBoard


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def board(clock: FakeClock) -> SimulatedBoard:
    """A simulated board on the fake clock."""
    return SimulatedBoard(clock)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A running mosquitto that accepts anybody."""
    mosquitto = Mosquitto(tmp_path).start()
    yield mosquitto
    mosquitto.stop()


@pytest.fixture
def subscribe() -> Iterator[Callable[..., Subscriber]]:
    """Makes subscribers that are closed at the end."""
    made: list[Subscriber] = []

    def make(port: int, *arguments: object, **options: object) -> Subscriber:
        made.append(Subscriber(port, *arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for subscriber in made:
        subscriber.close()


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Starts node processes that are killed at the end."""
    started: list[NodeProcess] = []

    def start(config: str, *arguments: str, **options: object) -> NodeProcess:
        started.append(NodeProcess(tmp_path, config, *arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for node in started:
        node.kill()


@pytest.fixture
def temperature_file(tmp_path: Path) -> Path:
    """A kernel attribute file that reads 21.5 °C."""
    file = tmp_path / "temp1_input"
    file.write_text("21500\n")
    return file
