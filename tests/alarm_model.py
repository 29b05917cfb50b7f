"""A node's alarms through outages, in simulated time, with simulated sensors and broker.

The scheduler, the filters, the log and the reporter are those of the node.

`World.live(outages)` lets readings pass and disturbs them: the process is killed between any two
steps and within a commit, restarted in good order, or loses its broker with messages in flight; the
computer is booted with a clock that is not set; the clock is stepped; sensors fail. `World.faults`
compares what a consumer has then, which drops what it has seen by (stream, seq), with an evaluation
of the readings by a few lines that share nothing with the node, and checks the chain of hashes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from unittest import mock

from support import FakeClock

from drivers.base import TEMPERATURE
from drivers.errors import SensorTimeout
from drivers.sim.board import SimulatedBoard
from node.config.load import load
from node.homeassistant.announcer import Announcer
from node.mqtt.connection import Change
from node.mqtt.events import Acknowledged, Outgoing
from node.mqtt.publisher import Publisher
from node.mqtt.retained_topics import RetainedTopics
from node.outbox.file import OutboxFile
from node.outbox.outbox import Outbox
from node.outbox.proof import Head, check_export, check_log, stored_from
from node.outbox.reader import look_into
from node.outbox.store import FILE_NAME
from node.reading import ReadOutcome
from node.report.reporter import Reporter
from node.sensors.port import SensorPort
from node.sensors.scheduler import AvailabilityChanged, Measured, Scheduler, SensorEvent
from node.sensors.sensor import Sensor
from node.sensors.workers import ReadDone

STEP_S = 10.0
NO_VALUE_S = 150.0
_EPOCH_S = 1_790_000_000.0
"""When a `FakeClock` begins, in seconds since 1970."""
HELD_S = 60.0
CONFIG = f"""
[node]
name = "n"
[mqtt]
host = "127.0.0.1"
[homeassistant]
enabled = false
[outbox]
history_interval = "20s"
chain = true
[[sensor]]
id = "a"
driver = "sysfs"
path = "/a"
interval = {STEP_S}
[sensor.channel.temperature]
[[sensor.channel.temperature.alarm]]
name = "band"
above = 8
below = 2
hysteresis = 0.5
[[sensor.channel.temperature.alarm]]
name = "held"
above = 8
for = {HELD_S}
[[sensor]]
id = "b"
driver = "sysfs"
path = "/b"
interval = {STEP_S}
[sensor.channel.temperature]
[[sensor.channel.temperature.alarm]]
name = "band"
above = 8
[[sensor.channel.temperature.alarm]]
name = "silent"
no_value = {NO_VALUE_S}
"""


POINTS = (
    "between readings",
    "before the commit",
    "within the commit",
    "after the commit",
    "after publishing",
    "between acknowledgements",
)
"""Where the process may be killed in a turn."""
OTHER_OUTAGES = ("clean restart", "no broker", "boot", "clock stepped", "broker")


class Killed(BaseException):
    """The process ends here, and nothing of it runs any more."""


class Broker:
    """What a broker has retained, and what one consumer of it has got."""

    def __init__(self) -> None:
        self.retained: dict[str, dict[str, Any]] = {}
        self.rows: dict[tuple[str, int], dict[str, Any]] = {}
        """(stream, seq) -> the reading or record, as it came first."""
        self.again = 0
        self.conflicts: list[str] = []

    def take(self, message: Outgoing) -> None:
        if message.topic == "sensors/n/history":
            batch = json.loads(message.payload)
            for row in batch["readings"]:
                self._take_row((batch["stream"], row["seq"]), row)
        elif "/alarm/" in message.topic:
            self.retained[message.topic.removeprefix("sensors/n/")] = json.loads(message.payload)

    def _take_row(self, key: tuple[str, int], row: dict[str, Any]) -> None:
        before = self.rows.setdefault(key, row)
        self.again += before is not row
        if before != row:
            self.conflicts.append(f"{key} came as {before} and as {row}")


class Link:
    """The node's side of the connection; messages stay in flight until `deliver`."""

    window, generation, max_packet_bytes = 20, 1, 1 << 28
    connected = was_short_lived = was_too_fast = False
    guarded, mqtt_version, short_connections, described = True, "5", 0, "simulated"
    problem = server = ""

    def __init__(self) -> None:
        self.in_flight: list[tuple[int, Outgoing]] = []
        self._last = 0

    def publish(self, message: Outgoing) -> int:
        self._last += 1
        self.in_flight.append((self._last, message))
        return self._last

    def listen_also(self, topics: object) -> None: ...

    def ignore(self, *topics: object) -> None: ...

    def hurry(self, waiting: bool) -> None: ...

    def disconnect(self, timeout_s: float) -> None:
        self.connected = False


