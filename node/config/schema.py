"""The configuration as types: one struct per table, every key documented by its field.

`load.py` fills these from TOML. `sensor` tables are the exception: their keys are the common
ones here and the options that the driver declares, side by side.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from drivers.base import BcmPin, Channel, DriverInfo, Options
from node.alarms.table import AlarmTable
from node.derive.parts import Derived
from node.filters import ChannelTable
from node.units import Seconds, TopicPart, duration_text

__all__ = [
    "DEFAULT_INTERVAL",
    "DEFAULT_RECONNECT_SPREAD",
    "DEFAULT_RETAIN_FOR",
    "STALE_INTERVALS",
    "ButtonTable",
    "ChannelTable",
    "CommandName",
    "CommandsTable",
    "Config",
    "FaultTable",
    "HomeAssistantTable",
    "HostName",
    "MqttTable",
    "MqttVersion",
    "NodeTable",
    "OutboxTable",
    "ProxyAddress",
    "Secret",
    "SensorTable",
    "ServerAddress",
    "SimulationTable",
    "StatusLedTable",
    "TlsTable",
    "TopicPart",
    "TopicPath",
    "UpdateTable",
    "WebAddress",
    "WebTable",
]


class Secret(str):
    """A password; its repr never shows it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(...)"


class HostName(str):
    """A valid host name or address; see `config.values.parse_host`."""

    __slots__ = ()


class WebAddress(str):
    """The address of a web page that browsers and Home Assistant accept; see `config.values`."""

    __slots__ = ()


class ProxyAddress(str):
    """`http://HOST:PORT` or `socks5://HOST:PORT`; see `config.values.parse_proxy`."""

    __slots__ = ()

    @property
    def parts(self) -> tuple[str, str, int]:
        """Return the scheme, the host and the port."""
        scheme, _, rest = self.partition("://")
        host, _, port = rest.rpartition(":")
        return scheme, host.strip("[]"), int(port)


class ServerAddress(str):
    """`HOST` or `HOST:PORT`, an IPv6 address in brackets; see `config.values.parse_server`."""

    __slots__ = ()

    @property
    def parts(self) -> tuple[str, int | None]:
        """Return the host, in small letters, and the port if there is one."""
        host, colon, port = self.rpartition(":")
        if not (colon and port.isdecimal()):
            host, port = str(self), ""
        return host.strip("[]").rstrip(".").lower(), int(port) if port else None


class MqttVersion(str):
    """ "auto", "5" or "3.1.1"."""

    __slots__ = ()

    @classmethod
    def parse(cls, written: object) -> MqttVersion:
        """Raise ValueError for another version, or something that is not a version."""
        if isinstance(written, bool) or str(written) not in ("auto", "5", "3.1.1"):
            raise ValueError('expected "auto", "5" or "3.1.1"')
        return cls(str(written))


_NOT_IN_A_TOPIC = r"\x00-\x1f\x7f-\x9f\ufdd0-\ufdef" + "".join(
    rf"\U{plane:04x}fffe\U{plane:04x}ffff" for plane in range(0x11)
)
TopicPath = Annotated[
    str,
    msgspec.Meta(
        # Excludes wildcards, empty levels, control characters and non-characters (MQTT 5, §1.5.4
        # and §4.7): a broker may end the connection over them, and Home Assistant rejects the whole
        # message. Topics that begin with $ are the broker's own.
        pattern=rf"^(?!\$|/|.*//|.*/\Z)[^+#{_NOT_IN_A_TOPIC}]+\Z",
        max_length=128,
        description="a topic without wildcards, empty levels or a $ at the beginning",
    ),
]
DEFAULT_RETAIN_FOR = Seconds(3600)
DEFAULT_RECONNECT_SPREAD = Seconds(5)
DEFAULT_INTERVAL = Seconds(30)
STALE_INTERVALS = 3
"""After this many intervals without a reading, a value is stale and its sensor offline."""
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Table(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every table."""


class NodeTable(_Table, frozen=True, kw_only=True):
    """`[node]`; name: the node's part of every topic (default: the host name)."""

    name: TopicPart


_Protocol = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[\x21-\x7e]+\Z", max_length=255, description="the name of a protocol: mqtt"
    ),
]


