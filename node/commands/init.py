"""`sensor-node init`: asks, tries the answers, and writes a configuration."""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import shutil
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from drivers.scanning import scan
from node.cli.arguments import add_state_dir_argument, own_command
from node.cli.exit_codes import EXIT_FAILED
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.mqtt import default_name
from node.config.reader import DEFAULT_FILE
from node.config.schema import Config, MqttTable, Secret
from node.sensors.board import bare_board, open_board, preload_drivers, typical_board
from node.sensors.read_once import as_table, read_once
from node.setup.brokers import ask_broker, parse_address
from node.setup.configuration_file import PASSWORD_FILE, configuration_text
from node.setup.dialog import Dialog, Unanswered
from node.setup.sensors import ChosenSensor, ask_sensors, parse_name, parse_sensor
from node.system.safe_files import write_file
from node.system.state_dir import find_state_dir, lock_holder

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_SERVICE_FILES = (
    Path("/etc/systemd/system/sensor-node.service"),
    Path("/usr/lib/systemd/system/sensor-node.service"),  # of the Debian package
)
_SERVICE_GROUP = "sensor-node"
_TEMPLATE: dict[str, Any] = {
    "node": {},
    "mqtt": {"host": "192.168.1.10"},
    "sensor": [{"id": "cpu", "driver": "cpu", "interval": "60s"}],
}
"""The host in the template deploy/node.toml."""

HELP = CommandHelp(
    details="""\
Asks for the broker and the sensors, and writes a configuration with comments. It looks for a
broker in this network, immediately tries to log in to the one that you name, scans the buses,
asks for the pins of sensors that a scan cannot find, and reads every sensor once.

Enter accepts the answer in [brackets]. Nothing is written before the last question, so Ctrl-C
leaves everything as it was. An existing file is replaced only if you confirm it, and a copy is
kept.

With --yes it asks nothing, and accepts every default.
""",
    examples={
        "sudo sensor-node init": "the configuration of the service",
        "sensor-node init --config node.toml --simulate": "try it on a laptop",
        "sensor-node init --yes --broker 192.168.1.10 --sensor dht22:pin=17": "for scripts",
    },
    exit_codes={
        0: "the file is written, and broker and sensors answered",
        1: "nothing was written; or it was, but the broker or a sensor is silent",
    },
    without=(78,),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="ask nothing, and accept every default")
    parser.add_argument(
        "--broker", metavar="HOST[:PORT]", help="the MQTT broker; mqtts://HOST uses TLS"
    )
    parser.add_argument("--username", metavar="NAME", help="the user name at the broker")
    parser.add_argument("--password-file", metavar="FILE", help="a file that contains the password")
    parser.add_argument("--name", help="the node's name (default: from the host name)")
    parser.add_argument(
        "--sensor",
        action="append",
        default=[],
        metavar="DRIVER[:KEY=VALUE,...]",
        help="a sensor that a scan cannot find; may be repeated",
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace an existing file without asking"
    )
    parser.add_argument("--simulate", action="store_true", help="simulated hardware")
    add_state_dir_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write a configuration; exit code 0 only if it is written and everything in it answered."""
    dialog = Dialog(accept_defaults=arguments.yes)
    try:
        return _init(arguments, dialog)
    except Unanswered as error:
        print(f"no answer to: {error}\nNothing was written.", file=sys.stderr)
        return EXIT_FAILED
    except configuration.ConfigError as error:
        wrong = [f"{problem.where}: {problem.message}" for problem in error.problems]
        print("\n".join([*wrong, "Nothing was written."]), file=sys.stderr)
        return EXIT_FAILED
    except (OSError, ValueError) as error:
        print(f"{error}\nNothing was written.", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nNothing was written.", file=sys.stderr)
        raise


def _init(arguments: argparse.Namespace, dialog: Dialog) -> int:
    given_sensors = [parse_sensor(written) for written in arguments.sensor]
    given_broker = _given_broker(arguments)
    file = _target(arguments.config)
    _refuse_if_running(arguments)
    dialog.say(f"This writes {file}, the configuration of a sensor node.")
    if dialog.asks:
        dialog.say("Enter accepts the answer in [brackets]. Ctrl-C leaves everything as it was.")
    if not _may_write(file, arguments, dialog):
        return EXIT_FAILED

    print()
    node = dialog.ask(
        "Name of this node, the first word of its topics",
        parse_name,
        arguments.name or default_name(),
    )
    mqtt, broker_answers = ask_broker(dialog, given_broker, node)

    print()
    dialog.say("Looking for sensors ...")
    board = typical_board() if arguments.simulate else bare_board(simulate=False)
    sensors = ask_sensors(dialog, board, scan(board), given_sensors)

    config = _checked(file, node, mqtt, sensors)
    print()
    all_read = _read_each(dialog, config, simulate=arguments.simulate)
    kept = _write(file, configuration_text(node, mqtt, sensors, restart=_restart(file)), mqtt)
    print()
    dialog.say(f"Written: {file}" + (f" (before: {kept})" if kept else ""))
    _say_next(dialog, file, simulate=arguments.simulate)
    return 0 if broker_answers and all_read else EXIT_FAILED


def _given_broker(arguments: argparse.Namespace) -> MqttTable | None:
    """Return the broker that the options name.

    Raises:
        ValueError: an option is not valid.
        OSError: the password file cannot be read.
    """
    if arguments.broker is None:
        if not arguments.yes:
            return None
        raise ValueError("--yes needs --broker HOST: there is no default for the broker")
    mqtt = parse_address(arguments.broker)
    if arguments.username is not None:
        mqtt = msgspec.structs.replace(mqtt, username=arguments.username)
    if arguments.password_file is not None:
        if arguments.username is None:
            raise ValueError("--password-file needs --username NAME")
        password = Path(arguments.password_file).read_text(encoding="utf-8").strip("\r\n")
        mqtt = msgspec.structs.replace(mqtt, password=Secret(password))
    return mqtt


def _target(option: str | None) -> Path:
    """Return the named path, else the service's, else one in the current folder."""
    file = configuration.find_file(option)
    if file == DEFAULT_FILE and not file.parent.is_dir():
        return Path("node.toml").absolute()
    return file.absolute()


