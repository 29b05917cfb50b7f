"""What goes to a package index: a source distribution whose tests run, and its metadata."""

from __future__ import annotations

import email
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from email.message import Message
from pathlib import Path

import pytest

import node

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.real_time(seconds=40),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not run: needs a checkout with git"),
]


def run(*command: str, folder: Path, **env: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def commit_all(folder: Path) -> None:
    """Make a repository of the folder."""
    run("git", "init", "-q", folder=folder)
    run("git", "add", "--all", folder=folder)
    who = ("-c", "user.name=test", "-c", "user.email=test", "-c", "commit.gpgsign=false")
    run("git", *who, "commit", "-q", "--no-verify", "-m", "all", folder=folder)


@pytest.fixture(scope="module")
def files() -> list[str]:
    """Those of the repository, with what is not committed yet."""
    listed = run(
        *("git", "-c", "safe.directory=*", "ls-files", "-z"),
        *("--cached", "--others", "--exclude-standard"),
        folder=ROOT,
    )
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, files: list[str]) -> Path:
    """The source distribution of a checkout of its own, which building leaves files in.

    The workers of pytest-xdist share it.
    """
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    checkout = shared / "checkout"
    with (shared / "checkout.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not checkout.exists():
            build(shared / "unfinished", files).rename(checkout)
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    return checkout / "dist" / archive.name.removesuffix(".tar.gz")


def build(checkout: Path, files: list[str]) -> Path:
    for name in files:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    commit_all(checkout)
    options = ("--without-image", "--without-packages", "--no-isolation")
    said = run(sys.executable, "deploy/release", *options, "--output", "dist", folder=checkout)
    assert "left out: the image, its manifest, and os_list.json" in said
    (archive,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(checkout / "dist", filter="data")
    return checkout


def test_it_has_every_file_of_the_repository(unpacked, files):
    assert [name for name in files if not (unpacked / name).exists()] == []


PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_all_of_its_tests_are_collected(unpacked, files):
    said = run(*PYTEST, "--collect-only", folder=unpacked, PYTHONPATH=str(unpacked))
    collected = set(re.findall(r"^(tests/\w+\.py)::", said, re.MULTILINE))
    assert collected == {name for name in files if re.fullmatch(r"tests/test_\w+\.py", name)}


def test_its_tests_run(unpacked):
    """Some of each kind, on the code that was unpacked."""
    few = ("filters", "packets", "documents", "completion", "timetable", "distribution")
    some = [f"tests/test_{name}.py" for name in few]
    said = run(*PYTEST, *some, folder=unpacked, PYTHONPATH=str(unpacked))
    assert "passed" in said
    where = run(
        *(sys.executable, "-c", "import node; print(node.__file__)"),
        folder=unpacked,
        PYTHONPATH=str(unpacked),
    )
    assert where.startswith(str(unpacked))


def test_the_wheel_has_the_packages_and_what_they_read_and_nothing_else(unpacked):
    (wheel,) = unpacked.parent.glob("*.whl")
    listed = run(sys.executable, "-m", "zipfile", "--list", str(wheel), folder=unpacked)
    names = [line.split()[0] for line in listed.splitlines()[1:]]
    tops = {name.split("/")[0] for name in names}
    assert tops == {"node", "drivers", f"pi_sensor_node-{node.__version__}.dist-info"}
    others = {Path(name).name for name in names if not name.endswith(".py")}
    assert others >= {"py.typed", "page.css", "page.js", "LICENSE"}
    assert not [name for name in others if name.endswith((".md", ".webp"))]


@pytest.fixture
def metadata(unpacked: Path) -> Message:
    return email.message_from_string((unpacked / "PKG-INFO").read_text())


def test_the_version_stands_in_one_place(metadata):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert metadata["Version"] == node.__version__


def test_an_index_is_told_what_it_is(metadata):
    assert metadata["License-Expression"] == "MIT"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Author"]
    assert "mqtt" in metadata["Keywords"]
    classifiers = metadata.get_all("Classifier") or []
    assert {"Topic :: Home Automation", "Typing :: Typed"} <= set(classifiers)
    assert not [c for c in classifiers if c.startswith("License ::")], "License-Expression says it"


def test_the_text_on_an_index_is_short_and_has_no_dead_link(metadata):
    """README.md has relative links and pictures, which lead nowhere there."""
    text = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert 500 < len(text) < 3000
    assert re.findall(r"\]\((?!https://)[^)]*\)|<img", text) == []
    assert "DHT22" in text


@pytest.mark.parametrize("attributes", [True, False])
def test_an_archive_made_on_windows_has_the_line_ends_of_unix(tmp_path, attributes):
    """Git for Windows converts text on its way out; a Pi does not run `bash\\r`.

    The control, without .gitattributes, shows that it would.
    """
    for name in ("deploy/install.sh", "deploy/cloud-init/user-data", ".gitattributes"):
        if attributes or name != ".gitattributes":
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    commit_all(tmp_path)
    windows = ("-c", "core.autocrlf=true")
    run("git", *windows, "archive", "--output=all.tar", "HEAD", "deploy", folder=tmp_path)
    with tarfile.open(tmp_path / "all.tar") as tar:
        texts = [tar.extractfile(member) for member in tar.getmembers() if member.isfile()]
        ends = {b"\r\n" in text.read() for text in texts if text is not None}
    assert ends == {not attributes}


def test_a_release_has_the_sums_and_the_bill_of_its_files(unpacked):
    folder = unpacked.parent
    run("sha256sum", "--check", "--strict", "SHA256SUMS", folder=folder)
    summed = {line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    files = {file.name for file in folder.iterdir() if file.is_file()}
    version = node.__version__
    assert files == summed | {"SHA256SUMS"}
    wheel = f"pi_sensor_node-{version}-py3-none-any.whl"
    bill = f"sensor-node-{version}.spdx.json"
    assert files == {wheel, f"pi_sensor_node-{version}.tar.gz", bill, "SHA256SUMS"}
    packages = {
        package["name"]: package for package in json.loads((folder / bill).read_text())["packages"]
    }
    assert packages[wheel]["versionInfo"] == version
    purl = packages["paho-mqtt"]["externalRefs"][0]["referenceLocator"]
    assert purl == f"pkg:pypi/paho-mqtt@{packages['paho-mqtt']['versionInfo']}"


def test_a_release_into_a_folder_with_files_is_refused(unpacked):
    done = subprocess.run(
        [sys.executable, ROOT / "deploy/release", "--without-image", "--output", unpacked.parent],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is not empty" in done.stderr
