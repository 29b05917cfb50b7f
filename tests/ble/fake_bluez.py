"""A bluetoothd for tests: a process that exports one adapter on the bus of DBUS_SYSTEM_BUS_ADDRESS.

What clients rely on is as in BlueZ 5.66 (doc/org.bluez.Adapter.rst, src/adapter.c, src/device.c):

- an advertisement is heard while a client's discovery runs, or its monitor is registered;
- a device that is new appears by InterfacesAdded, else PropertiesChanged has what changed: with
  DuplicateData the data of each advertisement, alone; otherwise what differs, added to what was;
- a device that is not heard for a while is removed;
- an adapter that is switched off forgets the discovery, and takes none.

Commands come as lines on standard input: see `_Commands`. `ready` is printed when it has its name.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from drivers.sim.labels import advertised
from drivers.sim.room import Air

ADAPTER = "/org/bluez/hci0"
_ADAPTER1, _DEVICE1 = "org.bluez.Adapter1", "org.bluez.Device1"
_MONITORS = "org.bluez.AdvertisementMonitorManager1"
_OBJECTS, _PROPERTIES = "org.freedesktop.DBus.ObjectManager", "org.freedesktop.DBus.Properties"
_FORGET_S = 30.0


class Label:
    """A thermometer: sends each `every_s`, or has died, or repeats itself."""

    def __init__(self, address: str, form: str, every_s: float, key: str) -> None:
        self.address = address
        self.form = form
        self.every_s = every_s
        self.key = bytes.fromhex(key) if key else None
        self.count = random.Random(address).randrange(100, 200)
        self.state = "alive"

    def send(self) -> tuple[dict[int, bytes], dict[int, bytes], str]:
        if self.state == "alive":
            self.count += 1
        air = Air(20 + self.count % 50 / 10, 45.0, 1013.0)
        sent = advertised(self.form, air, self.count, self.address, self.key, heard_s=0.0)
        return dict(sent.service_data), dict(sent.manufacturer_data), sent.name


class FakeBlueZ:
    """The daemon."""

    def __init__(self) -> None:
        self.powered = True
        self.can_monitor = False
        self.labels: dict[str, Label] = {}
        self.foreign_per_s = 0
        self.devices: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        """Client -> its discovery filter."""
        self.monitors: set[str] = set()
        self._filters: dict[str, dict[str, Any]] = {}
        self._heard_s: dict[str, float] = {}
        self.bus: MessageBus

    async def run(self) -> None:
        self.bus = await MessageBus(bus_type=BusType.SYSTEM).connect()
        self.bus.add_message_handler(self._handle)
        await self.bus.request_name("org.bluez")
        print("ready", flush=True)  # noqa: T201
        tasks = [asyncio.create_task(self._foreign()), asyncio.create_task(self._forget())]
        await _Commands(self).serve()
        for task in tasks:
            task.cancel()

    # -- D-Bus ---------------------------------------------------------------------------------

    def _handle(self, message: Message) -> Message | bool | None:
        if message.message_type is MessageType.SIGNAL:
            if message.member == "NameOwnerChanged" and not message.body[2]:
                self.sessions.pop(message.body[0], None)
                self.monitors.discard(message.body[0])
                self._set_discovering()
            return None
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        answer = getattr(self, f"_do_{message.member}", None)
        if answer is None or message.interface == "org.freedesktop.DBus.Introspectable":
            return None
        reply: Message = answer(message)
        return reply

    def _do_GetManagedObjects(self, message: Message) -> Message:  # noqa: N802
        objects: dict[str, Any] = {ADAPTER: {_ADAPTER1: self._adapter()}}
        if self.can_monitor:
            objects[ADAPTER][_MONITORS] = {
                "SupportedMonitorTypes": Variant("as", ["or_patterns"]),
                "SupportedFeatures": Variant("as", []),
            }
        objects |= {path: {_DEVICE1: device} for path, device in self.devices.items()}
        return Message.new_method_return(message, "a{oa{sa{sv}}}", [objects])

    def _adapter(self) -> dict[str, Variant]:
        return {
            "Address": Variant("s", "00:00:00:00:00:01"),
            "Powered": Variant("b", self.powered),
            "Discovering": Variant("b", bool(self.sessions)),
            "Roles": Variant("as", ["central"]),
        }

    def _do_SetDiscoveryFilter(self, message: Message) -> Message:  # noqa: N802
        self._filters[str(message.sender)] = {k: v.value for k, v in message.body[0].items()}
        return Message.new_method_return(message)

    def _do_StartDiscovery(self, message: Message) -> Message:  # noqa: N802
        if not self.powered:
            return Message.new_error(message, "org.bluez.Error.NotReady", "Resource Not Ready")
        self.sessions[str(message.sender)] = self._filters.get(str(message.sender), {})
        self._set_discovering()
        return Message.new_method_return(message)

    def _do_StopDiscovery(self, message: Message) -> Message:  # noqa: N802
        if self.sessions.pop(str(message.sender), None) is None:
            return Message.new_error(message, "org.bluez.Error.Failed", "No discovery started")
        self._set_discovering()
        return Message.new_method_return(message)

    def _do_RegisterMonitor(self, message: Message) -> Message:  # noqa: N802
        self.monitors.add(str(message.sender))
        asyncio.get_running_loop().call_soon(self._activate, message.sender, message.body[0])
        return Message.new_method_return(message)

    def _do_UnregisterMonitor(self, message: Message) -> Message:  # noqa: N802
        self.monitors.discard(str(message.sender))
        return Message.new_method_return(message)

    def _activate(self, client: str, root: str) -> None:
        """Call the client's monitor, as bluetoothd does once it has it."""

        async def call() -> None:
            question = Message(
                destination=client, path=root, interface=_OBJECTS, member="GetManagedObjects"
            )
            answer = await self.bus.call(question)
            assert answer is not None
            for path in answer.body[0]:
                await self.bus.call(
                    Message(
                        destination=client,
                        path=path,
                        interface="org.bluez.AdvertisementMonitor1",
                        member="Activate",
                    )
                )

        self._activation = asyncio.create_task(call())

    def _signal(self, path: str, interface: str, member: str, signature: str, body: Any) -> None:
        self.bus.send(
            Message(
                message_type=MessageType.SIGNAL,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
            )
        )

    def change(self, path: str, interface: str, properties: dict[str, Variant]) -> None:
        self._signal(
            path, _PROPERTIES, "PropertiesChanged", "sa{sv}as", [interface, properties, []]
        )

    def _set_discovering(self) -> None:
        self.change(ADAPTER, _ADAPTER1, {"Discovering": Variant("b", bool(self.sessions))})

    # -- Radio ---------------------------------------------------------------------------------

    async def send_for_ever(self, label: Label) -> None:
        await asyncio.sleep(random.Random(label.address).random() * label.every_s)
        while True:
            if label.state != "dead":
                self.heard(label.address, *label.send())
            await asyncio.sleep(label.every_s)

    async def _foreign(self) -> None:
        """Phones, beacons, headphones; in bursts of 20 ms."""
        number = 0
        while True:
            for _ in range(round(self.foreign_per_s / 50)):
                number += 1
                address = f"{number % 60:02X}:11:22:33:44:55"
                self.heard(address, {0xFEAA: number.to_bytes(4, "big")}, {0x4C: b"\x10\x05x"}, "")
            await asyncio.sleep(0.02)

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for path in [
                p for p, at_s in self._heard_s.items() if time.monotonic() - at_s > _FORGET_S
            ]:
                self.forget(path)

    def forget(self, path: str) -> None:
        self._heard_s.pop(path, None)
        if self.devices.pop(path, None) is not None:
            self._signal("/", _OBJECTS, "InterfacesRemoved", "oas", [path, [_DEVICE1]])

    def heard(
        self, address: str, services: dict[int, bytes], makers: dict[int, bytes], name: str
    ) -> None:
        """Take an advertisement, and say so to whoever wants it."""
        is_wanted = bool(self.monitors) or any(
            address.startswith(f.get("Pattern", "")) for f in self.sessions.values()
        )
        if not self.powered or not is_wanted:
            return
        duplicates = any(f.get("DuplicateData") for f in self.sessions.values())
        path = path_of(address)
        self._heard_s[path] = time.monotonic()
        new = self.devices.get(path) is None
        about = {
            "Address": Variant("s", address),
            "Alias": Variant("s", name or address.replace(":", "-")),
            "Adapter": Variant("o", ADAPTER),
        }
        device = self.devices.setdefault(path, about)
        changed = {"RSSI": Variant("n", -60 - random.randrange(8))}
        if name:
            changed["Name"] = Variant("s", name)
        service_data = {
            f"0000{u:04x}-0000-1000-8000-00805f9b34fb": Variant("ay", content)
            for u, content in services.items()
        }
        maker_data = {company: Variant("ay", content) for company, content in makers.items()}
        for property_, now, signature in (
            ("ServiceData", service_data, "a{sv}"),
            ("ManufacturerData", maker_data, "a{qv}"),
        ):
            before = device[property_].value if property_ in device else {}
            if not duplicates:
                now = {**before, **now}
            if now and (duplicates or now != before):
                changed[property_] = Variant(signature, now)
        if not new:
            changed = {k: v for k, v in changed.items() if k != "Name" or device.get(k) != v}
        device.update(changed)
        if new:
            self._signal("/", _OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [path, {_DEVICE1: device}])
        else:
            self.change(path, _DEVICE1, changed)

    def switch(self, *, on: bool) -> None:
        self.powered = on
        if not on:
            self.sessions.clear()
            self.monitors.clear()
        self.change(ADAPTER, _ADAPTER1, {"Powered": Variant("b", on)})
        self._set_discovering()


