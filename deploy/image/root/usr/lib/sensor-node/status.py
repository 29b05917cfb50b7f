"""Writes status.txt on the FAT partition: the node's state, in words for its owner.

The card is only written to when the text has changed. So the text leaves out everything that
changes by itself, such as readings and counts. While the configuration is wrong, the board's own
LED blinks like the node's (a short flash every two seconds), because it may be the only LED.

The text is composed without rights; `--show`, as root, puts it on the card and on the LED.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # python3 -I leaves it out

from card import BOOT, COMPOSED, CONFIG, PACKAGE_PROBLEMS, RUN, STATUS, writable
from safe_files import write_file
from wifi import explain, networks_of, read_facts

__all__ = ["compose"]

# ruff: noqa: T201

_SENSOR_NODE = os.environ.get("SENSOR_NODE", "sensor-node")
_SET_UP = "edit sensor-node.toml on this card, then switch the Pi off and on"


_BAD = COMPOSED / "bad-configuration"


def main() -> int:
    if sys.argv[1:] == ["--show"]:
        show((COMPOSED / "status.txt").read_text(encoding="utf-8"), bad=_BAD.exists())
        return 0
    bad = _configuration_problems()
    addresses = _addresses()
    text = compose(
        host=socket.gethostname(),
        unit=_unit(),
        bad_configuration=bad,
        problems=_panel_problems(),
        addresses=addresses,
        wired_without=_plugged_in() if not addresses else [],
        wifi=_wifi(addresses),
        clock_set=Path("/run/systemd/timesync/synchronized").exists(),
        known=_known(),
    )
    write_file(COMPOSED / "status.txt", text.encode(), mode=0o644)
    if bad:
        write_file(_BAD, b"", mode=0o644)
    print(text)
    return 0


def show(text: str, *, bad: bool) -> None:
    """Update the file on the card and the board's LED."""
    _show_on_board(bad=bad)
    old = STATUS.read_text(encoding="utf-8") if STATUS.exists() else ""
    if old.partition("\n")[2] != text and os.path.ismount(BOOT):
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        with writable(BOOT):
            write_file(STATUS, f"As of {now}\n{text}".replace("\n", "\r\n").encode(), mode=0o644)


def compose(
    *,
    host: str,
    unit: dict[str, str],
    bad_configuration: list[str],
    problems: list[str],
    addresses: list[tuple[str, str]],
    wired_without: list[str],
    wifi: str | None,
    clock_set: bool,
    known: dict[str, Any],
) -> str:
    """Return the text, without the line with its time.

    `wired_without`: the wired interfaces with a cable and without an address. `wifi`: why it gives
    no address, "" if it does, None if wifi.toml names no network.
    """
    health = known.get("health") or {}
    lines = ["", *_node_lines(unit, health, bad_configuration), ""]
    if addresses:
        lines += [f"Network: {address} on {name}" for name, address in addresses]
        lines.append(f"         also as {host}.local; ssh root@{host}.local with a key in ssh.txt")
    elif wired_without:
        lines.append(
            f"Network: NONE; the cable at {wired_without[0]} is plugged in, but the router has not "
            "given this Pi an address; is DHCP on there? Restart the router"
        )
    elif wifi is None:
        lines.append("Network: NONE; plug in a cable, or name your Wi-Fi in wifi.toml")
    else:
        lines.append(f"Network: NONE; {wifi}")
    if addresses and wifi:
        lines.append(f"Wi-Fi:   {wifi}")
    lines.append("Clock:   set by the network" if clock_set else "Clock:   not set yet")
    lines.append(f"Broker:  {health.get('broker', 'not tried yet')}")
    for name, sensor in sorted((health.get("sensors") or {}).items()):
        state = "online" if sensor["online"] else "OFFLINE"
        error = "" if sensor["online"] else sensor.get("last_error") or "no reading yet"
        lines.append(f"Sensor:  {name}: {state}" + (f": {error}" if error else ""))
    shown_above = health.get("configuration_problem")
    wrong = problems + [text for text in health.get("problems", []) if text != shown_above]
    lines += [f"Problem: {text}" for text in wrong]
    return "\n".join(lines) + "\n"


