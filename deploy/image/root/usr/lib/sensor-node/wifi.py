"""Why the Wi-Fi gives no address, in a sentence with its remedy, for status.txt.

The facts come from the kernel, wpa_supplicant and wifi.toml's settings; `radio-facts.sh`
collects them as root, because wpa_supplicant and the journal answer nobody else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Facts", "Network", "explain", "networks_of", "read_facts"]

_MISSING = re.compile(r"Direct firmware load for brcm/(\S+\.bin) failed")
_DISABLED = re.compile(
    r'CTRL-EVENT-SSID-TEMP-DISABLED id=\d+ ssid="(.*)" auth_failures=.* reason=(\w+)'
)
_REFUSED = re.compile(r"CTRL-EVENT-(?:ASSOC|AUTH)-REJECT .*status_code=(\d+)")
_TRYING = re.compile(
    r"Trying to (?:associate|authenticate) with (?:SSID '(.*)'|\S+ \(SSID='(.*)' freq=.*\))"
)
_ZERO_2_W = "brcmfmac43430b0-sdio.bin"
_OWN_FIRMWARE = (
    "this board's radio needs firmware that Debian does not have: see \"Wi-Fi of some Zero 2 W "
    'boards" in YOUR-PI.md'
)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of wifi.toml: its name, and whether it is "open", "wpa2" or "wpa3"."""

    name: str
    security: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the radio; each text is as its program has written it."""

    devices: tuple[str, ...]
    """Wireless interfaces of the kernel."""
    kernel: str
    """The kernel's log on the radio."""
    supplicant: str
    """The log of wpa_supplicant, its newest lines."""
    status: str
    """`wpa_cli status`."""
    scan: str
    """`wpa_cli scan_results`: address, frequency, signal, flags and name, separated by tabs."""


