"""`Radio` on a real adapter: BlueZ, by D-Bus, through bleak.

One thread for each adapter runs while any address is wanted. It scans, passively where every
wanted thermometer and BlueZ allow that, and begins again when the scan has ended: the adapter was
switched off, bluetoothd restarted, or nothing was heard for a while.

Only what a D-Bus signal brings counts as heard. BlueZ keeps the data of a device that has died, and
bleak hands them out with every change of the device, such as of its signal strength or at the end
of a scan (bleak, backends/bluezdbus/manager.py, `_run_advertisement_callbacks`). A property that
came with the signal is another object than before. In an active scan BlueZ signals each
advertisement, also one with the same content (DuplicateData: BlueZ, src/device.c,
`device_set_service_data`); in a passive one only changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from drivers.ble.bluez_state import AdapterState, adapter_state, trouble_of
from drivers.bus import Advertisement
from drivers.errors import MissingSupport, SensorError

__all__ = ["BlueZRadio"]

_SETTLE_S = 0.3
"""Sensors are opened one after another: the scan begins when the last one is there."""
_LOOK_EVERY_S = 10.0
_RETRY_S = 5.0
_SILENT_S = 60.0
"""After so long without anything, the scan begins again."""
_ANSWER_S = 10.0
_MAX_SURVEYED = 1000

_UNKNOWN_DBM = -127
_SHORT_UUID = "0000{:04x}-0000-1000-8000-00805f9b34fb"
_UUID_BASE = _SHORT_UUID[len("0000{:04x}") :]
# AD type, and what the advertisements of the formats that are listened to passively begin with:
# service data of BTHome, ATC and pvvx, Xiaomi; manufacturer data of Ruuvi.
_PASSIVE_PATTERNS = ((0x16, "d2fc"), (0x16, "1a18"), (0x16, "95fe"), (0xFF, "9904"))

_Hear = Callable[[Advertisement], None]


class BlueZRadio:
    """`drivers.bus.Radio`; see the module."""

    def __init__(self, adapter: str) -> None:
        """Check that bleak is installed.

        Raises:
            MissingSupport: it is not.
        """
        try:
            import bleak  # noqa: F401
        except ImportError as error:
            from drivers.packages import install_command

            raise MissingSupport(f"bleak is missing ({error})", install_command("ble")) from error
        self._adapter = adapter
        self._lock = threading.Lock()
        self._ears: dict[str, _Hear] = {}
        self._active: set[str] = set()
        """The addresses that need an active scan."""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._trouble: SensorError | None = None
        self._tracker: _Tracker | None = None
        self._heard_s = 0.0
        """When anything was heard last, also of a foreign device."""

    def listen(self, address: str, hear: _Hear, *, passive: bool) -> None:
        with self._lock:
            self._ears = {**self._ears, address: hear}  # the thread may be looking at the old one
            (self._active.discard if passive else self._active.add)(address)
            if self._thread is None:
                name = f"bluetooth-{self._adapter}"
                thread = threading.Thread(target=self._serve, name=name, daemon=True)
                self._trouble, self._thread = None, thread
                try:
                    thread.start()
                except RuntimeError:  # a limit on tasks: the next sensor, or reading, tries again
                    self._thread = None
                    raise
            else:
                self._wake()

    def leave(self, address: str) -> None:
        with self._lock:
            self._ears = {a: hear for a, hear in self._ears.items() if a != address}
            self._active.discard(address)
            thread = self._thread
            if self._ears or thread is None:
                return
            self._thread = None
            self._wake()
        thread.join(timeout=2.0)

    def check(self) -> None:
        if self._trouble is not None:
            raise type(self._trouble)(self._trouble.what, self._trouble.hint)

    def describe(self) -> str:
        try:
            state = asyncio.run(adapter_state(self._adapter))
        except Exception as error:
            raise trouble_of(error, self._adapter) from error
        passive = "can" if state.can_monitor else "cannot"
        return f"{self._adapter} is on; BlueZ {passive} scan passively with it"

    def survey(self, seconds: float) -> list[Advertisement]:
        try:
            return asyncio.run(self._survey(seconds))
        except Exception as error:
            raise trouble_of(error, self._adapter) from error

    def _wake(self) -> None:
        """Let the thread look what is wanted now; the caller holds the lock."""
        if self._loop is not None and self._changed is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._changed.set)

    # -- On the thread -------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.run(self._listen())

    def _is_wanted(self) -> bool:
        return self._thread is threading.current_thread()

    async def _listen(self) -> None:
        with self._lock:
            self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._tracker = None
        while self._is_wanted():
            try:
                await self._scan()
            except Exception as error:  # noqa: BLE001, told by `check`, and tried again
                self._trouble = trouble_of(error, self._adapter)
                self._tracker = None
                await self._pause(_RETRY_S)

    async def _pause(self, seconds: float) -> bool:
        """Wait; return whether something else is wanted before the time is over."""
        assert self._changed is not None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        return self._changed.is_set()

    async def _scan(self) -> None:
        """Scan until it has ended, or something else is wanted."""
        assert self._changed is not None
        while self._is_wanted() and await self._pause(_SETTLE_S):
            self._changed.clear()
        if not self._is_wanted():
            return
        state = await adapter_state(self._adapter)
        passive = not self._active and state.can_monitor
        if self._tracker is None or self._tracker.passive is not passive:
            self._tracker = _Tracker(state.remembered, passive=passive)
        scanner = _scanner(
            self._adapter,
            self._detected,
            passive=passive,
            prefix=_common_beginning([*self._ears]),
        )
        await asyncio.wait_for(scanner.start(), _ANSWER_S)
        self._trouble, self._heard_s = None, time.monotonic()
        try:
            while not await self._pause(_LOOK_EVERY_S):
                if await self._has_ended(state, passive=passive):
                    self._tracker = None  # the connection, and with it each object, may be another
                    return
        finally:
            # BlueZ may be gone, or the adapter off: then there is no scan to stop.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(scanner.stop(), _ANSWER_S)

    async def _has_ended(self, before: AdapterState, *, passive: bool) -> bool:
        silent_s = time.monotonic() - self._heard_s
        if silent_s < _LOOK_EVERY_S:
            return False
        now = await adapter_state(self._adapter)
        is_scanning = now.discovering or passive
        return now.daemon != before.daemon or not is_scanning or silent_s > _SILENT_S

    def _detected(self, device: Any, data: Any) -> None:
        """Take an advertisement from bleak; foreign ones end here."""
        self._heard_s = time.monotonic()
        hear = self._ears.get(device.address)
        if hear is not None and self._tracker is not None:
            heard = self._tracker.heard(device.address, data, self._heard_s)
            if heard is not None:
                hear(heard)

    async def _survey(self, seconds: float) -> list[Advertisement]:
        tracker = _Tracker((await adapter_state(self._adapter)).remembered, passive=False)
        found: dict[str, Advertisement] = {}

        def detected(device: Any, data: Any) -> None:
            heard = tracker.heard(device.address, data, time.monotonic())
            if heard is not None and (device.address in found or len(found) < _MAX_SURVEYED):
                found[device.address] = heard

        scanner = _scanner(self._adapter, detected, passive=False, prefix="")
        await asyncio.wait_for(scanner.start(), _ANSWER_S)
        try:
            await asyncio.sleep(seconds)
        finally:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(scanner.stop(), _ANSWER_S)
        return list(found.values())


class _Tracker:
    """Tells what an advertisement has brought from what BlueZ remembers.

    It is good for one connection of bleak's: another one makes all objects again.
    """

    def __init__(self, remembered: frozenset[str], *, passive: bool) -> None:
        """`remembered`: the addresses of which BlueZ had data before the scan."""
        self._remembered = remembered
        self.passive = passive
        self._last: dict[str, tuple[Any, Any]] = {}
        """Address -> the objects of its last signal, which are kept so that they stay unique."""

    def heard(self, address: str, data: Any, now_s: float) -> Advertisement | None:
        """Return what is new in bleak's data; None if nothing is."""
        properties = data.platform_data[1]
        services, makers = properties.get("ServiceData"), properties.get("ManufacturerData")
        before = self._last.get(address)
        self._last[address] = (services, makers)
        if before is None:
            if address in self._remembered:
                return None  # it may be from the time before the scan
            before = (None, None)
        new_services = self._new(services, before[0])
        new_makers = self._new(makers, before[1])
        if not new_services and not new_makers:
            return None
        return Advertisement(
            address=address,
            service_data={
                int(uuid[4:8], 16): bytes(content)
                for uuid, content in new_services.items()
                if uuid.startswith("0000") and uuid.endswith(_UUID_BASE)
            },
            manufacturer_data={number: bytes(content) for number, content in new_makers.items()},
            name=data.local_name or "",
            rssi=None if data.rssi == _UNKNOWN_DBM else data.rssi,
            heard_s=now_s,
        )

    def _new(self, now: Any, before: Any) -> dict[Any, Any]:
        if now is None or now is before:
            return {}
        if self.passive and before is not None:
            # BlueZ adds to what it has: what is as before did not come now.
            return {key: content for key, content in now.items() if before.get(key) != content}
        return dict(now)


def _common_beginning(addresses: list[str]) -> str:
    first, last = min(addresses), max(addresses)
    unlike = (place for place, (a, b) in enumerate(zip(first, last, strict=True)) if a != b)
    return first[: next(unlike, len(first))]


def _scanner(adapter: str, detected: Any, *, passive: bool, prefix: str) -> Any:
    """Return bleak's scanner.

    `prefix` of the wanted addresses: BlueZ drops other devices, which costs us nothing then.
    """
    from bleak import BleakScanner
    from bleak.args.bluez import BlueZDiscoveryFilters, BlueZScannerArgs, OrPattern
    from bleak.assigned_numbers import AdvertisementDataType

    arguments = BlueZScannerArgs(adapter=adapter)
    if passive:
        arguments["or_patterns"] = [
            OrPattern(0, AdvertisementDataType(kind), bytes.fromhex(beginning))
            for kind, beginning in _PASSIVE_PATTERNS
        ]
        return BleakScanner(detected, scanning_mode="passive", bluez=arguments)
    filters = BlueZDiscoveryFilters(DuplicateData=True)
    if prefix:
        filters["Pattern"] = prefix
    arguments["filters"] = filters
    return BleakScanner(detected, scanning_mode="active", bluez=arguments)
