"""`sensor-node drivers`: what there is, and what each one wants to know."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

import msgspec

from drivers.base import DriverInfo
from drivers.errors import MissingSupport
from drivers.registry import UnknownDriver, driver_names, find_driver
from node.cli.help_text import CommandHelp
from node.cli.option_text import OptionText, describe_options
from node.system.terminal import table

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_WIDTH = 78


HELP = CommandHelp(
    details="""\
Without a name, every driver there is, those of other packages included; with one, its
options, channels, accuracy and where that is from, what is peculiar about it, and an
example.
""",
    examples={
        "sensor-node drivers": "all of them",
        "sensor-node drivers dht22": "one, in full",
    },
    exit_codes={1: "the driver cannot be loaded", 2: "wrong usage, or there is no such driver"},
    without=(78,),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one driver, in full")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--markdown", action="store_true", help="print the catalogue's table in drivers/README.md"
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 2 for a driver that does not exist, 1 for one that cannot be loaded."""
    if arguments.markdown:
        return _print_markdown(arguments.name)
    names = [arguments.name] if arguments.name else driver_names()
    infos: list[DriverInfo] = []
    failed = 0
    for name in names:
        try:
            infos.append(find_driver(name))
        except UnknownDriver:
            known = ", ".join(driver_names())
            print(f'there is no driver "{name}"; there are {known}', file=sys.stderr)
            return 2
        except MissingSupport as error:
            print(error, file=sys.stderr)
            failed = 1
    if arguments.json:
        described = [_as_json(info) for info in infos]
        print(msgspec.json.encode(described[0] if arguments.name else described).decode())
    elif arguments.name:
        print("".join(_in_full(info) for info in infos), end="")
    else:
        rows = [(info.name, info.summary) for info in infos]
        print(table([("DRIVER", "WHAT IT READS"), *rows]))
    return failed


def _print_markdown(name: str | None) -> int:
    from drivers.catalogue import CATALOGUE
    from drivers.catalogue_table import catalogue_table

    rows = [row for row in CATALOGUE if name in (None, row.name)]
    if not rows:
        print(f'the catalogue has no "{name}"', file=sys.stderr)
        return 2
    print(catalogue_table(rows), end="")
    return 0


def _as_json(info: DriverInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "summary": info.summary,
        "channels": [
            {"name": c.name, "unit": c.unit, "range": c.plausible, "decimals": c.decimals}
            for c in info.channels
        ],
        "options": describe_options(info.options),
        "accuracy": info.accuracy,
        "source": info.source,
        "quirks": info.quirks,
        "min_interval_s": info.min_interval_s,
        "extra": info.extra,
        "example": info.example,
    }


def _in_full(info: DriverInfo) -> str:
    options = [_option_row(option) for option in describe_options(info.options)]
    channels = [
        (c.name, c.unit, f"{c.plausible[0]:g} to {c.plausible[1]:g}") for c in info.channels
    ]
    if info.more_channels:
        channels.append(("...", "", "whatever else the hardware has"))
    parts = [f"{info.name}\n    {info.summary}", ""]
    if info.extra:
        parts += [f"Needs: pip install 'pi-sensor-node[{info.extra}]'", ""]
    parts += [table([("CHANNEL", "UNIT", "RANGE"), *channels]), ""]
    if options:
        parts += [table([("OPTION", "DEFAULT", "VALUE"), *options]), ""]
    remarks = (("Accuracy", info.accuracy), ("Source", info.source), ("Mind", info.quirks))
    parts += [_remark(title, text) for title, text in remarks if text]
    parts += [""] * any(text for _, text in remarks)
    example = info.example.replace("\n", "\n    ")
    parts += ["Example:", f'    [[sensor]]\n    id = "{info.name}-1"\n    {example}', ""]
    return "\n".join(parts)


def _remark(title: str, text: str) -> str:
    return textwrap.fill(f"{title}: {text}", _WIDTH, subsequent_indent="    ")


def _option_row(option: OptionText) -> tuple[str, str, str]:
    return option.name, "(required)" if option.required else option.default, option.value