class Workers:
    """Keeps which sensors are to be read; the world answers for them."""

    begins_reads, next_look_s = False, float("inf")

    def __init__(self) -> None:
        self.asked: list[SensorPort] = []

    def submit(self, port: SensorPort) -> None:
        self.asked.append(port)

    def dispatch(self, now_s: float) -> None: ...

    def help_out(self, now_s: float) -> None: ...

    def bus_free(self, bus: str) -> None: ...


class Life:
    """One process of the node."""

    def __init__(self, world: World) -> None:
        config, clock = load(world.config), world.clock
        board = SimulatedBoard(clock)
        self.clock = clock
        self.link = cast("Any", Link())
        self.outbox = Outbox(world.folder, config.outbox, clock)
        self.publisher = Publisher(
            self.link, status_topic="sensors/n/status", refused=self.outbox.refused
        )
        sensors = {table.id: Sensor(table, board, clock) for table in config.sensors}
        self.workers = cast("Any", Workers())
        self.scheduler = Scheduler(sensors, clock, workers=self.workers)
        announcer = Announcer(
            config,
            board,
            clock,
            device="n",
            is_first=True,
            part=lambda: False,
            keys={name: name for name in sensors},
            sensors=list(sensors.values()),
            publisher=self.publisher,
            published=frozenset,
            has_led=lambda: False,
        )
        self.reporter = Reporter(
            config,
            board,
            clock,
            link=self.link,
            outbox=self.outbox,
            publisher=self.publisher,
            announcer=announcer,
            retained=RetainedTopics(None, "sensors/n"),
            device="n",
            sensors=list(sensors.values()),
            warnings=None,
            act=world.acted,
        )
        self.scheduler.start(clock.monotonic())
        self.reporter.start(clock.monotonic())

    def hand_on(self, events: list[SensorEvent]) -> None:
        for event in events:
            if isinstance(event, Measured):
                self.reporter.measured(event)
            elif isinstance(event, AvailabilityChanged):
                self.reporter.availability_changed(event.sensor)

    def connect(self) -> None:
        self.link.connected = True
        self.reporter.link_changed(Change.UP)
        self.reporter.heard_all()

    def lose_link(self) -> None:
        self.link.connected = False
        self.link.in_flight.clear()
        self.reporter.link_changed(Change.DOWN)

    def abandon(self) -> None:
        """Leave the file as a killed process does: an open transaction is undone."""
        file = self.outbox._store._file
        if file is not None:
            file.close()


