"""Makes settings from the owner's files on the FAT partition; run once at each start.

The root file system is read-only, so the settings go into /run. Only the keys of the SSH server
and the last valid Wi-Fi settings outlive a restart. A mistake in one file affects only that file,
and is reported in status.txt. This program runs without rights: its unit does what only root can
do, with the files in /run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # python3 -I leaves it out

from card import (
    CONFIG,
    LAST_GOOD,
    RUN,
    SSH_KEYS,
    WIFI,
    BadFile,
    read_toml,
)
from imager import PROBLEMS
from safe_files import write_file

__all__ = ["host_name", "page_announcement", "ssh_keys", "wpa_supplicant_conf"]

# ruff: noqa: T201

_STATE = Path("/var/lib/sensor-node-panel")
_SSH_STATE = Path("/var/lib/sensor-node-ssh")
_MACHINE_ID = Path("/etc/machine-id")
_ANNOUNCEMENT = Path("/run/systemd/dnssd/sensor-node.dnssd")
_SERIAL = Path("/proc/device-tree/serial-number")
_KEY_TYPES = ("ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-")


def main() -> int:
    problems = _of_imager()
    for step in (_name_host, _announce_page, _set_up_wifi, _set_up_ssh):
        try:
            step()
        except BadFile as error:
            problems.append(str(error))
        except Exception as error:  # noqa: BLE001, reported; the other files still count
            problems.append(f"{step.__name__.strip('_').replace('_', ' ')}: {_reason(error)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    _write(RUN / "problems.json", json.dumps(problems))
    return 0


def _of_imager() -> list[str]:
    """Return what `imager.py` could not take over, at this start."""
    try:
        return list(json.loads(PROBLEMS.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def _reason(error: Exception) -> str:
    """Return what is wrong, without any content of the file, which may be a password."""
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {error.strerror}".removeprefix(": ")
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error.cmd[0]} failed ({error.returncode})"
    return f"a fault in this program ({type(error).__name__})"


def host_name(document: dict[str, Any], unique: str) -> str:
    """Return the name on the network: the node's, as far as DNS allows it (RFC 1123, §2.1)."""
    node = document.get("node")
    name = str(node.get("name", "")) if isinstance(node, dict) else ""
    name = re.sub(r"[^A-Za-z0-9-]", "-", name).strip("-")[:63]
    return name.lower() or f"sensor-node-{unique}"


def page_announcement(document: dict[str, Any]) -> str:
    """Return a systemd.dnssd(5) file for the status page; "" if others cannot reach the page."""
    web = document.get("web")
    if not isinstance(web, dict) or web.get("enabled") is not True:
        return ""
    host, port = web.get("host", "127.0.0.1"), web.get("port", 8080)
    if not isinstance(host, str) or host in ("localhost", "::1") or host.startswith("127."):
        return ""
    if type(port) is not int or not 1 <= port <= 65535:
        return ""
    return f"[Service]\nName=%H (sensor-node)\nType=_http._tcp\nPort={port}\nTxtText=path=/\n"


def ssh_keys(text: str) -> tuple[list[str], list[int]]:
    """Return the public keys in ssh.txt, and the numbers of the lines that are not keys."""
    keys, wrong = [], []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith(_KEY_TYPES) and len(line.split()) >= 2:
            keys.append(line)
        elif line and not line.startswith("#"):
            wrong.append(number)
    return keys, wrong


def wpa_supplicant_conf(document: dict[str, Any]) -> str:
    """Return the settings of wifi.toml for wpa_supplicant; "" if it does not name a network.

    Raises:
        BadFile: a setting is wrong.
    """
    networks = document.get("network", [])
    if unknown := set(document) - {"country", "network"}:
        raise BadFile(
            f"wifi.toml: unknown keys: {len(unknown)}; the keys are country and [[network]]"
        )
    if not isinstance(networks, list):
        raise BadFile("wifi.toml: write [[network]], in two pairs of brackets")
    if not networks:
        return ""
    country = document.get("country")
    if not isinstance(country, str) or not re.fullmatch("[A-Z]{2}", country):
        raise BadFile('wifi.toml: country must be two capital letters, such as "DE" or "US"')
    parts = ["ctrl_interface=/run/wpa_supplicant", f"country={country}"]
    parts += [_network(number, network) for number, network in enumerate(networks, 1)]
    return "\n".join(parts) + "\n"


