"""Updates of the image's system: written to the other slot, tried, and kept or undone."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bundle_support import CREATED_S, NEEDS_MINISIGN, Key, make_bundle, make_key, utc
from image_pi import MACHINE_ID, Pi, slots, updater
from image_support import DEPLOY, of_the_build

# mkfs.ext4 and debugfs are in /sbin, which is not on a login user's PATH.
PROGRAMS = f"{os.environ['PATH']}:/usr/sbin:/sbin"
pytestmark = [
    NEEDS_MINISIGN,
    pytest.mark.skipif(
        not all(shutil.which(name, path=PROGRAMS) for name in ("debugfs", "mkfs.ext4", "zstd")),
        reason="needs debugfs and zstd: apt-get install e2fsprogs zstd",
    ),
]


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pi:
    monkeypatch.setenv("PATH", PROGRAMS)
    pi = Pi(tmp_path / "pi")
    pi.take_the_place_of_the_computer(monkeypatch.setattr)
    return pi


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return make_key(tmp_path)


def install(bundle: Path, **options: Any) -> None:
    updater.begin(updater.install(bundle, **{"unsigned": False, "force": False, **options}))


def untouched(pi: Pi) -> bool:
    """Whether slot b is still empty, and slot a starts."""
    empty = pi.devices["b"].read_bytes().count(0) == pi.devices["b"].stat().st_size
    return empty and slots.Record(pi.card).trial is None and pi.start() == "a"


def test_a_system_that_is_well_stays(pi, key, capsys):
    pi.trust(key)
    install(pi.bundle(key))
    assert pi.restarts == 1
    assert pi.start() == "b"
    assert pi.shown("b", "/version") == "0.2.0"
    assert pi.shown("b", "/etc/machine-id").strip() == MACHINE_ID, "the router knows this Pi by it"
    assert pi.is_whole("b")
    updater.judge()
    assert "0.2.0 is healthy, and stays" in capsys.readouterr().out
    assert pi.restarts == 1
    assert [pi.start() for _ in range(5)] == ["b"] * 5
    assert list(pi.store.glob("incoming*")) == []


def test_a_system_that_the_node_is_not_well_in_is_undone(pi, key, capsys):
    pi.trust(key)
    install(pi.bundle(key))
    pi.start()
    pi.wrong = "the sensor air does not read any more (no answer)"
    updater.judge()
    assert pi.restarts == 2
    assert pi.start() == "a"
    updater.verdict()
    notice = (pi.state / "update-undone").read_text()
    assert notice == (
        "the update to 0.2.0 was undone: the sensor air does not read any more (no answer); "
        "0.1.0 runs again\n"
    )
    assert notice.strip() in capsys.readouterr().out
    assert pi.start() == "a"


def test_a_system_that_does_not_start_gives_way_after_three_tries(pi, key):
    pi.trust(key)
    install(pi.bundle(key))
    assert [pi.start() for _ in range(4)] == ["b", "b", "b", "a"]
    updater.verdict()
    assert "this Pi did not start with it" in (pi.state / "update-undone").read_text()


def test_a_system_without_a_kernel_gives_way_at_once(pi, key):
    pi.trust(key)
    install(pi.bundle(key))
    assert pi.start(without="b") == "a"
    assert slots.Record(pi.card).trial == slots.Trial("b", 2), "U-Boot has counted one try"
    updater.verdict()
    assert "this Pi did not start with it" in (pi.state / "update-undone").read_text()
    assert slots.Record(pi.card).trial is None, "it is not tried again at the next start"
    assert pi.start() == "a"


def test_one_can_go_back_to_the_system_before(pi, key):
    pi.trust(key)
    install(pi.bundle(key))
    pi.start()
    updater.judge()
    updater.begin(json.loads((pi.store / "other.json").read_text()))
    assert pi.start() == "a"
    updater.judge()
    assert slots.Record(pi.card).good == "a"
    assert pi.shown("a", "/version") == "0.1.0"


def test_the_second_update_goes_into_the_first_slot(pi, key):
    pi.trust(key)
    for version, slot in (("0.2.0", "b"), ("0.3.0", "a")):
        install(pi.bundle(key, version))
        assert pi.start() == slot
        updater.judge()
        assert pi.shown(slot, "/version") == version
    assert pi.shown("b", "/version") == "0.2.0"


# -- what is refused


def test_without_a_key_nothing_is_taken_that_is_not_asked_for_by_name(pi, key):
    bundle = pi.bundle(key)
    with pytest.raises(updater.Impossible, match="into the folder update-keys of the card's drive"):
        install(bundle)
    assert untouched(pi)
    install(bundle, unsigned=True)
    assert pi.start() == "b"


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        (
            {"system_facts": {"layout": 2}},
            "it is for a card of layout 2, and this card has 1",
        ),
        ({"system_facts": {"kernel": "trixie-backports"}}, "it has the kernel of trixie-backports"),
        ({"platform": "armhf"}, "it is for armhf"),
        ({"minimum": "0.1.5"}, "install one of those first"),
        ({"expires": utc(CREATED_S)}, "it has expired"),
        ({"version": "0.0.9"}, "is older than 0.1.0"),
        ({"system_facts": {"bytes": 1 << 40}}, "the system needs 1048576: take a larger card"),
        ({"system_facts": {"sha256": "0" * 64}}, "does not have what was written"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_bundle_that_does_not_fit_is_refused(pi, key, facts, why):
    pi.trust(key)
    bundle = pi.bundle(key, **facts)
    with pytest.raises((updater.Impossible, updater.Unfit), match=why):
        install(bundle)
    assert slots.Record(pi.card).trial is None
    assert pi.start() == "a"


def damage(bundle: Path) -> None:
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)


def cut_off(bundle: Path) -> None:
    os.truncate(bundle, bundle.stat().st_size // 2)


def take_signature_away(bundle: Path) -> None:
    bundle.with_name(f"{bundle.name}.minisig").unlink()


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (damage, "is not what was signed"),
        (cut_off, "is not what was signed"),
        (take_signature_away, "is not signed"),
    ],
)
def test_a_bundle_that_is_not_what_was_signed_is_refused(pi, key, fault, why):
    pi.trust(key)
    bundle = pi.bundle(key)
    fault(bundle)
    with pytest.raises(updater.Unfit, match=why):
        install(bundle)
    assert untouched(pi)


def test_a_bundle_by_another_key_or_of_wheels_is_refused(pi, key, tmp_path):
    pi.trust(key)
    with pytest.raises(updater.Unfit, match="this node trusts"):
        install(pi.bundle(make_key(tmp_path, "thief")))
    with pytest.raises(updater.Unfit, match="take the bundle of the image"):
        install(make_bundle(tmp_path, key))
    assert untouched(pi)


def test_the_image_has_every_part_of_the_updater_that_it_imports(tmp_path):
    """Its programs run there on the system's Python, with what the build has put beside them."""
    parts = of_the_build("tree")._UPDATE_PARTS
    here = tmp_path / "sensor-node"
    shutil.copytree(DEPLOY / "image/root/usr/lib/sensor-node", here)
    (here / "update_parts").mkdir()
    for name in parts:
        shutil.copy(DEPLOY / "update_parts" / name, here / "update_parts")
    done = subprocess.run(
        [sys.executable, "-I", str(here / "update_image.py"), "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    assert "the bundle of an image" in done.stdout


def test_other_nodes_do_not_take_the_bundle_of_an_image(pi, key, tmp_path):
    """deploy/update, on a node of install.sh, has the same code and no layout."""
    bundle = pi.bundle(key)
    computer = updater.trust.Computer("0.1.0", "arm64", "3.14", CREATED_S + 60.0, True)
    record = updater.trust.Record(tmp_path / "trust.json")
    keys = {key.id: updater.parse_key(key.public.read_text(), "key")}
    (tmp_path / "incoming").mkdir()
    with pytest.raises(updater.Unfit, match="take the bundle of wheels"):
        updater.take(bundle, tmp_path / "incoming", keys, record, computer, force=True)


@pytest.mark.parametrize(
    "system",
    [{"layout": "1"}, {"layout": 0}, {"bytes": -1}, {"sha256": "x"}, {"kernel": "../trixie"}],
    ids=str,
)
def test_a_manifest_of_a_system_that_makes_no_sense_is_refused(pi, key, system):
    with pytest.raises(updater.Unfit, match="is not valid"):
        pi.bundle(key, system_facts=system)


def test_an_older_bundle_that_is_sent_again_is_refused_until_root_forces_it(pi, key):
    pi.trust(key)
    install(pi.bundle(key, counter=9))
    pi.start()
    updater.judge()
    old = pi.bundle(key, counter=8)
    with pytest.raises(updater.Unfit, match="a newer bundle was taken before"):
        install(old)
    install(old, force=True)
    assert pi.start() == "a"


def test_nothing_is_written_while_a_system_is_on_trial_or_the_good_one_does_not_start(pi, key):
    pi.trust(key)
    bundle = pi.bundle(key)
    install(bundle)
    with pytest.raises(updater.Impossible, match="a system is on trial"):
        install(bundle)
    pi.start()
    updater.judge()
    pi.command_line.write_text("ro sensor_node.slot=a\n")  # boot.cmd could not load slot b
    with pytest.raises(updater.Impossible, match="slot b cannot be started, so the older slot a"):
        install(bundle)
    pi.command_line.write_text("ro\n")
    with pytest.raises(updater.Impossible, match=r"put the line\s+kernel=u-boot.bin back"):
        install(bundle)


# -- keys


def test_the_owner_adds_and_removes_keys_on_the_card(pi, key):
    pi.trust(key)
    updater.take_owners_keys()
    assert list(updater.trust.installed_keys(updater.KEYS)) == [key.id]
    (pi.boot_keys / "mine.pub").unlink()
    updater.take_owners_keys()
    assert updater.trust.installed_keys(updater.KEYS) == {}
    (pi.boot_keys / "._mine.pub").write_text("what macOS writes beside each file")
    shutil.copy(key.public, pi.boot_keys / "MINE.PUB")
    updater.take_owners_keys()
    assert list(updater.trust.installed_keys(updater.KEYS)) == [key.id]
    (pi.boot_keys / "letter.pub").write_text("Dear Pi")
    with pytest.raises(updater.Unfit, match=r"letter\.pub is not a public key of minisign"):
        updater.take_owners_keys()


def test_a_key_that_a_bundle_revokes_is_not_taken_from_the_card_again(pi, key, tmp_path):
    new = make_key(tmp_path, "new")
    pi.trust(key)
    install(pi.bundle(key, new_keys=[new.line], revoked_keys=[key.id]))
    pi.start()
    updater.judge()
    updater.take_owners_keys()
    assert list(updater.trust.installed_keys(updater.KEYS)) == [new.id]


# -- what the node has staged


def test_what_the_node_has_staged_is_tried_and_reported(pi, key):
    pi.trust(key)
    pi.stage(pi.bundle(key))
    updater.install_staged()
    assert (pi.report["state"], pi.restarts) == ("trial", 1)
    assert not (pi.state / "update-request").exists()
    pi.start()
    updater.judge()
    assert (pi.report["state"], pi.report["release"]) == ("kept", "0.2.0")
    assert pi.report["request"] == "12345678"


def test_what_is_refused_is_reported_and_forgotten(pi, key, tmp_path):
    pi.trust(key)
    pi.stage(pi.bundle(make_key(tmp_path, "thief")))
    updater.install_staged()
    assert pi.report["state"] == "refused"
    assert "this node trusts" in pi.report["text"]
    assert list(pi.state.glob("update.bundle*")) == []
    assert untouched(pi)


def test_an_installation_that_never_comes_to_its_end_is_given_up(pi, key):
    pi.trust(key)
    pi.stage(pi.bundle(key))
    for _ in range(updater.MOST_ATTEMPTS):
        updater.count_attempt(updater.ATTEMPTS, "12345678")
    updater.install_staged()
    assert "interrupted 3 times" in pi.report["text"]


def cut_power(pi: Pi, lines: int, *options: str) -> int:
    """Install what is staged, in a process that ends before so many lines of our code."""
    command = [sys.executable, "-B", str(Path(__file__).with_name("image_pi.py"))]
    environment = {**os.environ, "PYTHONPATH": f"{DEPLOY}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [*command, str(pi.folder), str(lines), *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 9), done.stderr
    return int(done.stdout.split()[-1]) if done.returncode == 0 else -1


def copy_of(pi: Pi, folder: Path) -> Pi:
    shutil.copytree(pi.folder, folder)
    return Pi(folder)


def test_after_a_power_cut_at_any_moment_a_whole_system_starts(pi, key, tmp_path, monkeypatch):
    """At twenty lines of the installation; afterwards it is begun again, and ends well."""
    pi.trust(key)
    pi.stage(pi.bundle(key))
    every_line = cut_power(copy_of(pi, tmp_path / "whole"), 10**9)
    assert every_line > 200
    started = []
    late = [every_line - 1, every_line - 10, every_line - 20]  # the trial has begun
    for lines in [*random.Random(20).sample(range(every_line - 20), 17), *late]:
        cut = copy_of(pi, tmp_path / "cut")
        assert cut_power(cut, lines) == -1
        cut.take_the_place_of_the_computer(monkeypatch.setattr)
        started.append(cut.start())
        assert cut.is_whole(started[-1]), lines
        if started[-1] == "a":
            updater.verdict()
            updater.install_staged()
            assert cut.start() == "b", lines
            assert cut.is_whole("b"), lines
        updater.install_staged()  # the path unit finds what is still staged
        updater.judge()
        assert cut.report["state"] == "kept", lines
        assert [cut.start() for _ in range(4)] == ["b"] * 4
        assert list(cut.state.glob("update[.-]request*")) == []
        shutil.rmtree(cut.folder)
    assert set(started) == {"a", "b"}


def test_a_trial_that_did_not_begin_begins_again_and_one_without_a_request_is_told(pi, key, capsys):
    """The power was cut between the note of the trial and the record of the slots."""
    pi.trust(key)
    install(pi.bundle(key))
    slots.Record(pi.card).end_trial()
    assert pi.start() == "a"
    updater.verdict()
    assert "the trial of 0.2.0 has not begun" in capsys.readouterr().out
    assert not (pi.state / "update-undone").exists()
    updater.begin(json.loads((pi.store / "other.json").read_text()))
    assert pi.start() == "b"


def test_a_trial_that_begins_before_the_system_is_written_is_found_by_that(pi, key, tmp_path):
    """The negative control of the test before."""
    pi.trust(key)
    pi.stage(pi.bundle(key))
    every_line = cut_power(copy_of(pi, tmp_path / "whole"), 10**9, "--arm-first")
    broken = 0
    for part in range(30, 95, 5):
        cut = copy_of(pi, tmp_path / f"cut-{part}")
        cut_power(cut, every_line * part // 100, "--arm-first")
        broken += not cut.is_whole(cut.start())
        shutil.rmtree(cut.folder)
    assert broken