def path_of(address: str) -> str:
    return f"{ADAPTER}/dev_{address.replace(':', '_')}"


class _Commands:
    """The lines of standard input."""

    def __init__(self, bluez: FakeBlueZ) -> None:
        self._bluez = bluez
        self._tasks: list[asyncio.Task[None]] = []

    async def serve(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            word, *arguments = line.decode().split()
            getattr(self, f"_{word}")(*arguments)
            print(f"done {word}", *self._said(word), flush=True)  # noqa: T201

    def _said(self, word: str) -> list[str]:
        if word != "state":
            return []
        patterns = [str(f.get("Pattern")) for f in self._bluez.sessions.values()]
        return [f"discovery={','.join(patterns)}", f"monitors={len(self._bluez.monitors)}"]

    def _state(self) -> None:
        """Say who listens."""

    def _label(self, address: str, form: str, every_s: str, key: str = "") -> None:
        """Let a thermometer begin to send."""
        label = self._bluez.labels[address] = Label(address, form, float(every_s), key)
        self._tasks.append(asyncio.create_task(self._bluez.send_for_ever(label)))

    def _become(self, address: str, state: str) -> None:
        """`alive`, `dead`, or `stuck`."""
        self._bluez.labels[address].state = state

    def _remember(self, address: str, form: str) -> None:
        """Have data of a device that is no longer there."""
        services, makers, name = Label(address, form, 1.0, "").send()
        self._bluez.monitors.add("nobody")
        self._bluez.heard(address, services, makers, name)
        self._bluez.monitors.discard("nobody")
        self._bluez._heard_s.clear()

    def _touch(self, address: str) -> None:
        """Change something of a device that no advertisement has brought."""
        self._bluez.change(path_of(address), _DEVICE1, {"Connected": Variant("b", False)})

    def _foreign(self, per_s: str) -> None:
        self._bluez.foreign_per_s = int(per_s)

    def _power(self, on: str) -> None:
        self._bluez.switch(on=on == "on")

    def _monitoring(self) -> None:
        """Offer passive scans."""
        self._bluez.can_monitor = True


if __name__ == "__main__":
    asyncio.run(FakeBlueZ().run())
