"""`sensor-node demo`: a node, a broker and a subscriber, with nothing configured or wired up.

The node is a separate process, started as on a Pi except for `--simulate`. The view shows what
another client of the broker receives.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from drivers.packages import install_command
from node.cli.arguments import own_command, positive
from node.cli.help_text import CommandHelp
from node.commands.web import PAGE_IS_AT
from node.config import load as configuration
from node.config.schema import HostName, MqttTable
from node.demo_broker import BrokerUnavailable, EmbeddedBroker, embedded_broker
from node.system.child import end_child, start_child
from node.system.terminal import is_plain
from node.watch.model import units_of
from node.watch.session import watch

__all__ = ["HELP", "add_arguments", "run"]

_PAGE_WITHIN_S = 5.0
_CONFIG = """\
[node]
name = "demo"

[mqtt]
host = "127.0.0.1"
port = {port}
protocol = "{protocol}"

[[sensor]]                      # the real adafruit_dht decodes simulated pulses
id = "air"
driver = "dht22"
pin = 17
interval = "2s"

[[sensor]]                      # a w1_slave file with scratchpad and CRC
id = "water"
driver = "ds18b20"
interval = "1s"

[[sensor]]                      # the real Adafruit driver on simulated registers
id = "box"
driver = "bme280"
address = 0x76
interval = "1s"

[[sensor]]                      # TMP36 at an MCP3008, through gpiozero's mock SPI
id = "probe"
driver = "mcp3008"
channel_number = 0
sensor = "tmp36"
interval = "1s"

[sensor.channel.temperature]
median = 3

[[sensor]]                      # gpiozero's CPUTemperature
id = "cpu"
driver = "cpu"
interval = "2s"
"""
_WITH = {
    "modbus": """
[[sensor]]                      # minimalmodbus on a simulated RS-485 line: temperature, humidity
id = "barn"
driver = "modbus"
port = "/dev/ttyUSB0"
unit = 1
model = "xy-md02"
interval = "1s"

[[sensor]]                      # 2 DS18B20 at the same line's second device
id = "silo"
driver = "modbus"
port = "/dev/ttyUSB0"
unit = 2
model = "r4dcb08"
inputs = [1, 2]
interval = "1s"
""",
    "ble": """
[[sensor]]                      # a Xiaomi LYWSD03MMC with the firmware of pvvx, on simulated radio
id = "fridge"
driver = "ble"
address = "A4:C1:38:8D:18:B2"
format = "pvvx"
interval = "1s"

[[sensor]]                      # a RuuviTag
id = "garden"
driver = "ble"
address = "CB:B8:33:4C:88:4F"
format = "ruuvi"
interval = "1s"
""",
}
"""Kinds of sensors that the demo has only when asked to, with their part of the configuration."""
_UNPLUGGED = """
[[simulation.fault]]
sensor = "water"
kind = "unplug"
after = "{after}s"
for = "{for_}s"
"""
_UNPLUG_S, _UNPLUGGED_FOR_S = 15, 10
_AWAY_S, _BACK_S = 40, 48
_OVER_S = 60


HELP = CommandHelp(
    details="""\
Starts a node with five simulated sensors, or more (--with), and a broker on a free port of
127.0.0.1 (mosquitto if it is installed, else amqtt), and shows what a subscriber receives from the
node. Nothing is configured, nothing is wired up, and nothing is left behind. Ctrl-C ends it.
It also serves the status page of that node, and prints its address (not with --json).

After some seconds it unplugs a sensor, and later it stops the broker for a moment; a line
explains what to look for (not with --json).

