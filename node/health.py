"""The node's report on itself: the payload of the health topic, and of `sensor-node status`.

A field is one row: its type, its default, and in `Shown` how it is shown. Home Assistant's
discovery, `/metrics`, the page and `status` read the rows. Every field has a default, so that the
health of an older node can be read. Unknown fields of a newer node are ignored.
"""

import functools
from typing import Annotated

import msgspec

from node.reading import Reading
from node.system.clock import Clock
from node.units import duration_text

__all__ = [
    "AlarmHealth",
    "Health",
    "SensorHealth",
    "Shown",
    "UpdateHealth",
    "age_of",
    "alarm_texts",
    "backlog_text",
    "host_texts",
    "shown_fields",
    "update_text",
]


LATE_S = 30.0
"""A reading is normally sent with the next history; this much later, something delays it."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """How a field of `Health` is shown; "" and None leave the respective part out."""

    name: str
    """The name for people, as in the middle of a line."""
    unit: str = ""
    decimals: int | None = None
    component: str = ""
    """The key of its component in Home Assistant's discovery."""
    device_class: str = ""
    """Home Assistant's, which goes with the unit; for a value that is true or false, `problem`."""
    state_class: str = "measurement"
    """Home Assistant's; `total_increasing` is a counter in `/metrics`, too."""
    metric: str = ""
    """Its name in `/metrics`, without `sensor_node_`; "" if the log has a fresher value."""
    help: str = ""
    """Its help text in `/metrics`."""
    of_host: bool = False
    """Whether it is a field of `Vitals`: null and not shown if this computer does not report it."""

    @property
    def is_problem(self) -> bool:
        """Return whether it is a truth value for which true means a problem."""
        return self.device_class == "problem"


class AlarmHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One alarm, as its topic has it."""

    state: str = "unknown"
    """on, off, or unknown: without a current value nothing says that it is off."""
    acknowledged: bool = False
    condition: str | None = None
    """What it is or was on for: above, below, rate or no_value. None if it never was."""
    limit: float | None = None
    unit: str | None = None
    """The unit of the limit."""
    value: float | None = None
    since: str | None = None
    clock: str | None = None

    def __str__(self) -> str:
        if self.state != "on":
            return self.state
        limit = "" if self.limit is None else f" {self.limit:g} {self.unit}"
        value = "" if self.value is None else f", {self.value:g}"
        seen = ", acknowledged" if self.acknowledged else ""
        unset = "" if self.clock == "synced" else "?"
        return f"{self.condition}{limit}{value}, since {self.since}{unset}{seen}"


class UpdateHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Updates from afar; see `node.updates`."""

    state: str = "idle"
    text: str = ""
    """What there is to say about it."""
    installed_version: str = ""
    latest_version: str = ""
    """The version that was offered; without one, the version that runs."""
    in_progress: bool = False
    update_percentage: int | None = None
    bundle: str = ""
    """The SHA-256 of the bundle that was offered."""


class SensorHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One sensor; the counts are since the node was started."""

    online: bool = False
    ok: int = 0
    """Reads that gave a value."""
    failed: int = 0
    """Reads that failed."""
    rejected: int = 0
    """Values that a filter rejected."""
    rejected_for: dict[str, int] = {}
    """The same by reason."""
    last_error: str | None = None
    alarms: dict[str, AlarmHealth] = {}
    accuracy: dict[str, float] = {}
    """Channel -> how far its newest value may be off, in its unit; see `node.uncertainty`."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of `B/N/health`."""

    node: str = ""
    process: int = 0
    version: str = ""
    config: str = ""
    """The digest of the configuration file that the node was started with; see `schema.Config`."""
    configuration_problem: str = ""
    """Why the node runs on the last good configuration; `problems` contains it, too."""
    name_problem: str = ""
    """That another node has this name; `problems` contains it, too."""
    time: str = ""
    clock: str = "unsynced"
    simulated: bool = False
    """The hardware is not real, so no reading is."""
    uptime_s: Annotated[
        int,
        Shown(
            name="uptime",
            unit="s",
            decimals=0,
            metric="uptime_seconds",
            help="Time since the node was started, as last recorded.",
        ),
    ] = 0
    started: Annotated[
        str | None,
        Shown(
            # As Home Assistant names such a time: it is shown as "12 hours ago", and it does not
            # add a row to its database with each health.
            name="uptime",
            component="uptime",
            device_class="timestamp",
            state_class="",
        ),
    ] = None
    """When the node was started; the same text until the clock is set."""
    cpu_temperature: Annotated[
        float | None,
        Shown(
            name="processor temperature",
            unit="°C",
            decimals=1,
            component="cpu_temperature",
            device_class="temperature",
            metric="cpu_temperature_celsius",
            help="The temperature of the processor.",
            of_host=True,
        ),
    ] = None
    wifi_dbm: Annotated[
        int | None,
        Shown(
            name="Wi-Fi signal",
            unit="dBm",
            component="wifi",
            device_class="signal_strength",
            metric="wifi_signal_dbm",
            help="The level of the radio's signal.",
            of_host=True,
        ),
    ] = None
    under_voltage: Annotated[
        bool | None,
        Shown(
            name="under-voltage",
            component="under_voltage",
            device_class="problem",
            metric="under_voltage",
            help="Whether the supply is too weak.",
            of_host=True,
        ),
    ] = None
    throttled: Annotated[
        bool | None,
        Shown(
            name="throttled",
            component="throttled",
            device_class="problem",
            metric="throttled",
            help="Whether the supply or heat slows the processor down.",
            of_host=True,
        ),
    ] = None
    broker: str = ""
    """The state of the connection to the broker, in words."""
    connected: bool = False
    mqtt_version: str | None = None
    """5 or 3.1.1; None without a connection."""
    server: str = ""
    """The address of the present broker, if the configured one has sent the node there."""
    short_connections: int = 0
    """Consecutive connections, up to now, that were lost soon after they were made."""
    outbox_readings: Annotated[int, Shown(name="readings to be sent", component="outbox")] = 0
    """Readings that the broker has not acknowledged."""
    outbox_oldest_s: float | None = None
    """The age of the oldest of them; 0 without any, null if it is not known."""
    history_interval_s: float = 60.0
    """How often readings are sent as history; younger readings only wait for their turn."""
    read: int = 0
    """Reads that gave a value, of all sensors."""
    rejected: Annotated[
        int,
        Shown(name="rejected values", component="rejected", state_class="total_increasing"),
    ] = 0
    """Values that a filter rejected, of all sensors."""
    alarms: int = 0
    """How many alarms are on."""
    stream: str = ""
    """The stream of the readings to come."""
    seq: int = 0
    """The number of the newest reading."""
    chain_seq: int | None = None
    """The last reading that the log has chained; None if it is not chained."""
    chain_hash: str | None = None
    """Its hash; see `outbox.chain`."""
    committed: int = 0
    """Readings written to the log."""
    sent: int = 0
    """Readings that the broker has acknowledged."""
    dropped_readings: int = 0
    """Readings dropped because the log was full, in the life of the log."""
    dead_letters: int = 0
    """Messages that the broker rejected, in the life of the log."""
    update: UpdateHealth | None = None
    """None if the node takes no updates from afar."""
    problems: list[str] = []
    """The problems of the node itself."""
    sensors: dict[str, SensorHealth] = {}


@functools.cache
def shown_fields() -> dict[str, Shown]:
    """Return the fields of `Health` that are shown, each with its row."""
    return {
        name: row
        for name, hint in Health.__annotations__.items()
        for row in getattr(hint, "__metadata__", ())
        if isinstance(row, Shown)
    }


def alarm_texts(health: Health) -> list[str]:
    """Return the alarms that are on, in words: "freezer/too-warm: above -15 °C, -12.3, ..."."""
    return [
        f"{sensor}/{name}: {alarm}"
        for sensor, one in health.sensors.items()
        for name, alarm in one.alarms.items()
        if alarm.state == "on"
    ]


def host_texts(health: Health) -> list[tuple[str, str]]:
    """Return the known facts of the computer: name and value, in words."""
    texts = []
    for field, shown in shown_fields().items():
        value = getattr(health, field)
        if shown.of_host and value is not None:
            text = ("no", "yes")[value] if shown.is_problem else f"{value:.{shown.decimals or 0}f}"
            texts.append((shown.name, f"{text} {shown.unit}".rstrip()))
    return texts


def update_text(update: UpdateHealth | None) -> str:
    """Describe the updates from afar: "fetching, 20 %: ..."; "" if there is nothing to say."""
    if update is None or not update.text:
        return ""
    percent = "" if update.update_percentage is None else f", {update.update_percentage} %"
    return f"{update.state}{percent}: {update.text}"


def backlog_text(unsent: int, oldest_s: float | None, health: Health | None) -> str:
    """Describe the unsent readings, and whether that is normal: "4 readings to be sent, ..."."""
    text = f"{unsent} reading{'' if unsent == 1 else 's'} to be sent"
    if not unsent:
        return text
    age = "?" if oldest_s is None else duration_text(oldest_s)
    text += f", the oldest {age} old"
    if health is None:
        return text
    if not health.connected:
        return f"{text}: waiting for the broker"
    every = f"history is sent every {duration_text(health.history_interval_s)}"
    if oldest_s is None or oldest_s <= health.history_interval_s + LATE_S:
        return f"{text} ({every})"
    return f"{text}: late, because {every}"


def age_of(reading: Reading, clock: Clock) -> float | None:
    """Return how long ago a reading was taken, in seconds: by the time since boot, else by date.

    None if neither is known.
    """
    if reading.boot_id == clock.boot_id:
        return round(max(0.0, clock.boot_s() - reading.boot_ms / 1000), 1)
    if reading.synced and clock.synced():
        return round(max(0.0, clock.utc_s() - reading.utc_ms / 1000), 1)
    return None
