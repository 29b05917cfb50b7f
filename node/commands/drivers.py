"""`sensor-node drivers`: lists the drivers, and the options of each one."""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

import msgspec

from drivers.base import DriverInfo
from drivers.errors import MissingSupport
from drivers.name_sentences import about
from drivers.names import driver_called, drivers_matching, suggestion
from drivers.packages import install_command, missing_package
from drivers.registry import UnknownDriver, driver_names, find_driver
from drivers.wiring import as_text, wirings_of
from node.cli.help_text import CommandHelp
from node.cli.option_text import OptionText, describe_options
from node.system.terminal import table

__all__ = ["HELP", "add_arguments", "run"]

# ruff: noqa: T201

_WIDTH = 78
_VALUE_WIDTH = 44
_APART = "Chips that are made for something else, and measure their own temperature:"


HELP = CommandHelp(
    details="""\
Without a WORD, lists every driver, including those of other packages. With the name of a driver,
or a common name of its sensor (am2302, DS18B20+), shows its options, channels, accuracy and the
source of that, the wiring of the most common ones, its peculiarities, and an example. With any
other word, lists the drivers whose name, alias or summary contains it.
""",
    examples={
        "sensor-node drivers": "all of them",
        "sensor-node drivers dht22": "one, in full",
        "sensor-node drivers infrared": "those that match the word",
    },
    exit_codes={1: "the driver cannot be loaded", 2: "wrong usage, or no driver matches the word"},
    without=(78,),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="*", metavar="WORD", help="the name of a driver or sensor, or a word to find"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument(
        "--markdown", action="store_true", help="print the tables of drivers/README.md"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print drivers; exit code 2 if no driver matches the word, 1 if one cannot be loaded."""
    word = " ".join(arguments.name)
    if arguments.markdown:
        return _print_markdown(word)
    if not word:
        return _print_all(as_json=arguments.json)
    try:
        info = _one(word)
    except MissingSupport as error:
        print(error, file=sys.stderr)
        return 1
    if info is None:
        return _print_matching(word, as_json=arguments.json)
    if arguments.json:
        print(msgspec.json.encode(_as_json(info)).decode())
    else:
        print(_in_full(info), end="")
    return 0


def _one(word: str) -> DriverInfo | None:
    """Return the driver that the word names, or None.

    If the word is an alias, standard error names the driver.

    Raises:
        MissingSupport: it cannot be loaded.
    """
    try:
        return find_driver(word)
    except UnknownDriver:
        name = driver_called(word)
    if name is None:
        return None
    print(f'"{word}" is read by {name}', file=sys.stderr)
    return find_driver(name)


def _print_all(*, as_json: bool) -> int:
    infos: list[DriverInfo] = []
    failed = 0
    for name in driver_names():
        try:
            infos.append(find_driver(name))
        except MissingSupport as error:
            print(error, file=sys.stderr)
            failed = 1
    _print_list(sorted(infos, key=lambda info: info.is_die), as_json=as_json)
    return failed


def _print_matching(word: str, *, as_json: bool) -> int:
    sentence, infos = about(word), drivers_matching(word)
    if not sentence and not infos:
        print(f'unknown driver "{word}"; {suggestion(word)}', file=sys.stderr)
        return 2
    if sentence:
        print(_remark(f'"{word}"', sentence), file=sys.stderr if as_json else sys.stdout)
    if infos or as_json:
        _print_list(infos, as_json=as_json)
    return 0


def _print_list(infos: list[DriverInfo], *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode([_as_json(info) for info in infos]).decode())
    else:
        print(_as_table(infos))


def _as_table(infos: list[DriverInfo]) -> str:
    """Return a line for each driver; chips that are made for something else come last, apart."""
    rows = [(info.name, info.summary) for info in infos if not info.is_die]
    dies = [(info.name, info.summary) for info in infos if info.is_die]
    heading = ("DRIVER", "WHAT IT READS")
    lines = table([heading, *rows, *dies]).splitlines()
    if rows and dies:
        lines[1 + len(rows) : 1 + len(rows)] = ["", _APART]
    return "\n".join(lines)


def _print_markdown(name: str) -> int:
    from drivers.catalogue import CATALOGUE
    from drivers.catalogue_table import catalogue_table, lies_table

    rows = [row for row in CATALOGUE if name in ("", row.name)]
    if not rows:
        print(f'the catalogue has no "{name}"', file=sys.stderr)
        return 2
    print(catalogue_table(rows), lies_table(rows), sep="\n", end="")
    if not name:
        from drivers.names_table import names_table

        print("", names_table(), sep="\n", end="")
    return 0


def _as_json(info: DriverInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "summary": info.summary,
        "aliases": info.aliases,
        "channels": [
            {"name": c.name, "unit": c.unit, "range": c.plausible, "decimals": c.decimals}
            for c in info.channels
        ],
        "options": describe_options(info.options),
        "accuracy": info.accuracy,
        "source": info.source,
        "quirks": info.quirks,
        "is_die": info.is_die,
        "min_interval_s": info.min_interval_s,
        "extra": info.extra,
        "devices": info.devices,
        "groups": info.groups,
        "example": info.example,
    }


def _in_full(info: DriverInfo) -> str:
    options = [row for option in describe_options(info.options) for row in _option_rows(option)]
    channels = [
        (c.name, c.unit, f"{c.plausible[0]:g} to {c.plausible[1]:g}") for c in info.channels
    ]
    if info.more_channels:
        channels.append(("...", "", "and other channels that the hardware has"))
    parts = [f"{info.name}\n    {info.summary}", ""]
    if info.aliases:
        names = ", ".join(alias.upper() for alias in info.aliases)
        parts += [_remark("Known as:", names), ""]
    if info.extra:
        missing = missing_package(info)
        command = f"\n    {install_command(info.extra)}"
        parts += [f"Needs: {missing}{command}" if missing else "Needs: nothing; it is installed"]
        parts.append("")
    if channels:
        parts += [table([("CHANNEL", "UNIT", "RANGE"), *channels]), ""]
    if options:
        parts += [table([("OPTION", "DEFAULT", "VALUE"), *options]), ""]
    for wiring in wirings_of(info.name):
        parts += [f"Wiring: {as_text(wiring)}", ""]
    remarks = (("Accuracy", info.accuracy), ("Source", info.source), ("Mind", info.quirks))
    parts += [_remark(f"{title}:", text) for title, text in remarks if text]
    parts += [""] * any(text for _, text in remarks)
    example = info.example.replace("\n", "\n    ")
    parts += ["Example:", f'    [[sensor]]\n    id = "{info.name}-1"\n    {example}', ""]
    return "\n".join(parts)


def _remark(title: str, text: str) -> str:
    return textwrap.fill(
        f"{title} {text}", _WIDTH, subsequent_indent="    ", break_on_hyphens=False
    )


def _option_rows(option: OptionText) -> list[tuple[str, str, str]]:
    """Return the row of an option, and more for the rest of a long value."""
    first, *rest = textwrap.wrap(option.value, _VALUE_WIDTH) or [""]
    default = "(required)" if option.required else option.default
    return [(option.name, default, first), *(("", "", line) for line in rest)]
