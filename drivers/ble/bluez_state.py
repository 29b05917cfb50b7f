"""What BlueZ says of an adapter, and what is wrong when it says nothing.

Source of names and errors: BlueZ, doc/org.bluez.Adapter.rst; D-Bus specification, "Standard
errors".
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from drivers.errors import MissingSupport, SensorError, SensorFault, SensorNotFound, SensorTimeout

__all__ = ["AdapterState", "adapter_state", "trouble_of"]

_SERVICE = "org.bluez"
_ADAPTER, _DEVICE = "org.bluez.Adapter1", "org.bluez.Device1"
_MONITORS = "org.bluez.AdvertisementMonitorManager1"
_RFKILL = Path("/sys/class/rfkill")
_ANSWER_S = 5.0

_NO_DAEMON = (
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.Disconnected",
    "org.freedesktop.DBus.Error.Spawn",
    "org.freedesktop.DBus.Error.TimedOut",
    "org.freedesktop.systemd1.",
)
_DENIED = ("org.freedesktop.DBus.Error.AccessDenied", "org.bluez.Error.NotAuthorized")


class AdapterState(msgspec.Struct, frozen=True):
    """An adapter that is there and switched on."""

    discovering: bool
    can_monitor: bool
    """Whether BlueZ can scan passively with it."""
    remembered: frozenset[str]
    """The addresses of devices of which BlueZ has data."""
    daemon: str
    """The name of this run of bluetoothd on the bus."""


async def adapter_state(adapter: str) -> AdapterState:
    """Ask BlueZ for an adapter.

    Raises:
        SensorError: it is not there, or is switched off.
        Exception: BlueZ does not answer; see `trouble_of`.
    """
    from dbus_fast import BusType, Message, MessageType, unpack_variants
    from dbus_fast.aio import MessageBus

    question = Message(
        destination=_SERVICE,
        path="/",
        interface="org.freedesktop.DBus.ObjectManager",
        member="GetManagedObjects",
    )
    bus = MessageBus(bus_type=BusType.SYSTEM)
    try:
        await asyncio.wait_for(bus.connect(), _ANSWER_S)
        answer = await asyncio.wait_for(bus.call(question), _ANSWER_S)
    finally:
        bus.disconnect()
    if answer is None or answer.message_type is MessageType.ERROR:
        text = "" if answer is None else " ".join(map(str, answer.body))
        raise _of_name("" if answer is None else answer.error_name or "", text, adapter)
    objects = unpack_variants(answer.body[0])
    found = objects.get(f"/org/bluez/{adapter}", {}).get(_ADAPTER)
    if found is None:
        raise _no_adapter(adapter, objects)
    if not found.get("Powered", True):
        raise _switched_off(adapter)
    return AdapterState(
        discovering=bool(found.get("Discovering")),
        can_monitor="or_patterns"
        in objects[f"/org/bluez/{adapter}"].get(_MONITORS, {}).get("SupportedMonitorTypes", ()),
        remembered=frozenset(
            str(device["Address"])
            for interfaces in objects.values()
            if (device := interfaces.get(_DEVICE))
            and ("ServiceData" in device or "ManufacturerData" in device)
        ),
        daemon=str(answer.sender),
    )


def trouble_of(error: Exception, adapter: str) -> SensorError:
    """Return what an error of bleak, D-Bus or the socket means."""
    if isinstance(error, SensorError):
        return error
    if name := getattr(error, "dbus_error", ""):
        return _of_name(name, getattr(error, "dbus_error_details", None) or "", adapter)
    if isinstance(error, TimeoutError):
        return SensorTimeout(
            "bluetoothd does not answer", "sudo systemctl restart bluetooth; then look into dmesg"
        )
    if isinstance(error, OSError):
        return MissingSupport(
            f"no D-Bus ({error.strerror or error})",
            "Bluetooth needs the system's D-Bus: sudo apt install dbus bluez",
        )
    if type(error).__name__ == "AuthError":
        return _denied(str(error))
    return SensorFault(
        f"{adapter}: {type(error).__name__}: {error}", "sudo systemctl restart bluetooth"
    )


def _of_name(name: str, text: str, adapter: str) -> SensorError:
    if name.startswith(_NO_DAEMON):
        return MissingSupport(
            "bluetoothd is not running",
            "sudo apt install bluez, and sudo systemctl enable --now bluetooth",
        )
    if name.startswith(_DENIED):
        return _denied(text or name)
    if name == "org.bluez.Error.NotReady":
        return _switched_off(adapter)
    return SensorFault(f"{adapter}: BlueZ says {name}: {text}", "sudo systemctl restart bluetooth")


def _denied(text: str) -> MissingSupport:
    return MissingSupport(
        f"this user has no permission to use bluetoothd ({text})",
        "that needs the group bluetooth, which the service is in: "
        "sudo usermod -aG bluetooth $USER, and log in again",
    )


def _no_adapter(adapter: str, objects: dict[str, Any]) -> SensorNotFound:
    there = sorted(
        path.rpartition("/")[2] for path, interfaces in objects.items() if _ADAPTER in interfaces
    )
    hint = (
        f'there is {", ".join(there)}: adapter = "{there[0]}"'
        if there
        else "there is no Bluetooth adapter: is dtoverlay=disable-bt in config.txt, or the "
        "firmware missing (sudo apt install bluez-firmware)? Look into dmesg"
    )
    return SensorNotFound(f"the adapter {adapter} is not there", hint)


def _switched_off(adapter: str) -> SensorFault:
    for folder in sorted(_RFKILL.glob("rfkill*")):
        try:
            if (folder / "type").read_text().strip() != "bluetooth":
                continue
            soft, hard = ((folder / name).read_text().strip() for name in ("soft", "hard"))
        except OSError:
            continue
        if hard == "1":
            return SensorFault(f"{adapter} is off, by a switch of this computer", "switch it on")
        if soft == "1":
            return SensorFault(f"{adapter} is blocked by rfkill", "sudo rfkill unblock bluetooth")
    return SensorFault(
        f"{adapter} is switched off",
        "bluetoothctl power on; to have it on at each boot, AutoEnable=true in "
        "/etc/bluetooth/main.conf",
    )
