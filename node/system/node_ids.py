"""The node's ids: the same after every start, different on every computer.

The id for Home Assistant belongs to the state directory, where it is saved.
"""

from __future__ import annotations

import logging
import os
import uuid
from hashlib import sha1
from pathlib import Path
from typing import Annotated

import msgspec

from node.system.safe_files import write_file
from node.system.state_dir import make_state_dir

__all__ = ["Device", "client_id", "device_id", "hardware_suffix", "keep_device", "read_device"]

_log = logging.getLogger(__name__)

DEVICE_FILE = "device.json"
_MACHINE_ID = Path("/etc/machine-id")
_SERIAL_NUMBER = Path("/proc/device-tree/serial-number")
_APPLICATION = uuid.UUID("7f6f4a1c-8d52-4b0e-9c6b-2f1a53b1c7a4")


def client_id(base_topic: str, node: str) -> str:
    """Return 22 characters: MQTT 3.1.1 lets a broker refuse more than 23 (§3.1.3.1).

    The machine's id is hashed, as machine-id(5) asks. The node's name is included, so that two
    nodes on one computer get along.
    """
    return "sn" + _digits(f"{_machine()} {base_topic} {node}")[:20]


def device_id(state_dir: Path | None) -> str:
    """Return the node's id in Home Assistant, which is also the level in its discovery topic.

    The node is its state directory: a new name, broker, configuration, computer or path does not
    change the id, and two nodes on one computer have a folder each.
    """
    known = read_device(state_dir)
    if known is not None:
        return known.id
    folder = os.path.realpath(state_dir) if state_dir else ""
    return "sn" + _digits(f"{_machine()} device {folder}")[:12]


class Device(msgspec.Struct, frozen=True):
    """The content of `device.json`: the id, and the first node that had it."""

    id: Annotated[str, msgspec.Meta(pattern=r"^sn[0-9a-f]{12}\Z")]
    machine: str
    node: str

    def is_first(self, node: str) -> bool:
        """Return whether this node is the first one, and not a copy of its card."""
        return (self.machine, self.node) == (_machine_digits(), node)


def read_device(state_dir: Path | None) -> Device | None:
    """Return the saved device; None if the state directory lacks a valid one."""
    if state_dir is None:
        return None
    file = state_dir / DEVICE_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Device)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("%s cannot be read (%s); Home Assistant may see a new device", file, error)
        return None


def keep_device(state_dir: Path | None, node: str, *, another: bool = False) -> Device | None:
    """Save the node's device; with `another`, a new device that the node is from now on.

    Return the device; None if it could not be written.
    """
    if state_dir is None:
        return None
    new_id = "sn" + os.urandom(6).hex() if another else device_id(state_dir)
    device = Device(new_id, _machine_digits(), node)
    try:
        make_state_dir(state_dir)
        write_file(state_dir / DEVICE_FILE, msgspec.json.encode(device), mode=0o640)
    except OSError as error:
        _log.warning("%s cannot be written (%s)", state_dir / DEVICE_FILE, error)
        return None
    return device


def _machine_digits() -> str:
    """Return digits that identify this computer, hashed, as machine-id(5) asks."""
    return _digits(f"{_machine()} computer")[:12]


def hardware_suffix() -> str:
    """Return 6 digits that are others on every computer, also where a card was copied.

    The serial number of a Pi is in its device tree (/proc/device-tree); others have a machine id.
    """
    try:
        serial = _SERIAL_NUMBER.read_text(encoding="utf-8").strip("\0\n ")
    except (OSError, UnicodeDecodeError):
        serial = ""
    return _digits(f"{serial or _machine()} name")[:6]


def _digits(text: str) -> str:
    """Return the 32 digits of `uuid.uuid5`, which would import hashlib despite `lean_imports`."""
    digest = sha1(_APPLICATION.bytes + text.encode(), usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[:16], version=5).hex


def _machine() -> str:
    try:
        return _MACHINE_ID.read_text(encoding="utf-8").strip()
    except OSError:
        return f"{uuid.getnode():012x}"
