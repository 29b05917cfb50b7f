"""Devices that the owner's own drivers need: from what they declare to settings of the unit.

A driver of another package may declare `devices`, classes of character devices, and `groups`, which
own them (drivers.base.DriverInfo). They become a drop-in of sensor-node.service that goes with the
release. The words come from code of others, so only plain names pass, and none that leads to
memory, to disks or to root. Pure; the image has this file, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["settings_for"]

_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_GROUP = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_NO_CLASS = frozenset(("mem", "misc", "vfio", "kmsg", "tpm", "raw"))
_NO_GROUP = frozenset(
    (
        *("root", "adm", "admin", "disk", "docker", "incus", "incus-admin", "kmem", "kvm", "lxd"),
        *("libvirt", "shadow", "staff", "sudo", "tape", "utmp", "wheel", "systemd-journal"),
    )
)
_HEADING = (
    "# Written by /opt/sensor-node/update, for the drivers of packages.txt; it goes with them.\n"
)


def settings_for(drivers: Iterable[Mapping[str, Any]]) -> str:
    """Return the drop-in for drivers as `sensor-node drivers --json` lists them; "" for none.

    Raises:
        ValueError: one of them declares something that no sensor needs, or that is not a name.
    """
    lines: list[str] = []
    for driver in drivers:
        name = str(driver.get("name"))
        classes = _words(driver, "devices", _CLASS, _NO_CLASS)
        groups = _words(driver, "groups", _GROUP, _NO_GROUP)
        if classes or groups:
            lines.append(f"# {name if _CLASS.fullmatch(name) else 'a driver'}")
            lines += [f"DeviceAllow=char-{word} rw" for word in classes]
            lines += [f"SupplementaryGroups={word}" for word in groups]
    return f"{_HEADING}[Service]\n" + "\n".join(lines) + "\n" if lines else ""


def _words(
    driver: Mapping[str, Any], key: str, form: re.Pattern[str], never: frozenset[str]
) -> list[str]:
    words = driver.get(key, [])
    if not isinstance(words, list):
        raise ValueError(f"a driver declares {key} that are not a list")
    for word in words:
        if not isinstance(word, str) or not form.fullmatch(word) or word in never:
            raise ValueError(f"a driver declares {key} that no sensor may have: {word!a}")
    return words
