"""Arguments that several commands take."""

from __future__ import annotations

import argparse

from node.system.state_dir import DEFAULT_STATE_DIR

__all__ = ["add_state_dir_argument", "positive"]


def add_state_dir_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help="the folder where the node keeps readings until the broker has them "
        f"(default: $STATE_DIRECTORY, else {DEFAULT_STATE_DIR})",
    )


def positive(written: str) -> float:
    """Parse an argument that must be a number above zero.

    Raises:
        ValueError: it is not such a number (argparse says "invalid positive value").
    """
    number = float(written)
    if not 0 < number < 1e9:
        raise ValueError(written)
    return number
