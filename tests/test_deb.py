"""The Debian package, where it needs neither root nor a system (tests/service has the rest)."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parent.parent / "deploy"
sys.path.insert(0, str(DEPLOY))

from release_parts import deb  # noqa: E402

sys.path.remove(str(DEPLOY))


def wheel(folder: Path, name: str, **files: str) -> Path:
    made = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for file, content in files.items():
            archive.writestr(file.replace("__", "/"), content)
    return made


@pytest.mark.parametrize(
    ("version", "debians"),
    [("0.2.0", "0.2.0"), ("0.2.0rc1", "0.2.0~rc1"), ("1.0b2", "1.0~b2"), ("1.0.dev3", "1.0~dev3")],
)
def test_a_version_before_a_release_is_before_it_for_dpkg_too(version, debians):
    assert deb.debian_version(version) == debians


def test_two_wheels_with_different_files_of_one_name_are_refused(tmp_path):
    """In one folder the second would replace the first, whichever that is."""
    site = tmp_path / "site"
    deb.unpack(wheel(tmp_path, "one", board="a", one__x="1"), site)
    deb.unpack(wheel(tmp_path, "same", board="a"), site)
    with pytest.raises(deb.Impossible, match=r"two wheels have different board \(other-"):
        deb.unpack(wheel(tmp_path, "other", board="b"), site)


def test_what_belongs_to_pip_is_left_out(tmp_path):
    info = "one-1.0.dist-info"
    made = wheel(
        tmp_path,
        "one",
        one="",
        **{f"{info}/RECORD": "", f"{info}/METADATA": "", "one.data/s/x": ""},
    )
    deb.unpack(made, tmp_path / "site")
    files = [str(f.relative_to(tmp_path / "site")) for f in (tmp_path / "site").rglob("*")]
    assert sorted(files) == ["one", info, f"{info}/METADATA"]


def test_a_wheel_with_modules_elsewhere_is_refused(tmp_path):
    made = wheel(tmp_path, "odd", **{"odd-1.0.data/purelib/odd.py": ""})
    with pytest.raises(deb.Impossible, match=r"odd-1\.0\.data/purelib/odd\.py"):
        deb.unpack(made, tmp_path / "site")


@pytest.mark.parametrize("name", ["sensor-node.service", "sensor-node-web.service"])
def test_its_units_are_those_of_the_installer_with_other_paths(name):
    """And one line: nothing runs, and nothing fails, before there is a configuration."""
    ours = (DEPLOY / name).read_text()
    text = deb.with_condition(deb.with_paths_of_the_package(ours))
    assert "/opt/" not in text
    assert "ExecStart=/usr/bin/sensor-node " in text
    added = "ConditionPathExists=/etc/sensor-node/node.toml"
    assert text.splitlines().count(added) == 1
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(text)
    assert unit["Unit"]["ConditionPathExists"] == "/etc/sensor-node/node.toml"
    before = [line for line in ours.splitlines() if "/opt/" not in line]
    assert [line for line in before if line not in text.splitlines()] == []


@pytest.mark.parametrize("name", deb._UNITS)
def test_every_program_that_a_unit_starts_is_in_the_package(name):
    text = deb.with_paths_of_the_package((DEPLOY / name).read_text())
    started = {line.split("=")[1].split()[0] for line in text.splitlines() if "/bin/" in line}
    own = {"/usr/bin/sensor-node", "/usr/lib/sensor-node/bin/python3"}
    assert started <= {*own, "/usr/bin/python3"}, "and that of Debian, which it depends on"
    for file in re.findall(r"/usr/lib/sensor-node/lib/python3/site-packages/(\S+)", text):
        assert (DEPLOY.parent / file).exists()


def test_a_place_that_the_package_does_not_have_is_refused():
    with pytest.raises(deb.Impossible, match="/opt/sensor-node/update is not in the package"):
        deb.with_paths_of_the_package("ExecStart=/opt/sensor-node/update --judge\n")


@pytest.mark.parametrize("name", ["preinst", "postinst", "prerm", "postrm", "rtupdate"])
def test_a_maintainer_script_is_posix_sh_that_stops_at_a_failure(name):
    text = (DEPLOY / "debian" / name).read_text()
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -e\n" in text
    subprocess.run(["sh", "-n", DEPLOY / "debian" / name], check=True)


def test_the_locked_packages_are_those_of_the_image():
    """Of one version each; the package has one more, for proxies."""

    def locked(file: Path) -> set[str]:
        return set(re.findall(r"^([\w.-]+==\S+) --hash", file.read_text(), re.MULTILINE))

    image = locked(DEPLOY / "requirements-arm64.txt")
    packages = locked(DEPLOY / "debian/requirements.txt")
    assert len(image) > 60
    assert image < packages
    assert {each.split("==")[0] for each in packages - image} == {"pysocks"}