def _node_lines(unit: dict[str, str], health: dict[str, Any], bad: list[str]) -> list[str]:
    name, version = health.get("node", ""), health.get("version", "")
    state = unit.get("ActiveState", "unknown")
    runs = state == "active"
    if runs:
        who = (
            f'The node "{name}" is running, version {version}.' if name else "The node is running."
        )
    elif state == "activating":
        who = "The node is starting."
    else:
        who = f"The node is NOT RUNNING ({state}, exit code {unit.get('ExecMainStatus', '?')})."
    if not bad:
        return [who]
    return [
        who,
        "sensor-node.toml CANNOT BE USED:",
        *(f"  {line}" for line in bad),
        f"The last valid configuration stays in use. {_SET_UP.capitalize()}."
        if runs
        else f"Nothing is measured: {_SET_UP}.",
    ]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def _unit() -> dict[str, str]:
    """Return systemd's facts on the node, which the unit has requested."""
    shown = (COMPOSED / "unit").read_text(encoding="utf-8")
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def _configuration_problems() -> list[str]:
    """Return the messages of `sensor-node check` on the card's file; [] if it is valid."""
    done = _run(_SENSOR_NODE, "check", "--config", str(CONFIG))
    if done.returncode != 78:
        return []
    return [line.replace(f"{CONFIG}:", "line ", 1) for line in done.stderr.splitlines() if line]


def _known() -> dict[str, Any]:
    try:
        return dict(json.loads(_run(_SENSOR_NODE, "status", "--json").stdout))
    except ValueError:
        return {}


def _panel_problems() -> list[str]:
    """Return what is wrong with the owner's files, and with the packages among them."""
    found: list[str] = []
    for file in (RUN / "problems.json", PACKAGE_PROBLEMS):
        with contextlib.suppress(OSError, ValueError):
            found += json.loads(file.read_text(encoding="utf-8"))
    return found


def _addresses() -> list[tuple[str, str]]:
    """Return the interface and IPv4 address of each network that is up."""
    try:
        interfaces = json.loads(_run("ip", "-json", "-4", "address", "show", "up").stdout)
    except ValueError:
        return []
    return [
        (interface["ifname"], address["local"])
        for interface in interfaces
        if interface["ifname"] != "lo"
        for address in interface.get("addr_info", [])
    ]


def _plugged_in() -> list[str]:
    """Return the wired interfaces that a cable connects to something."""
    try:
        interfaces = json.loads(_run("ip", "-json", "link", "show", "up").stdout)
    except ValueError:
        return []
    return [
        interface["ifname"]
        for interface in interfaces
        if interface.get("link_type") == "ether"
        and "LOWER_UP" in interface.get("flags", [])
        and not Path("/sys/class/net", interface["ifname"], "phy80211").exists()
    ]


def _wifi(addresses: list[tuple[str, str]]) -> str | None:
    """Return why the Wi-Fi gives no address; "" if it does; None if no network is named."""
    try:
        wanted = networks_of((RUN / "wpa_supplicant.conf").read_text(encoding="utf-8"))
    except OSError:
        return None
    facts = read_facts(COMPOSED)
    if any(name in facts.devices for name, _ in addresses):
        return ""
    return explain(facts, wanted)


def _show_on_board(*, bad: bool) -> None:
    for led in Path("/sys/class/leds").glob("*"):
        if "act" in led.name.lower():
            try:
                (led / "trigger").write_text("timer" if bad else "mmc0")
                if bad:
                    (led / "delay_on").write_text("100")
                    (led / "delay_off").write_text("1900")
            except OSError as error:
                print(f"{led}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