def read_facts(folder: Path) -> Facts:
    """Return what `radio-facts.sh` has collected in `folder`; a missing file counts as empty."""

    def text(name: str) -> str:
        try:
            return (folder / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    return Facts(
        devices=tuple(text("devices").split()),
        kernel=text("kernel"),
        supplicant=text("supplicant"),
        status=text("status"),
        scan=text("scan"),
    )


def networks_of(conf: str) -> list[Network]:
    """Return the networks in a file that `panel.wpa_supplicant_conf` has composed."""
    kinds = {"NONE": "open", "WPA-PSK": "wpa2", "SAE": "wpa3"}
    found = re.findall(r"^\s*ssid=([0-9a-f]+)$.*?^\s*key_mgmt=(\S+)$", conf, re.M | re.S)
    return [
        Network(name=bytes.fromhex(ssid).decode(errors="replace"), security=kinds[key])
        for ssid, key in found
    ]


def explain(facts: Facts, wanted: list[Network]) -> str:
    """Return why there is no address, and what to do about it.

    `wanted` is not empty: networks of wifi.toml.
    """
    if not facts.devices:
        return _no_device(facts.kernel)
    status = dict(line.split("=", 1) for line in facts.status.splitlines() if "=" in line)
    if status.get("wpa_state") == "COMPLETED":
        name = _plain(status.get("ssid", ""))
        return (
            f'the Wi-Fi "{name}" has let this Pi in, but has not given it an address; is DHCP on '
            "in the router? Restart the router"
        )
    seen = _seen(facts.scan)
    reasons = [_reason(network, seen, facts.supplicant) for network in wanted]
    if any(reasons):
        return "; ".join(reason for reason in reasons if reason)
    if not status:
        return "the program for Wi-Fi (wpa_supplicant) does not answer; switch the Pi off and on"
    names = " or ".join(f'"{network.name}"' for network in wanted)
    if any(network.name in seen for network in wanted):
        return f"still connecting to the Wi-Fi {names}; look again in two minutes"
    return (
        f"no Wi-Fi with the name {names} is in reach; check the name in wifi.toml (capital letters "
        "count). A hidden network needs hidden = true there. A Pi 3 B, Zero W and Zero 2 W have "
        "only 2.4 GHz"
    )


def _no_device(kernel: str) -> str:
    missing = _MISSING.findall(kernel)
    if _ZERO_2_W in missing:
        return _OWN_FIRMWARE
    if missing and "brcmf_c_preinit_dcmds: Firmware:" not in kernel:
        return f"the firmware of the radio is missing ({missing[-1]}); plug in a cable, report this"
    return (
        "this Pi has no wireless device; plug in a cable, or use a model with Wi-Fi (its firmware "
        "and its driver have found none)"
    )


def _seen(scan: str) -> dict[str, set[str]]:
    """Return the names in reach, and what each accepts: "open", "wpa2" and "wpa3"."""
    seen: dict[str, set[str]] = {}
    for line in scan.splitlines():
        fields = line.split("\t")
        if len(fields) < 5 or not fields[1].isdigit():
            continue
        flags = fields[3]
        accepts = seen.setdefault(_plain(fields[4]), set())
        if "SAE" in flags:
            accepts.add("wpa3")
        if "PSK" in flags:
            accepts.add("wpa2")
        if "WPA" not in flags and "WEP" not in flags:
            accepts.add("open")
    return seen


def _reason(network: Network, seen: dict[str, set[str]], log: str) -> str:
    """Return why a network that is in reach is not connected; "" if that is not known."""
    name = network.name
    accepts = seen.get(name)
    if accepts is not None and network.security not in accepts:
        return _other_security(network, accepts)
    for line in reversed(log.splitlines()):
        if "CTRL-EVENT-CONNECTED" in line:
            return ""
        if (disabled := _DISABLED.search(line)) and _plain(disabled[1]) == name:
            if disabled[2] == "WRONG_KEY":
                return (
                    f'the Wi-Fi "{name}" refuses the password in wifi.toml; capital letters count'
                )
            return _not_let_in(name, log)
    return _not_let_in(name, log) if accepts and _is_refused(name, log) else ""


def _other_security(network: Network, accepts: set[str]) -> str:
    name = f'the Wi-Fi "{network.name}"'
    if network.security == "open":
        return f"{name} needs a password; enter it in wifi.toml"
    if accepts == {"open"}:
        return f"{name} has no password; remove the line password in wifi.toml"
    if accepts == {"wpa3"}:
        return f'{name} only accepts WPA3; add security = "wpa3" below its password in wifi.toml'
    if network.security == "wpa3" and "wpa2" in accepts:
        return f"{name} does not accept WPA3; remove the line security in wifi.toml"
    return f"{name} accepts neither WPA2 nor WPA3 with a password; this image has no other way in"


def _not_let_in(name: str, log: str) -> str:
    codes = _REFUSED.findall(log)
    code = f" (status code {codes[-1]})" if codes else ""
    return (
        f'the Wi-Fi "{name}" does not let this Pi in{code}; a wrong password in wifi.toml is the '
        "usual reason. If it is right: does the router only let known devices in?"
    )


def _is_refused(name: str, log: str) -> bool:
    """Return whether the newest attempts with this name were refused, twice at least."""
    refused, tried = 0, ""
    for line in log.splitlines():
        if "CTRL-EVENT-CONNECTED" in line:
            refused = 0
        elif attempt := _TRYING.search(line):
            tried = _plain(attempt[1] or attempt[2] or "")
        elif _REFUSED.search(line) and tried == name:
            refused += 1
    return refused >= 2


def _plain(text: str) -> str:
    r"""Undo wpa_supplicant's printf_encode: \" \\ \e \n \r \t and \xHH, of UTF-8 bytes."""
    simple = {"e": "\x1b", "n": "\n", "r": "\r", "t": "\t"}

    def byte(found: re.Match[str]) -> str:
        code = found[1]
        return chr(int(code[1:], 16)) if code[0] == "x" else simple.get(code, code)

    raw = re.sub(r"\\(x[0-9a-f]{2}|.)", byte, text)
    try:
        return raw.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:  # it has a letter as such, so nothing was encoded
        return raw
