"""`sensor-node scan`: prints attached sensors as `[[sensor]]` tables to paste.

The whole output is valid TOML: everything but the tables is a comment. `drivers.scanning` finds
the sensors.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

import msgspec

from drivers.bus import Board
from drivers.packages import install_command
from drivers.scan_modbus import line_named, scan_modbus
from drivers.scanning import Finding, Found, Scan, scan
from node.cli.help_text import CommandHelp
from node.config import load as configuration
from node.config.schema import Config
from node.config.sensor_toml import free_id, sensor_table, suggest_id
from node.sensors.board import bare_board, open_board, typical_board

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_WIDTH = 78
_LAST_UNIT = 247
_USUAL_UNITS = range(1, 33)
_NOT_FOUND_BY_ASKING = (
    "A scan cannot find sensors on a GPIO (dht22, dht11) or on SPI (max31855, mcp3008, ...): "
    "sensor-node drivers NAME shows their tables."
)


def _bus_number(written: str) -> int:
    number = int(written)
    if number < 0:
        raise ValueError(written)
    return number


def _unit_range(written: str) -> range:
    first, dash, last = written.partition("-")
    units = range(int(first), int(last if dash else first) + 1)
    if not units or units[0] < 1 or units[-1] > _LAST_UNIT:
        raise ValueError(written)
    return units


HELP = CommandHelp(
    details="""\
Looks at the I2C buses, at 1-Wire, at the devices that Linux drives itself (IIO, hwmon) and
at the processor, and prints [[sensor]] tables for the sensors it finds, ready to paste into the
configuration. A chip that has an identification register is identified by it. For other chips the
candidates are printed as comments, and so are sensors that are already configured.

Where there is a Bluetooth adapter, and the package of the driver ble is installed, it listens for
12 s. A thermometer that it hears may be a neighbour's.

With --modbus it asks the units of a Modbus line instead, one after another, which takes half a
second for each that is not there.

It only reads; the one thing it writes is the number of an identification register. Stop the node
first: two programs that talk to one chip may mix up its answers. A scan cannot find sensors on a
GPIO or on SPI.
""",
    examples={
        "sensor-node scan | sudo tee -a /etc/sensor-node/node.toml": "append the sensors found",
        "sensor-node scan --bus 1": "only one I2C bus",
        "sensor-node scan --modbus /dev/ttyUSB0": "the devices on RS-485",
        "sensor-node scan --simulate": "see what it prints, on any computer",
    },
    exit_codes={1: "a bus could not be scanned"},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bus", type=_bus_number, metavar="N", help="of the I2C buses, scan only /dev/i2c-N"
    )
    parser.add_argument(
        "--modbus",
        metavar="PORT",
        help="only ask a Modbus line: a serial port, or HOST[:PORT] of a gateway",
    )
    parser.add_argument(
        "--units",
        type=_unit_range,
        metavar="N-M",
        help="with --modbus: the unit ids to ask, from 1 to 247 (1-32)",
    )
    parser.add_argument(
        "--baud", type=int, metavar="N", help="with --modbus: the speed of the serial line (9600)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="scan simulated hardware: the sensors of --config, else some typical ones",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the tables; exit code 1 if a bus could not be scanned, 0 also if nothing was found."""
    config: Config | None = None
    if arguments.config:
        config = configuration.load(configuration.find_file(arguments.config))
    board = _board(config, simulate=arguments.simulate)
    result = _result(arguments, board)
    if result is None:
        return 2
    if config is None:
        config = _usual_config()
    ids = _ids_of(result, config)
    configured = {s.options.where(): s.id for s in config.sensors} if config else {}
    if arguments.json:
        print(msgspec.json.encode(_as_json(result, ids, configured)).decode())
    else:
        print(_as_toml(result, ids, configured, whole=arguments.modbus is None))
    for failure in result.failures:
        print(failure, file=sys.stderr)
    return 1 if result.failures else 0