The sensors are simulated at the level of pulses, registers and files: the real drivers decode
them.
""",
    examples={
        "sensor-node demo": "until Ctrl-C",
        "sensor-node demo --with modbus,ble": "with RS-485 and Bluetooth, too",
        "sensor-node demo --seconds 20 --json | jq .payload": "for programs",
    },
    exit_codes={1: "no broker could be started, or the node did not stay up"},
    without=(78,),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=positive, metavar="N", help="end after N seconds")
    parser.add_argument(
        "--with",
        dest="kinds",
        type=_kinds,
        default=(),
        metavar="KIND",
        help=f"add sensors of these kinds, separated by commas: {', '.join(_WITH)}",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON per message")


def _kinds(written: str) -> list[str]:
    kinds = [kind.strip() for kind in written.split(",")]
    for kind in kinds:
        if kind not in _WITH:
            raise argparse.ArgumentTypeError(f'"{kind}" is none of {", ".join(_WITH)}')
    return kinds


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; exit code 1 if no broker can be started, or the node does not stay up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="sensor-node-demo-") as name:
            return _demonstrate(Path(name), arguments)
    except KeyboardInterrupt:
        return 0
    except BrokerUnavailable as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _demonstrate(folder: Path, arguments: argparse.Namespace) -> int:
    with embedded_broker(folder) as broker:
        config = folder / "node.toml"
        text = _CONFIG.format(port=broker.port, protocol=broker.protocol)
        text += "".join(_WITH[kind] for kind in dict.fromkeys(arguments.kinds))
        if not arguments.json:
            text += _UNPLUGGED.format(after=_UNPLUG_S, for_=_UNPLUGGED_FOR_S)
        config.write_text(text)
        return _show(config, broker, arguments)


def _show(config: Path, broker: EmbeddedBroker, arguments: argparse.Namespace) -> int:
    log = config.with_name("node.log")
    # The page first: it starts while the node does.
    with _page(config, wanted=not arguments.json) as page, _node(config, log) as node:
        title = f"simulated sensors, through {broker.name} on 127.0.0.1:{broker.port}"
        url = page.url()
        if url:
            title = f"simulated sensors at {url}, {broker.name} :{broker.port}"
        if not arguments.json and (not url or is_plain(sys.stdout)):
            print(f"page: {url}" if url else page.why_none(), flush=True)  # noqa: T201
        watch(
            MqttTable(host=HostName("127.0.0.1"), port=broker.port, protocol=broker.protocol),
            units=units_of(configuration.load(config)),
            seconds=arguments.seconds,
            as_json=arguments.json,
            title=f"{title} (Ctrl-C ends)",
            all_simulated=True,
            go_on=lambda: node.poll() is None,
            remark=str if arguments.json else _Lesson(broker).remark,
        )
        if node.poll() is not None:
            print(log.read_text(), file=sys.stderr)  # noqa: T201
            return 1
    return 0


class _Lesson:
    """The faults of the demo, and the remarks that explain them."""

    def __init__(self, broker: EmbeddedBroker, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._began_s = now_s()
        watch_it = f"{own_command()} watch --host 127.0.0.1 --port {broker.port}"
        self._steps: list[tuple[float, str, Callable[[], None]]] = [
            (0, f"From another terminal: {watch_it}", _nothing),
            (
                _UNPLUG_S,
                '"water" has been unplugged. After three intervals without a reading it is '
                "offline, and the others go on.",
                _nothing,
            ),
            (
                _UNPLUG_S + _UNPLUGGED_FOR_S,
                '"water" is plugged in again. Its next reading brings it back online.',
                _nothing,
            ),
            (
                _AWAY_S,
                "The broker has been stopped. The node goes on reading, and keeps every "
                "reading on its disk.",
                broker.stop,
            ),
            (
                _BACK_S,
                "The broker is back. The node connects within 5 s, and sends what was missed as "
                f"history: {watch_it} --history",
                broker.start,
            ),
            (
                _OVER_S,
                f"That was all. The demo runs on until Ctrl-C; from another terminal: {watch_it}",
                _nothing,
            ),
        ]
        self._remark = ""

    def remark(self) -> str:
        """Carry out the steps that are due, and return the present remark."""
        elapsed_s = self._now_s() - self._began_s
        while self._steps and elapsed_s >= self._steps[0][0]:
            _, self._remark, act = self._steps.pop(0)
            act()
        return self._remark


def _nothing() -> None:
    """Do nothing: the node's own simulation carries out this step."""


class _Page:
    """The status page of the demo's node, in a separate process."""

    def __init__(self, log_file: Path | None = None) -> None:
        self._log_file = log_file
        self.missing = log_file is None

    def why_none(self) -> str:
        """Return why `url` has found no page."""
        if self.missing:
            return f"no status page without {install_command('web')}"
        return f"no status page within {_PAGE_WITHIN_S:g} s; {self._log_file} says how far it is"

    def url(self) -> str:
        """Wait until the page prints its address, and return that; "" if there is no page."""
        deadline_s = time.monotonic() + _PAGE_WITHIN_S
        while self._log_file is not None and time.monotonic() < deadline_s:
            said = self._log_file.read_text(errors="replace")
            if match := re.search(rf"{PAGE_IS_AT} (http://\S+)", said):
                return match[1]
            time.sleep(0.02)
        return ""


@contextlib.contextmanager
def _page(config: Path, *, wanted: bool) -> Iterator[_Page]:
    if not wanted or importlib.util.find_spec("waitress") is None:
        yield _Page()
        return
    log_file = config.with_name("web.log")
    with log_file.open("wb") as log:
        process = start_child(
            [
                *(sys.executable, "-P", "-m", "node", "web", "--config", str(config)),
                *("--state-dir", str(config.with_name("state")), "--port", "0"),
            ],
            output=log,
            own_session=True,
        )
    try:
        yield _Page(log_file)
    finally:
        end_child(process, patience_s=1.0)


@contextlib.contextmanager
def _node(config: Path, log_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    # -P keeps a folder named "node" in the user's directory from being taken for ours.
    command = [sys.executable, "-P", "-m", "node", "run", "--simulate", "--config", str(config)]
    command += ["--state-dir", str(config.with_name("state"))]
    with log_file.open("wb") as log:
        process = start_child(command, output=log, own_session=True)
    try:
        yield process
    finally:
        end_child(process, patience_s=3.0)
