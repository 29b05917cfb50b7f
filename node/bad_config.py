"""Shows on the LED that the configuration cannot be used, to somebody who has no terminal.

All that is asked of such a configuration is that it is TOML, and that `[status_led] pin` in it is
right.
"""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path

import msgspec

from drivers.bus import Board
from node.config.schema import StatusLedTable
from node.panel import Panel, Pattern
from node.system.clock import SystemClock
from node.system.systemd import catch_signals

__all__ = ["led_of", "show_bad_configuration"]

BLINK_S = 10.0


def led_of(source: Path) -> StatusLedTable | None:
    """The `[status_led]` of a configuration that may be wrong everywhere else."""
    try:
        document = tomllib.loads(source.read_text(encoding="utf-8").removeprefix("\ufeff"))
        return msgspec.convert(document["status_led"], StatusLedTable)
    except (OSError, ValueError, KeyError, RecursionError):
        return None


def show_bad_configuration(led: StatusLedTable, board: Board) -> None:
    """Blink for a while, or until a signal ends the process."""
    panel = Panel(led, None, board, SystemClock())
    ended = threading.Event()
    catch_signals(lambda _name: ended.set())
    panel.display(Pattern.BAD_CONFIGURATION)
    if panel.has_led:
        ended.wait(BLINK_S)
    panel.close()
