"""Every committed reading reaches the broker, in order, whatever is killed, cut or frozen."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from support import (
    CONNECT,
    PATIENCE_S,
    PINGREQ,
    PUBLISH,
    FakeClock,
    Mosquitto,
    NodeProcess,
    Proxy,
    ScriptedBroker,
    Subscriber,
    dead_letters,
    ledger_in,
    puback,
    published_topic,
    retained,
    running,
    sysfs_config,
    taken_s,
    wait_until,
)

from node.config.schema import OutboxTable
from node.outbox.outbox import Outbox
from node.reading import Layout
from node.system.clock import utc_text

SAVED_AT_ONCE = (
    "persistence true",
    "autosave_on_changes true",
    "autosave_interval 1",
    "max_queued_messages 0",
)

MOVES_THE_CURSOR_AT_PUBLISH = """
import sys
from node.report.history import History
from node.outbox.outbox import Outbox

send = History._send

def send_and_forget(self, batch):
    after_seq = self._position
    send(self, batch)
    self._outbox.acknowledge(after_seq + 1, self._position)

History._send = send_and_forget
from node.cli.main import main
sys.exit(main())
"""


def ten_files(folder: Path) -> dict[str, Path]:
    files = {f"s{number}": folder / f"temp{number}" for number in range(10)}
    for number, file in enumerate(files.values()):
        file.write_text(f"{20000 + 100 * number}\n")
    return files


def with_outbox(config: str, **keys: Any) -> str:
    table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    return f"{config}\n[outbox]\n{table}"


def persistent_broker(folder: Path, *, port: int | None = None) -> Mosquitto:
    folder.mkdir(exist_ok=True)
    return Mosquitto(folder, *SAVED_AT_ONCE, f"persistence_location {folder}/", port=port)


def stored_seqs(node: NodeProcess) -> tuple[int, int]:
    """(last_seq, cursor) in the log of a node that does not run."""
    outbox = Outbox(node.state_dir, OutboxTable(), FakeClock())
    try:
        return outbox.last_seq, outbox.cursor
    finally:
        outbox.close()


def mistreat(
    folder: Path, *, kills: int, every: int = 5, program: tuple[str, ...] | None = None
) -> tuple[Subscriber, int]:
    """Kill -9 of the node, each fifth time of the broker, while 20 readings a second are made.

    `every`: another number for each fifth.

    Returns what a subscriber with a persistent session has seen, and the last committed seq.
    """
    chance = random.Random(25)
    mosquitto = persistent_broker(folder / "broker").start()
    subscriber = Subscriber(mosquitto.port, session="archive")
    subscriber.client.reconnect_delay_set(0.1, 0.1)  # type: ignore[arg-type]
    config = with_outbox(
        sysfs_config(mosquitto.port, ten_files(folder), interval="0.5s"), history_interval="0.25s"
    )
    options: dict[str, Any] = {"program": program} if program else {}
    node = NodeProcess(folder, config, **options)
    try:
        for round_number in range(kills):
            time.sleep(chance.uniform(0.3, 1.2))
            if round_number % every == every - 1:
                node.wait_for_log("connected to")
                # Its first words fill the window: while they do, no history is sent.
                batches = len(subscriber.on("sensors/test/history"))
                wait_until(partial(has_batches, subscriber, batches + 1))
                mosquitto.freeze()
                # Until some is in flight: history follows each of these ticks in 0.25 s.
                upto = ledger_in(node.state_dir).last_seq + 20
                wait_until(partial(has_committed, node.state_dir, upto))
                time.sleep(chance.uniform(0.1, 0.4))
                mosquitto.stop(signal.SIGKILL)
                time.sleep(0.2)
                mosquitto = persistent_broker(folder / "broker", port=mosquitto.port).start()
                time.sleep(1.5)
            node.kill()
            node = NodeProcess(folder, config, **options)
        node.wait_for_log("connected to")
        time.sleep(2)
        node.terminate()
        first_of_final = stored_seqs(node)[0] + 1
        node = NodeProcess(folder, config, **options)
        wait_until(lambda: newest_seq(subscriber) > first_of_final, what="the last node sends")
        node.terminate()
        last_seq, _ = stored_seqs(node)
        wait_until(lambda: last_seq - newest_seq(subscriber) <= 20, what="the end arrives")
    finally:
        node.kill()
        subscriber.close()
        mosquitto.stop()
    return subscriber, last_seq


def has_committed(state_dir: Path, upto: int) -> bool:
    last_seq: int = ledger_in(state_dir).last_seq
    return last_seq >= upto


def has_batches(subscriber: Subscriber, count: int) -> bool:
    return len(subscriber.on("sensors/test/history")) >= count


def newest_seq(subscriber: Subscriber) -> int:
    """The newest reading that has come as history."""
    return max((reading["seq"] for reading in subscriber.history()), default=0)


def published_seqs(subscriber: Subscriber, topic: str) -> list[int]:
    """As the node published them: what a broker kept may be older, when it was killed."""
    messages = list(subscriber.messages)
    return [json.loads(text)["seq"] for name, text, kept in messages if name == topic and not kept]


def gaps(readings: list[dict[str, Any]]) -> list[int]:
    seen = {reading["seq"] for reading in readings}
    return sorted(set(range(1, max(seen) + 1)) - seen)


@pytest.mark.real_time(seconds=40)
def test_no_reading_is_lost_by_killing_the_node_or_the_broker(tmp_path):
    subscriber, last_seq = mistreat(tmp_path, kills=25)
    readings = subscriber.history()
    assert gaps(readings) == []
    assert len({reading["stream"] for reading in readings}) == 1
    assert max(reading["seq"] for reading in readings) >= last_seq - 20, "up to the very end"
    by_seq: dict[int, list[dict[str, Any]]] = {}
    for reading in readings:
        by_seq.setdefault(reading["seq"], []).append(reading)
    for seq, copies in by_seq.items():
        assert all(copy == copies[0] for copy in copies), f"{seq} was given to two readings"
    newest = 0
    for reading in readings:
        # 60 or so have been made since the last acknowledgement; on a busy machine it takes longer.
        assert reading["seq"] > newest - 300, "a duplicate of what was in flight, and no older one"
        newest = max(newest, reading["seq"])
    duplicates = sum(len(copies) - 1 for copies in by_seq.values())
    assert duplicates < 31 * 40
    for number in range(10):
        states = published_seqs(subscriber, f"sensors/test/s{number}/state")
        assert states == sorted(states), "a retained topic went backwards"


@pytest.mark.real_time(seconds=20)
def test_control_moving_the_cursor_at_publish_loses_readings(tmp_path):
    """Negative control of the test above: the same treatment finds the gaps."""
    program = (sys.executable, "-c", MOVES_THE_CURSOR_AT_PUBLISH)
    subscriber, _ = mistreat(tmp_path, kills=10, every=2, program=program)
    assert gaps(subscriber.history())


# -- outages

OUTAGE_S = 60.0


class Outage:
    """One node and one broker, and something between them that goes wrong for a minute."""

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir()
        self.kind = kind
        self.folder = folder
        self.broker = persistent_broker(folder).start()
        self.proxy = Proxy(self.broker.port) if kind in ("cut", "blackholed") else None
        self.subscriber = Subscriber(self.broker.port, session="archive")
        self.subscriber.client.reconnect_delay_set(0.1, 0.1)  # type: ignore[arg-type]
        port = self.proxy.port if self.proxy else self.broker.port
        config = sysfs_config(port, ten_files(folder), interval="1s")
        self.node = NodeProcess(folder, with_outbox(config, history_interval="5s"))
        self.back_s = 0.0
        self.seen_since = 0
        """A reading that was published after the outage."""

    def begin(self) -> None:
        if self.kind == "down":
            self.broker.stop()
        elif self.kind == "killed":
            self.broker.stop(signal.SIGKILL)
        elif self.kind == "frozen":
            self.broker.freeze()
        elif self.kind == "cut":
            assert self.proxy
            self.proxy.cut()
        else:
            assert self.proxy
            self.proxy.blackhole()

    def end(self) -> None:
        if self.kind in ("down", "killed"):
            self.broker = persistent_broker(self.folder, port=self.broker.port).start()
        elif self.kind == "frozen":
            self.broker.thaw()
        else:
            assert self.proxy
            self.proxy.mend()
        self.back_s = time.monotonic()

    def is_over(self) -> bool:
        """Every sensor has a reading since, and history has come that far."""
        topics = [f"sensors/test/s{number}/state" for number in range(10)]
        if not all(map(self.since, topics)):
            return False
        self.seen_since = self.seen_since or max(published_seqs(self.subscriber, topics[0]))
        return newest_seq(self.subscriber) >= self.seen_since

    def since(self, topic: str) -> list[float]:
        """When something was published on a topic since the outage; not what was kept."""
        subscriber = self.subscriber
        return [
            at
            for at, (name, _, kept) in zip(
                list(subscriber.times), list(subscriber.messages), strict=False
            )
            if name == topic and not kept and at > self.back_s
        ]

    def close(self) -> None:
        self.node.kill()
        self.subscriber.close()
        self.broker.stop()
        if self.proxy:
            self.proxy.close()


@pytest.mark.real_time(seconds=90)
def test_outages_of_a_minute_cost_nothing(tmp_path):
    """Broker down, killed, frozen; link cut, blackholed: all at the same time, to save time."""
    outages = [
        Outage(tmp_path / kind, kind) for kind in ("down", "killed", "frozen", "cut", "blackholed")
    ]
    try:
        for outage in outages:
            outage.subscriber.wait_for_states("s9", 3)
        time.sleep(2)
        for outage in outages:
            outage.begin()
        time.sleep(OUTAGE_S)
        for outage in outages:
            outage.end()
        for outage in outages:
            wait_until(outage.is_over, seconds=15 + PATIENCE_S, what=f"{outage.kind}: it is over")
            outage.node.terminate()
            outage.subscriber.wait_for("sensors/test/status", "offline")  # all is there before it
            check_outage(outage)
    finally:
        for outage in outages:
            outage.close()


def check_outage(outage: Outage) -> None:
    kind, subscriber = outage.kind, outage.subscriber
    readings = subscriber.history()
    numbers = [reading["seq"] for reading in readings]
    assert gaps(readings) == [], kind
    first_copies = list(dict.fromkeys(numbers))
    assert first_copies == sorted(first_copies), f"{kind}: history in order"
    times = {r["seq"]: taken_s(r) for r in readings if r["sensor"] == "s0"}
    assert len(set(times.values())) == len(times), f"{kind}: each with a time of its own"
    assert max(times.values()) - min(times.values()) >= OUTAGE_S, f"{kind}: the outage is in it"
    assert len(times) >= OUTAGE_S / 2, f"{kind}: it read all the time, as far as there was time"
    waited = []
    for number in range(10):
        topic = f"sensors/test/s{number}/state"
        states = published_seqs(subscriber, topic)
        assert states == sorted(states), f"{kind}: a retained topic went backwards"
        waited.append(outage.since(topic)[0] - outage.back_s)
        kept = json.loads(retained(outage.broker.port, topic)[topic])["seq"]
        assert kept == states[-1], f"{kind}: the retained value is the newest"
    assert min(waited) < 5, f"{kind}: the first reading after {min(waited):.1f} s"


# -- a backlog


def fill_log(folder: Path, count: int, *, per_tick: int = 10) -> None:
    """The log of a node that was without a broker, with ten readings every ten seconds."""
    clock = FakeClock()
    outbox = Outbox(folder, OutboxTable(), clock)
    layouts = [Layout(f"s{number}", ("temperature",), ("°C",)) for number in range(per_tick)]
    for tick in range(count // per_tick):
        clock.sleep(10)
        clock.wall_s += 10
        for layout in layouts:
            outbox.append(
                layout,
                (20 + tick % 10 / 10,),
                boot_s=clock.boot_s(),
                utc_s=clock.utc_s(),
                synced=True,
            )
        if tick % 100 == 99:
            outbox.commit()
    outbox.close()


def rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.real_time(seconds=15)
def test_a_day_without_a_broker(tmp_path):
    """86,400 readings wait; the newest state is there at once, and memory stays as it was."""
    fill_log(tmp_path / "state", 86_400)
    port = free_port()
    config = with_outbox(
        sysfs_config(port, ten_files(tmp_path), interval="1s"),
        drain_rate=200,
        history_interval="1m",
    )
    with running(NodeProcess(tmp_path, config)) as node:
        node.wait_for_log("s9 (sysfs): online")
        time.sleep(2)
        before_kib = rss_kib(node.process.pid)
        node.freeze()  # so that the subscriber is there before it
        mosquitto = Mosquitto(tmp_path, "max_queued_messages 0", port=port).start()
        subscriber = Subscriber(port)
        not_yet_s = time.monotonic()

        def is_connected() -> bool:
            """A test that sees it late is not to find the history quick."""
            nonlocal not_yet_s
            asked_s = time.monotonic()
            if connected := "connected to" in node.log:
                return connected
            not_yet_s = asked_s
            return False

        node.process.send_signal(signal.SIGCONT)
        try:
            wait_until(is_connected)
            wait_until(partial(has_batches, subscriber, 1729), seconds=90)
            took_s = time.monotonic() - not_yet_s
            after_kib = rss_kib(node.process.pid)
            times = subscriber.times_of("sensors/test/s0/state")
        finally:
            subscriber.close()
            mosquitto.stop()
    numbers = [reading["seq"] for reading in subscriber.history()]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 86_400
    assert took_s >= 8, "1,728 messages at 200 a second"
    assert after_kib - before_kib < 5 * 1024
    topics = [topic for topic, _, _ in subscriber.messages]
    states = [f"sensors/test/s{number}/state" for number in range(10)]
    assert max(map(topics.index, states)) < topics.index("sensors/test/history")
    longest_s = max(b - a for a, b in itertools.pairwise(times))
    assert longest_s < 3, "one a second: none waits for the backlog"


def test_the_drain_rate_holds(tmp_path, broker, subscribe, start_node):
    """Nor is it made up for what a node could not send.

    Of a message it is known that it was sent before it arrived: who gets it late sees it as too
    slow, and not as too quick. So one begins to count where the node has sent nothing for a while.
    """
    fill_log(tmp_path / "state", 12_000)
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, ten_files(tmp_path), interval="1s")
    node = start_node(with_outbox(config, drain_rate=40))
    wait_until(lambda: len(subscriber.on("sensors/test/history")) >= 20)
    node.freeze()
    time.sleep(2)  # all that it has sent is here
    before = len(subscriber.on("sensors/test/history"))
    goes_on_s = time.monotonic()
    node.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(subscriber.on("sensors/test/history")) >= before + 160)
    times = subscriber.times_of("sensors/test/history")[before : before + 160]
    for number, came_s in enumerate(times, start=1):
        assert number <= 40 * (came_s - goes_on_s) + 3, "40 a second, and one that came late"
    assert times[-1] - goes_on_s < 8, "and no slower"


# -- what the log is for


def test_a_stop_and_a_start_send_each_reading_once(broker, subscribe, start_node, tmp_path):
    """In good order: the cursor is written on the way out, and seq goes on."""
    subscriber = subscribe(broker.port)
    config = with_outbox(
        sysfs_config(broker.port, ten_files(tmp_path), interval="0.5s"), history_interval="0.5s"
    )
    for _ in range(3):
        seen = newest_seq(subscriber)
        node = start_node(config)
        # Half a second before the next is sent: what is in flight at the end is another claim.
        wait_until(partial(lambda seen: newest_seq(subscriber) >= seen + 30, seen))
        assert node.terminate() == 0
    counts = Counter(reading["seq"] for reading in subscriber.history())
    assert set(counts.values()) == {1}
    assert sorted(counts) == list(range(1, max(counts) + 1))


def test_acknowledgements_that_come_within_the_goodbye_count(start_node, temperature_file):
    """Else a clean stop would send again what the broker has."""
    held: list[bytes] = []

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            return b"\x20\x03\x00\x00\x00"
        if kind != PUBLISH:
            return None
        if published_topic(body).endswith("/history"):
            held.append(body)
            return None
        offline = published_topic(body).endswith("/status") and body.endswith(b"offline")
        return puback(body) + (b"".join(map(puback, held)) if offline else b"")

    broker = ScriptedBroker(answer)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="1h")
    node = start_node(with_outbox(config, history_interval="0.2s"))
    wait_until(lambda: held, what="history that is not acknowledged")
    assert node.terminate() == 0
    assert stored_seqs(node) == (1, 1)


def test_readings_made_without_a_broker_arrive_later_with_their_times(
    tmp_path, start_node, temperature_file
):
    port = free_port()
    node = start_node(sysfs_config(port, {"s": temperature_file}, interval="0.5s"))
    node.wait_for_log("s (sysfs): online")
    wait_until(lambda: ledger_in(node.state_dir).last_seq >= 6)
    node.kill()  # and not even a kill loses them
    log = Outbox(node.state_dir, OutboxTable(), FakeClock())
    taken = {reading.seq: utc_text(reading.utc_ms) for reading in log.read(0, 50)}
    log.close()
    mosquitto = Mosquitto(tmp_path, port=port).start()
    subscriber = Subscriber(port)
    try:
        start_node(sysfs_config(port, {"s": temperature_file}, interval="0.5s"))
        wait_until(lambda: len(subscriber.history()) >= len(taken))
        earlier = subscriber.history()[: len(taken)]
        assert {r["seq"]: r["time"] for r in earlier} == taken
        assert [r["seq"] for r in earlier] == list(range(1, len(taken) + 1))
        assert taken_s(earlier[-1]) - taken_s(earlier[0]) > 1.5, "half a second between two"
        subscriber.wait_for_states("s", 1)
        assert subscriber.states("s")[0]["seq"] > len(earlier), "no old state"
    finally:
        subscriber.close()
        mosquitto.stop()


def test_a_second_node_on_one_state_directory_is_refused(start_node, temperature_file, tmp_path):
    """It exits 1 and says so; when the first is gone, however it went, the next may start."""
    config = sysfs_config(free_port(), {"s": temperature_file})
    first = start_node(config)
    first.wait_for_log("s (sysfs): online")
    other = tmp_path / "other"
    other.mkdir()
    second = NodeProcess(other, config, "--state-dir", str(first.state_dir))
    assert second.process.wait(PATIENCE_S) == 1
    assert f"process {first.process.pid}) uses {first.state_dir}" in second.log
    assert "--state-dir" in second.log
    first.kill()
    third = start_node(config)
    third.wait_for_log("s (sysfs): online")


def test_the_state_directory_of_systemd_is_used(tmp_path, temperature_file):
    """$STATE_DIRECTORY may be a list (systemd.exec(5)); an option goes before it."""
    config = sysfs_config(free_port(), {"s": temperature_file})
    from support import SENSOR_NODE

    program = ("env", f"STATE_DIRECTORY={tmp_path}/one:{tmp_path}/two", SENSOR_NODE)
    with running(NodeProcess(tmp_path, config, program=program)) as node:
        node.wait_for_log("s (sysfs): online")
        assert (tmp_path / "state" / "outbox.db").exists()
    from node.system.state_dir import find_state_dir

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", f"{tmp_path}/one:{tmp_path}/two")
        assert find_state_dir(None) == tmp_path / "one"
        patch.delenv("STATE_DIRECTORY")
        assert find_state_dir(None) == Path("/var/lib/sensor-node")


def test_a_node_without_a_writable_folder_goes_on_and_says_so(
    broker, subscribe, start_node, temperature_file, tmp_path
):
    """State and history come from memory; health tells why."""
    (tmp_path / "state").touch()  # a file, where the folder should be
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.5s")
    node = start_node(with_outbox(config, history_interval="0.5s"))
    subscriber.wait_for_states("s", 3)
    wait_until(lambda: len(subscriber.history()) >= 3)
    assert len(node.log_lines("the log in")) == 1
    wait_until(lambda: "cannot be written" in str(subscriber.health()["problems"]))
    assert gaps(subscriber.history()) == []


def test_history_that_is_due_with_a_reading_leaves_after_it(
    broker, subscribe, start_node, temperature_file
):
    """It would make the reading late, and have to wait for the next time to take it along."""
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="2s")
    start_node(with_outbox(config, history_interval="2s"))
    subscriber.wait_for_states("s", 4)
    wait_until(lambda: len(subscriber.history()) >= 4)
    states = subscriber.times_of("sensors/test/s/state")
    batches = subscriber.on("sensors/test/history")
    for batch, came_s in zip(batches, subscriber.times_of("sensors/test/history"), strict=False):
        before = [state_s for state_s in states if state_s < came_s]
        assert json.loads(batch)["readings"][-1]["seq"] == len(before)
        assert came_s - before[-1] < 1.0, "with it, not a period later"


def test_a_damaged_log_is_told_in_health_and_the_node_starts(
    broker, subscribe, start_node, temperature_file, tmp_path
):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "outbox.db").write_bytes(bytes(range(256)) * 64)
    subscriber = subscribe(broker.port)
    node = start_node(sysfs_config(broker.port, {"s": temperature_file}))
    subscriber.wait_for_states("s", 1)
    wait_until(lambda: "set aside as outbox-set-aside-" in str(subscriber.health()["problems"]))
    assert len(node.log_lines("set aside")) == 1
    assert list((tmp_path / "state").glob("outbox-set-aside-*.db"))


def test_health_counts_and_names_what_fails(broker, subscribe, start_node, tmp_path):
    (tmp_path / "good").write_text("21500\n")
    files = {"good": tmp_path / "good", "gone": tmp_path / "gone", "hot": tmp_path / "hot"}
    files["hot"].write_text("90000\n")
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, files, interval="0.5s")
    config += "[sensor.channel.temperature]\nrange = [-10, 50]\n"
    start_node(with_outbox(config, history_interval="0.5s"))
    subscriber.wait_for_states("good", 3)

    def has_read_all() -> bool:
        read = subscriber.health()["sensors"]
        counts = (read["good"]["ok"], read["hot"]["rejected"], read["gone"]["failed"])
        return all(counts)

    wait_until(has_read_all)
    health = subscriber.health()
    assert health["node"] == "test"
    assert health["broker"].startswith("connected, MQTT 5")
    assert health["dropped_readings"] == health["dead_letters"] == 0
    assert health["problems"] == []
    good, hot, gone = (health["sensors"][name] for name in ("good", "hot", "gone"))
    assert good["online"]
    assert good["ok"] == health["read"] == health["committed"] >= 1
    assert (good["failed"], good["rejected"], good["last_error"]) == (0, 0, None)
    assert not hot["online"]
    assert hot["failed"] == hot["rejected"] >= 1
    assert "outside the configured range -10 to 50" in hot["last_error"]
    assert (gone["ok"], gone["rejected"]) == (0, 0)
    assert "does not exist" in gone["last_error"]
    assert "sensors/test/health" in retained(broker.port)


def test_what_the_bound_drops_is_counted_in_health(tmp_path, start_node, temperature_file):
    """Nothing is read any more when the broker comes: a reading that came before the first one
    was acknowledged would push that out of the log, though it was sent.
    """
    port = free_port()
    config = with_outbox(
        sysfs_config(port, {"s": temperature_file}, interval="0.1s"), max_readings=20
    )
    node = start_node(config)
    node.wait_for_log("the oldest unsent readings are dropped")
    wait_until(lambda: ledger_in(node.state_dir).dropped > 10)
    temperature_file.unlink()
    node.wait_for_log("s (sysfs): offline")
    node.freeze()  # so that the subscriber is there before it
    mosquitto = Mosquitto(tmp_path, port=port).start()
    subscriber = Subscriber(port)
    node.process.send_signal(signal.SIGCONT)
    try:
        wait_until(lambda: subscriber.on("sensors/test/health") and subscriber.history())
        first = subscriber.history()[0]["seq"]
        assert first > 11
        assert subscriber.health()["dropped_readings"] == first - 1
        assert len(node.log_lines("the oldest unsent readings are dropped")) == 1
    finally:
        subscriber.close()
        mosquitto.stop()


def test_history_that_is_denied_waits_in_the_log_and_the_rest_goes_on(
    tmp_path, start_node, subscribe, temperature_file
):
    """An ACL can be mended: no reading is put away. States go on, and health says so."""
    acl = tmp_path / "acl"
    allowed = "".join(
        f"topic readwrite sensors/test/{topic}\n" for topic in ("status", "health", "s/+")
    )
    acl.write_text(allowed)
    mosquitto = Mosquitto(tmp_path, f"acl_file {acl}").start()
    try:
        subscriber = subscribe(mosquitto.port, "sensors/test/+")
        config = sysfs_config(mosquitto.port, {"s": temperature_file}, interval="0.2s")
        node = start_node(with_outbox(config, history_interval="0.2s"))
        wait_until(lambda: subscriber.on("sensors/test/health") and subscriber.health()["problems"])
        assert "rejects history at present: Not authorized" in subscriber.health()["problems"][0]
        seen = ledger_in(node.state_dir).last_seq
        wait_until(lambda: ledger_in(node.state_dir).last_seq >= seen + 10)
        assert len(node.log_lines("rejected sensors/test/history: Not authorized")) == 1
        node.terminate()
        letters = [topic for topic, _, _ in dead_letters(node.state_dir)]
        assert "sensors/test/history" not in letters
        assert stored_seqs(node)[1] == 0, "all of them are still to be sent"
    finally:
        mosquitto.stop()


@pytest.mark.real_time(seconds=15)
@pytest.mark.parametrize("withheld", ["", "/history", "/s/state"])
def test_a_broker_that_does_not_acknowledge_is_left_for_another_connection(
    start_node, temperature_file, withheld
):
    """It answers pings, so the keepalive sees nothing; said once, and nothing is lost.

    Where it acknowledges all else, a retained topic would stand still, and history too.
    """
    connects = 0

    def answer(kind: int, body: bytes) -> bytes | None:
        nonlocal connects
        if kind == CONNECT:
            connects += 1
            return b"\x20\x03\x00\x00\x00"
        if kind == PINGREQ:
            return b"\xd0\x00"
        takes_it = connects > 1 or withheld.encode() not in body
        return puback(body) if kind == PUBLISH and takes_it else None

    broker = ScriptedBroker(answer)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.5s")
    node = start_node(with_outbox(config, history_interval="0.5s"))
    node.wait_for_log("reconnecting", seconds=10 + PATIENCE_S)
    (line,) = node.log_lines("has not acknowledged a message for")
    waited = re.search(r"for (\d+)s; reconnecting", line)
    assert waited is not None, line
    assert 10 <= int(waited[1]) < 15, "twice the keepalive"
    wait_until(lambda: len(node.log_lines("connected to")) == 2)
    before = ledger_in(node.state_dir).last_seq
    wait_until(lambda: ledger_in(node.state_dir).cursor >= before, what="all of it is sent")
    node.terminate()
    assert len(node.log_lines("has not acknowledged")) == 1


@pytest.mark.parametrize("base", ["sensors", "größen/" + "ä" * 40])
def test_history_is_split_to_fit_the_brokers_maximum(tmp_path, subscribe, start_node, base):
    """A batch of fifty would be too long; none of its readings is."""
    fill_log(tmp_path / "state", 500)
    mosquitto = Mosquitto(tmp_path, "max_packet_size 2000").start()
    try:
        subscriber = subscribe(mosquitto.port, f"{base}/#")
        start_node(sysfs_config(mosquitto.port, {}, mqtt=f'base_topic = "{base}"'))
        topic = f"{base}/test/history"
        wait_until(lambda: sum(p.count('"seq"') for p in subscriber.on(topic)) >= 500)
        batches = [json.loads(payload)["readings"] for payload in subscriber.on(topic)]
        assert [r["seq"] for batch in batches for r in batch] == list(range(1, 501))
        assert not dead_letters(tmp_path / "state")
    finally:
        mosquitto.stop()


def test_a_maximum_that_the_broker_does_not_announce_is_found_out(tmp_path, subscribe, start_node):
    """MQTT 3.1.1: the broker closes the connection over a message that is too large."""
    fill_log(tmp_path / "state", 500)
    mosquitto = Mosquitto(tmp_path, "max_packet_size 2000").start()
    try:
        subscriber = subscribe(mosquitto.port)
        start_node(sysfs_config(mosquitto.port, {}, mqtt='protocol = "3.1.1"'))
        wait_until(lambda: len({r["seq"] for r in subscriber.history()}) >= 500, seconds=30)
        assert list(dict.fromkeys(r["seq"] for r in subscriber.history())) == list(range(1, 501))
        assert not dead_letters(tmp_path / "state")
    finally:
        mosquitto.stop()


def test_history_that_the_broker_refuses_as_too_large_is_sent_in_smaller_batches(
    tmp_path, subscribe, start_node
):
    """mosquitto's message_size_limit is announced to nobody: PUBACK says 0x95 (MQTT 5)."""
    fill_log(tmp_path / "state", 500)
    mosquitto = Mosquitto(tmp_path, "message_size_limit 1000").start()
    try:
        subscriber = subscribe(mosquitto.port)
        node = start_node(sysfs_config(mosquitto.port, {}))
        wait_until(lambda: len({r["seq"] for r in subscriber.history()}) >= 500)
        assert list(dict.fromkeys(r["seq"] for r in subscriber.history())) == list(range(1, 501))
        assert not dead_letters(node.state_dir)
        assert len(node.log_lines("connected to")) == 1
    finally:
        mosquitto.stop()


