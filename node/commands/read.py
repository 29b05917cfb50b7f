"""`sensor-node read`: reads each sensor once, without a broker."""

from __future__ import annotations

import argparse
import logging
import sys

import msgspec

from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.sensors.board import open_board, preload_drivers
from node.sensors.read_once import as_table, read_once

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_log = logging.getLogger(__name__)


HELP = CommandHelp(
    details="""\
Reads each sensor once, without a broker, and prints the value as read (RAW), the value that
would be published (VALUE: calibrated, in the configured unit), the accuracy that the datasheet
promises (ACCURACY), and how long the read took. Stop the node first.
""",
    examples={
        "sudo sensor-node read": "every sensor of the service",
        "sudo sensor-node read air water --json": "two of them, for programs",
    },
    exit_codes={0: "every sensor gave a value", 1: "a sensor did not give a value"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="sensors to read (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--simulate", action="store_true", help="read simulated hardware")


def run(arguments: argparse.Namespace) -> int:
    """Read the sensors; exit code 1 if one of them did not give a value."""
    config = configuration.load(configuration.find_file(arguments.config))
    sensors = {sensor.id: sensor for sensor in config.sensors}
    unknown = [name for name in arguments.ids if name not in sensors]
    if unknown:
        known = ", ".join(sensors) or "none"
        print(f"unknown sensor: {', '.join(unknown)}; configured: {known}", file=sys.stderr)
        return 2
    board = open_board(config, simulate=arguments.simulate)
    preload_drivers(config)
    chosen = [sensors[name] for name in dict.fromkeys(arguments.ids or sensors)]
    results = read_once(chosen, board, of_all=config.sensors)
    if arguments.json:
        print(msgspec.json.encode(results).decode())
    else:
        print(as_table(results))
    return 1 if any(result.error for result in results) or not results else 0
