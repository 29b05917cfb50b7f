"""Signed bundles: what `deploy/update` takes, what it refuses, and in which words.

The signatures are of the program `minisign`, which also has to agree with each refusal. In the
booted system: tests/service/check_bundles.py.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import random
import re
import runpy
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_support import (
    CREATED_S,
    DEPLOY,
    EXPIRES_S,
    NEEDS_MINISIGN,
    Key,
    make_bundle,
    make_key,
)
from packaging.version import Version
from update_parts import minisign, paths, releases, trial, trust
from update_parts.bundle import (
    Manifest,
    parse_manifest,
    read_manifest,
    unpack,
    version_order,
)
from update_parts.minisign import Unfit, parse_key, parse_signature, verify
from update_parts.take import take
from update_parts.trust import (
    Computer,
    Record,
    change_keys,
    installed_keys,
    refusals,
    signer_of,
)

pytestmark = NEEDS_MINISIGN
HERE = Computer("0.1.0", "arm64", "3.13", CREATED_S + 60.0, clock_is_set=True)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("key"))


@pytest.fixture(scope="module")
def signed(key, tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), key)


@pytest.fixture
def trusted(key: Key) -> dict[str, minisign.PublicKey]:
    parsed = parse_key(key.public.read_text(), "key.pub")
    return {parsed.id: parsed}


@pytest.fixture
def attempt(trusted, tmp_path) -> Callable[..., Any]:
    """Takes a bundle on a computer that has taken none, or that `record` describes."""
    numbers = iter(range(1000))

    def do(bundle: Path, *, computer: Computer = HERE, force: bool = False, signed: bool = True):
        folder = tmp_path / f"incoming-{next(numbers)}"
        folder.mkdir()
        record = Record(tmp_path / "trust.json") if signed else None
        return take(bundle, folder, trusted, record, computer, force=force)

    return do


def minisign_accepts(bundle: Path, key: Key) -> bool:
    command = ["minisign", "-V", "-H", "-p", str(key.public), "-m", str(bundle)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def copy_of(bundle: Path, folder: Path) -> Path:
    copy = folder / bundle.name
    copy.write_bytes(bundle.read_bytes())
    signature = bundle.with_name(f"{bundle.name}.minisig")
    copy.with_name(signature.name).write_bytes(signature.read_bytes())
    return copy


# -- the format


def test_a_bundle_that_minisign_has_signed_is_taken_with_its_wheels(signed, key, attempt):
    taken = attempt(signed)
    assert taken.signer == key.id
    assert taken.remarks == [f"{signed.name} is signed with the key {key.id}"]
    wheels = {file.name: file.read_bytes() for file in taken.wheels.iterdir()}
    assert wheels == {
        "pi_sensor_node-0.2.0-py3-none-any.whl": b"node" * 20,
        "msgspec-0.20.0-cp313-cp313-manylinux_2_28_aarch64.whl": b"other" * 20,
    }


def test_any_changed_byte_is_refused_as_by_minisign(signed, key, trusted, tmp_path):
    """Of the bundle, of both signatures and of the trusted comment."""
    bundle = copy_of(signed, tmp_path)
    signature = tmp_path / f"{bundle.name}.minisig"
    assert signer_of(bundle, trusted) == key.id, "the control"
    signed_from = signature.read_bytes().index(b"\n") + 1
    places = [(bundle, at) for at in range(bundle.stat().st_size)]
    places += [(signature, at) for at in range(signed_from, signature.stat().st_size - 1)]
    for file, at in random.Random(24).sample(places, 16):
        content = file.read_bytes()
        changed = content[at] ^ (1 if file is bundle else 3)
        file.write_bytes(content[:at] + bytes([changed]) + content[at + 1 :])
        with pytest.raises(Unfit, match=re.escape(bundle.name)):
            signer_of(bundle, trusted)
        assert not minisign_accepts(bundle, key)
        file.write_bytes(content)
    assert minisign_accepts(bundle, key), "the control"


@pytest.mark.parametrize("line", [1, 3])
def test_a_signature_that_is_spelt_in_another_way_is_refused(signed, line):
    """The last digit of base64 has bits that mean nothing: only one spelling is taken."""
    lines = signed.with_name(f"{signed.name}.minisig").read_text().splitlines()
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = lines[line]
    last = text.rstrip("=")[-1]
    other = digits[digits.index(last) ^ 1]
    at = len(text.rstrip("=")) - 1
    lines[line] = text[:at] + other + text[at + 1 :]
    assert base64.b64decode(lines[line]) == base64.b64decode(text), "the control"
    with pytest.raises(Unfit, match="is a damaged signature"):
        parse_signature("\n".join(lines), "x.minisig")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_a_bundle_that_is_cut_off_is_refused(signed, trusted, tmp_path, part):
    bundle = copy_of(signed, tmp_path)
    bundle.write_bytes(bundle.read_bytes()[: int(part * bundle.stat().st_size)])
    with pytest.raises(Unfit, match="it is damaged, cut off or changed; fetch it again"):
        signer_of(bundle, trusted)


def test_a_key_that_is_not_trusted_is_named(tmp_path, key, other_key, trusted):
    bundle = make_bundle(tmp_path, other_key)
    sentence = f"is signed with the key {other_key.id}, and this node trusts {key.id} alone"
    with pytest.raises(Unfit, match=sentence):
        signer_of(bundle, trusted)


def test_one_key_does_not_pass_for_another(tmp_path, key, other_key, trusted):
    """The id of a key is not signed: it says which key to ask, and no more."""
    bundle = make_bundle(tmp_path, other_key)
    file = tmp_path / f"{bundle.name}.minisig"
    lines = file.read_text().splitlines()
    content = base64.b64decode(lines[1])
    ours = base64.b64decode(key.line)
    lines[1] = base64.b64encode(content[:2] + ours[2:10] + content[10:]).decode()
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(Unfit, match="is not what was signed with the key"):
        signer_of(bundle, trusted)


def test_the_legacy_format_is_refused_with_what_to_do(tmp_path, key, trusted):
    bundle = make_bundle(tmp_path)
    key.sign(bundle, "-l")
    with pytest.raises(
        Unfit, match=r"sign the file again with minisign 0\.10 or newer, without -l"
    ):
        signer_of(bundle, trusted)


@pytest.mark.parametrize("text", ["", "\n\n\n\n", "untrusted comment: x\nA\nB\nC\n", "x" * 5000])
def test_what_is_not_a_signature_is_refused(text):
    with pytest.raises(Unfit, match=r"^x\.minisig is "):
        parse_signature(text, "x.minisig")


@pytest.mark.parametrize("text", ["", "untrusted comment: x\n", "RWQ=", "a\nb\n", "RUQ" + "A" * 53])
def test_what_is_not_a_key_is_refused(text):
    with pytest.raises(Unfit, match=r"x\.pub is not a public key of minisign"):
        parse_key(text, "x.pub")


def test_without_openssl_it_says_so(signed, trusted, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unfit, match="the command openssl is missing: sudo apt install openssl"):
        signer_of(signed, trusted)


def test_a_bundle_without_a_signature_is_refused(tmp_path, attempt):
    with pytest.raises(Unfit, match=r"is not signed: .*\.bundle\.minisig is missing"):
        attempt(make_bundle(tmp_path))


def test_the_same_wheels_make_the_same_bundle(tmp_path):
    first = make_bundle(tmp_path / "a").read_bytes()
    assert make_bundle(tmp_path / "b").read_bytes() == first


def test_a_key_is_named_as_by_minisign(key):
    """Its id is a number: minisign does not show zeros before it."""
    content = bytearray(base64.b64decode(key.line))
    assert parse_key(key.line, "key").id == key.id
    content[2:10] = bytes.fromhex("0a00000000000000")
    assert parse_key(base64.b64encode(content).decode(), "key").id == "A"


# -- what is in it


def test_a_file_that_is_not_a_bundle_is_refused_even_if_it_is_signed(tmp_path, key, attempt):
    file = tmp_path / "SHA256SUMS.bundle"
    file.write_text("0" * 64 + "  image\n")
    key.sign(file)
    with pytest.raises(Unfit, match="is not a bundle of sensor-node"):
        attempt(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"product": "another"}, "is a bundle of 'another', not of sensor-node"),
        ({"format": 2}, "has format 2 and not 1: install a newer updater first"),
        ({"counter": -1}, "counter is -1"),
        ({"counter": True}, "counter is True"),
        ({"counter": 2**60}, "counter is"),
        ({"version": "new"}, "'new' is not a version"),
        ({"version": "0.3.0"}, "it must have one wheel of the node"),
        ({"minimum": None}, "is not valid"),
        ({"platform": "z80"}, "platform is 'z80': amd64, arm64, armhf"),
        ({"python": "2.7"}, "python is '2.7'"),
        ({"expires": "tomorrow"}, "'tomorrow' does not match"),
        ({"created": None}, "is not valid"),
        ({"wheels": {"../x.whl": "0" * 64}}, "is not a wheel and its digest"),
        ({"wheels": {"x.whl": "0"}}, "is not a wheel and its digest"),
        ({"wheels": {}}, "it must have one wheel of the node"),
        ({"new_keys": ["RWQ"]}, "a new key of b is not a public key of minisign"),
        ({"revoked_keys": ["x"]}, "revoked_keys is"),
    ],
    ids=lambda value: json.dumps(value)[:30] if isinstance(value, dict) else "",
)
def test_a_manifest_that_makes_no_sense_is_refused_in_words(signed, change, words):
    with zipfile.ZipFile(signed) as packed:
        manifest = json.loads(packed.read("manifest.json"))
    parse_manifest(json.dumps(manifest).encode(), "b")  # the control
    with pytest.raises(Unfit, match=re.escape(words)):
        parse_manifest(json.dumps({**manifest, **change}).encode(), "b")
    [name] = change
    del manifest[name]
    with pytest.raises(Unfit, match=f"the manifest of b lacks '{name}'"):
        parse_manifest(json.dumps(manifest).encode(), "b")


@pytest.mark.parametrize("text", ["", "[]", "1", "[" * 100_000, '{"product": "sensor-node"}'])
def test_a_manifest_that_is_not_one_is_refused(text):
    with pytest.raises(Unfit, match="the manifest of b"):
        parse_manifest(text.encode(), "b")


def test_wheels_that_are_not_those_of_the_manifest_are_refused(signed, tmp_path):
    """Nothing is installed that the manifest does not name with its digest."""
    with zipfile.ZipFile(signed) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    other = "msgspec-0.20.0-cp313-cp313-manylinux_2_28_aarch64.whl"
    variants: list[tuple[dict[str, bytes], int, str]] = [
        ({**files, "more.whl": b"x"}, zipfile.ZIP_STORED, "do not name the same wheels: more.whl"),
        ({**files, "../more": b"x"}, zipfile.ZIP_STORED, "do not name the same wheels: ../more"),
        ({**files, other: b"x"}, zipfile.ZIP_STORED, "is not the wheel of the manifest"),
        (
            {name: files[name] for name in files if name != other},
            zipfile.ZIP_STORED,
            f"do not name the same wheels: {other}",
        ),
        (files, zipfile.ZIP_DEFLATED, "is compressed"),
    ]
    manifest = read_manifest(signed)
    for number, (content, method, words) in enumerate(variants):
        bundle, folder = tmp_path / f"{number}.bundle", tmp_path / f"wheels-{number}"
        folder.mkdir()
        with zipfile.ZipFile(bundle, "w", method) as packed:
            for name, data in content.items():
                packed.writestr(name, data)
        with pytest.raises(Unfit, match=re.escape(words)):
            unpack(bundle, manifest, folder)


def test_versions_are_ordered_as_by_pip():
    versions = "0.1 0.1.0.dev2 0.1.0a1 0.1.0rc1.dev1 0.1.0rc2 0.1.0rc10 0.1.1 0.1.post1 0.10 1!0.1"
    versions += " 0.1+local 0.9 0.1.0a1.dev3 0.1.post1.dev2"
    listed = versions.split()
    for one in listed:
        for other in listed:
            if "+" not in one + other:  # local labels have no meaning here
                assert (version_order(one) < version_order(other)) is (
                    Version(one) < Version(other)
                ), (one, other)


# -- old, expired, for another computer


def manifest_of(tmp_path: Path, **facts: Any) -> Manifest:
    return read_manifest(make_bundle(tmp_path, **facts))


@pytest.mark.parametrize(
    ("computer", "words"),
    [
        (HERE._replace(platform="armhf"), "it is for arm64, and this computer is armhf"),
        (HERE._replace(python="3.11"), "it is for Python 3.13, and this system has 3.11"),
        (HERE._replace(version="0.0.9"), "it follows 0.1.0 or a newer version, and 0.0.9 runs"),
    ],
    ids=["platform", "python", "minimum"],
)
def test_a_bundle_for_another_computer_is_refused_even_by_force(signed, attempt, computer, words):
    with pytest.raises(Unfit, match=re.escape(words)):
        attempt(signed, computer=computer, force=True)


@pytest.mark.parametrize(
    ("facts", "computer", "words"),
    [
        ({}, HERE._replace(version="0.3.0"), "its version, 0.2.0, is older than 0.3.0"),
        ({}, HERE._replace(utc_s=EXPIRES_S), "it has expired on 2027-01-16, and it is 2027-01-16"),
        ({}, HERE._replace(clock_is_set=False), "the clock of this computer is not set: wait"),
    ],
    ids=["downgrade", "expired", "no clock"],
)
def test_an_old_bundle_is_taken_by_force_alone(tmp_path, key, attempt, facts, computer, words):
    bundle = make_bundle(tmp_path, key, **facts)
    with pytest.raises(Unfit, match=re.escape(words)) as refused:
        attempt(bundle, computer=computer)
    assert str(refused.value).endswith("(root can take it all the same: --force)")
    taken = attempt(bundle, computer=computer, force=True)
    assert taken.remarks[1].startswith("warning: ")
    assert words in taken.remarks[1]


def test_an_older_bundle_after_a_newer_one_is_refused(tmp_path, key, attempt):
    old = make_bundle(tmp_path / "old", key, counter=7)
    new = make_bundle(tmp_path / "new", key, counter=8)
    attempt(old)
    attempt(new)
    with pytest.raises(Unfit, match=r"a newer bundle was taken before \(number 8; this is 7\)"):
        attempt(old)
    attempt(new)  # again, after a power cut for example


def test_a_bundle_that_is_refused_is_not_noted(tmp_path, key, attempt):
    """Else one that nobody may install would keep the good ones away."""
    with pytest.raises(Unfit):
        attempt(make_bundle(tmp_path / "new", key, counter=9, platform="armhf"))
    attempt(make_bundle(tmp_path / "old", key, counter=7))


def test_without_a_clock_a_bundle_that_never_expires_is_taken(tmp_path, key, attempt):
    bundle = make_bundle(tmp_path, key, expires=None)
    attempt(bundle, computer=HERE._replace(clock_is_set=False, utc_s=0.0))


def test_without_a_clock_what_was_taken_before_proves_that_time_has_passed(tmp_path, key, attempt):
    """The clock of a Pi begins in the past; the last known time does not."""
    later = "2027-06-01T00:00:00Z"
    attempt(make_bundle(tmp_path / "new", key, created=later, expires=None))
    unset = HERE._replace(clock_is_set=False, utc_s=0.0)
    with pytest.raises(Unfit, match="it has expired on 2027-01-16, and it is 2027-06-01"):
        attempt(make_bundle(tmp_path / "old", key), computer=unset)
    wrong = HERE._replace(utc_s=CREATED_S + 60.0)  # set, and to the past
    with pytest.raises(Unfit, match="it has expired on 2027-01-16, and it is 2027-06-01"):
        attempt(make_bundle(tmp_path / "old", key), computer=wrong)


def test_the_last_known_time_is_kept_from_a_clock_that_was_set(tmp_path, key, attempt):
    attempt(make_bundle(tmp_path / "a", key, expires=None), computer=HERE._replace(utc_s=EXPIRES_S))
    with pytest.raises(Unfit, match="it has expired"):
        attempt(make_bundle(tmp_path / "b", key), computer=HERE._replace(clock_is_set=False))


def test_an_unsigned_bundle_is_taken_if_root_says_so(tmp_path, attempt):
    taken = attempt(make_bundle(tmp_path), signed=False)
    assert taken.signer == ""
    assert "nothing says who made it" in taken.remarks[0]


def test_a_damaged_record_says_what_to_do(tmp_path):
    for text in ("", "[]", '{"keys": 1, "time": 0}', '{"time": 0}'):
        (tmp_path / "trust.json").write_text(text)
        with pytest.raises(Unfit, match=r"is damaged .*: delete it, and install the newest bundle"):
            Record(tmp_path / "trust.json")


# -- keys


def test_a_bundle_brings_a_key_and_revokes_one(tmp_path, key, other_key):
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "first.pub").write_text(key.public.read_text())
    owner = folder.stat().st_uid
    keys = installed_keys(folder, owner=owner)
    assert [*keys] == [key.id]
    bringing = manifest_of(tmp_path, new_keys=[other_key.line])
    assert change_keys(folder, keys, key.id, bringing) == [
        f"the key {other_key.id} is trusted from now on"
    ]
    keys = installed_keys(folder, owner=owner)
    assert {*keys} == {key.id, other_key.id}
    revoking = manifest_of(tmp_path, new_keys=[other_key.line], revoked_keys=[key.id])
    assert change_keys(folder, keys, other_key.id, revoking) == [f"the key {key.id} is revoked"]
    keys = installed_keys(folder, owner=owner)
    assert [*keys] == [other_key.id]
    assert change_keys(folder, keys, other_key.id, revoking) == [], "again, nothing is to be done"
    with pytest.raises(Unfit, match="is signed with the key"):
        signer_of(make_bundle(tmp_path, key), keys)


def test_the_last_key_cannot_be_revoked(tmp_path, key, trusted):
    """Without a key everything would be taken."""
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "first.pub").write_text(key.public.read_text())
    with pytest.raises(Unfit, match="revokes every key that this node has, and brings no other"):
        change_keys(folder, trusted, key.id, manifest_of(tmp_path, revoked_keys=[key.id]))
    assert (folder / "first.pub").exists()


def test_what_a_stolen_key_has_counted_up_to_ends_with_it(tmp_path, key, other_key):
    """A thief signs the highest number; without that key, the owner's numbers count again."""
    record = Record(tmp_path / "trust.json")
    record.take(key.id, manifest_of(tmp_path, counter=2**53), HERE)
    record = Record(tmp_path / "trust.json")
    ours = manifest_of(tmp_path, counter=9)
    assert refusals(ours, HERE, record, [key.id, other_key.id])[1], "while it is trusted"
    assert refusals(ours, HERE, record, [other_key.id]) == ([], [])


