"""Takes over what Raspberry Pi Imager's dialogs have written to the card; run before `panel.py`.

Imager writes for cloud-init ("init_format": "cloudinit"): user-data with the host name, the user
and the SSH keys, network-config with the Wi-Fi. Here they become lines of the owner's own three
files, and Imager's files disappear: so one place says what is set, and a password hash does not
stay on the card. What the owner has written in those files already has precedence.

Without an argument it composes the new files, without rights; `--apply`, as root, puts them onto
the card. A power cut in between does no harm: the next start does the same again.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))  # python3 -I leaves it out

from card import BOOT, CONFIG, RUN, SSH_KEYS, WIFI, BadFile, read_toml, writable
from safe_files import write_file

__all__ = ["PROBLEMS", "Settings", "host_name_in", "keys_in", "read_settings", "wifi_in"]


_USER_DATA, _NETWORK = BOOT / "user-data", BOOT / "network-config"
_IMAGERS = (_USER_DATA, _NETWORK, BOOT / "meta-data")
_COMPOSED = RUN / "imager"
PROBLEMS = RUN / "imager.json"
_COMMAND_LINE = Path("/proc/cmdline")
_BY_IMAGER = "# From Raspberry Pi Imager:"


@dataclass(kw_only=True)
class Settings:
    """What the dialogs were told; what is missing was left out."""

    host_name: str = ""
    user: str = ""
    password_login: bool = False
    keys: list[str] = field(default_factory=list)
    country: str = ""
    networks: list[dict[str, Any]] = field(default_factory=list)
    """Tables as [[network]] of wifi.toml."""


def main() -> int:
    if sys.argv[1:] == ["--apply"]:
        return _apply()
    if not any(file.exists() for file in (_USER_DATA, _NETWORK)):
        return 0
    problems: list[str] = []
    try:
        settings = read_settings(_text(_USER_DATA), _text(_NETWORK), _text(_COMMAND_LINE))
    except BadFile as error:
        problems.append(str(error))
    else:
        steps: tuple[tuple[Path, Callable[[str, Settings], str]], ...] = (
            (WIFI, wifi_in),
            (SSH_KEYS, keys_in),
            (CONFIG, host_name_in),
        )
        _COMPOSED.mkdir(mode=0o700, exist_ok=True)
        for file, change in steps:
            try:
                if file.suffix == ".toml":
                    read_toml(file)
                old = _text(file).replace("\r\n", "\n")
                if (new := change(old, settings)) != old:
                    _write(_COMPOSED / file.name, new.replace("\n", "\r\n"))
            except BadFile as error:
                problems.append(f"Raspberry Pi Imager's settings: {error}")
        problems += _unused(settings)
    _write(PROBLEMS, json.dumps(problems))
    return 0


def _apply() -> int:
    """Put the composed files onto the card, and remove Imager's."""
    if not any(file.exists() for file in _IMAGERS) or not _COMPOSED.exists():
        return 0
    problems = list(json.loads(_text(PROBLEMS) or "[]"))
    try:
        with writable(BOOT):
            # No other names: what has composed them had no rights, and this has.
            for target in (WIFI, SSH_KEYS, CONFIG):
                if (composed := _COMPOSED / target.name).is_file():
                    write_file(target, composed.read_bytes(), mode=0o644)
            for file in _IMAGERS:
                file.unlink(missing_ok=True)
    except (OSError, subprocess.CalledProcessError) as error:
        problems.append(f"Raspberry Pi Imager's settings cannot be written to the card: {error}")
        _write(PROBLEMS, json.dumps(problems))
    return 0


def read_settings(user_data: str, network_config: str, command_line: str) -> Settings:
    """Return the settings in Imager's files (its src/customization_generator.cpp, 1.8 to 2.0).

    Raises:
        BadFile: a file is not YAML.
    """
    data = _mapping(_yaml("user-data", user_data))
    found = Settings(host_name=_string(data.get("hostname")))
    found.password_login = data.get("ssh_pwauth") is True
    users = data.get("users")
    for user in (data.get("user"), *(users if isinstance(users, list) else ()), data):
        person = _mapping(user)
        found.user = found.user or _string(person.get("name"))
        keys = person.get("ssh_authorized_keys")
        found.keys += [_string(key) for key in keys] if isinstance(keys, list) else []
    network = _mapping(_yaml("network-config", network_config))
    network = _mapping(network.get("network", network))  # netplan's own level may be missing
    for interface in _mapping(network.get("wifis")).values():
        found.country = found.country or _string(_mapping(interface).get("regulatory-domain"))
        points = _mapping(_mapping(interface).get("access-points"))
        found.networks += [_network(str(name), _mapping(point)) for name, point in points.items()]
    if not found.country:
        domain = re.search(r"\bcfg80211\.ieee80211_regdom=([A-Z]{2})\b", command_line)
        found.country = domain[1] if domain else ""
    return found


