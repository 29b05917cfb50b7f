"""Every reading that nodes committed is in the database once, whatever is killed meanwhile."""

from __future__ import annotations

import random
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from databases import InfluxDB, Postgres, VictoriaMetrics
from prometheus_client.parser import text_string_to_metric_families
from store_support import StoreProcess
from support import (
    Mosquitto,
    NodeProcess,
    ledger_in,
    open_folder,
    replaced,
    sysfs_config,
    wait_until,
)

NODES = ("attic", "cellar", "garage")
ROUNDS = 12


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with open_folder() as folder:
        server = Postgres(folder)
        server.start()
        yield server
        server.stop(signal.SIGQUIT)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    keeps = ("persistence true", "autosave_interval 1", "autosave_on_changes true")
    started = Mosquitto(tmp_path, *keeps, f"persistence_location {tmp_path}/").start()
    yield started
    started.stop()


@pytest.fixture
def nodes(broker: Mosquitto, tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    started = {}
    for name in NODES:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "air").write_text("21500\n")
        config = sysfs_config(broker.port, {"air": folder / "air"}, interval="0.1s")
        config = replaced(config, ('name = "test"', f'name = "{name}"'))
        config += '\n[outbox]\nhistory_interval = "0.5s"\n'
        started[name] = NodeProcess(folder, config)
    yield started
    for node in started.values():
        node.kill()


@pytest.fixture
def start_store(broker: Mosquitto, tmp_path: Path) -> Iterator[Callable[..., StoreProcess]]:
    started: list[StoreProcess] = []

    def start(to: str, name: str, *arguments: str) -> StoreProcess:
        folder = tmp_path / f"store-{name}"
        folder.mkdir(exist_ok=True)
        started.append(StoreProcess(folder, to, broker.port, "--name", name, *arguments))
        return started[-1]

    yield start
    for store in started:
        store.kill()


def committed(nodes: dict[str, NodeProcess]) -> set[tuple[str, int]]:
    return {
        (name, seq)
        for name, node in nodes.items()
        for seq in range(1, ledger_in(node.state_dir).last_seq + 1)
    }


def wait_for_more(readings: Callable[[], Collection[object]], count: int) -> None:
    """Until there are `count` more than now."""
    enough = len(readings()) + count
    wait_until(lambda: len(readings()) >= enough, 60, f"{count} more readings")


def test_three_consumers_share_the_nodes_while_everything_is_killed(
    postgres, broker, nodes, start_store
):
    """A fault in each round, at random; then all that was committed is there, once."""
    dice = random.Random(20261129)
    names = ("a", "b", "c")

    def start(name: str) -> StoreProcess:
        store: StoreProcess = start_store(postgres.address, name, "--share", "all")
        return store

    stores = {name: start(name) for name in names}
    for _ in range(ROUNDS):
        wait_for_more(postgres.stored, 20)
        fault = dice.choice(["consumer", "consumer", "broker", "database", "frozen database"])
        if fault == "consumer":
            name = dice.choice(names)
            stores[name].kill()
            stores[name] = start(name)
        elif fault == "broker":
            broker.stop(signal.SIGKILL)
            broker.start()
        elif fault == "database":
            postgres.stop(signal.SIGKILL)
            postgres.start()
        else:
            postgres.send(signal.SIGSTOP)
            wait_for_more(lambda: committed(nodes), 45)
            postgres.send(signal.SIGCONT)
    for node in nodes.values():
        node.process.send_signal(signal.SIGSTOP)  # so that it can still be asked
    wanted = committed(nodes)
    for node in nodes.values():
        node.process.send_signal(signal.SIGCONT)
    wait_until(lambda: wanted <= {(n, seq) for n, _, seq in postgres.stored()}, 90)
    rows = postgres.stored()
    assert len(rows) == len(set(rows))
    assert {name for name, _, _ in rows} == set(NODES)
    for store in stores.values():
        assert store.terminate() == 0