@pytest.mark.parametrize("what", ["file", "folder", "parent"])
def test_keys_that_others_may_change_are_refused(tmp_path, key, what):
    folder = tmp_path / "etc" / "keys"
    folder.mkdir(parents=True)
    file = folder / "first.pub"
    file.write_text(key.public.read_text())
    owner = file.stat().st_uid
    assert installed_keys(folder, owner=owner)
    path = {"file": file, "folder": folder, "parent": folder.parent}[what]
    path.chmod(path.stat().st_mode | 0o020)
    with pytest.raises(Unfit, match=f"{path} may be changed by others than root"):
        installed_keys(folder, owner=owner)
    path.chmod(path.stat().st_mode & ~0o020)
    with pytest.raises(Unfit, match="may be changed by others than root"):
        installed_keys(folder, owner=owner + 1)


def test_without_a_folder_there_is_no_key(tmp_path):
    assert installed_keys(tmp_path / "none") == {}


# -- `update`


@pytest.fixture
def update(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trusted: Any) -> Any:
    """`deploy/update` with a key, in a folder of its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = argparse.Namespace(**runpy.run_path(str(DEPLOY / "update")))
    monkeypatch.setattr(paths, "INCOMING", tmp_path / "incoming")
    monkeypatch.setattr(paths, "TRUST", tmp_path / "trust.json")
    monkeypatch.setattr(trust, "installed_keys", lambda folder: trusted)
    monkeypatch.setattr(trust, "this_computer", lambda version: HERE)
    monkeypatch.setattr(trust, "clock_is_set", lambda: True)
    return made


def asked(source: Path | None, **options: Any) -> argparse.Namespace:
    given = {
        "back": False,
        "wheels": None,
        "unsigned": False,
        "force": False,
        **options,
    }
    return argparse.Namespace(source=source, **given)


def test_with_a_key_everything_else_is_refused(update, tmp_path):
    wheel = tmp_path / "pi_sensor_node-0.2.0-py3-none-any.whl"
    wheel.touch()
    sentence = "is not signed, and this node takes signed bundles alone"
    for request in (asked(wheel), asked(tmp_path), asked(None, wheels=tmp_path)):
        with pytest.raises(update.Impossible, match=sentence):
            update.wanted_release(request)


def test_with_a_key_root_may_install_what_is_not_signed(update, tmp_path, capsys, monkeypatch):
    made = []
    monkeypatch.setitem(
        update.wanted_release.__globals__, "make_release", lambda *source: made.append(source)
    )
    update.wanted_release(asked(tmp_path, unsigned=True))
    assert made == [(tmp_path, None)]
    said = f"warning: {tmp_path} is not signed: nothing says who made it\n"
    assert capsys.readouterr().out == said


def test_without_a_key_a_bundle_needs_one(update, signed, monkeypatch):
    monkeypatch.setattr(trust, "installed_keys", lambda folder: {})
    with pytest.raises(
        update.Impossible, match=r"put the public key of its publisher, a \.pub file"
    ):
        update.wanted_release(asked(signed))


def test_a_bundle_becomes_a_release_and_its_copy_goes(
    update, tmp_path, key, other_key, monkeypatch
):
    """The keys change once the release is there; the folder is gone in any case."""
    names = update.wanted_release.__globals__
    keys = tmp_path / "keys"
    keys.mkdir()
    monkeypatch.setattr(paths, "KEYS", keys)
    bundle = make_bundle(tmp_path, key, new_keys=[other_key.line])
    seen: list[Any] = []

    def make_release(source: Path, *_others: object) -> str:
        seen.append((source.name, sorted(file.name for file in source.parent.iterdir())))
        seen.append([*keys.iterdir()])
        return "0.2.0-12345678"

    monkeypatch.setitem(names, "make_release", make_release)
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "left").touch()
    assert update.wanted_release(asked(bundle)) == "0.2.0-12345678"
    wheel = "pi_sensor_node-0.2.0-py3-none-any.whl"
    assert seen == [(wheel, ["msgspec-0.20.0-cp313-cp313-manylinux_2_28_aarch64.whl", wheel]), []]
    assert [file.name for file in keys.iterdir()] == [f"{other_key.id}.pub"]
    assert not (tmp_path / "incoming").exists()
    with pytest.raises(Unfit, match="is not signed"):
        update.wanted_release(asked(make_bundle(tmp_path / "unsigned")))
    assert not (tmp_path / "incoming").exists()


def test_of_a_bundle_only_its_own_wheels_are_installed(monkeypatch, tmp_path):
    """The owner's packages follow, and can replace none of them."""
    commands: list[list[str]] = []
    monkeypatch.setattr(releases, "must_saying", commands.append)
    monkeypatch.setattr(releases, "own_packages", lambda: "probe==1.0")
    bundle = read_manifest(make_bundle(tmp_path))
    wheel = tmp_path / "pi_sensor_node-0.2.0-py3-none-any.whl"
    releases.pip_install(tmp_path / "release", wheel, None, bundle)
    first, second = commands
    assert {"--no-index", "--only-binary=:all:", "--find-links"} <= {*first}
    assert "--requirement" not in first
    assert "--no-index" not in second
    pins = Path(second[second.index("--constraint") + 1]).read_text()
    assert pins.splitlines() == ["msgspec==0.20.0", "pi_sensor_node==0.2.0"]


