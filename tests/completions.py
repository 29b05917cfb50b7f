"""Writes deploy/completion/ from the parser of the command line, with shtab.

The scripts are kept in the repository, so that neither completing a word nor the node needs a
library for it; a test says when they are out of date.

    tests/.venv/bin/python tests/completions.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

from drivers.registry import driver_names
from node.cli.main import COMMANDS, command_parser

__all__ = ["FOLDER", "scripts"]

FOLDER = Path(__file__).parent.parent / "deploy" / "completion"

_NOTE = "# Made by tests/completions.py from the command line of sensor-node; not to be edited.\n"
_BASH = """\
# The ids of the sensors in the configuration: that of --config, else where the program looks.
_sensor_node_ids() {
  local file=${SENSOR_NODE_CONFIG:-/etc/sensor-node/node.toml} word last=
  for word in "${COMP_WORDS[@]}"; do
    [[ $last == --config || $last == -c ]] && file=$word
    last=$word
  done
  compgen -W "$(sed -n 's/^ *id *= *"\\([A-Za-z0-9_-]*\\)".*/\\1/p' "$file" 2>/dev/null)" -- "$1"
}
"""
_KINDS = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY, "ID": {"bash": "_sensor_node_ids"}}
"""Metavar -> what its words are completed by."""


def scripts() -> dict[str, str]:
    """File name -> content, under the names that the shells look for."""
    parser = command_parser(COMMANDS, whole=COMMANDS)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                _mark(name, command)
    bash = shtab.complete(parser, "bash", preamble=_BASH)
    zsh = shtab.complete(parser, "zsh")
    first, _, rest = zsh.partition("\n")  # zsh wants its #compdef on the first line
    return {"sensor-node": _NOTE + bash, "_sensor-node": f"{first}\n{_NOTE}{rest}"}


def _mark(name: str, command: argparse.ArgumentParser) -> None:
    for action in command._actions:
        if action.metavar in _KINDS:
            action.complete = _KINDS[str(action.metavar)]  # type: ignore[attr-defined]
        elif name == "drivers" and action.dest == "name":
            action.choices = driver_names()


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, script in scripts().items():
        (FOLDER / file_name).write_text(script)