class World:
    """Sensors, a clock, a broker, and the lives of a node."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.config = folder / "node.toml"
        self.config.write_text(CONFIG)
        self.random = random.Random(seed)
        self.clock = FakeClock()
        self.broker = Broker()
        self.values = {"a": 5.0, "b": 5.0}
        self.mode = {"a": "calm", "b": "calm"}
        self.failing: set[str] = set()
        self.acts = 0
        self.kinds: Counter[str] = Counter()
        """How often each outage was tried."""
        self._kill_in_commit = 0
        self._unset_steps = 0
        self.boots: list[float] = []
        """When the computer was booted, in seconds since 1970."""
        self.true_s = 0.0
        self.life = Life(self)
        self.life.connect()

    def acted(self, act: object) -> None:
        self.acts += 1

    # -- one turn of the loop, as in node/loop.py

    def step(self, *, kill_at: str = "") -> None:
        """Let `STEP_S` pass, with a read of each sensor; kill the process at a point of it."""
        self.clock.now_s += STEP_S
        self.clock.wall_s += STEP_S
        self.true_s += STEP_S
        if self._unset_steps:
            self._unset_steps -= 1
            if not self._unset_steps:
                self.clock.wall_s, self.clock.in_sync = _EPOCH_S + self.true_s, True
        try:
            self._turn(kill_at)
        except Killed:
            self.restart()

    def _turn(self, kill_at: str) -> None:
        life, now_s = self.life, self.clock.monotonic()

        def point(name: str) -> None:
            if name == kill_at:
                raise Killed

        life.hand_on(life.scheduler.run_due())
        life.reporter.publish_due(now_s)
        asked, life.workers.asked = life.workers.asked, []
        for port in asked:
            life.hand_on(
                life.scheduler.read_ended(ReadDone(self._read(port.sensor), port.bus, True))
            )
            point("between readings")
        point("before the commit")
        if kill_at == "within the commit":
            self._kill_in_commit = self.random.randint(1, 3)
        with self._commit_that_may_be_killed():
            life.reporter.save(now_s)
        point("after the commit")
        life.reporter.publish_due(now_s)
        point("after publishing")
        self._deliver(half=kill_at == "between acknowledgements")
        point("between acknowledgements")
        for _ in range(3):
            life.reporter.publish_due(now_s)
            self._deliver()

    def _commit_that_may_be_killed(self) -> Any:
        real, left = OutboxFile._write_alarms, self._kill_in_commit
        self._kill_in_commit = 0
        if not left:
            return contextlib.nullcontext()

        def write(file: OutboxFile, states: dict[str, str]) -> None:
            if left > 1:
                real(file, states)
            if states:
                raise Killed

        return mock.patch.object(OutboxFile, "_write_alarms", write)

    def _deliver(self, *, half: bool = False) -> None:
        """Let the broker take what is in flight, in order, and acknowledge it; or only a part."""
        link, generation = self.life.link, self.life.link.generation
        if not link.connected:
            return
        count = self.random.randint(0, len(link.in_flight)) if half else len(link.in_flight)
        taken = self.random.randint(count, len(link.in_flight)) if half else count
        for _, message in link.in_flight[:taken]:
            self.broker.take(message)  # of some of which the acknowledgement is lost
        for message_id, _ in link.in_flight[:count]:
            self.life.publisher.acknowledged(Acknowledged(generation, message_id, None))
        del link.in_flight[:taken]

    def _read(self, sensor: str) -> ReadOutcome:
        clock, failed = self.clock, sensor in self.failing
        return ReadOutcome(
            sensor=sensor,
            started_s=clock.now_s,
            ended_s=clock.now_s,
            boot_s=clock.now_s,
            utc_s=clock.wall_s,
            synced=clock.in_sync,
            measurement=None if failed else {"temperature": self._value(sensor)},
            channels=() if failed else (TEMPERATURE,),
            error=SensorTimeout("nothing", "try again") if failed else None,
        )

    def _value(self, sensor: str) -> float:
        draw = self.random
        if draw.random() < 0.15:
            self.mode[sensor] = draw.choice(["calm", "warm", "cold", "flapping", "near"])
        match self.mode[sensor]:
            case "calm":
                value = draw.uniform(3, 7)
            case "warm":
                value = draw.uniform(8.1, 12)
            case "cold":
                value = draw.uniform(-2, 1.9)
            case "flapping":
                value = draw.choice([7.9, 8.1])
            case _:
                value = draw.uniform(7.3, 8.3)
        return round(value, 1)

    # -- outages

    def live(self, outages: int) -> None:
        """Go through so many outages, some readings apart, and then through a quiet time."""
        for _ in range(outages):
            for _ in range(self.random.randint(0, 8)):
                self._disturb_a_little()
                self.step()
            self._outage()
        self.failing.clear()
        self.mode = {"a": "calm", "b": "calm"}
        if not self.life.link.connected:
            self.life.connect()
        for _ in range(40):
            self.step()
        while self.life.reporter.send_unwritten():
            self._deliver()

    def _disturb_a_little(self) -> None:
        draw = self.random
        if draw.random() < 0.05:
            self.failing.symmetric_difference_update({draw.choice(["a", "b"])})
        if draw.random() < 0.05 and self.life.reporter.alarms is not None:
            self.life.reporter.alarms.acknowledge()
        if draw.random() < 0.1 and not self.life.link.connected:
            self.life.connect()

    def _outage(self) -> None:
        draw = self.random
        kind = draw.choice([*POINTS, *OTHER_OUTAGES])
        self.kinds[kind] += 1
        if kind in POINTS:
            self.step(kill_at=kind)
        elif kind == "clean restart":
            self.life.reporter.say_goodbye()
            self._deliver()
            self.life.reporter.close()
            self.restart()
        elif kind == "no broker":
            self.life.lose_link()
            for _ in range(draw.randint(1, 40)):
                self.step()
            self.life.connect()
        elif kind == "broker":
            self._deliver(half=True)
            self.life.lose_link()
        elif kind == "boot":
            self.boot(draw.choice([20.0, 400.0]), without_clock_steps=draw.randint(1, 9))
        else:
            self.clock.wall_s += draw.choice([-3.0, 3.0])

    def boot(self, away_s: float, *, without_clock_steps: int) -> None:
        """Have the computer off for a while; after that its clock is not set at first."""
        self.true_s += away_s
        self.boots.append(_EPOCH_S + self.true_s)
        self.clock.now_s, self.clock.boot_id = 5.0, f"boot {len(self.boots)}"
        self.clock.wall_s, self.clock.in_sync = 1_700_000_000.0, False
        self._unset_steps = without_clock_steps
        self.restart()

    def restart(self) -> None:
        self.life.abandon()
        self.life = Life(self)
        if self.random.random() < 0.8:
            self.life.connect()

    # -- what must have come of it

    def faults(self) -> list[str]:
        """Compare the consumer's rows with what they should be; return every difference."""
        rows = [row for _, row in sorted(self.broker.rows.items())]
        faults = list(self.broker.conflicts)
        streams = {stream for stream, _ in self.broker.rows}
        if len(streams) != 1:
            faults.append(f"there are {len(streams)} streams")
        seqs = [row["seq"] for row in rows]
        if seqs != list(range(1, len(seqs) + 1)):
            faults.append("a reading is missing")
        for sensor, name in (("a", "band"), ("a", "held"), ("b", "band"), ("b", "silent")):
            mine = [row for row in rows if row["sensor"] == sensor]
            faults += [f"{sensor}/{name}: {fault}" for fault in _faults_of(mine, name)]
            records = [row for row in mine if row.get("alarm", {}).get("name") == name]
            faults += [
                f"{sensor}/{name}: {fault}"
                for fault in _topic_faults(self.broker.retained[f"{sensor}/alarm/{name}"], records)
            ]
        for sensor in ("a", "b"):
            mine = [row for row in rows if row["sensor"] == sensor]
            faults += [f"{sensor}: {fault}" for fault in _expected(mine, sensor)]
        faults += _silence_faults([row for row in rows if row["sensor"] == "b"], self.boots)
        return faults + self._chain_faults()

    def _chain_faults(self) -> list[str]:
        """What `verify` says of the log, and of what the consumer has."""
        head = self.life.outbox.chain_head
        assert head is not None
        known = Head(head[0], head[1].hex())
        self.life.abandon()
        log = look_into(self.folder / FILE_NAME, lambda log: check_log(log, known))
        stored = [stored_from(stream, row) for (stream, _), row in self.broker.rows.items()]
        export = check_export(stored, known)
        covered = log.checked + log.unchained == len(stored) == export.checked + export.unchained
        few = export.unchained < 10 and log.unchained == 0
        return [
            *(f"verify, log: {fault}" for fault in log.faults),
            *(f"verify, export: {fault}" for fault in export.faults),
            *(() if covered and few else (f"verify: {log} {export}",)),
        ]

    @property
    def records(self) -> int:
        return sum("alarm" in row for row in self.broker.rows.values())