def _refuse_if_running(arguments: argparse.Namespace) -> None:
    """Raise ValueError if a node reads the sensors at this moment."""
    process = None if arguments.simulate else lock_holder(find_state_dir(arguments.state_dir))
    if process is not None:
        raise ValueError(
            f"The node is running (process {process}), and reads the same sensors. "
            "Stop it first: sudo systemctl stop sensor-node"
        )


def _may_write(file: Path, arguments: argparse.Namespace, dialog: Dialog) -> bool:
    """Return whether the file can be written, and is new or may be replaced.

    Raises:
        OSError: it cannot be written.
    """
    if not os.access(file.parent, os.W_OK | os.X_OK):
        hint = (
            "does the folder exist?" if not file.parent.is_dir() else "try: sudo sensor-node init"
        )
        raise OSError(f"cannot write to {file.parent}; {hint}")
    if not file.exists() or arguments.replace or _is_untouched(file):
        return True
    if arguments.yes:
        raise OSError(f"{file} exists; add --replace to replace it (a copy is kept)")
    if dialog.confirm(f"{file} exists. Replace it? (A copy is kept.)", default=False):
        return True
    dialog.say("Nothing was written.")
    return False


def _is_untouched(file: Path) -> bool:
    """Return whether it is still the template that the installer put there."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")) == _TEMPLATE
    except (OSError, ValueError):
        return False


def _checked(file: Path, node: str, mqtt: MqttTable, sensors: Sequence[ChosenSensor]) -> Config:
    """Return the configuration as the node will see it.

    It has no password, because the file of the password is not written yet.

    Raises:
        ConfigError: the answers do not go together.
    """
    text = configuration_text(
        node, msgspec.structs.replace(mqtt, password=None), sensors, restart=""
    )
    return configuration.parse(file, text.encode())


def _read_each(dialog: Dialog, config: Config, *, simulate: bool) -> bool:
    """Read every sensor and show its values; return whether each one gave a value."""
    if not config.sensors:
        dialog.say("The file has no sensor: only the node's status will be published.")
        return True
    dialog.say("Reading each sensor once ...")
    preload_drivers(config)
    results = read_once(config.sensors, open_board(config, simulate=simulate))
    print(as_table(results))
    return not any(result.error for result in results)


def _write(file: Path, text: str, mqtt: MqttTable) -> Path | None:
    """Write the configuration and the password file; return where the old file was kept.

    Raises:
        OSError: one could not be written; the old configuration is still in place.
    """
    kept = None
    if file.exists():
        kept = _unused(file.with_name(f"{file.name}.old"))
        write_file(kept, file.read_bytes(), mode=0o640)
    contents = {file: text}
    if mqtt.password is not None:
        contents = {file.with_name(PASSWORD_FILE): f"{mqtt.password}\n", **contents}
    for place, content in contents.items():
        write_file(place, content.encode(), mode=0o640)
        if _is_service(file) and os.geteuid() == 0:
            shutil.chown(place, group=_SERVICE_GROUP)
    return kept


def _unused(file: Path) -> Path:
    names = (file.with_name(f"{file.name}-{number}") for number in itertools.count(2))
    return next(name for name in itertools.chain([file], names) if not name.exists())


# -- what comes next


def _is_service(file: Path) -> bool:
    return file == DEFAULT_FILE and any(unit.exists() for unit in _SERVICE_FILES)


def _restart(file: Path) -> str:
    if _is_service(file):
        return "sudo systemctl restart sensor-node"
    return "stop the node, and start it again"


def _say_next(dialog: Dialog, file: Path, *, simulate: bool) -> None:
    print()
    if _is_service(file) and not simulate:
        dialog.say("Start the node, and look at it:")
        print(f"    {_restart(file)}\n    sudo sensor-node status")
        return
    shown = shlex.quote(os.path.relpath(file) if file.parent == Path.cwd() else str(file))
    dialog.say("Start the node:")
    simulated = " --simulate" if simulate else ""
    print(f"    {own_command()} run --config {shown} --state-dir state{simulated}")
    dialog.say("See what it publishes, in another terminal:")
    print(f"    {own_command()} watch --config {shown}")
