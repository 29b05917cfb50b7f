"""Makes settings of what the owner has written on the FAT partition; run once at each start.

The root file system is only read, so all of it goes into /run, but for what must outlive a
restart: the keys of the SSH server, and the last Wi-Fi settings that were right. A mistake in one
file costs that file alone, and is told in status.txt. It runs without rights: what only root can
do, its unit does with what is found in /run.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # which python3 -I leaves out

from card import (
    CONFIG,
    LAST_GOOD,
    RUN,
    SSH_KEYS,
    WIFI,
    BadFile,
    read_toml,
)
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
    problems = []
    for step in (_name_host, _announce_page, _set_up_wifi, _set_up_ssh):
        try:
            step()
        except BadFile as error:
            problems.append(str(error))
        except Exception as error:  # noqa: BLE001, told, and the other files are not to blame
            problems.append(f"{step.__name__.strip('_').replace('_', ' ')}: {_reason(error)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    _write(RUN / "problems.json", json.dumps(problems))
    return 0


def _reason(error: Exception) -> str:
    """What is wrong, without a word of what a file holds: that may be a password."""
    if isinstance(error, OSError):
        return f"{error.filename or ''}: {error.strerror}".removeprefix(": ")
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error.cmd[0]} failed ({error.returncode})"
    return f"a fault in this program ({type(error).__name__})"


def host_name(document: dict[str, Any], unique: str) -> str:
    """The name on the network: the node's, as far as DNS allows it (RFC 1123, §2.1)."""
    node = document.get("node")
    name = str(node.get("name", "")) if isinstance(node, dict) else ""
    name = re.sub(r"[^A-Za-z0-9-]", "-", name).strip("-")[:63]
    return name.lower() or f"sensor-node-{unique}"


def page_announcement(document: dict[str, Any]) -> str:
    """systemd.dnssd(5) for the status page; "" where others cannot reach it."""
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
    """The public keys of ssh.txt, and the numbers of lines that are none."""
    keys, wrong = [], []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith(_KEY_TYPES) and len(line.split()) >= 2:
            keys.append(line)
        elif line and not line.startswith("#"):
            wrong.append(number)
    return keys, wrong


def wpa_supplicant_conf(document: dict[str, Any]) -> str:
    """The settings of wifi.toml for wpa_supplicant; "" when it names no network.

    Raises:
        BadFile: something in it is wrong.
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
    # Hexadecimal: nothing that a name may hold is of meaning there.
    lines = [f"ssid={name.encode().hex()}"]
    if network.get("hidden") is True:
        lines.append("scan_ssid=1")
    password = network.get("password")
    security = network.get("security", "wpa2")
    if password is None:
        lines.append("key_mgmt=NONE")
    elif isinstance(password, str) and re.fullmatch("[0-9A-Fa-f]{64}", password):
        # The key itself, as rpi-imager and wpa_passphrase make it: without quotes in this file
        # (wpa_supplicant.conf(5), psk), and of no use to SAE, which wants the password.
        if security != "wpa2":
            raise BadFile(f"{where}: 64 hex digits are a WPA2 key; WPA3 needs the password itself")
        lines += ["key_mgmt=WPA-PSK", f"psk={password.lower()}"]
    elif not isinstance(password, str) or not re.fullmatch(r"[ -~]{8,63}", password):
        raise BadFile(
            f"{where}: password must be 8 to 63 ordinary characters in quotes, or a key of 64 hex "
            "digits; leave it out for an open network"
        )
    elif security == "wpa2":
        # With WPA3 offered as well, brcmfmac does not connect to every access point that has both.
        lines += ["key_mgmt=WPA-PSK", f'psk="{password}"']
    elif security == "wpa3":
        lines += ["key_mgmt=SAE", "ieee80211w=2", f'sae_password="{password}"']
    else:
        raise BadFile(f'{where}: security is "wpa2" or "wpa3"')
    return "\n    ".join(["network={", *lines]) + "\n}"


def _configuration() -> dict[str, Any]:
    try:
        return read_toml(CONFIG) or read_toml(LAST_GOOD)
    except BadFile:  # the node says what is wrong with it
        return read_toml(LAST_GOOD)


def _name_host() -> None:
    _write(RUN / "hostname", host_name(_configuration(), _unique()) + "\n", mode=0o644)


def _announce_page() -> None:
    """Let systemd-resolved tell the network of the status page."""
    text = page_announcement(_configuration())
    if text:
        _write(_ANNOUNCEMENT, text, mode=0o644)  # for resolved's own user to read


def _unique() -> str:
    """Four digits that tell this machine from others of its kind."""
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
        raise BadFile(f"ssh.txt: line {lines} is no public key; one begins with ssh-ed25519")


def _make_host_key(host_key: Path) -> None:
    """Make the key of the SSH server, unless there is one that can be used.

    A power cut may have left an empty one.
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
