"""The node's ids: the same after every start, others on every computer."""

from __future__ import annotations

import uuid
from pathlib import Path

__all__ = ["client_id", "device_id"]

_MACHINE_ID = Path("/etc/machine-id")
_APPLICATION = uuid.UUID("7f6f4a1c-8d52-4b0e-9c6b-2f1a53b1c7a4")


def client_id(base_topic: str, node: str) -> str:
    """22 characters: MQTT 3.1.1 lets a broker refuse more than 23 (§3.1.3.1).

    The machine's id goes in hashed, as machine-id(5) asks; with the node's name, two nodes on
    one computer get along.
    """
    return _id_of(f"{base_topic} {node}")


def device_id(state_dir: Path) -> str:
    """22 letters and digits that name the node in Home Assistant.

    They are made of the machine and the folder of the log, so that a node that is given another
    name stays the same device there.
    """
    return _id_of(str(state_dir.resolve()))


def _id_of(what: str) -> str:
    try:
        machine = _MACHINE_ID.read_text(encoding="ascii").strip()
    except OSError:
        machine = f"{uuid.getnode():012x}"
    return "sn" + uuid.uuid5(_APPLICATION, f"{machine} {what}").hex[:20]
