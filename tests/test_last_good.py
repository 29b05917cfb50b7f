"""`run --last-good`: a configuration that breaks does not stop a node that has had a right one."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trustme
from support import SENSOR_NODE, Mosquitto, NodeProcess, replaced, running, sysfs_config, wait_until

from drivers.sim.board import SimulatedBoard
from node.config import last_good
from node.config import load as configuration
from node.config.last_good import LastGood
from node.config.schema import Config, StatusLedTable
from node.panel import Panel, Pattern
from node.system.safe_files import write_file


@pytest.fixture
def sensor_file(tmp_path: Path) -> Path:
    file = tmp_path / "temp1_input"
    file.write_text("21500")
    return file


@pytest.fixture
def start(tmp_path):
    """Starts `run --last-good` on a configuration; one node at a time."""
    nodes = []

    def start(config: str, *arguments: str) -> NodeProcess:
        kept = tmp_path / "last-good.toml"
        node = NodeProcess(tmp_path, config, "--last-good", str(kept), *arguments)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        node.kill()


def kept_in(folder: Path) -> dict[str, bytes]:
    """The copy that is kept below a folder, file by file."""
    names = (folder / "last-good.toml", *(folder / "last-good.toml.files").glob("*"))
    return {file.name: file.read_bytes() for file in names if file.exists()}


def keep(folder: Path, config: str) -> Config:
    """Keep a copy of a configuration as `run` would."""
    source = folder / "node.toml"
    source.write_text(config)
    good = configuration.load(source)
    LastGood(folder / "last-good.toml").keep(good, config.encode())
    return good


def stand_in(folder: Path, broken: str) -> Config | None:
    """What `run` would run on when its configuration is this broken one."""
    source = folder / "node.toml"
    source.write_text(broken)
    with pytest.raises(configuration.ConfigError) as failed:
        configuration.load(source)
    return LastGood(folder / "last-good.toml").stand_in(failed.value)


def test_a_broken_configuration_leaves_the_node_on_the_last_good_one(
    broker: Mosquitto, subscribe, start, sensor_file
):
    """It reads and publishes as before, and says in its log and in health what is wrong."""
    good = sysfs_config(broker.port, {"air": sensor_file})
    node = start(good)
    subscriber = subscribe(broker.port)
    subscriber.wait_for_states("air", 1)
    node.terminate()
    assert not any("cannot be used" in text for text in subscriber.health()["problems"])

    node = start(replaced(good, ("keepalive", "keepalife"), ("sysfs", "sysf")))
    before = len(subscriber.states("air"))
    subscriber.wait_for_states("air", before + 1)
    wait_until(lambda: any("cannot be used" in text for text in subscriber.health()["problems"]))
    problem = subscriber.health()["problems"][0]
    assert problem.startswith(f"{node.config} cannot be used (2 problems; the first: line 7: ")
    assert problem.endswith(": the node runs on the last good configuration")
    for line in (
        "node.toml:7: [mqtt] keepalife: unknown key",
        "node.toml:12: [[sensor]] air driver",
    ):
        assert node.log_lines(line), "every problem is in the log"
    assert node.terminate() == 0

    corrected = replaced(good, ('"test"', '"corrected"'))
    node = start(corrected)
    wait_until(lambda: subscriber.on("sensors/corrected/health"))
    assert subscriber.health("corrected")["problems"] == []
    assert kept_in(node.config.parent)["last-good.toml"].decode() == corrected


def test_without_a_copy_or_without_the_option_an_invalid_configuration_ends_it_with_78(tmp_path):
    broken = tmp_path / "node.toml"
    broken.write_text("[mqtt]\n")
    command = [SENSOR_NODE, "run", "--config", str(broken), "--state-dir", str(tmp_path / "state")]
    for option in ((), ("--last-good", str(tmp_path / "none.toml"))):
        done = subprocess.run([*command, *option], capture_output=True, text=True, check=False)
        assert done.returncode == 78
        assert "[mqtt] host: is missing" in done.stderr
        assert "last good" not in done.stderr


def test_a_copy_that_is_of_no_use_either_is_told_of_and_ends_it_with_78(tmp_path):
    """As after a new version that understands another language."""
    broken, kept = tmp_path / "node.toml", tmp_path / "last-good.toml"
    broken.write_text("[mqtt]\n")
    kept.write_text("[mqtt]\nhost = 1\n")
    command = [SENSOR_NODE, "run", "--config", str(broken), "--last-good", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert f"the last good configuration: {kept}:2: [mqtt] host" in done.stderr
    assert f"{broken}:1: [mqtt] host: is missing" in done.stderr


@pytest.mark.parametrize("broken", ["", "[mqtt", "\xff", "[mqtt]\nhost = 'a'\n[oops]\n"])
def test_whatever_is_wrong_the_copy_stands_in_as_it_was(tmp_path, broken):
    good = keep(tmp_path, sysfs_config(1883, {}))
    source = tmp_path / "node.toml"
    source.write_bytes(broken.encode("latin-1"))
    with pytest.raises(configuration.ConfigError) as failed:
        configuration.load(source)
    found = LastGood(tmp_path / "last-good.toml").stand_in(failed.value)
    assert found is not None
    assert (found.mqtt, found.node, found.sensors) == (good.mqtt, good.node, good.sensors)
    assert f"{source} cannot be used (1 problem; the first: " in found.stands_in_for
    assert good.stands_in_for == ""


def test_a_configuration_that_cannot_be_read_at_all_falls_back_too(tmp_path):
    """The memory card's other partition may be gone."""
    keep(tmp_path, sysfs_config(1883, {}))
    (tmp_path / "node.toml").unlink()
    with pytest.raises(configuration.ConfigError) as failed:
        configuration.load(tmp_path / "node.toml")
    assert LastGood(tmp_path / "last-good.toml").stand_in(failed.value) is not None


