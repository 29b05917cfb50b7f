"""The node's ids: the same after every start, others on every computer."""

from __future__ import annotations

import os
import uuid
from hashlib import sha1
from pathlib import Path

__all__ = ["client_id", "device_id"]

_MACHINE_ID = Path("/etc/machine-id")
_APPLICATION = uuid.UUID("7f6f4a1c-8d52-4b0e-9c6b-2f1a53b1c7a4")


def client_id(base_topic: str, node: str) -> str:
    """22 characters: MQTT 3.1.1 lets a broker refuse more than 23 (§3.1.3.1).

    The machine's id goes in hashed, as machine-id(5) asks; with the node's name, two nodes on
    one computer get along.
    """
    return "sn" + _digits(f"{_machine()} {base_topic} {node}")[:20]


def device_id(state_dir: Path | None) -> str:
    """What the node is known by to Home Assistant, and the level of its discovery topic.

    The node is its log: another name, broker or configuration leaves it what it was, and two
    nodes on one computer have a folder each.
    """
    folder = os.path.realpath(state_dir) if state_dir else ""
    return "sn" + _digits(f"{_machine()} device {folder}")[:12]


def _digits(text: str) -> str:
    """The 32 of `uuid.uuid5`, which would import hashlib again, after `lean_imports`."""
    digest = sha1(_APPLICATION.bytes + text.encode(), usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[:16], version=5).hex


def _machine() -> str:
    try:
        return _MACHINE_ID.read_text(encoding="utf-8").strip()
    except OSError:
        return f"{uuid.getnode():012x}"