def _network(number: int, network: object) -> str:
    where = f"wifi.toml: [[network]] #{number}"
    if not isinstance(network, dict):
        raise BadFile("wifi.toml: write [[network]], in two pairs of brackets")
    if unknown := set(network) - {"name", "password", "hidden", "security"}:
        known = "the keys are name, password, hidden and security"
        raise BadFile(f"{where}: unknown keys: {len(unknown)}; {known}")
    name = network.get("name")
    if not isinstance(name, str) or not 1 <= len(name.encode()) <= 32:
        raise BadFile(f"{where}: name must be the Wi-Fi's name, in quotes, of 1 to 32 bytes")
    # Hexadecimal, so that characters of the name do not have a special meaning.
    lines = [f"ssid={name.encode().hex()}"]
    if network.get("hidden") is True:
        lines.append("scan_ssid=1")
    password = network.get("password")
    security = network.get("security", "wpa2")
    if password is None:
        lines.append("key_mgmt=NONE")
    elif isinstance(password, str) and re.fullmatch("[0-9A-Fa-f]{64}", password):
        # The key itself, as made by rpi-imager and wpa_passphrase: without quotes in this file
        # (wpa_supplicant.conf(5), psk), and useless for SAE, which needs the password.
        if security != "wpa2":
            raise BadFile(f"{where}: 64 hex digits are a WPA2 key; WPA3 needs the password itself")
        lines += ["key_mgmt=WPA-PSK", f"psk={password.lower()}"]
    elif not isinstance(password, str) or not re.fullmatch(r"[ -~]{8,63}", password):
        raise BadFile(
            f"{where}: password must be 8 to 63 ordinary characters in quotes, or a key of 64 hex "
            "digits; leave it out for an open network"
        )
    elif security == "wpa2":
        # If WPA3 is also offered, brcmfmac cannot connect to some access points that have both.
        lines += ["key_mgmt=WPA-PSK", f'psk="{password}"']
    elif security == "wpa3":
        lines += ["key_mgmt=SAE", "ieee80211w=2", f'sae_password="{password}"']
    else:
        raise BadFile(f'{where}: security is "wpa2" or "wpa3"')
    return "\n    ".join(["network={", *lines]) + "\n}"


def _configuration() -> dict[str, Any]:
    try:
        return read_toml(CONFIG) or read_toml(LAST_GOOD)
    except BadFile:  # the node reports the problem
        return read_toml(LAST_GOOD)


def _name_host() -> None:
    _write(RUN / "hostname", host_name(_configuration(), _unique()) + "\n", mode=0o644)


def _announce_page() -> None:
    """Make systemd-resolved announce the status page on the network."""
    text = page_announcement(_configuration())
    if text:
        _write(_ANNOUNCEMENT, text, mode=0o644)  # readable by resolved's own user


def _unique() -> str:
    """Return four digits that distinguish this machine from others of its kind."""
    try:
        return _SERIAL.read_text(encoding="ascii").rstrip("\0\n")[-4:]
    except OSError:
        return _MACHINE_ID.read_text(encoding="ascii")[:4]


def _set_up_wifi() -> None:
    kept = _STATE / "wpa_supplicant.conf"
    in_use = RUN / "wpa_supplicant.conf"
    try:
        conf = wpa_supplicant_conf(read_toml(WIFI))
    except BadFile:
        if kept.exists():
            _write(in_use, kept.read_text())
        raise
    if conf:
        _write(in_use, conf)
    if conf and (not kept.exists() or kept.read_text() != conf):
        _write(kept, conf)


def _set_up_ssh() -> None:
    text = SSH_KEYS.read_text(encoding="utf-8-sig", errors="replace") if SSH_KEYS.exists() else ""
    keys, wrong = ssh_keys(text)
    if keys:
        _make_host_key(_SSH_STATE / "ssh_host_ed25519_key")
        _write(RUN / "authorized_keys", "\n".join(keys) + "\n")
    if wrong:
        lines = ", ".join(map(str, wrong))
        raise BadFile(f"ssh.txt: line {lines} is not a public key; a key begins with ssh-ed25519")


def _make_host_key(host_key: Path) -> None:
    """Make the key of the SSH server, unless a valid one exists.

    A power cut may have left an empty file.
    """
    read = ["ssh-keygen", "-y", "-P", "", "-f", str(host_key)]
    if host_key.exists() and subprocess.run(read, capture_output=True, check=False).returncode == 0:
        return
    new = host_key.with_name("new")
    for file in (new, new.with_suffix(".pub")):
        file.unlink(missing_ok=True)
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(new)]
    subprocess.run(make, check=True)
    for file in (new.with_suffix(".pub"), new):
        _write(host_key.with_suffix(file.suffix), file.read_text(encoding="ascii"))
        file.unlink()


def _write(file: Path, text: str, *, mode: int = 0o600) -> None:
    write_file(file, text.encode(), mode=mode)


if __name__ == "__main__":
    sys.exit(main())