def test_what_a_node_may_not_send_again_stays_a_gap(postgres, broker, nodes, start_store, tmp_path):
    """The control of the test above: without `replay`, a broker that forgets costs readings."""
    nodes["attic"].kill()
    config = nodes["attic"].config.read_text() + '\n[commands]\nallow = ["read"]\n'
    store = start_store(postgres.address, "a")
    wait_until(postgres.stored, 60)
    store.terminate()
    broker.stop(signal.SIGKILL)
    for file in tmp_path.glob("mosquitto*.db"):
        file.unlink()
    broker.start()
    attic = nodes["attic"] = NodeProcess(tmp_path / "attic", config)
    attic.wait_for_log("connected to")
    before = ledger_in(attic.state_dir).cursor
    wait_until(lambda: ledger_in(attic.state_dir).cursor > before + 5)
    store = start_store(postgres.address, "a", "--metrics", "0")
    store.wait_for_log(
        r"attic cannot send readings that are missing: \[commands\] does not allow it"
    )
    gaps = "SELECT lost FROM sensor_node.gaps WHERE node = %s"
    assert (False,) in postgres.ask(gaps, "attic")
    wait_until(lambda: postgres.ask(gaps, "cellar") in ([], [(True,)]), 60, "it can be asked")
    address = store.wait_for_log(r"metrics are at (\S+)")[1]

    def metrics() -> dict[str, float]:
        text = urllib.request.urlopen(address).read().decode()
        families = text_string_to_metric_families(text)
        return {sample.name: sample.value for family in families for sample in family.samples}

    found = wait_until(lambda: (m := metrics())["sensor_node_store_missing_readings"] > 0 and m)
    assert found["sensor_node_store_stored_total"] > 0
    assert (
        found["sensor_node_store_broker_connected"] == found["sensor_node_store_database_up"] == 1
    )
    assert time.time() - found["sensor_node_store_stored_timestamp_seconds"] < 30
    postgres.stop(signal.SIGKILL)
    wait_until(lambda: metrics()["sensor_node_store_database_up"] == 0)
    assert re.search("PostgreSQL: .*; trying again, and the broker keeps what comes", store.log)


def test_sigterm_is_obeyed_while_the_database_is_frozen(postgres, nodes, start_store):
    assert nodes
    store = start_store(postgres.address, "a")
    wait_until(postgres.stored, 60)
    postgres.send(signal.SIGSTOP)
    wait_for_more(lambda: committed(nodes), 90)
    assert store.terminate(10) == 0
    postgres.send(signal.SIGCONT)
    rows = postgres.stored()
    assert len(rows) == len(set(rows))


def test_a_user_without_rights_is_told_what_is_missing(postgres, nodes, start_store):
    assert nodes
    postgres.ask("CREATE ROLE reader LOGIN")
    store = start_store(postgres.address.replace("store@", "reader@"), "a")
    store.wait_for_log("PostgreSQL: permission denied for database postgres; trying again")
    postgres.ask("GRANT CREATE ON DATABASE postgres TO reader")
    store.wait_for_log("the database is there again", 60)
    wait_until(postgres.stored, 60)


@pytest.mark.parametrize("kind", [VictoriaMetrics, InfluxDB])
def test_a_server_of_line_protocol_has_each_reading_once(kind, nodes, start_store, tmp_path):
    if kind is InfluxDB and not InfluxDB.is_installed():
        pytest.skip("this Debian has no influxdb")
    folder = tmp_path / "server"
    folder.mkdir()
    server = kind(folder)
    server.start()
    try:
        attic = {"attic": nodes["attic"]}
        store = start_store(server.address, "a")
        if kind is InfluxDB:
            store.wait_for_log(
                "404 .*database not found.*check the path, and that the database or bucket exists"
            )
            server.make_database()
        for _ in range(3):
            wait_for_more(lambda: set(server.stored()), 10)
            store.kill()
            store = start_store(server.address, "a")
            server.stop(kind.END)
            server.start()
        nodes["attic"].process.send_signal(signal.SIGSTOP)
        wanted = {seq for _, seq in committed(attic)}
        nodes["attic"].process.send_signal(signal.SIGCONT)
        wait_until(lambda: wanted <= set(server.stored()), 60)
        assert store.terminate() == 0
    finally:
        server.stop(signal.SIGKILL)
