"""A notice for the person who maintains the installation: one sentence in a file.

`deploy/update` writes the file when it has undone an update. The node reads it at its start, and
includes the sentence in the `problems` of its health.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["read_notice"]

FILE_NAME = "update-undone"
_MAX_CHARACTERS = 500


def read_notice(state_dir: Path | None) -> str:
    """Return the sentence; "" without one."""
    if state_dir is None:
        return ""
    try:
        with (state_dir / FILE_NAME).open(encoding="utf-8", errors="replace") as stream:
            return " ".join(stream.read(_MAX_CHARACTERS).split())
    except OSError:
        return ""