def _faults_of(rows: list[dict[str, Any]], name: str) -> list[str]:
    """An alarm goes on and off in turn, and is acknowledged while it is on."""
    faults, state = [], "off"
    for row in rows:
        alarm = row.get("alarm")
        if alarm is None or alarm["name"] != name:
            continue
        now = "acknowledged" if alarm["acknowledged"] else alarm["state"]
        condition = alarm["condition"]
        allowed = {"off": ["on"], "acknowledged": ["off", "on"]}.get(
            state.partition(" ")[0], ["off", "acknowledged", "on"]
        )
        repeated = now == "on" and state.endswith(condition)
        if now not in allowed or repeated:
            faults.append(f"{now} at {row['seq']} after {state}")
        state = now if now == "off" else f"{now} {condition}"
    return faults


def _expected(rows: list[dict[str, Any]], sensor: str) -> list[str]:
    """The records of an alarm without `for` follow from the readings, one by one."""
    faults, state = [], ""
    held_since: int | None = None
    held = False
    for index, row in enumerate(rows):
        if "alarm" in row:
            continue
        value, slack = row["temperature"], 0.5 if sensor == "a" else 0.0
        wanted = ""
        if value > 8 - (slack if state == "above" else 0):
            wanted = "above"
        elif sensor == "a" and value < 2 + (slack if state == "below" else 0):
            wanted = "below"
        found = [r["alarm"] for r in _records_after(rows, index) if r["alarm"]["name"] == "band"]
        decided = [r for r in found if not r["acknowledged"] and r["value"] == value]
        if (wanted != state) != bool(decided):
            faults.append(f"{len(decided)} records at {row['seq']}, from {state!r} to {wanted!r}")
        elif decided and (decided[0]["state"] == "on") != bool(wanted):
            faults.append(f"the wrong record at {row['seq']}")
        state = wanted
        if sensor == "a":
            changes = [
                r["alarm"]
                for r in _records_after(rows, index)
                if r["alarm"]["name"] == "held" and not r["alarm"]["acknowledged"]
            ]
            if value <= 8:
                if held != bool(changes):
                    faults.append(f"held does not end at {row['seq']}")
                held, held_since = False, None
            else:
                held_since = index if held_since is None else held_since
                beyond = [r for r in rows[held_since : index + 1] if "alarm" not in r]
                # A pause between readings counts too, so fewer of them may be enough.
                soon = (len(beyond) - 1) * STEP_S < HELD_S - 1 and not _has_pause(beyond)
                if changes and (held or soon):
                    faults.append(f"held is on too soon, or again, at {row['seq']}")
                held |= bool(changes)
                if not held and (len(beyond) - 1) * STEP_S >= HELD_S and not _has_pause(beyond):
                    faults.append(f"held is not on at {row['seq']}, in spite of a restart")
    return faults