class TlsTable(_Table, frozen=True, kw_only=True):
    """`[mqtt.tls]`; paths are relative to the configuration file."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: HostName | None = None
    """The name that the certificate must have, and that is asked for (RFC 6066, §3)."""
    alpn: tuple[_Protocol, ...] = ()
    """The protocols to offer (RFC 7301)."""

    @property
    def files(self) -> dict[str, Path]:
        """Return the files that are named, by key."""
        named = {"ca_file": self.ca_file, "cert_file": self.cert_file, "key_file": self.key_file}
        return {key: file for key, file in named.items() if file is not None}


_ClientId = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[\x21-\x7e]+\Z", max_length=128, description="up to 128 characters of ASCII"
    ),
]
_UrlPath = Annotated[
    str,
    msgspec.Meta(pattern=r"^/[\x21-\x7e]*\Z", max_length=512, description='a path: "/mqtt"'),
]


class MqttTable(_Table, frozen=True, kw_only=True):
    """`[mqtt]`: the broker, and how the node publishes there."""

    host: HostName
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] | None = None
    username: str | None = None
    password: Secret | None = None
    password_file: Path | None = None
    password_command: tuple[str, ...] = ()
    password_valid_for: Seconds = Seconds(0)
    client_id: _ClientId | None = None
    transport: Literal["tcp", "websockets"] = "tcp"
    path: _UrlPath | None = None
    proxy: ProxyAddress | None = None
    base_topic: TopicPath = "sensors"
    protocol: MqttVersion = MqttVersion("auto")
    keepalive: Seconds = Seconds(30)
    reconnect_spread: Seconds = DEFAULT_RECONNECT_SPREAD
    """How soon after the broker's return each node is connected again, at random within it."""
    servers: tuple[ServerAddress, ...] | None = None
    """Which other servers the broker may send the node to; None: with TLS any, without it none."""
    payload: Literal["json", "plain", "both"] = "json"
    retain_for: Seconds = DEFAULT_RETAIN_FOR
    tls: TlsTable | None = None

    @property
    def address(self) -> str:
        """`host:port`, for people."""
        return f"{self.host}:{self.broker_port}"

    @property
    def broker_port(self) -> int:
        """The configured port, else 8883 with TLS and 1883 without; WebSockets: 443 and 80."""
        without, with_tls = (80, 443) if self.transport == "websockets" else (1883, 8883)
        return self.port or (without if self.tls is None else with_tls)

    @property
    def is_direct(self) -> bool:
        """Return whether the broker is reached by a TCP connection of our own."""
        return self.transport == "tcp" and self.proxy is None


class OutboxTable(_Table, frozen=True, kw_only=True):
    """`[outbox]`: the log of readings."""

    max_readings: _Positive = 200_000
    keep: Seconds = Seconds(48 * 3600)
    history_interval: Seconds = Seconds(60)
    drain_rate: _Positive = 100
    sync_every: Seconds = Seconds(0)
    chain: bool = False


CommandName = Literal["read", "identify", "restart", "acknowledge", "replay", "sign", "update"]


class CommandsTable(_Table, frozen=True, kw_only=True):
    """`[commands]`: the commands that the node accepts on `B/N/cmd/<name>`."""

    enabled: bool = True
    allow: tuple[CommandName, ...] = (
        "read",
        "identify",
        "restart",
        "acknowledge",
        "replay",
        "sign",
        "update",
    )
    config: bool = False
    """Whether the command `config` is done."""
    config_broker: bool = False
    """Whether that may also change how the node is found, and its way to the broker."""


class UpdateTable(_Table, frozen=True, kw_only=True):
    """`[update]`: updates from afar."""

    url: WebAddress | None = None
    """The folder that bundles may be fetched from; None: none is fetched."""


class HomeAssistantTable(_Table, frozen=True, kw_only=True):
    """`[homeassistant]`: discovery, of the whole device or of each component."""

    enabled: bool = True
    prefix: TopicPath = "homeassistant"
    form: Literal["device", "components"] = "device"
    configuration_url: WebAddress | None = None

    @property
    def apart(self) -> bool:
        """Return whether each component is announced by itself."""
        return self.form == "components"


class StatusLedTable(_Table, frozen=True, kw_only=True):
    """`[status_led]`."""

    pin: BcmPin


class ButtonTable(_Table, frozen=True, kw_only=True):
    """`[button]`."""

    pin: BcmPin


class WebTable(_Table, frozen=True, kw_only=True):
    """`[web]`: the status page. `sensor-node web` serves it; `run` ignores this table."""

    enabled: bool = False
    host: HostName = HostName("127.0.0.1")
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 8080
    password: Secret | None = None
    password_file: Path | None = None

    @property
    def on_the_network(self) -> bool:
        """Return whether other computers can reach the page."""
        return self.host != "localhost" and not self.host.startswith("127.") and self.host != "::1"


