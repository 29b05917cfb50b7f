"""Logging to standard error, one line per message, in the format of its destination.

Under systemd a line begins with its priority (sd-daemon(3)) and omits the time, because the journal
adds it; anywhere else a line begins with the local time.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import deque
from typing import TextIO

__all__ = ["RecentWarnings", "set_up_logging"]

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        priority = _PRIORITY.get(record.levelno, 2)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current sys.stderr, which a live view may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class RecentWarnings(logging.Handler):
    """Keeps the recent warnings of all threads until they are taken."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: deque[logging.LogRecord] = deque(maxlen=50)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def set_up_logging(level: str) -> None:
    """Send the whole process's log to standard error, from `level` ("info") upwards."""
    handler = _StderrHandler()
    if _goes_to_the_journal():
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("schedule").setLevel(logging.WARNING)
    warnings.showwarning = _log_warning  # type: ignore[assignment]


def _goes_to_the_journal() -> bool:
    """Compare stderr with the device and inode in $JOURNAL_STREAM (systemd.exec(5)).

    A program started by such a service inherits the variable, but may have another stderr.
    """
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _log_warning(message: Warning | str, category: type[Warning], *_place: object) -> None:
    """Log a library's warning as one line, without the source line that Python adds."""
    logging.getLogger("warnings").warning("%s: %s", category.__name__, message)
