"""The private D-Bus and the fake bluetoothd of these tests, as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import end, wait_until

__all__ = ["Bluetoothd", "DBus"]

_POLICY = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow receive_sender="*" eavesdrop="true"/>
    <allow own="*"/>
    <allow user="*"/>
    {more}
  </policy>
</busconfig>
"""
_DENIED = '<deny send_destination="org.bluez"/>'


class DBus:
    """A dbus-daemon on a socket of its own; `denied`: nobody may speak with bluetoothd."""

    def __init__(self, folder: Path, *, denied: bool = False) -> None:
        self.socket = folder / "bus"
        self._config = folder / "bus.conf"
        more = _DENIED if denied else ""
        self._config.write_text(_POLICY.format(socket=self.socket, more=more))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        return {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.socket}"}

    def start(self) -> DBus:
        command = ["dbus-daemon", f"--config-file={self._config}", "--nofork", "--nopidfile"]
        self._process = subprocess.Popen(command)
        wait_until(self.socket.exists, what="dbus-daemon listens")
        return self

    def stop(self) -> None:
        if self._process is not None:
            end(self._process)
            self.socket.unlink(missing_ok=True)


class Bluetoothd:
    """The fake bluetoothd."""

    def __init__(self, bus: DBus) -> None:
        self._bus = bus
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> Bluetoothd:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fake_bluez.py"))],
            env={**os.environ, **self._bus.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"
        return self

    def _read(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self, *words: object) -> str:
        """Give a command; return what it has answered."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        assert answer.startswith(f"done {words[0]}"), answer
        return answer

    def stop(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            end(self._process)
            self._process = None
