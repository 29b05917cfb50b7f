"""A terminal for tests: a real pseudo-terminal, and pyte behind it, which says what is on screen.

pyte knows no alternate screen; `Emulator` adds it, and counts what a view must not do: scroll it.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from typing import Any

import pyte
import pyte.modes
from support import PATIENCE_S, wait_until

__all__ = ["Terminal"]

_ALTERNATE = 1049
_MARK = b"\x1b[8m\x1b[28m"  # conceals nothing


class Emulator(pyte.Screen):
    """A screen with an alternate one beside it, as xterm's private mode 1049."""

    def __init__(self, columns: int, lines: int) -> None:
        super().__init__(columns, lines)
        self.main: tuple[Any, Any] | None = None
        """What is behind the alternate screen, while that is shown."""
        self.scrolled = 0

    @property
    def alternate(self) -> bool:
        return self.main is not None

    def set_mode(self, *modes: int, **kinds: Any) -> None:
        super().set_mode(*modes, **kinds)
        if kinds.get("private") and _ALTERNATE in modes and self.main is None:
            self.main = copy.deepcopy(self.buffer), copy.copy(self.cursor)
            self.erase_in_display(2)

    def reset_mode(self, *modes: int, **kinds: Any) -> None:
        super().reset_mode(*modes, **kinds)
        if kinds.get("private") and _ALTERNATE in modes and self.main is not None:
            (self.buffer, self.cursor), self.main = self.main, None
            self.dirty.update(range(self.lines))

    def index(self) -> None:
        if self.alternate and self.cursor.y == self.lines - 1:
            self.scrolled += 1
        super().index()


class Terminal:
    """A program in a pseudo-terminal that controls it, as in a window of its own."""

    def __init__(
        self, *command: str, columns: int = 80, lines: int = 24, before: str = "", **env: str
    ) -> None:
        """`before` stands on the screen already."""
        self.emulator = Emulator(columns, lines)
        self._stream = pyte.ByteStream(self.emulator)
        self._stream.feed(before.encode())
        self.written = b""
        self._lock = threading.Lock()
        self._master, self._slave = pty.openpty()
        self.resize(columns, lines)
        self.state_before = self.state
        environment = {**os.environ, "TERM": "xterm-256color", **env}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            # A terminal controls the session whose leader is the first to open it.
            ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(self._slave), *command],
            env=environment,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(self._master, 65536):
                with self._lock:
                    self.written += chunk
                    self._stream.feed(chunk)

    @property
    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    @property
    def screen(self) -> list[str]:
        """The lines, without the spaces at their ends."""
        with self._lock:
            return [line.rstrip() for line in self.emulator.display]

    @property
    def text(self) -> str:
        return "\n".join(self.screen)

    @property
    def state(self) -> dict[str, object]:
        """All that a program may leave behind by mistake."""
        with self._lock:
            return {
                "attributes": self.attributes,
                "cursor hidden": self.emulator.cursor.hidden,
                "modes": frozenset(self.emulator.mode),
                "alternate": self.emulator.alternate,
                "style": self.emulator.cursor.attrs,
                "title": self.emulator.title,
            }

    def line(self, *words: str) -> str:
        """The line that has all the words; "" if there is none."""
        return next((line for line in self.screen if all(word in line for word in words)), "")

    def wait_for(self, *words: str, seconds: float = PATIENCE_S) -> str:
        """Wait for a line that has all the words."""
        try:
            return str(wait_until(lambda: self.line(*words), seconds))
        except AssertionError:
            raise AssertionError(f"no {words} within {seconds} s on\n{self.text}") from None

    def wait_until_gone(self, *words: str, seconds: float = PATIENCE_S) -> None:
        wait_until(lambda: not self.line(*words), seconds, f"{words} gone from\n{self.text}")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """As when a window is resized: the program gets SIGWINCH."""
        with self._lock:
            self.emulator.resize(lines, columns)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """The exit code, after all that was written has been read."""
        code = self.process.wait(seconds)
        os.write(self._slave, _MARK)
        wait_until(lambda: self.written.endswith(_MARK))
        self.written = self.written.removesuffix(_MARK)
        return code

    def hang_up(self) -> None:
        """As when the window is closed."""
        os.close(self._master)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        for end in (self._slave, self._master):
            with contextlib.suppress(OSError):
                os.close(end)