def test_a_single_reading_that_the_broker_refuses_as_too_large_holds_up_no_other(
    tmp_path, start_node
):
    """Nothing can be halved any more: it is a dead letter, and the rest goes on."""
    fill_log(tmp_path / "state", 60)
    taken: set[int] = set()
    refused: set[int] = set()

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            return b"\x20\x03\x00\x00\x00"
        if kind != PUBLISH:
            return None
        id_at = 2 + int.from_bytes(body[:2], "big")
        seqs = [int(seq) for seq in re.findall(rb'"seq":(\d+)', body)]
        too_large = published_topic(body).endswith("history") and 30 in seqs
        if too_large and len(seqs) == 1:
            refused.update(seqs)
        elif published_topic(body).endswith("history") and not too_large:
            taken.update(seqs)
        return b"\x40\x03" + body[id_at : id_at + 2] + (b"\x95" if too_large else b"\x00")

    broker = ScriptedBroker(answer)
    node = start_node(sysfs_config(broker.port, {}))
    wait_until(lambda: len(taken) == 59)
    wait_until(lambda: refused == {30})
    node.terminate()
    ((topic, payload, reason),) = dead_letters(node.state_dir)
    assert (topic, reason) == ("sensors/test/history", "Packet too large")
    assert [r["seq"] for r in json.loads(payload)["readings"]] == [30]


