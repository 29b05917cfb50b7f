"""Watches the node on trial: whether it stays up, reads what it read before, and is connected."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, NamedTuple

__all__ = ["AS_USER", "SERVICE", "Before", "look_before", "run", "systemctl", "watch"]

SERVICE = "sensor-node.service"
# With the folder, because the unit of who asks may have a state folder of its own.
STATUS = ("/usr/local/bin/sensor-node", "status", "--json", "--state-dir", "/var/lib/sensor-node")
AS_USER = ("setpriv", "--reuid=sensor-node", "--regid=sensor-node", "--init-groups")
SETTLE_S = 30.0
LOOK_EVERY_S = 3.0
MOST_RESTARTS = 3


class Before(NamedTuple):
    """What the node did before the trial, and must do in it."""

    online: list[str]
    """The sensors that gave values."""
    connected: bool
    """Whether there was a connection to the broker."""


def look_before() -> Before:
    """Return what the node did when it said so last."""
    health = _health() or {}
    sensors = health.get("sensors") or {}
    online = [name for name, sensor in sensors.items() if sensor.get("online")]
    return Before(online, bool(health.get("connected")))


def watch(before: Before, within_s: float) -> str:
    """Wait until one process of the node has been well for a while. Return "", or what is wrong."""
    end_s = time.monotonic() + within_s
    well_since_s, process = time.monotonic(), ""
    while True:
        state = _state()
        wrong = _wrong(state, before)
        now_s = time.monotonic()
        if int(state.get("NRestarts") or 0) >= MOST_RESTARTS:
            return f"the node does not stay up ({wrong or 'it ended again and again'})"
        if wrong or state.get("MainPID") != process:
            well_since_s, process = now_s, state.get("MainPID", "")
        if not wrong and now_s - well_since_s >= SETTLE_S:
            return ""
        if now_s >= end_s:
            return wrong or "the node does not stay up"
        time.sleep(LOOK_EVERY_S)


def _wrong(state: dict[str, str], before: Before) -> str:
    if state.get("ActiveState") != "active":
        return "the node does not run"
    health = _health()
    if health is None or str(health.get("process")) != state.get("MainPID"):
        return "the node does not report its state"
    for name in before.online:
        sensor = (health.get("sensors") or {}).get(name, {})
        if sensor.get("failed") and not sensor.get("ok"):
            return f"the sensor {name} does not read any more ({sensor.get('last_error')})"
    if before.connected and not health.get("connected"):
        return f"the node does not reach the broker ({health.get('broker')})"
    return ""


def _health() -> dict[str, Any] | None:
    try:
        said = run(*AS_USER, *STATUS).stdout
        health = json.loads(said)["health"]
    except (ValueError, KeyError, TypeError):
        return None
    return health if isinstance(health, dict) else None


def _state() -> dict[str, str]:
    lines = systemctl("show", "-p", "ActiveState,MainPID,NRestarts", SERVICE).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def systemctl(*arguments: str) -> str:
    """Return what systemctl prints."""
    return run("systemctl", *arguments).stdout


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a program; one that takes too long has failed."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} takes too long")
