"""Arguments that several commands take."""

from __future__ import annotations

import argparse
import os
import sys

from node.system.state_dir import DEFAULT_STATE_DIR

__all__ = ["add_state_dir_argument", "node_name", "own_command", "positive"]

_PROGRAM = "sensor-node"


def add_state_dir_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="the folder where the node keeps readings until the broker has them "
        f"(default: $STATE_DIRECTORY, else {DEFAULT_STATE_DIR})",
    )


def own_command() -> str:
    """Return how this user calls this program: `sensor-node`, or its path in an environment."""
    import shlex
    import shutil

    program = sys.argv[0]
    found = shutil.which(_PROGRAM)
    if found is None and os.path.basename(program) == _PROGRAM:
        return shlex.quote(os.path.relpath(program) if _is_below(program) else program)
    return _PROGRAM


def _is_below(program: str) -> bool:
    """Whether a program lies below the current folder."""
    return not os.path.relpath(program).startswith("..")


def node_name(written: str) -> str:
    """Parse an argument that must be the name of one node.

    Raises:
        argparse.ArgumentTypeError: it cannot be one.
    """
    import re

    if not re.fullmatch(r"[A-Za-z0-9_-]+", written):
        raise argparse.ArgumentTypeError("a node's name consists of letters, digits, _ and -")
    return written


def positive(written: str) -> float:
    """Parse an argument that must be a number above zero.

    Raises:
        ValueError: it is not such a number (argparse says "invalid positive value").
    """
    number = float(written)
    if not 0 < number < 1e9:
        raise ValueError(written)
    return number