@pytest.mark.real_time(seconds=30)
def test_a_discovery_message_that_the_broker_ends_the_connection_over_is_left_out(
    tmp_path, subscribe, start_node
):
    """MQTT 3.1.1 again; readings matter more. A broker that takes it gets it next time."""
    mosquitto = Mosquitto(tmp_path, "max_packet_size 4000").start()
    files = ten_files(tmp_path)
    node = start_node(
        with_outbox(
            sysfs_config(mosquitto.port, files, interval="2s", mqtt='protocol = "3.1.1"'),
            history_interval="2s",
        )
    )
    try:
        subscriber = subscribe(mosquitto.port)
        node.wait_for_log("it ends the connection over it; raise its limit, or set [homeassistant]")
        wait_until(lambda: len(node.log_lines("connected to")) == 3)
        seen = len(subscriber.states("s0"))
        # For longer than SHORT_LIFE_S, so that the next loss is no sign of trouble.
        wait_until(lambda: len(subscriber.states("s0")) >= seen + 8, seconds=40)
        assert len(node.log_lines("connected to")) == 3
        assert len(node.log_lines("ends the connection over it")) == 1
    finally:
        mosquitto.stop()
    mosquitto = Mosquitto(tmp_path, port=mosquitto.port).start()
    try:
        taken = subscribe(mosquitto.port, "homeassistant/#")
        wait_until(lambda: any("/config" in topic for topic, *_ in taken.messages), seconds=30)
    finally:
        mosquitto.stop()


def test_states_that_are_not_acknowledged_hold_up_no_history(start_node, temperature_file):
    """A newer value waits behind its own topic, and not in the way of others."""
    seen: list[str] = []

    def answer(kind: int, body: bytes) -> bytes | None:
        if kind == CONNECT:
            return b"\x20\x03\x00\x00\x00"
        if kind == PUBLISH and published_topic(body).endswith(("history", "status")):
            seen.append(published_topic(body))
            return puback(body)
        return None

    broker = ScriptedBroker(answer)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.1s")
    start_node(with_outbox(config, history_interval="0.2s"))
    wait_until(lambda: seen.count("sensors/test/history") >= 10)


def test_a_small_bound_drops_nothing_while_the_broker_takes_it(
    broker, subscribe, start_node, temperature_file
):
    """History does not wait for its minute when the log would be full by then."""
    subscriber = subscribe(broker.port)
    config = sysfs_config(broker.port, {"s": temperature_file}, interval="0.1s")
    start_node(with_outbox(config, max_readings=50))  # room for a start, or an answer, of some time
    wait_until(lambda: len(subscriber.history()) >= 75, seconds=8 + PATIENCE_S)
    assert [r["seq"] for r in subscriber.history()][:75] == list(range(1, 76))
