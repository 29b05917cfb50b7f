"""A headless Chromium, Debian's own, spoken to by its DevTools protocol over a WebSocket.

https://chromedevtools.github.io/devtools-protocol/; a page keeps every request that it made, and
everything that it complained about.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from support import wait_until
from websockets.sync.client import ClientConnection, connect

__all__ = ["Chromium", "Page"]

_PATIENCE_S = 60.0
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-features=Translate,OptimizationHints,MediaRouter",
    "--hide-scrollbars",
    "--lang=en",
    "--remote-debugging-port=0",
    # Whatever it might look up, it finds nothing beyond this computer.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


class Chromium:
    """The browser; `page` opens a tab."""

    def __init__(self, time_zone: str = "Europe/Berlin") -> None:
        program = shutil.which("chromium")
        assert program is not None, "the tests need chromium: apt-get install chromium"
        self._time_zone = time_zone
        # Below /tmp, however long $TMPDIR is: the path of its socket may have 107 bytes (unix(7)).
        self._folder = tempfile.mkdtemp(prefix="sensor-node-chromium-", dir="/tmp")
        self._pages: list[Page] = []
        command = [program, *_FLAGS, f"--user-data-dir={self._folder}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": self._folder},
            start_new_session=True,
        )
        told = Path(self._folder, "DevToolsActivePort")
        try:
            wait_until(
                lambda: told.exists() and told.read_text().count("\n"), _PATIENCE_S, "chromium"
            )
        except BaseException:
            self.close()  # nobody else knows of it yet
            raise
        self._port = int(told.read_text().splitlines()[0])

    def page(self, **options: Any) -> Page:
        """A new tab with nothing in it."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT"
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE_S) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        page = Page(connect(address, max_size=None), time_zone=self._time_zone, **options)
        self._pages.append(page)
        return page

    def close_pages(self) -> None:
        """A tab that stays open asks on, even where nobody answers any more."""
        for page in self._pages:
            page.close()
        self._pages.clear()

    def close(self) -> None:
        self.close_pages()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        wait_until(self._has_ended, _PATIENCE_S, "all that it has started ends")
        self._process.wait()
        shutil.rmtree(self._folder)

    def _has_ended(self) -> bool:
        """Kill what is left of it: its helpers outlive it, and make its folder again."""
        left = [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if _is_of(process, self._process.pid, self._folder)
        ]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left


def _is_of(process: Path, session: int, folder: str) -> bool:
    """Whether a process is alive, and is of that session, or was started with that folder."""
    try:
        # proc(5): after the name, which may have any character but a slash: state, parent, group,
        # session.
        state, _, _, its_session = (process / "stat").read_text().rpartition(") ")[2].split()[:4]
        command = (process / "cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX" and (int(its_session) == session or folder in command)


class Page:
    """A tab, as large as a window of `width` by `height`."""

    def __init__(
        self,
        connection: ClientConnection,
        *,
        time_zone: str,
        width: int = 1280,
        height: int = 900,
        scale: float = 1.0,
        scheme: str = "light",
        scripts: bool = True,
        phone: bool = False,
    ) -> None:
        self._connection = connection
        self._number = 0
        self.requests: list[str] = []
        """The addresses of all that it asked for."""
        self.complaints: list[str] = []
        """Errors and warnings of the console, violations of the policy, and exceptions."""
        self._events: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setTimezoneOverride", timezoneId=time_zone)
        if not scripts:
            self.call("Emulation.setScriptExecutionDisabled", value=True)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        self._connection.send(json.dumps(message))
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            answer = json.loads(self._connection.recv(deadline_s - time.monotonic()))
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event.get("method", ""), event.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(told["args"])[:500])

    def go(self, address: str) -> None:
        """Open the address, and wait until all of it is there."""
        self._events.clear()
        answer = self.call("Page.navigate", url=address)
        assert "errorText" not in answer, answer
        wait_until(lambda: self._seen("Page.loadEventFired"), _PATIENCE_S, address)

    def _seen(self, method: str) -> bool:
        self.call("Page.getLayoutMetrics")  # lets events come in
        return method in self._events

    def js(self, expression: str) -> Any:
        """The value of an expression on the page (also where its own scripts are off)."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def text(self, selector: str = "body") -> str:
        """What a person reads in the first element that matches; "" without one."""
        found = self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return str(found)

    def wait_for(self, expression: str, seconds: float = _PATIENCE_S) -> Any:
        return wait_until(lambda: self.js(expression), seconds, expression)

    def picture(self, kind: str = "png", *, whole: bool = False) -> bytes:
        """A picture of the window, or of the whole page."""
        options: dict[str, Any] = {"format": kind} | ({"quality": 85} if kind == "webp" else {})
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options |= {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        return base64.b64decode(self.call("Page.captureScreenshot", **options)["data"])

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.call("Page.close")
        with contextlib.suppress(Exception):
            self._connection.close()