def _result(arguments: argparse.Namespace, board: Board) -> Scan | None:
    """Return what the chosen scan has found; None, with a message, for wrong usage."""
    if arguments.modbus is None:
        if arguments.units or arguments.baud:
            print("--units and --baud go with --modbus PORT", file=sys.stderr)
            return None
        return scan(board, only_bus=arguments.bus)
    try:
        line = line_named(arguments.modbus, arguments.baud)
    except ValueError as error:
        print(f"--modbus {arguments.modbus}: {error}", file=sys.stderr)
        return None
    return scan_modbus(board, line, arguments.units or _USUAL_UNITS)


def _usual_config() -> Config | None:
    """Return the service's configuration, to which people append; None if it is not usable."""
    try:
        return configuration.load(configuration.find_file(None))
    except configuration.ConfigError:
        return None


def _board(config: Config | None, *, simulate: bool) -> Board:
    if not simulate:
        return bare_board(simulate=False)
    return typical_board() if config is None else open_board(config, simulate=True)


# -- Ids -----------------------------------------------------------------------------------------


def _ids_of(result: Scan, config: Config | None) -> list[list[str]]:
    """Return ids for each finding: one for each sensor that it may be, all different."""
    taken = {sensor.id for sensor in config.sensors} if config else set()
    ids = []
    for finding in result.findings:
        ids.append(
            [free_id(suggest_id(found.driver, found.options), taken) for found in _all_of(finding)]
        )
        taken.update(ids[-1])
    return ids


def _all_of(finding: Finding) -> tuple[Found, ...]:
    return finding.possible if finding.sensor is None else (finding.sensor,)


# -- Output --------------------------------------------------------------------------------------


def _as_toml(
    result: Scan, ids: list[list[str]], configured: dict[str, str], *, whole: bool = True
) -> str:
    """Return the findings; `whole` if every kind of bus was scanned."""
    blocks = [
        _block(finding, names, configured)
        for finding, names in zip(result.findings, ids, strict=True)
    ]
    if not blocks:
        blocks.append(_comment("Nothing was found."))
    blocks += [_comment(f"Switched off: {text}") for text in result.switched_off]
    blocks += [_comment(note) for note in result.notes]
    if whole:
        blocks.append(_comment(_NOT_FOUND_BY_ASKING))
    return "\n\n".join(blocks)


def _comment(text: str) -> str:
    return "\n".join(
        textwrap.wrap(
            text,
            _WIDTH,
            initial_indent="# ",
            subsequent_indent="# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _block(finding: Finding, ids: list[str], configured: dict[str, str]) -> str:
    lines = []
    if finding.where in configured:
        lines.append(_comment(f'"{configured[finding.where]}" of the configuration reads this.'))
    if finding.sensor is not None:
        summary = finding.sensor.summary
        lines.append(_comment(f"{finding.where}: {summary}" if summary else finding.where))
        table = _table(finding.sensor, ids[0])
        if finding.where in configured:
            table = [f"# {line}" for line in table]
        lines += [*_needs(finding.sensor), *table]
        return "\n".join(lines)
    if not finding.possible:
        what = finding.note or "no known sensor has this address"
        return "\n".join([*lines, _comment(f"{finding.where}: {what}.")])
    one = "this, by its address alone" if len(finding.possible) == 1 else "one of these"
    lines.append(_comment(f"{finding.where}: may be {one}. Uncomment the right one:"))
    for found, name in zip(finding.possible, ids, strict=True):
        lines += ["#", _comment(found.summary), *_needs(found)]
        lines += [f"# {line}" for line in _table(found, name)]
    return "\n".join(lines)


def _needs(found: Found) -> list[str]:
    extra = found.missing_extra
    return [f"# Needs: {install_command(extra)}"] if extra else []


def _table(found: Found, name: str) -> list[str]:
    return sensor_table(name, found.driver, found.options)


def _as_json(result: Scan, ids: list[list[str]], configured: dict[str, str]) -> dict[str, Any]:
    return {
        "found": [
            {
                "where": finding.where,
                "identified": finding.sensor is not None,
                "sensors": [
                    {"id": name, **msgspec.structs.asdict(found)}
                    for found, name in zip(_all_of(finding), names, strict=True)
                ],
                "configured_as": configured.get(finding.where, ""),
                "note": finding.note,
            }
            for finding, names in zip(result.findings, ids, strict=True)
        ],
        "switched_off": result.switched_off,
        "notes": result.notes,
        "problems": [str(failure) for failure in result.failures],
    }
