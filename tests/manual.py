"""Writes deploy/man/sensor-node.1 from the parser of the command line, with argparse-manpage.

The page is kept in the repository, so that reading it needs no library; a test says when it is
out of date.

    tests/.venv/bin/python tests/manual.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from argparse_manpage.manpage import Manpage

from node import __version__
from node.cli.main import COMMANDS, command_parser

__all__ = ["FILE", "page"]

FILE = Path(__file__).parent.parent / "deploy" / "man" / "sensor-node.1"

_SUMMARY = "read temperature sensors on a schedule, and publish them over MQTT"
_SECTIONS = {
    "FILES": {
        "/etc/sensor-node/node.toml": "the configuration, where neither --config nor the "
        "environment names another one",
        "/var/lib/sensor-node": "the log of readings: what the broker has not acknowledged, and "
        "the last two days",
        "/opt/sensor-node": "the installed releases",
    },
    "ENVIRONMENT": {
        "SENSOR_NODE_CONFIG": "the configuration, where --config does not name one",
        "SENSOR_NODE_MQTT_PASSWORD": "the password for the broker, where the "
        "configuration has none",
        "STATE_DIRECTORY": "the folder of the log, where --state-dir does not name one",
        "NO_COLOR": "no colours, if it is set",
    },
    "EXIT STATUS": {
        "0": "done",
        "1": "a check failed, or the work could not be done",
        "2": "wrong usage",
        "78": "the configuration is invalid",
    },
}
_SEE_ALSO = r"\fBmosquitto_sub\fR(1), \fBmosquitto\fR(8), \fBsystemctl\fR(1), \fBjournalctl\fR(1)"


def page() -> str:
    """Return the page in roff, the same on every day, in any terminal, and by any Python.

    Pythons break the lines of a usage in different places, so man breaks them.
    """
    parser = command_parser(COMMANDS, whole=COMMANDS)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                command.format_help()  # puts the manual of the command into its parser
                command.usage = " ".join(_usage_of(command))
    manual = Manpage(parser)
    manual.description = _SUMMARY
    manual.date = ""
    manual.source = f"sensor-node {__version__}"
    manual.manual = "sensor-node"
    for heading, entries in _SECTIONS.items():
        manual.add_section(heading, "=", "\n".join(map(_entry, entries, entries.values())))
    manual.add_section("SEE ALSO", "=", _SEE_ALSO)
    return str(manual)


def _usage_of(command: argparse.ArgumentParser) -> list[str]:
    return command.format_usage().removeprefix("usage: ").split()


def _entry(term: str, meaning: str) -> str:
    return f".TP\n\\fB{_escaped(term)}\\fR\n{_escaped(meaning)}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("-", r"\-")


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(page(), encoding="utf-8")