@pytest.fixture
def tls_config(tmp_path) -> str:
    """A configuration that names four files, all of them beside it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    client = authority.issue_cert("node@test.example")
    client.private_key_pem.write_to_path(str(tmp_path / "node.key"))
    client.cert_chain_pems[0].write_to_path(str(tmp_path / "node.crt"))
    (tmp_path / "secret").write_text("open sesame\n")
    login = 'username = "ali"\npassword_file = "secret"\n'
    tls = '[mqtt.tls]\nca_file = "ca.crt"\ncert_file = "node.crt"\nkey_file = "node.key"\n'
    return sysfs_config(8883, {}, mqtt=login + tls)


def test_the_files_that_a_configuration_names_are_kept_with_it(tmp_path, tls_config):
    """Each of them lost, damaged or replaced is a fault that the copy makes up for."""
    keep(tmp_path, tls_config)
    for name in ("secret", "ca.crt", "node.crt", "node.key"):
        (tmp_path / name).write_text("")
        found = stand_in(tmp_path, tls_config)
        assert found is not None
        assert found.mqtt.password == "open sesame"
    assert found is not None
    assert found.mqtt.tls is not None
    assert found.mqtt.tls.ca_file == tmp_path / "last-good.toml.files" / "ca_file"


@pytest.mark.parametrize("writes", range(6))
def test_a_new_password_is_never_paired_with_the_old_configuration(
    tmp_path, tls_config, monkeypatch, writes
):
    """The power fails after so many files: four, and the configuration that names them."""
    keep(tmp_path, tls_config)
    left = iter(range(writes))

    def write_until_the_power_fails(*given: Any, **options: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        write_file(*given, **options)

    (tmp_path / "secret").write_text("another\n")
    monkeypatch.setattr(last_good, "write_file", write_until_the_power_fails)
    with contextlib.suppress(KeyboardInterrupt):
        keep(tmp_path, replaced(tls_config, ('"ali"', '"bob"')))
    kept = kept_in(tmp_path)
    pair = (b'"bob"', b"another\n") if writes >= 5 else (b'"ali"', b"open sesame\n")
    if "last-good.toml" in kept:
        assert pair[0] in kept["last-good.toml"]
        assert pair[1] == kept["password_file"]
    assert ("last-good.toml" in kept) == (writes >= 5)


def test_the_copy_is_its_owners_alone(tmp_path, tls_config):
    keep(tmp_path, tls_config)
    folder = tmp_path / "last-good.toml.files"
    assert (tmp_path / "last-good.toml").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


def test_nothing_is_written_while_nothing_differs(tmp_path, tls_config):
    def written() -> dict[str, tuple[int, int]]:
        files = (tmp_path / "last-good.toml", *(tmp_path / "last-good.toml.files").iterdir())
        return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}

    keep(tmp_path, tls_config)
    before = written()
    keep(tmp_path, tls_config)
    assert written() == before
    keep(tmp_path, tls_config + "# a remark\n")
    after = written()
    assert {name for name in before if before[name] != after[name]} == {"last-good.toml"}
    (tmp_path / "secret").write_text("another\n")
    keep(tmp_path, tls_config)
    assert kept_in(tmp_path)["password_file"] == b"another\n"
    keep(tmp_path, sysfs_config(1883, {}))
    assert list(kept_in(tmp_path)) == ["last-good.toml"], "no secret outlives its use"
    assert not list(tmp_path.glob("*.new"))


def test_a_copy_that_cannot_be_made_is_said_and_costs_nothing_else(
    tmp_path, broker, subscribe, start, sensor_file
):
    (tmp_path / "last-good.toml").mkdir()
    node = start(sysfs_config(broker.port, {"air": sensor_file}))
    with running(node):
        subscribe(broker.port).wait_for_states("air", 1)
        node.wait_for_log("last-good.toml: cannot keep a copy of the configuration")


def test_the_led_shows_a_bad_configuration_before_all_else(board: SimulatedBoard, clock: Any):
    """But for a node that is asked which one it is."""
    led = StatusLedTable(pin=17)
    panel = Panel(led, None, board, clock, bad_configuration=True)
    for connected, all_online in ((False, False), (True, True)):
        panel.show(connected=connected, all_online=all_online)
        assert panel.pattern is Pattern.BAD_CONFIGURATION
    panel.identify()
    panel.show(connected=True, all_online=True)
    assert panel.pattern is Pattern.IDENTIFY
    panel.close()
