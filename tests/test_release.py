"""The parts of a release that need the image, with a small file in its place."""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bundle_support  # noqa: F401, it knows where update_parts are
import pytest
from update_parts.bundle import System, open_root, read_manifest

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
MANIFEST = {
    "image": "sensor-node.img",
    "layout": 1,
    "kernel_suite": "trixie",
    "python": "3.13",
    "debian_packages": {"libstdc++6": "14.2.0-19", "openssh-server": "1:10.0p1-7+deb13u4"},
}
FACTS = {
    "version": "0.1.0",
    "counter": 1_800_000_000,
    "created": "2027-01-15T08:00:00Z",
    "expires": None,
    "minimum": "0.1.0",
    "new_keys": [],
    "revoked_keys": [],
}
# The names of Imager's list of boards (its src/test/qml/fixtures/os_list.json, version 2.0.11).
TAGS = {"pi3-64bit", "pi4-64bit", "pi5-64bit"}


@pytest.fixture(scope="module")
def release() -> Any:
    try:
        return argparse.Namespace(**runpy.run_path(str(DEPLOY / "release")))
    finally:
        sys.path.remove(str(DEPLOY))


@pytest.fixture
def made(release, tmp_path) -> Any:
    """What is made of an image, and the image's bytes."""
    content = b"an image" * 1000
    image = tmp_path / "sensor-node.img"
    image.write_bytes(content)
    facts = {**MANIFEST, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    image.with_suffix(".rootfs").write_bytes(b"a root file system" * 1000)
    image.with_suffix(".manifest.json").write_text(json.dumps(facts))
    output = tmp_path / "release"
    output.mkdir()

    def make(
        url: str | None = None, *, pi5: bool = False, sign: Path | None = None
    ) -> tuple[dict[str, Any], Path, bytes]:
        arguments = argparse.Namespace(image=image, url=url, pi5=pi5, sign=sign)
        assert release.add_image(output, arguments, FACTS) == facts
        return json.loads((output / "os_list.json").read_text()), output, content

    return make


def test_imager_is_offered_the_image_with_its_sizes_and_digests(made):
    listed, output, content = made()
    (image,) = listed["os_list"]
    packed = output / "sensor-node-0.1.0.img.xz"
    assert lzma.decompress(packed.read_bytes()) == content
    assert image["url"] == packed.as_uri()
    assert image["extract_size"] == len(content)
    assert image["extract_sha256"] == hashlib.sha256(content).hexdigest()
    assert image["image_download_size"] == packed.stat().st_size
    assert image["image_download_sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert image["release_date"] == "2027-01-15"
    required = {"name", "description", "icon", "url", "release_date", "devices"}
    assert required <= image.keys(), "os-list-schema.json, os_list.items.required"


def test_imager_shows_its_dialogs_for_the_boards_that_the_image_has(made):
    listed, _, _ = made()
    (image,) = listed["os_list"]
    assert image["init_format"] == "cloudinit"
    assert set(image["devices"]) == {"pi3-64bit", "pi4-64bit"}
    boards = listed["imager"]["devices"]
    assert {tag for board in boards for tag in board["tags"]} == set(image["devices"]) < TAGS
    assert any(board["name"] == "Raspberry Pi Zero 2 W" for board in boards)


def test_a_pi_5_is_offered_only_with_an_image_for_it(made):
    listed, _, _ = made(pi5=True)
    assert "pi5-64bit" in listed["os_list"][0]["devices"]
    assert listed["imager"]["devices"][0]["name"] == "Raspberry Pi 5"


def test_the_image_may_be_elsewhere(made):
    listed, _, _ = made("https://example.org/files/")
    assert listed["os_list"][0]["url"] == "https://example.org/files/sensor-node-0.1.0.img.xz"


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs zstd: apt-get install zstd")
def test_with_a_key_the_cards_in_use_get_the_system_of_the_image(made):
    _, output, _ = made(sign=Path("key"))
    bundle = output / "sensor-node-0.1.0-image-trixie.bundle"
    system = read_manifest(bundle).system
    root = b"a root file system" * 1000
    assert system == System(1, "trixie", hashlib.sha256(root).hexdigest(), len(root))
    with open_root(bundle) as packed:
        shown = subprocess.run(
            ["zstd", "-dc"], input=packed.read(), check=True, capture_output=True
        )
    assert shown.stdout == root
    assert sorted(file.suffix for file in output.iterdir()) == [".bundle", ".json", ".json", ".xz"]


def test_the_bill_names_every_package_of_the_image(release):
    bill = release.bill_of_materials(
        version="0.1.0",
        created="2026-11-29T00:00:00Z",
        files={"sensor-node-0.1.0.img.xz": "0" * 64},
        lock="# a remark\nmsgspec==0.20.0 --hash=sha256:" + "1" * 64 + "\n",
        manifest=MANIFEST,
    )
    found = {package["name"]: package for package in bill["packages"]}
    assert set(found) == {"sensor-node-0.1.0.img.xz", "msgspec", "libstdc++6", "openssh-server"}
    assert found["msgspec"]["checksums"][0]["checksumValue"] == "1" * 64
    purls = [found[name]["externalRefs"][0]["referenceLocator"] for name in ("openssh-server",)]
    assert purls == ["pkg:deb/debian/openssh-server@1%3A10.0p1-7%2Bdeb13u4?distro=debian-13"]
    names = [package["SPDXID"] for package in bill["packages"]]
    assert len(names) == len(set(names))
    contained = {
        relation["relatedSpdxElement"]
        for relation in bill["relationships"]
        if relation["relationshipType"] == "CONTAINS"
    }
    assert contained == set(names) - {found["sensor-node-0.1.0.img.xz"]["SPDXID"]}


def test_a_folder_that_cannot_be_made_is_told_in_a_sentence():
    done = subprocess.run(
        [sys.executable, DEPLOY / "release", "--output", "/proc/nowhere", "--without-image"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("release: ")
    assert "/proc/nowhere" in done.stderr
