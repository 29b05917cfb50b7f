"""Signed bundles in a booted system: which are taken, which are refused, and what a power cut does.

Each is a bundle of real wheels, signed by the program `minisign`, for the computer that this is.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundle_support import Key, make_key
from bundles import KEYS, NOW_S, MakeBundle, set_clock, utc
from check_update import NO_READING, READS_NOTHING, STATUS, UPDATE, health_says, undone
from conftest import MakeWheel, configure
from container import Container, wait_for
from support import Mosquitto, Subscriber

LIMITS = ("--within", "12", "--settle", "2")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("key"), "first")


@pytest.fixture(scope="module")
def next_key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("key"), "next")


@pytest.fixture(scope="module")
def node(system: Container, house_broker: Mosquitto, key: Key) -> Container:
    configure(system, house_broker.port)
    system.run("/checkout/deploy/install.sh", "--wheels", "/wheels")
    system.run("mkdir", KEYS)
    set_clock(system)
    system.file(f"{KEYS}/first.pub").write_bytes(key.public.read_bytes())
    return system


@pytest.fixture
def seen(node: Container, house_broker: Mosquitto) -> Iterator[Subscriber]:
    subscriber = Subscriber(house_broker.port)
    subscriber.wait_for(STATUS, "online", 20)
    yield subscriber
    subscriber.close()


@pytest.fixture(scope="module")
def bundle(
    node: Container, make_wheel: MakeWheel, wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> MakeBundle:
    return MakeBundle(node, make_wheel, wheels, tmp_path_factory)


def update(node: Container, *arguments: str) -> subprocess.CompletedProcess[str]:
    return node.run(UPDATE, *LIMITS, *arguments, check=False)


def refused(node: Container, words: str, *arguments: str) -> None:
    """Refused in these words, and nothing has changed."""
    before = node.show("MainPID"), sorted(node.file("/opt/sensor-node/releases").iterdir())
    answer = update(node, *arguments)
    assert answer.returncode == 1, answer.stdout
    assert words in answer.stdout
    assert (
        node.show("MainPID"),
        sorted(node.file("/opt/sensor-node/releases").iterdir()),
    ) == before
    assert not node.file("/opt/sensor-node/incoming").exists()


def test_a_signed_bundle_stays_without_an_index(node, seen, bundle, key):
    answer = update(node, bundle("0.2.0", key))
    assert answer.returncode == 0, answer.stdout
    assert f"sensor-node-0.2.0.bundle is signed with the key {key.id}" in answer.stdout
    assert "is healthy, and stays" in answer.stdout
    wait_for(lambda: health_says(seen, "0.2.0"), 20)
    record = json.loads(node.file("/opt/sensor-node/update-trust.json").read_text())
    assert record["keys"][key.id]["counter"] == 2


@pytest.mark.usefixtures("seen")
def test_everything_else_is_refused_in_words(node, bundle, key, next_key):
    damaged = bundle("0.3.0", key)
    file = node.file(damaged)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(node, "it is damaged, cut off or changed; fetch it again", damaged)
    file.write_bytes(content[:-1000])
    refused(node, "it is damaged, cut off or changed; fetch it again", damaged)
    refused(node, "is missing", bundle("0.3.0", None))
    refused(node, f"this node trusts {key.id} alone", bundle("0.3.0", next_key))
    refused(node, "and this computer is", bundle("0.3.0", key, platform="armhf"))
    refused(node, "it is for Python 3.9", bundle("0.3.0", key, python="3.9"))
    refused(node, "it follows 0.2.5 or a newer", bundle("0.3.0", key, minimum="0.2.5"))
    refused(node, "it has expired on", bundle("0.3.0", key, expires=utc(NOW_S - 60)))
    refused(node, "a newer bundle was taken before", bundle("0.3.0", key, counter=1))
    refused(node, "is older than 0.2.0", bundle("0.1.5", key, counter=9))
    for source in ("/checkout", "/wheels/none.whl"):
        refused(node, "is not signed, and this node takes signed bundles alone", source)
    node.file(KEYS).chmod(0o777)
    refused(node, "may be changed by others than root", bundle("0.3.0", key))
    node.file(KEYS).chmod(0o755)


def test_root_may_say_otherwise(node, seen, make_wheel):
    wheel = make_wheel("0.3.0")
    node.file(f"/srv/{wheel.name}").write_bytes(wheel.read_bytes())
    answer = update(node, "--unsigned", "--wheels", "/wheels", f"/srv/{wheel.name}")
    assert answer.returncode == 0, answer.stdout
    assert "is not signed: nothing says who made it" in answer.stdout
    wait_for(lambda: health_says(seen, "0.3.0"), 20)


def test_a_bad_bundle_goes_and_its_number_counts(node, seen, bundle, key):
    """What a node has seen once, it does not go behind."""
    answer = update(node, bundle("0.5.0", key, READS_NOTHING))
    assert answer.returncode == 1
    wait_for(lambda: health_says(seen, "0.3.0", undone("0.5.0", NO_READING, "0.3.0")), 20)
    refused(node, "a newer bundle was taken before (number 5; this is 4)", bundle("0.4.0", key))


def stage(node: Container, path: str, request: str) -> None:
    """As the node does it, which writes the request last."""
    digest = hashlib.sha256(node.file(path).read_bytes()).hexdigest()
    node.run("cp", path, "/var/lib/sensor-node/update.bundle")
    node.run("cp", f"{path}.minisig", "/var/lib/sensor-node/update.bundle.minisig")
    node.file("/var/lib/sensor-node/update-request").write_text(f"{request} {digest}")


def reported(node: Container, request: str, state: str) -> bool:
    try:
        report = json.loads(node.file("/var/lib/sensor-node/update-report.json").read_text())
    except FileNotFoundError:
        return False
    return bool(report["request"] == request and report["state"] == state)


def test_a_staged_bundle_is_taken_up_by_root_tried_and_kept_or_undone(node, seen, bundle, key):
    stage(node, bundle("0.5.1", key, READS_NOTHING), "0" * 16)
    wait_for(lambda: reported(node, "0" * 16, "undone"), 400)
    wait_for(lambda: health_says(seen, "0.3.0", undone("0.5.1", NO_READING, "0.3.0")), 20)
    stage(node, bundle("0.4.0", key), "1" * 16)
    wait_for(lambda: reported(node, "1" * 16, "refused"), 60)
    left = [file.name for file in node.file("/var/lib/sensor-node").glob("update*")]
    assert sorted(left) == ["update-report.json", "update-undone"]
    assert node.show("Result", "sensor-node-staged") == "success"


def test_a_power_cut_while_a_staged_bundle_is_installed_begins_it_again(node, seen, bundle, key):
    """At the boot it waits for the clock, which a Pi has not got by then."""
    path = bundle("0.5.2", key)
    stage(node, path, "2" * 16)
    wait_for(lambda: list(node.file("/opt/sensor-node").glob("releases/0.5.2-*/bin")), 60)
    node.cut_power()
    node.boot()
    seen.wait_for(STATUS, "online", 30)
    set_clock(node)
    wait_for(lambda: reported(node, "2" * 16, "kept"), 400)
    wait_for(lambda: health_says(seen, "0.5.2"), 20)
    # Until then no other update begins.
    wait_for(lambda: node.show("ActiveState", "sensor-node-staged") == "inactive", 20)


@pytest.mark.parametrize(
    "until", ["incoming/*.bundle", "incoming/wheels/*", "releases/0.6.0-*/bin"]
)
def test_a_power_cut_while_it_unpacks_changes_nothing(node, seen, bundle, key, until):
    """The half-made copy is not in the way of the next attempt."""
    path = bundle("0.6.0", key)
    set_clock(node)
    verifies = node.file("/usr/local/bin/openssl")
    if until == "incoming/*.bundle":  # there only until it is verified, which takes an instant
        verifies.write_text("#!/bin/sh\nexec sleep 600\n")
        verifies.chmod(0o755)
    node.start(UPDATE, *LIMITS, path)
    wait_for(lambda: list(node.file("/opt/sensor-node").glob(until)), 60)
    node.cut_power()
    verifies.unlink(missing_ok=True)
    node.boot()
    seen.wait_for(STATUS, "online", 30)
    wait_for(lambda: health_says(seen, "0.5.2"), 30)
    assert not list(node.file("/opt/sensor-node/releases").glob("0.6.0-*/complete"))


def test_after_the_power_cuts_it_is_installed(node, seen, bundle, key, next_key):
    """And brings a key, which is trusted in place of the one it is signed with."""
    set_clock(node)
    rotated = bundle("0.6.0", key, new_keys=[next_key.line], revoked_keys=[key.id])
    answer = update(node, rotated)
    assert answer.returncode == 0, answer.stdout
    wait_for(lambda: health_says(seen, "0.6.0"), 20)
    refused(node, f"this node trusts {next_key.id} alone", bundle("0.7.0", key))
    answer = update(node, bundle("0.7.0", next_key))
    assert answer.returncode == 0, answer.stdout
    wait_for(lambda: health_says(seen, "0.7.0"), 20)
