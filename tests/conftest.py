"""Fixtures, and the order of the tests; the pieces themselves are in support.py.

`tests/run` shares the tests out among workers (pytest-xdist). Nearly all of their time is waiting:
for processes, for outages, for intervals. Those tests, marked `real_time`, go first, many at a
time; those that compute come after them, so that they do not take their processor.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support import FakeClock, Mosquitto, NodeProcess, Subscriber, open_folder
from web_support import WebProcess

from drivers.sim.board import SimulatedBoard
from node.config.schema import HostName, MqttTable
from node.mqtt.connection import BrokerConnection

# No test fails because the machine is slow or by the luck of a draw.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")

# A script's background jobs ignore SIGINT and SIGQUIT (POSIX, "Asynchronous Lists"), what nohup
# starts ignores SIGHUP, and what a program blocks stays blocked: children inherit all of it.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP):
    signal.signal(_number, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, ())

# A login's umask may be 077; the users that some tests become read what others have written here.
os.umask(0o022)

_SHOWN_LINES = 60
"""How much of each log a failure shows."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--order",
        default="",
        metavar="reversed|random:SEED",
        help="run the tests in another order than the usual one (tests/stress does)",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that may use a broker, a node or the like is in real time, without its saying so."""
    if not isinstance(item, pytest.Function):
        return
    fixtures = {"broker", "subscribe", "start_node", "pulsein"} & {*item.fixturenames}
    processes = {"Mosquitto", "NodeProcess", "ScriptedBroker"} & vars(item.module).keys()
    if fixtures or processes:
        item.add_marker("real_time")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For a worker: the longest first, a short one behind each, and those that compute at the end.

    A worker is given its next test with the one before it; so nothing long waits for another.
    """
    order, _, seed = config.getoption("--order").partition(":")
    if order == "reversed":
        items.reverse()
    elif order == "random":
        random.Random(seed).shuffle(items)
    if order or not hasattr(config, "workerinput"):
        return
    long: list[pytest.Item] = []
    waiting: list[pytest.Item] = []
    computing: list[pytest.Item] = []
    for item in items:
        mark = item.get_closest_marker("real_time")
        (computing if mark is None else long if seconds_of(item) else waiting).append(item)
    long.sort(key=seconds_of, reverse=True)
    pairs = itertools.chain.from_iterable(itertools.zip_longest(long, waiting))
    items[:] = [*filter(None, pairs), *computing]


def seconds_of(item: pytest.Item) -> float:
    """How long a test says that it takes: `@pytest.mark.real_time(seconds=60)`."""
    return max(
        (mark.kwargs.get("seconds", 0) for mark in item.iter_markers("real_time")), default=0
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the nodes and brokers of the test have logged last."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and folder is not None:
        for log in sorted(folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            report.sections.append((log.name, "\n".join(lines[-_SHOWN_LINES:])))
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """The last lines of a run, after pytest's own: what was skipped, so was not proved, and why."""
    yield
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:  # a worker's: its skips are told to the process that started it
        return
    skipped: dict[str, list[str]] = defaultdict(list)
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        skipped[str(reason).removeprefix("Skipped: ")].append(report.nodeid)
    if skipped:
        reporter.write_line("NOT PROVED in this run, because the tests were skipped:", bold=True)
    for reason, tests in sorted(skipped.items()):
        reporter.write_line(f"  {reason}")
        for test in tests:
            reporter.write_line(f"    {test}")


@pytest.fixture(autouse=True, scope="session")
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a killed process leaves behind goes when pytest's own folder goes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("left-behind")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """What a shell, or a service that runs the tests, has set for programs of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"),
            *("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "GPIOZERO_PIN_FACTORY"),
            *("SENSOR_NODE_CONFIG", "SENSOR_NODE_MQTT_PASSWORD", "SENSOR_NODE_GPIO_CHIP"),
            *("NO_COLOR", "COLUMNS"),
        ):
            patch.delenv(name, raising=False)
        yield


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


@pytest.fixture(name="open_folder")
def an_open_folder() -> Iterator[Path]:
    """A folder that other users can get into."""
    with open_folder() as folder:
        yield folder


@pytest.fixture
def temperature_file(tmp_path: Path) -> Path:
    """A kernel attribute file that reads 21.5 °C."""
    file = tmp_path / "temp1_input"
    file.write_text("21500\n")
    return file


@pytest.fixture
def start_web(tmp_path: Path) -> Iterator[Callable[..., WebProcess]]:
    """Starts pages that are killed at the end."""
    started: list[WebProcess] = []

    def start(state_dir: Path | None = None, *arguments: str, **options: Any) -> WebProcess:
        folder = state_dir or tmp_path / "state"
        started.append(WebProcess(folder, *arguments, folder=tmp_path, **options))
        return started[-1]

    yield start
    for web in started:
        web.kill()


@pytest.fixture
def mqtt_link(clock: FakeClock) -> BrokerConnection:
    """A link whose client is there, and never connects."""
    link = BrokerConnection(
        MqttTable(host=HostName("broker.example")),
        clock,
        client_id="sn123",
        tls_context=None,
        report=lambda event: None,
    )
    link._client = link._new_client()
    return link