class SensorTable(_Table, frozen=True, kw_only=True):
    """`[[sensor]]`: the keys that all drivers share."""

    id: TopicPart
    driver: str
    interval: Seconds = DEFAULT_INTERVAL
    power_pin: BcmPin | None = None
    channel: dict[str, ChannelTable] = {}
    derive: tuple[Derived, ...] = ()
    """In an order in which each comes after its parts."""
    info: DriverInfo
    """The driver, found by its name; not a key of the file."""
    options: Options
    """The driver's own keys; not a key of the file."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """Return the measured channels that are known before a read, then the derived ones."""
        measured = self.info.channels_with(self.options)
        return (*measured, *(derived.channel for derived in self.derive))

    @property
    def stale_after_s(self) -> float:
        """Return how long a reading of the sensor is current, in seconds."""
        return STALE_INTERVALS * self.interval

    @property
    def alarms(self) -> Iterator[tuple[str, AlarmTable]]:
        """Yield (channel, alarm) of each alarm of its channels."""
        for name, channel in self.channel.items():
            for alarm in channel.alarm:
                yield name, alarm

    def kept_for_s(self, retain_for_s: float) -> float:
        """Return how long an MQTT 5 broker keeps a reading that is not renewed; 0: no limit."""
        return max(retain_for_s, self.stale_after_s) if retain_for_s else 0.0


class FaultTable(_Table, frozen=True, kw_only=True):
    """`[[simulation.fault]]`; `drivers.sim.faults.KINDS` describes each kind."""

    sensor: str
    kind: str
    after: Seconds = Seconds(0)
    """Since the start."""
    for_: Seconds | None = msgspec.field(default=None, name="for")
    every: Seconds | None = None
    amount: Annotated[float, msgspec.Meta(ge=-100, le=100)] | None = None

    def __str__(self) -> str:
        when = f"{self.sensor} {self.kind} after {duration_text(self.after)}"
        when += "" if self.for_ is None else f" for {duration_text(self.for_)}"
        return when + ("" if self.every is None else f" every {duration_text(self.every)}")


class SimulationTable(_Table, frozen=True, kw_only=True):
    """`[simulation]`: the room around simulated sensors, and their faults."""

    base: Annotated[float, msgspec.Meta(ge=-40, le=85)] = 21.0
    daily_swing: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.0
    noise: Annotated[float, msgspec.Meta(ge=0, le=10)] = 0.03
    humidity: Annotated[float, msgspec.Meta(ge=1, le=99)] = 46.0
    fault: tuple[FaultTable, ...] = ()


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration that was checked as a whole."""

    source: Path
    digest: str = ""
    """The first 12 hex digits of the SHA-256 of the file."""
    node: NodeTable
    mqtt: MqttTable
    outbox: OutboxTable = OutboxTable()
    commands: CommandsTable = CommandsTable()
    update: UpdateTable = UpdateTable()
    homeassistant: HomeAssistantTable = HomeAssistantTable()
    status_led: StatusLedTable | None = None
    button: ButtonTable | None = None
    web: WebTable = WebTable()
    simulation: SimulationTable | None = None
    sensors: tuple[SensorTable, ...]
    notes: tuple[str, ...] = ()
    """Remarks on settings that are valid but may surprise, one sentence each."""
    remarks: tuple[str, ...] = ()
    """Remarks on settings that work but have a better spelling, one sentence each."""
    stands_in_for: str = ""
    """The problem of the newest configuration, if this one is an older copy in its place."""

    @property
    def has_alarms(self) -> bool:
        return any(True for sensor in self.sensors for _ in sensor.alarms)

    @property
    def useful_commands(self) -> tuple[CommandName, ...]:
        """Return the commands that are allowed, and that have something to do."""
        has_use = {
            "acknowledge": self.has_alarms,
            "sign": self.outbox.chain,
            "update": self.has_update_key,
        }
        return tuple(name for name in self.commands.allow if has_use.get(name, True))

    @property
    def has_update_key(self) -> bool:
        """Return whether a publisher's key is there, without which no update is taken from afar."""
        folder = self.source.parent / "update-keys"
        try:
            return any(name.endswith(".pub") for name in os.listdir(folder))
        except OSError:
            return False

    def notes_for(self, *, simulate: bool) -> tuple[str, ...]:
        """Return the notes; without `simulate` also one on settings without effect."""
        if self.simulation is None or simulate:
            return self.notes
        return (*self.notes, "[simulation] has no effect without --simulate")

    def private_files(self) -> list[Path]:
        """Return the files that are for the node alone: itself, passwords and keys among them."""
        of_page = self.web.password_file
        files = [self.source, *self.named_files().values()]
        return files if of_page is None else [*files, of_page]

    def named_files(self) -> dict[str, Path]:
        """Return the files that the configuration names, by key."""
        named: dict[str, Path | None] = {"password_file": self.mqtt.password_file}
        if self.mqtt.tls is not None:
            named |= self.mqtt.tls.files
        return {key: file for key, file in named.items() if file is not None}
