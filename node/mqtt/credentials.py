"""The login of each connection: the password that the file or the command gives at that time.

Used on the network thread before each connection, except for `ends_s`.
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

from node.config.password import read_password
from node.config.schema import MqttTable, Secret

__all__ = ["Credentials", "password_of_command"]

_COMMAND_S = 20.0
"""How long the command may take: an unattended token service answers within seconds."""
_EARLIER = 0.9
"""The part of its life after which a password is replaced."""


class Credentials:
    """The user name, and the newest password."""

    def __init__(self, mqtt: MqttTable) -> None:
        self.username = mqtt.username
        self.password: str | None = mqtt.password
        self.problem = ""
        """Why there is no password for the next connection; "" if there is one."""
        self.ends_s = math.inf
        """When the password has to be replaced, on the monotonic clock; infinity: not known."""
        self._file: Path | None = mqtt.password_file
        self._command = mqtt.password_command
        self._valid_for_s = float(mqtt.password_valid_for)

    @property
    def may_change(self) -> bool:
        """Return whether the password has to be read again before each connection."""
        return self._file is not None or bool(self._command)

    def refresh(self) -> None:
        """Read the file, or run the command if the last password does not last any more.

        If the file cannot be read or is empty, the last password stays: the file may be in the
        middle of being written.
        """
        if self._file is not None:
            with contextlib.suppress(OSError, ValueError):
                self.password = read_password(self._file)
        lasts = self.ends_s < math.inf and time.monotonic() < self.ends_s
        if not self._command or lasts:
            return
        self.problem, self.ends_s = "", math.inf
        try:
            self.password = password_of_command(self._command)
        except ValueError as error:
            self.problem = str(error)
        else:
            if self._valid_for_s:
                self.ends_s = time.monotonic() + _EARLIER * self._valid_for_s


def password_of_command(command: tuple[str, ...]) -> Secret:
    """Run `[mqtt] password_command`, without a shell, and return what it prints.

    Raises:
        ValueError: it does not print a password within 20 s; the message never has its output.
    """
    import subprocess  # few need it

    from node.config.password import checked_password, password_in

    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"password_command does not end within {_COMMAND_S:g} s") from None
    except OSError as error:
        raise ValueError(f"password_command cannot be run: {error.strerror}") from None
    if done.returncode:
        raise ValueError(
            f"password_command failed with exit code {done.returncode}; run it by hand"
        )
    try:
        return checked_password(password_in(done.stdout.decode()))
    except UnicodeDecodeError:
        raise ValueError("what password_command prints is not text") from None
    except ValueError as error:
        raise ValueError(f"what password_command prints {error}") from None
