"""The driver `ble`: one thermometer that advertises over Bluetooth LE."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from drivers.base import Attached, Channel, Claim, DriverInfo, Measurement, Options
from drivers.ble.advertisement import RSSI, Undecodable, channel_called, is_measured
from drivers.ble.aes_ccm import require_cryptography
from drivers.ble.formats import decode
from drivers.ble.label import Label
from drivers.bus import Advertisement, Board
from drivers.errors import MissingSupport, SensorError

__all__ = ["BLE", "BleOptions", "BleSensor", "key_of"]

_ADAPTERS = "/sys/class/bluetooth"
_KEY = re.compile(r"[0-9A-Fa-f]{32}")
# They send all they have without being asked, and number their measurements: so the content of an
# advertisement changes with each, and a passive scan misses none (`drivers.ble.bluez`). BTHome has
# to have a number only if it is encrypted.
_PASSIVE = ("pvvx", "atc", "mibeacon", "ruuvi")
_PASSIVE_WITH_KEY = ("bthome",)

_FIRST_S = 20.0
"""How long the first reading waits for an advertisement, after listening has begun."""
_WAIT_S = 5.0
"""How long a later one waits that was not primed."""
_SHORTEST_STEP_S = 0.2
_SURVEY_S = 12.0

_Address = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}\Z",
        description='an address like "A4:C1:38:8D:18:B2"',
    ),
]
_Key = Annotated[
    str,
    msgspec.Meta(pattern=rf"^{_KEY.pattern}\Z", description="a key of 32 hexadecimal digits"),
]
_File = Annotated[str, msgspec.Meta(pattern="^/", description="an absolute path")]
_Adapter = Annotated[str, msgspec.Meta(pattern=r"^hci[0-9]{1,2}\Z", description="hci0, hci1, ...")]
_Format = Literal[
    "auto",
    "bthome",
    "pvvx",
    "atc",
    "mibeacon",
    "qingping",
    "switchbot",
    "ruuvi",
    "govee",
    "thermopro",
    "inkbird",
]


class BleOptions(Options, frozen=True, kw_only=True):
    """`address` of the thermometer, as `sensor-node scan` prints it.

    `format` is what it sends; "auto" finds out, and keeps the scan active. `key`, or `key_file`
    with the key in it, is for those that encrypt. `adapter` is the computer's.
    """

    address: _Address
    format: _Format = "auto"
    key: _Key | None = None
    key_file: _File | None = None
    adapter: _Adapter = "hci0"

    def __post_init__(self) -> None:
        if self.key is not None and self.key_file is not None:
            raise ValueError("key and key_file are mutually exclusive")

    def __repr__(self) -> str:
        return f"BleOptions(address={self.address!r})"  # never the key

    def bus(self) -> str:
        return f"ble {self.adapter}"

    def where(self) -> str:
        on = "" if self.adapter == "hci0" else f" on {self.adapter}"
        return f"Bluetooth {self.address.upper()}{on}"

    def claims(self) -> tuple[Claim, ...]:
        return (Claim(f"Bluetooth address {self.address.upper()}"),)


def key_of(options: BleOptions) -> bytes | None:
    """Return the key.

    Raises:
        MissingSupport: its file cannot be read, or has another content.
    """
    written = options.key
    if options.key_file is not None:
        try:
            written = Path(options.key_file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not a text"
            raise MissingSupport(
                f"key_file {options.key_file}: {reason}",
                "its owner may be root, and its group sensor-node, with mode 0640",
            ) from error
        if not _KEY.fullmatch(written):
            raise MissingSupport(
                f"key_file {options.key_file} has no key", "write 32 hexadecimal digits into it"
            )
    return None if written is None else bytes.fromhex(written)


class BleSensor:
    """One thermometer. Only a `read` without `prime` waits for the radio."""

    def __init__(self, options: BleOptions, board: Board) -> None:
        self.age_s = 0.0
        self.channels: tuple[Channel, ...] = (channel_called("temperature"),)
        self._where = options.where()
        self._address = options.address.upper()
        self._clock = board.clock
        try:
            key = key_of(options)
            if key is not None:
                require_cryptography()
            self._radio = board.radio(options.adapter)
        except SensorError as error:
            raise self._named(error) from error
        self._began_s = self._clock.monotonic()
        self._is_primed = False
        self._label = Label(options.format, key, self._began_s)
        passive = _PASSIVE if key is None else (*_PASSIVE, *_PASSIVE_WITH_KEY)
        self._radio.listen(self._address, self._label.hear, passive=options.format in passive)

    def _named(self, error: SensorError) -> SensorError:
        return type(error)(f"{self._where}: {error.what}", error.hint)

    def prime(self) -> float:
        """Return how long to wait for the first advertisement; see `drivers.base.Primed`.

        Later readings take what has come since the last one, and do not wait.
        """
        self._is_primed = True
        self._check()
        now_s = self._clock.monotonic()
        until_s = self._began_s + _FIRST_S
        if self._label.was_heard or now_s >= until_s:
            return 0.0
        return self._step_s(self._began_s, until_s, now_s)

    def _check(self) -> None:
        """Raise what keeps the radio from hearing, if nothing was heard before."""
        try:
            self._radio.check()
        except SensorError as error:
            if not self._label.has_unread:
                raise self._named(error) from error

    def _step_s(self, began_s: float, until_s: float, now_s: float) -> float:
        # Ever longer steps: one that is heard comes soon, and one that is silent wakes nobody.
        return min(max(_SHORTEST_STEP_S, now_s - began_s), until_s - now_s)

    def read(self) -> Measurement:
        """Return what the thermometer has sent since it was last read.

        Without `prime`, wait for that.
        """
        if not self._is_primed:
            self._await()
        self._is_primed = False
        now_s = self._clock.monotonic()
        taken = self._label.take()
        if taken is None:
            raise self._named(self._label.silence(now_s))
        measurement, heard_s = taken
        self.age_s = max(0.0, now_s - heard_s)
        self.channels = tuple(map(channel_called, measurement))
        return measurement

    def _await(self) -> None:
        began_s = now_s = self._clock.monotonic()
        until_s = began_s + _WAIT_S
        if not self._label.was_heard:
            until_s = max(until_s, self._began_s + _FIRST_S)
        while True:
            self._check()
            if self._label.has_unread or now_s >= until_s:
                return
            self._clock.sleep(self._step_s(began_s, until_s, now_s))
            now_s = self._clock.monotonic()

    def close(self) -> None:
        self._radio.leave(self._address)


def _scan(board: Board) -> list[Attached]:
    """Listen for a while on each adapter; return the thermometers, the strongest signal first."""
    from drivers.packages import is_installed

    adapters = sorted(file.name for file in board.path(_ADAPTERS).glob("hci[0-9]*"))
    found: list[Attached] = []
    if not is_installed("bleak"):
        return found
    for adapter in (name for name in adapters if ":" not in name):  # hci0:11 is a connection
        heard = board.radio(adapter).survey(_SURVEY_S)
        heard.sort(key=lambda one: one.rssi or RSSI.plausible[0], reverse=True)
        taken = {one.options["address"] for one in found}
        found += [
            attached
            for one in heard
            if one.address not in taken and (attached := _attached(one, adapter)) is not None
        ]
    return found


def _attached(advertisement: Advertisement, adapter: str) -> Attached | None:
    options: dict[str, str | int] = {"address": advertisement.address}
    if adapter != "hci0":
        options["adapter"] = adapter
    called = [advertisement.name] if advertisement.name.isprintable() else []
    try:
        found = decode(advertisement, None)
    except Undecodable as error:
        said = [*filter(None, called), error.what]
    else:
        if found is None or not any(map(is_measured, found[1].values)):
            return None
        options["format"] = found[0]
        said = [*filter(None, called), found[0]]
        for name, value in found[1].values.items():
            said.append(f"{name} {value:g} {channel_called(name).unit}")
    if advertisement.rssi is not None:
        said.append(f"{advertisement.rssi} dBm")
    return Attached(options=options, summary=", ".join(said), may_be_foreign=True)


BLE = DriverInfo(
    name="ble",
    summary="Bluetooth LE: BTHome, Xiaomi, RuuviTag, Govee, SwitchBot and others",
    aliases=(
        *("bluetooth", "bluetoothle", "bthome", "shellyblu", "shellybluht", "bparasite"),
        *("lywsd03mmc", "lywsdcgq", "lywsd02", "mijia", "xiaomi", "mibeacon", "atcmithermometer"),
        *("pvvx", "atc1441", "mhoc401", "cgg1", "cgdk2", "qingping", "cleargrass"),
        *("ruuvi", "ruuvitag", "govee", "h5072", "h5074", "h5075", "h5051", "h5100", "h5101"),
        *("h5102", "h5103", "h5104", "h5105", "h5174", "h5177", "h5178", "h5179"),
        *("thermopro", "tp350", "tp351", "tp357", "tp358", "tp359", "tp393"),
        *("switchbot", "switchbotmeter", "inkbird", "ibsth", "ibsth1", "ibsth2", "ibsp01b"),
    ),
    options=BleOptions,
    channels=(channel_called("temperature"),),
    open=BleSensor,
    example='driver = "ble"\naddress = "A4:C1:38:8D:18:B2"',
    accuracy="that of the thermometer",
    source="its maker's page; the formats' sources are in drivers/ble",
    quirks="an interval below 10 s, or shorter than that at which it measures, makes readings fail",
    more_channels=True,
    min_interval_s=1.0,
    read_budget_s=_FIRST_S + 5.0,
    reopen_after_failure=False,
    extra="ble",
    scan=_scan,
    scan_s=_SURVEY_S + 8.0,
)