def _silence_faults(rows: list[dict[str, Any]], boots: list[float]) -> list[str]:
    """`no_value` comes in each long silence, once, and in no short one.

    A process that ends takes nothing along, because the log has the last value. After a boot it
    is known once the clock is set.
    """
    faults = []
    last_s, last_seq, seen = None, 0, 0
    for row in rows:
        at_s, alarm = _time_of(row), row.get("alarm")
        if alarm is not None:
            is_it = alarm["name"] == "silent" and alarm["state"] == "on"
            if is_it and not alarm["acknowledged"]:
                seen += 1
                if last_s is not None and at_s - last_s < NO_VALUE_S - 10:
                    faults.append(f"b/silent: on at {row['seq']}, {at_s - last_s} s after a value")
            continue
        if last_s is not None:
            booted = any(last_s - 10 < boot_s < at_s + 10 for boot_s in boots)
            longest_s = NO_VALUE_S + 2 * STEP_S + 30
            if seen > 1 or (not seen and not booted and at_s - last_s > longest_s):
                gap = f"{at_s - last_s} s from {last_seq} to {row['seq']}"
                faults.append(f"b/silent: {seen} alarms in {gap}")
        last_s, last_seq, seen = at_s, row["seq"], 0
    return faults


def _time_of(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["time"]).timestamp()


def _has_pause(rows: list[dict[str, Any]]) -> bool:
    """Whether a reading is missing between some of the rows, or their times are not right."""
    times = [_time_of(row) for row in rows]
    steps = [after - before for before, after in itertools.pairwise(times)]
    return any(abs(step - STEP_S) > 0.5 for step in steps)


def _records_after(rows: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    """The records between a reading of a sensor and its next one."""
    found = []
    for row in rows[index + 1 :]:
        if "alarm" not in row:
            break
        found.append(row)
    return found


def _topic_faults(payload: dict[str, Any], records: list[dict[str, Any]]) -> list[str]:
    """The retained message is that of the last record."""
    if not records:
        return [] if payload["seq"] is None else ["its topic names a record that never came"]
    last = records[-1]
    if payload["seq"] != last["seq"] or payload["state"] != last["alarm"]["state"]:
        return [f"its topic has {payload}, and the last record is {last}"]
    return []
