"""Brings into another root file system what this machine reaches its package registries by.

    python3 tests/registries.py ROOT

That is names and addresses, proxies, certificates, and what is set for apt and pip about them. Of a
folder of packages that lies on this machine's own disk nothing is said to the other one.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["bring_registries", "proxies"]

_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_AS_THEY_ARE = (
    *("/etc/resolv.conf", "/etc/hosts", str(_BUNDLE)),
    # From here the bundle is made again when Debian's package of certificates is installed.
    "/usr/local/share/ca-certificates",
    *("/etc/apt/auth.conf", "/etc/apt/auth.conf.d"),
)
_OF_APT = ("acquire::check-", "acquire::http", "acquire::https", "acquire::retries")
_OF_PIP = {
    *("cert", "client-cert", "index-url", "extra-index-url", "proxy", "retries", "timeout"),
    "trusted-host",
}


def bring_registries(root: Path) -> None:
    """Write it into `root`, in place of what is there."""
    for name in _AS_THEY_ARE:
        _copy(Path(name), root)
    (root / "etc/apt/apt.conf.d/90registries").write_text("".join(_apt_lines(root)))
    parser = configparser.ConfigParser(interpolation=None)
    parser["global"] = _pip_settings()
    for name in ("cert", "client-cert"):
        _copy(Path(parser["global"].get(name, "/nowhere")), root)
    with (root / "etc/pip.conf").open("w") as stream:
        parser.write(stream)


def proxies() -> dict[str, str]:
    """Of this process's environment, what a process in the other root needs as well."""
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    if path.is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    elif path.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a link, as that of systemd-resolved, is not followed
        shutil.copy(path, target)


def _apt_lines(root: Path) -> list[str]:
    asked = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True)
    lines = [x for x in asked.stdout.splitlines(True) if x.lower().startswith(_OF_APT)]
    for line in lines:
        value = line.partition('"')[2].partition('"')[0]
        if value.startswith("/"):  # a certificate, a key
            _copy(Path(value), root)
    return lines


def _pip_settings() -> dict[str, str]:
    """What pip's files and variables say of registries; the last one wins, as with pip."""
    home = Path.home()
    configured = Path(os.environ.get("XDG_CONFIG_HOME", home / ".config"))
    shared = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read([Path(folder, "pip/pip.conf") for folder in reversed(shared)])
    parser.read(["/etc/pip.conf", home / ".pip/pip.conf", configured / "pip/pip.conf"])
    parser.read(os.environ.get("PIP_CONFIG_FILE", ""))
    settings: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            settings |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    for name, value in os.environ.items():
        if name.startswith("PIP_"):
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    settings = {name: value for name, value in settings.items() if name in _OF_PIP}
    for name in ("index-url", "extra-index-url"):
        others = [word for word in settings.pop(name, "").split() if "://" in word]
        others = [word for word in others if not word.startswith("file:")]
        if others:
            settings[name] = " ".join(others)
    return settings


if __name__ == "__main__":
    bring_registries(Path(sys.argv[1]))