# -- what the node has staged

REQUEST = "0123456789abcdef"


@pytest.fixture
def staged(update: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Stages a bundle as the node does it, installs it, and returns the report."""
    state = tmp_path / "state"
    state.mkdir()
    names = update.install_staged.__globals__
    for name, file in {
        "ROOT": tmp_path,
        "STATE": state,
        "TRIAL": tmp_path / "trial.json",
        "VERDICT": tmp_path / "verdict.json",
        "ATTEMPTS": tmp_path / "attempts",
        "KEYS": tmp_path / "keys",
    }.items():
        monkeypatch.setattr(paths, name, file)
    monkeypatch.setitem(names, "make_release", lambda *_source: "0.2.0-12345678")
    monkeypatch.setitem(names, "current", lambda: "0.2.0-12345678")

    def stage(bundle: Path, digest: str = "", request: str = REQUEST) -> Any:
        content = bundle.read_bytes()
        digest = digest or hashlib.sha256(content).hexdigest()
        (state / "update.bundle").write_bytes(content)
        signature = bundle.with_name(f"{bundle.name}.minisig").read_text()
        (state / "update.bundle.minisig").write_text(signature)
        (state / "update-request").write_text(f"{request} {digest}\n")
        assert update.install_staged(asked(None)) == 0
        report = state / "update-report.json"
        left = {file.name for file in state.iterdir()} - {report.name}
        assert left == set(), "the path unit would find it again"
        return json.loads(report.read_text()) if report.exists() else None

    return stage


def test_a_staged_bundle_is_installed_and_reported(staged, signed):
    text = "0.2.0-12345678 is the version that runs"
    assert staged(signed) == {
        "request": REQUEST,
        "state": "kept",
        "text": text,
        "release": "0.2.0-12345678",
    }


def test_a_staged_bundle_is_verified_again_by_root(staged, tmp_path, other_key, signed):
    """The node, which has fetched it, is not believed."""
    report = staged(make_bundle(tmp_path, other_key))
    assert report["state"] == "refused"
    assert "is signed with the key" in report["text"]
    report = staged(signed, digest="0" * 64)
    assert "is not the bundle that was asked for" in report["text"]


def test_a_staged_bundle_whose_installation_is_interrupted_is_given_up(
    staged, signed, update, monkeypatch
):
    names = update.install_staged.__globals__

    def power_cut(*_source: object) -> str:
        raise SystemExit

    works = names["make_release"]
    monkeypatch.setitem(names, "make_release", power_cut)
    for _ in range(update.MOST_TRIALS):
        with pytest.raises(SystemExit):
            staged(signed)
    monkeypatch.setitem(names, "make_release", works)
    report = staged(signed)
    assert report["state"] == "refused"
    assert report["text"] == "its installation was interrupted 3 times"
    assert staged(signed, request="fedcba9876543210")["state"] == "kept", "another request"


def test_a_request_that_was_judged_before_a_power_cut_is_not_begun_again(staged, signed, tmp_path):
    """Its trial had an end; only the request was still there."""
    ended = {"candidate": "0.2.0-12345678", "request": REQUEST}
    (tmp_path / "trial.json").touch()
    trial.end_trial(ended, "the update was undone", stays=False)
    report = staged(signed)
    assert (report["state"], report["text"]) == ("undone", "the update was undone")
    assert not (tmp_path / "attempts").exists()


def test_a_staged_bundle_waits_for_the_clock(staged, signed, monkeypatch):
    """After a boot a Pi has none for a while; without any it is refused after all."""
    looks: list[bool] = []
    monkeypatch.setattr(trust, "clock_is_set", lambda: len(looks) > 2)
    pauses = argparse.Namespace(**vars(time))
    pauses.sleep, pauses.monotonic = lambda _s: looks.append(True), lambda: 0.0
    monkeypatch.setattr(trust, "time", pauses)
    assert staged(signed)["state"] == "kept"
    assert len(looks) == 3


@pytest.mark.parametrize("text", ["", "x", "../x " + "0" * 64, "0" * 3000, "é"])
def test_a_request_that_makes_no_sense_is_dropped(update, tmp_path, text):
    (tmp_path / "update-request").write_text(text)
    assert update.read_request(tmp_path) is None


def test_a_request_or_a_bundle_that_leads_elsewhere_is_not_followed(update, tmp_path, attempt):
    """A file of root's must not be read for the node."""
    secret = tmp_path / "secret"
    secret.write_text(f"{REQUEST} {'0' * 64}")
    (tmp_path / "update-request").symlink_to(secret)
    assert update.read_request(tmp_path) is None
    bundle = tmp_path / "update.bundle"
    bundle.symlink_to(secret)
    bundle.with_name("update.bundle.minisig").touch()
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        attempt(bundle)


# -- `release`


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", list(sys.path))
    return argparse.Namespace(**runpy.run_path(str(DEPLOY / "release")))


def test_release_makes_a_bundle_that_update_takes(release, tmp_path, key, other_key, attempt):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "msgspec-0.20.0-py3-none-any.whl").touch()
    (wheels / "pi_sensor_node-0.1.0-py3-none-any.whl").touch()
    wheel = tmp_path / "pi_sensor_node-0.2.0-py3-none-any.whl"
    wheel.write_bytes(b"new")
    options = argparse.Namespace(
        expires=None, minimum="0.1.0", new_key=[other_key.public], revoke_key=[key.id]
    )
    facts = release.facts_of_bundles(options, "0.2.0", CREATED_S)
    wanted = release.parse_wanted(f"arm64:3.13={wheels}")
    bundle = release.make_bundle(tmp_path, wheel, wanted, facts, epoch=CREATED_S)
    assert bundle.name == "sensor-node-0.2.0-arm64-py313.bundle"
    release.sign(bundle, key.secret, "sensor-node 0.2.0")
    manifest = attempt(bundle).manifest
    assert [*manifest.wheels] == ["msgspec-0.20.0-py3-none-any.whl", wheel.name]
    assert (manifest.counter, manifest.created) == (CREATED_S, CREATED_S)
    assert manifest.expires == CREATED_S + 365 * 86400
    assert [one.id for one in manifest.new_keys] == [other_key.id]
    assert manifest.revoked_keys == (key.id,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bundle", "arm64:3.13"], "a bundle must be signed: name a secret key"),
        (["--bundle", "arm64"], "'arm64' is not PLATFORM:PYTHON, or PLATFORM:PYTHON=FOLDER"),
        (["--bundle", "z80:3.13"], "'z80:3.13' is not PLATFORM:PYTHON"),
        (["--bundle", "armhf:3.13"], "PyPI has no wheels for armhf: gather them"),
        (["--sign", "/nowhere/key"], "--sign: /nowhere/key does not exist"),
    ],
)
def test_release_refuses_in_words(release, tmp_path, capsys, monkeypatch, options, words):
    output = str(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", ["release", "--without-image", "--output", output, *options])
    assert release.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("release: ")
    assert words in said


def test_a_date_that_is_not_one_is_refused_and_never_is_one(release):
    options = argparse.Namespace(expires="never", minimum="0.1.0", new_key=[], revoke_key=[])
    assert release.facts_of_bundles(options, "0.2.0", 0)["expires"] is None
    options.expires = "2027-11-30"
    assert release.facts_of_bundles(options, "0.2.0", 0)["expires"] == "2027-11-30T00:00:00Z"
    options.expires = "soon"
    with pytest.raises(ValueError, match="soon"):
        release.facts_of_bundles(options, "0.2.0", 0)


def test_verify_reads_a_large_file_in_pieces(signed, trusted):
    """The digest is of the whole file, whatever its size."""
    signature = parse_signature(signed.with_name(f"{signed.name}.minisig").read_text(), "s")

    class Slow:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def read(self, _most: int) -> bytes:
            return bytes(self.stream.read(100))

    [key] = trusted.values()
    with signed.open("rb") as stream:
        verify(Slow(stream), signature, key, "b")  # type: ignore[arg-type]


def test_a_file_that_is_too_large_or_has_no_room_is_refused(tmp_path, key, attempt, monkeypatch):
    """A sparse file: nothing of it is read."""
    bundle = make_bundle(tmp_path, key)
    names = take.__globals__
    monkeypatch.setattr(
        names["shutil"], "disk_usage", lambda _folder: argparse.Namespace(free=5 * 1024)
    )
    with pytest.raises(Unfit, match=r"has 0 MB free, and .* needs .*: make room"):
        attempt(bundle)
    with bundle.open("r+b") as file:
        file.truncate((300 << 20) + 1)
    with pytest.raises(Unfit, match="is not a bundle: that is a file of 1 to 314572800 bytes"):
        attempt(bundle)
    bundle.write_bytes(b"")
    with pytest.raises(Unfit, match="is not a bundle"):
        attempt(bundle)


def test_each_test_that_security_md_names_is_there():
    text = (DEPLOY.parent / ".github/SECURITY.md").read_text()
    [section] = re.findall(r"## Updates\n(.*?)\n## ", text, re.DOTALL)
    cells = [line.split("|")[-2] for line in section.splitlines() if line.startswith("| ")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(named) > 10, "the control"
    here = Path(__file__).read_text()
    assert [name for name in named if not re.search(rf"def test_\w*{name}\w*\(", here)] == []
