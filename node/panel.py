"""The LED and the button of a node: signs and commands that work without a network.

gpiozero blinks on a separate thread, and only while there is a problem: the LED of a healthy node
is on, which does not cost wake-ups. A pin that cannot be opened is reported once, and the node
goes on without it.

Used on the loop's thread; the button reports on gpiozero's.
"""

from __future__ import annotations

import enum
import logging
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from drivers.bus import Board
from node.config.schema import ButtonTable, StatusLedTable
from node.system.clock import Clock

__all__ = ["ButtonHeld", "ButtonPressed", "Panel", "Pattern", "led_of", "show_bad_configuration"]

_log = logging.getLogger(__name__)

IDENTIFY_S = 10.0
HOLD_S = 2.0
_BOUNCE_S = 0.03
BLINK_S = 10.0
"""How long the LED shows an unusable configuration before the node ends."""
STARTING_S = 10.0
"""How long after its start a node that is not healthy yet counts as starting."""


class Pattern(enum.Enum):
    """Seconds on, seconds off; an infinite time makes the pattern steady."""

    STARTING = (0.25, 0.25)
    ONLINE = (math.inf, 0.0)
    NO_BROKER = (1.0, 1.0)
    SENSOR_DOWN = (1.9, 0.1)
    ALARM = (0.1, 0.15)
    BAD_CONFIGURATION = (0.1, 1.9)
    IDENTIFY = (0.05, 0.05)


class ButtonPressed(msgspec.Struct, frozen=True):
    """The button was pressed and released."""


class ButtonHeld(msgspec.Struct, frozen=True):
    """The button was held for `HOLD_S`."""


class Panel:
    """Shows one pattern at a time."""

    def __init__(
        self,
        led: StatusLedTable | None,
        button: ButtonTable | None,
        board: Board,
        clock: Clock,
        *,
        report: Callable[[ButtonPressed | ButtonHeld], None] = lambda _event: None,
        bad_configuration: bool = False,
    ) -> None:
        """Open the pins. `bad_configuration`: the node runs on an older one than it was given."""
        self._clock = clock
        self._bad_configuration = bad_configuration
        self._led: Any = None
        self._button: Any = None
        self._report = report
        self._held = False
        self.pattern: Pattern | None = None
        """The pattern of the LED."""
        self._started_s = clock.monotonic()
        self._identify_until_s = -math.inf
        if led is not None:
            self._led = _open("[status_led]", led.pin, lambda: _led(led.pin, board))
        if button is not None:
            self._button = _open("[button]", button.pin, lambda: self._open_button(button, board))
        self.next_due_s = math.inf
        """When the pattern may have to change without an event."""

    def _open_button(self, table: ButtonTable, board: Board) -> Any:
        from gpiozero import Button

        button = Button(
            table.pin,
            hold_time=HOLD_S,
            bounce_time=_BOUNCE_S,
            pin_factory=board.pin_factory(),
        )
        button.when_held = self._when_held
        button.when_released = self._when_released
        return button

    def _when_held(self) -> None:
        self._held = True
        self._report(ButtonHeld())

    def _when_released(self) -> None:
        held, self._held = self._held, False
        if not held:
            self._report(ButtonPressed())

    def show(self, *, connected: bool, all_online: bool, alarm: bool = False) -> None:
        """Show the node's condition, unless the LED shows something else at the moment.

        `alarm`: one is on and not acknowledged.
        """
        if self._led is None:
            return
        now_s = self._clock.monotonic()
        starting_until_s = self._started_s + STARTING_S
        self.next_due_s = math.inf
        if now_s < self._identify_until_s:
            self.next_due_s = self._identify_until_s
            self.display(Pattern.IDENTIFY)
        elif alarm:
            self.display(Pattern.ALARM)
        elif self._bad_configuration:
            self.display(Pattern.BAD_CONFIGURATION)
        elif connected and all_online:
            self.display(Pattern.ONLINE)
        elif now_s < starting_until_s:
            self.next_due_s = starting_until_s
            self.display(Pattern.STARTING)
        else:
            self.display(Pattern.SENSOR_DOWN if connected else Pattern.NO_BROKER)

    @property
    def has_led(self) -> bool:
        return self._led is not None

    def identify(self) -> float:
        """Blink to identify this node; return for how many seconds, 0 without an LED."""
        if self._led is None:
            return 0.0
        self._identify_until_s = self._clock.monotonic() + IDENTIFY_S
        return IDENTIFY_S

    def display(self, pattern: Pattern) -> None:
        """Show `pattern` on the LED until the next call."""
        if self._led is None or pattern is self.pattern:
            return
        self.pattern = pattern
        on_s, off_s = pattern.value
        try:
            if on_s == math.inf:
                self._led.on()
            else:
                self._led.blink(on_s, off_s)
        except Exception as error:  # noqa: BLE001, gpiozero and what is under it
            _log.error("[status_led] cannot be switched: %s", error)
            self._led = None

    def close(self) -> None:
        """Switch the LED off, and release the pins."""
        for device in (self._led, self._button):
            try:
                if device is not None:
                    device.close()
            except Exception as error:  # noqa: BLE001, gpiozero and what is under it
                # The rest of the goodbye is more important.
                _log.debug("a pin cannot be released: %s", error)
        self._led = self._button = None


def _led(pin: int, board: Board) -> Any:
    from gpiozero import LED

    return LED(pin, pin_factory=board.pin_factory())


def _open(table: str, pin: int, opened: Callable[[], Any]) -> Any:
    try:
        return opened()
    except Exception as error:  # noqa: BLE001, gpiozero and what is under it
        _log.error("%s pin %d cannot be used: %s; see sensor-node doctor", table, pin, error)
        return None


def led_of(source: Path) -> StatusLedTable | None:
    """Return the `[status_led]` of a configuration that may be wrong everywhere else.

    The file only has to be TOML, with a valid `[status_led] pin`.
    """
    import tomllib

    try:
        document = tomllib.loads(source.read_text(encoding="utf-8").removeprefix("\ufeff"))
        return msgspec.convert(document["status_led"], StatusLedTable)
    except (OSError, ValueError, KeyError, RecursionError):
        return None


def show_bad_configuration(led: StatusLedTable, board: Board) -> None:
    """Blink for a while, or until a signal ends the process."""
    from node.system.clock import SystemClock
    from node.system.systemd import catch_signals

    panel = Panel(led, None, board, SystemClock())
    ended = threading.Event()
    catch_signals(lambda _name: ended.set())
    panel.display(Pattern.BAD_CONFIGURATION)
    if panel.has_led:
        ended.wait(BLINK_S)
    panel.close()