def _network(name: str, point: dict[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(UnicodeError):
        # Imager may write the bytes of a letter as \xC3\xA9, which are two letters to YAML.
        name = name.encode("latin-1").decode("utf-8")
    network: dict[str, Any] = {"name": name}
    password = point.get("password") or _mapping(point.get("auth")).get("password")
    if password:
        network["password"] = str(password)
    if point.get("hidden") is True:
        network["hidden"] = True
    return network


def wifi_in(text: str, settings: Settings) -> str:
    """Return wifi.toml with Imager's networks, but for those that it names already."""
    document = tomllib.loads(text.lstrip("\ufeff"))
    there = [_mapping(network).get("name") for network in document.get("network", [])]
    new = [network for network in settings.networks if network["name"] not in there]
    if not new:
        return text
    for network in new:
        lines = [f"{key} = {_toml(value)}" for key, value in network.items()]
        text = text.rstrip("\n") + "\n\n[[network]]\n" + "\n".join(lines) + "\n"
    if settings.country and "country" not in document:
        text = f"{_BY_IMAGER}\ncountry = {_toml(settings.country)}\n\n" + text.lstrip("\ufeff")
    return text


def keys_in(text: str, settings: Settings) -> str:
    """Return ssh.txt with Imager's keys, but for those that it has already."""
    new = [key for key in settings.keys if key and key not in text]
    if not new:
        return text
    return text.rstrip("\n") + f"\n{_BY_IMAGER} log in as root\n" + "\n".join(new) + "\n"


def host_name_in(text: str, settings: Settings) -> str:
    """Return sensor-node.toml with the host name as the node's name, if it has no name.

    Raises:
        BadFile: the file has another name, or no place for one.
    """
    name = settings.host_name
    document = tomllib.loads(text.lstrip("\ufeff"))
    there = _mapping(document.get("node")).get("name")
    if not name or there == name:
        return text
    if there is not None:
        raise BadFile(
            f'sensor-node.toml names this node already; the host name "{name}" is not used'
        )
    line = f"name = {_toml(name)}"
    if "node" not in document:
        new = f"[node]\n{line}\n\n{text.lstrip(chr(0xFEFF))}"
    else:
        head = r"^([ \t]*\[[ \t]*node[ \t]*\][^\n]*\n)(?:# name = [^\n]*\n)?"
        new = re.sub(head, lambda found: f"{found[1]}{line}\n", text, count=1, flags=re.M)
    expected = {**document, "node": {**_mapping(document.get("node")), "name": name}}
    if _parsed(new) != expected:
        raise BadFile(f'write name = "{name}" below [node] in sensor-node.toml')
    return new


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text.lstrip("\ufeff"))
    except tomllib.TOMLDecodeError:
        return None


def _unused(settings: Settings) -> list[str]:
    """Return what the dialogs offer and this image does not have."""
    if not settings.user and not settings.password_login:
        return []
    if settings.keys:
        return [
            f'Raspberry Pi Imager named the user "{settings.user}"; log in as root, with the key'
        ]
    return [
        "Raspberry Pi Imager set a user with a password, which this image does not have; to log "
        "in, put your public key into ssh.txt"
    ]


def _yaml(name: str, text: str) -> object:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadFile(f"{name} of Raspberry Pi Imager is not valid YAML{where}") from None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _string(value: object) -> str:
    return str(value).strip() if isinstance(value, str | int) and value is not True else ""


def _toml(value: object) -> str:
    """Return a value as TOML, whose basic strings are JSON's but for DEL (TOML 1.0, "String")."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _write(file: Path, text: str) -> None:
    write_file(file, text.encode(), mode=0o600)


if __name__ == "__main__":
    sys.exit(main())
